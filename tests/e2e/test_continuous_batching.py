"""Continuous batching, served: requests join, leave and end between any two steps, and each gets its own words."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2e_kit import HANDLERS, Server, Wire, answered, refused, request, streamed, until
from stream_kit import Asked, folder

MODELS = {
    "talking": {"continuousBatching": True, "batchSize": 8, "minWorkers": 2, "maxWorkers": 2},
    "single": {"continuousBatching": True, "batchSize": 4},
    "mortal": {"continuousBatching": True, "batchSize": 4},
}
FAILED = refused("500 Internal Server Error", "InternalServerException", "Prediction failed")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    source = (HANDLERS / "talking_handler.py").read_text()
    models = [folder(place, name, source, **settings) for name, settings in MODELS.items()]
    models.append(folder(place, "once", ONCE, continuousBatching=True, batchSize=4))
    server = Server(tmp_path_factory.mktemp("server"), *models)
    try:
        until(lambda: "Mooring is up." in server.log)
        until(lambda: len(server.workers("talking")) == 2)
        yield server.started()
        assert server.stop() == 0, server.log
        assert not server.faults(), server.log[-9000:]
    finally:
        server.kill()


def words(answer):
    """The text of an answer, and whether it came in pieces."""
    if "transfer-encoding" not in answer.headers:
        return answer.body.decode(), False
    chunks = answer.body.split(b"\r\n")[1::2]
    return b"".join(chunks).decode(), True


ONCE = """
def handle(data, context):
    if data is None:
        return None
    assert all(data), data  # a row that is at its end does not come again
    context.stopping_criteria = [lambda result: None for _ in data]
    return ["once"] * len(data)
"""


class Endless:
    """A request that goes on until its client leaves."""

    def __init__(self, server, model="single", text="forever"):
        self.wire = Wire(server.port)
        self.wire.send(request("POST", f"/predictions/{model}", text.encode()))
        while self.wire.line() != b"\r\n":  # the head: it is running
            pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.wire.__exit__()


def test_every_step_is_a_chunk_and_what_ends_with_its_first_step_is_answered(server):
    assert server.predict("single", "one two three") == streamed("one ", "two ", "three")
    assert server.predict("single", "one") == answered("one")


def test_a_criterion_that_says_none_makes_the_result_the_whole_answer(server):
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda text: server.predict("once", text), "abcdefgh"))
    assert answers == [answered("once")] * 8


def test_thirty_requests_over_two_workers_get_their_own_words(server):
    texts = [" ".join(f"{number}.{word}" for word in range(number % 7 + 1)) for number in range(30)]
    with ThreadPoolExecutor(30) as clients:
        answers = list(clients.map(lambda text: server.predict("talking", text), texts))
    assert [words(answer) for answer in answers] == [(text, " " in text) for text in texts]


def test_requests_are_spread_over_both_workers(server):
    with Endless(server, "talking"):
        pids = {server.predict("talking", "pid").body for _ in range(3)}
        with Endless(server, "talking"):
            busy = server.workers("talking")
            assert len(pids) == 1  # the one that has nothing else to do
            assert {str(pid).encode() for pid in busy} > pids


def test_others_join_and_end_while_one_goes_on(server):
    with Endless(server) as endless:
        assert server.predict("single", "a b c") == streamed("a ", "b ", "c")
        assert server.predict("single", "d") == answered("d")
        assert b"forever" in endless.wire.line() + endless.wire.line()
        steps, _ = words(server.predict("single", "x steps"))
        assert json.loads(steps.partition(" ")[2])[-1] == 2


def test_who_leaves_makes_room_for_who_waits(server):
    crowd = [Endless(server) for _ in range(4)]
    try:
        with ThreadPoolExecutor(1) as clients:
            waiting = clients.submit(server.predict, "single", "my turn")
            assert not waiting.done()
            crowd.pop().__exit__()
            assert waiting.result() == streamed("my ", "turn")
    finally:
        for each in crowd:
            each.__exit__()
    # Everybody has left: the next one is alone.
    until(lambda: json.loads(words(server.predict("single", "steps"))[0])[-1] == 1)


def test_a_step_that_raises_fails_those_in_it_and_the_queue_goes_on(server):
    with Endless(server) as endless:
        assert server.predict("single", "burn") == FAILED
        assert endless.wire.rest().endswith(b"\r\n")  # broken off, without the last chunk
    assert "ValueError: the model burns" in server.log
    assert server.predict("single", "still here") == streamed("still ", "here")


def test_a_request_with_no_words_and_one_of_two_rows(server):
    assert server.predict("single", "") == answered("")
    two = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}
    refusal = server.ask("POST", "/v2/models/single/infer", json.dumps({"inputs": [two]}).encode())
    assert refusal.code == 400
    assert "the request has 2 rows; with continuous batching it may have one" in refusal.json()["error"]


def test_pieces_come_over_torchserves_protocols(server):
    asked = Asked(server)
    assert asked.torchserve_stream("talking", "one two three") == [b"one ", b"two ", b"three"]
    assert asked.torchserve_whole("talking", "one two three") == b"one two three"


def test_pieces_come_over_kserves_and_amds_protocols(server):
    asked = Asked(server)
    assert asked.generate_stream("talking", "one two three") == ["one ", "two ", "three"]
    assert sorted(asked.model_stream_infer("talking", "a b", "c d e")) == [b"a ", b"b", b"c ", b"d ", b"e"]
    assert asked.websocket("talking", "one two three") == [b"one ", b"two ", b"three"]
    assert asked.instances("talking", "one two three", "four") == (200, ["one two three", "four"])


def test_a_worker_that_is_killed_ends_what_streams_and_the_rest_is_tried_again(server):
    (before,) = server.workers("mortal")
    with Endless(server, "mortal") as endless:
        os.kill(before, signal.SIGKILL)
        assert endless.wire.rest().endswith(b"\r\n")
    until(lambda: server.workers("mortal") not in ([before], []))
    assert server.predict("mortal", "back again") == streamed("back ", "again")


def test_describe_says_so(server):
    with Wire(server.ports[1]) as wire:
        wire.send(request("GET", "/models/talking"))
        (described,) = wire.answer().json()
    assert (described["continuousBatching"], described["useJobTicket"]) == (True, False)
