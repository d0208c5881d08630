"""Which calls are made again, and when."""

from datetime import UTC, datetime

import pytest

from mooring.client.retries import RetryPolicy, read_pushback, read_retry_after, repeat_after
from mooring.core.errors import ModelNotReady, ServerUnreachable

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)


def pause(after, done=0, left=60.0, chance=1.0, retries=2):
    return RetryPolicy(retries).pause(after, done, left=left, chance=chance)


def test_what_may_have_run_is_never_repeated():
    assert pause(None) is None


def test_repetitions_are_few_and_further_and_further_apart():
    assert [pause(0.0, done) for done in range(3)] == [0.1, 0.2, None]
    assert pause(0.0, retries=0) is None
    assert pause(0.0, 30, retries=99) == 5.0


def test_clients_do_not_come_back_all_at_once():
    assert pause(0.0, chance=0.0) == 0.05
    assert pause(1.0, chance=0.0) == 1.0
    assert pause(1.0, chance=1.0) == 1.1


def test_nobody_waits_for_a_time_that_the_call_does_not_have():
    assert pause(30.0, left=20.0) is None
    assert pause(0.0, left=0.05) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3.0), ("0", 0.0), ("-5", 0.0), ("nan", 0.0), ("soon", 0.0), ("Mon, 30 Nov 2026 12:00:07 GMT", 7.0),
     ("Mon, 30 Nov 2026 11:00:00 GMT", 0.0), ("Mon, 30 Nov 2026 12:00:07", 7.0)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(text, seconds):
    assert read_retry_after({"retry-after": text}, NOW) == seconds


def test_a_header_that_is_not_there_says_nothing():
    assert read_retry_after({}) == 0.0


@pytest.mark.parametrize(
    ("trailers", "seconds"),
    [([("a", "b"), ("grpc-retry-pushback-ms", "1500")], 1.5), ([("grpc-retry-pushback-ms", "x")], None), ([], None), (None, None)],
)  # fmt: skip
def test_grpc_says_milliseconds_in_a_trailer(trailers, seconds):
    assert read_pushback(trailers) == seconds


def test_only_inference_is_repeated_after_a_refusal():
    busy, refused = ModelNotReady("later"), ServerUnreachable("nobody")
    busy.repeat_after = refused.repeat_after = 0.0
    assert repeat_after(busy) == 0.0
    assert repeat_after(busy, inference=False) is None
    assert repeat_after(refused, inference=False) == 0.0
    assert repeat_after(ModelNotReady("who knows")) is None
