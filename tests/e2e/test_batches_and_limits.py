"""Many clients at one model: what a batch is, whose fault a bad row is, and what happens when time or room runs out."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2e_kit import answered, refused, until

BUSY, INTERNAL = "503 Service Unavailable", "500 Internal Server Error"
FAILED = refused(INTERNAL, "InternalServerException", "Prediction failed")


def together(server, model, words):
    """The answers to requests that are sent at the same time, in the order of the words."""
    with ThreadPoolExecutor(len(words)) as clients:
        return list(clients.map(lambda word: server.predict(model, word), words))


def test_requests_of_the_same_moment_share_a_batch(server):
    answers = together(server, "batch", ["a", "b", "c", "d"])
    assert answers == [answered(f"{word} of 4") for word in "abcd"]


def test_a_batch_leaves_when_its_time_is_up_though_it_is_not_full(server):
    begin = time.monotonic()
    answers = together(server, "batch", ["a", "b"])
    assert answers == [answered("a of 2"), answered("b of 2")]
    assert time.monotonic() - begin > 0.95  # this model asks for TorchServe's exact delay


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("bad", FAILED),
        ("refused", refused("422 Unprocessable Entity", "InternalServerException", "a refused row")),
        ("unspeakable", refused(INTERNAL, "InternalServerException", "Unsupported model output data type.")),
        ("teapot", answered("teapot of 4", status="418 Teapot")),
    ],
)
def test_one_bad_row_is_nobody_elses_fault(server, bad, expected):
    answers = together(server, "batch", ["a", bad, "c", "d"])
    assert answers[1] == expected
    assert [answer.status for answer in answers[:1] + answers[2:]] == ["200 OK"] * 3
    assert [answer.body[:5] for answer in answers[:1] + answers[2:]] == [b"a of ", b"c of ", b"d of "]


def test_a_client_that_waited_too_long_is_told_so(server):
    late = refused("504 Gateway Timeout", "RequestTimeoutException", "model 'hasty' did not answer in time")
    assert server.predict("hasty", "0.8") == late
    assert server.predict("hasty", "0") in (answered("slept 0.0"), late)  # the worker may still be asleep
    until(lambda: server.predict("hasty", "0") == answered("slept 0.0"))


def test_a_worker_that_is_too_slow_is_replaced_and_the_next_request_is_answered(server):
    (before,) = server.workers("stuck")
    assert server.predict("stuck", "30") == refused(
        "500 Internal Server Error", "InternalServerException", "Worker died."
    )
    assert server.predict("stuck", "0") == answered("slept 0.0")
    (after,) = server.workers("stuck")
    assert after != before
    assert server.ask("GET", "/ping").code == 200


def test_a_worker_whose_code_ends_it_takes_only_its_own_request_along(server):
    died = refused("500 Internal Server Error", "InternalServerException", "Worker died.")
    answers = together(server, "answers", ["exit", "int", "int"])
    assert answers[0] == died
    assert [answer.body for answer in answers[1:]] == [b"7", b"7"]


FULL = "the queue of model 'narrow' is full, with 2 requests waiting; try again later"


def test_a_full_queue_refuses_and_says_when_to_come_again(server):
    answers = together(server, "narrow", ["0.4"] * 8)
    full = [answer for answer in answers if answer.code != 200]
    assert len(full) == 5  # one runs, two wait
    assert full == [refused(BUSY, "ServiceUnavailableException", FULL, retry_after="1")] * 5
    assert [answer for answer in answers if answer.code == 200] == [answered("slept 0.4")] * 3
    assert server.predict("narrow", "0") == answered("slept 0.0")
