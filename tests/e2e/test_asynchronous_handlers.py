"""Asynchronous handlers, served: any number of calls at once, each with its own context, none at the others' mercy."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from e2e_kit import HANDLERS, Server, Wire, answered, refused, request, streamed, until
from stream_kit import Asked, folder

MODELS = {
    "meeting": {},
    "batched": {"asyncCommunication": True, "batchSize": 4, "maxBatchDelay": 10_000, "exactBatchDelay": True},
    "fragile": {"minWorkers": 1},
    "brittle": {"minWorkers": 1},
    "once": {"retryRequests": False},
    "hasty": {"responseTimeout": 1},
    "few": {"maxConcurrentRequests": 3, "jobQueueSize": 5},
}
FAILED = refused("500 Internal Server Error", "InternalServerException", "Prediction failed")
DIED = refused("500 Internal Server Error", "InternalServerException", "Worker died.")

# Forms that a handler may have, too: a function, a generator, and steps that the base handler awaits.
FUNCTION = """
import asyncio
async def handle(data, context):
    if data is None:
        return
    await asyncio.sleep(0)
    return [row["body"] for row in data]
"""
GENERATOR = """
class Counting:
    async def handle(self, data, context):
        for number in range(int(data[0].get("body") or data[0].get("data"))):
            yield [f"{number} "]
"""
STEPS = """
import asyncio
from ts.torch_handler.base_handler import BaseHandler
class Steps(BaseHandler):
    def initialize(self, context):
        self.context = context
        self.tasks = asyncio.create_task(asyncio.sleep(3600))  # libraries do so: there is a loop already
    def preprocess(self, data):
        return [bytes(row["body"]).decode() for row in data]
    async def inference(self, data):
        await asyncio.sleep(0)
        return [text.upper() for text in data]
    def postprocess(self, data):
        return data
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    source = (HANDLERS / "meeting_handler.py").read_text()
    models = [folder(place, name, source, **settings) for name, settings in MODELS.items()]
    models += [
        folder(place, name, text)
        for name, text in (("plain", FUNCTION), ("counting", GENERATOR), ("steps", STEPS))
    ]
    server = Server(tmp_path_factory.mktemp("server"), *models)
    try:
        yield server.started()
        assert server.stop() == 0, server.log
        assert not server.faults(), server.log[-9000:]
    finally:
        server.kill()


def together(server, model, bodies, *lines):
    with ThreadPoolExecutor(len(bodies)) as clients:
        return list(clients.map(lambda body: server.predict(model, body, *lines), bodies))


def state(server, model):
    return server.predict(model, "state").json()


def test_fifty_requests_are_in_the_handlers_hands_at_once_and_all_are_answered(server):
    answers = together(server, "meeting", ["meet 50"] * 50)
    assert {answer.status for answer in answers} == {"200 OK"}
    assert len({answer.body for answer in answers}) == 50  # each was told its own id


def test_batches_of_four_overlap_too(server):
    answers = together(server, "batched", ["meet 12"] * 12)
    assert {answer.status for answer in answers} == {"200 OK"}
    states = together(server, "batched", ["state"] * 4)
    assert states[0].json()["batches"] == [4, 4, 4, 4]


def test_one_that_raises_fails_alone(server):
    answers = together(server, "meeting", ["meet 8", "bad luck"] * 8)
    assert answers[1::2] == [FAILED] * 8
    assert {answer.status for answer in answers[::2]} == {"200 OK"}
    assert "ValueError: luck" in server.log


def test_a_bad_row_does_not_fail_the_others_of_its_batch(server):
    answers = together(server, "batched", ["meet 3", "bad luck", "meet 3", "meet 3"])
    assert sorted(answer.code for answer in answers) == [200, 200, 200, 500]
    assert answers[1] == FAILED


def test_what_a_call_reads_and_sets_is_its_own(server):
    with ThreadPoolExecutor(8) as clients:
        answers = list(
            clients.map(lambda n: server.predict("meeting", f"whose {n}", f"X-Name: caller {n}"), range(8))
        )
    for number, answer in enumerate(answers):
        assert answer.status == f"{200 + number} fine"
        assert (answer.headers["x-before"], answer.headers["x-after"]) == (str(number), f"caller {number}")


def test_a_thread_of_a_call_sees_its_requests(server):
    with ThreadPoolExecutor(4) as clients:
        answers = clients.map(lambda n: server.predict("meeting", "thread", f"X-Name: caller {n}"), range(4))
        assert list(answers) == [answered(f"caller {number}") for number in range(4)]


def test_a_client_that_goes_away_takes_its_call_with_it(server):
    before = state(server, "meeting")["cancelled"]
    with Wire(server.port) as wire:
        wire.send(request("POST", "/predictions/meeting", b"wait"))
        until(lambda: state(server, "meeting")["here"] == 1)
    until(lambda: state(server, "meeting")["cancelled"] == before + 1)
    assert server.predict("meeting", "release") == answered("done")


def test_a_request_that_takes_too_long_is_refused_and_its_neighbours_go_on(server):
    with ThreadPoolExecutor(3) as clients:
        slow = clients.submit(server.predict, "hasty", "for 600")
        quick = [clients.submit(server.predict, "hasty", "for 0.7") for _ in range(2)]
        late = refused(
            "504 Gateway Timeout", "RequestTimeoutException", "model 'hasty' did not answer within 1 s"
        )
        assert slow.result() == late
        assert [each.result() for each in quick] == [answered("slept")] * 2
    assert state(server, "hasty")["cancelled"] == 1
    assert "worker too slow" not in server.log


def test_more_than_a_worker_takes_wait_in_the_queue_and_more_than_that_are_refused(server):
    def pending():
        with Wire(server.ports[1]) as wire:
            wire.send(request("GET", "/models/few"))
            return wire.answer().json()[0]["jobQueueStatus"]["pendingRequests"]

    with ExitStack() as stack:
        for _ in range(3 + 5):
            stack.enter_context(Wire(server.port)).send(request("POST", "/predictions/few", b"wait"))
        until(lambda: pending() == 5)
        answer = server.predict("few", "wait")
        assert (answer.code, answer.headers["retry-after"]) == (503, "1")
    # All of them have gone, and with them what ran.
    until(lambda: state(server, "few").get("cancelled") == 3)


def killed_in_flight(server, model):
    """The answers to twenty requests whose worker is killed when it has all of them, and its successor's pid."""
    (before,) = server.workers(model)
    with ThreadPoolExecutor(20) as clients:
        futures = [clients.submit(server.predict, model, "wait") for _ in range(20)]
        until(lambda: state(server, model)["here"] == 20)
        os.kill(before, signal.SIGKILL)
        until(lambda: server.workers(model) not in ([before], []))

        def released():
            server.predict(model, "release")
            return all(future.done() for future in futures)

        until(released)
        return [future.result() for future in futures]


def test_requests_of_a_killed_worker_are_answered_by_its_successor(server):
    assert killed_in_flight(server, "fragile") == [answered("released")] * 20


def test_the_second_death_is_said_to_all(server):
    with ThreadPoolExecutor(20) as clients:
        futures = [clients.submit(server.predict, "brittle", "wait") for _ in range(20)]
        for _ in range(2):
            until(lambda: state(server, "brittle")["here"] == 20)
            os.kill(server.workers("brittle")[0], signal.SIGKILL)
        assert [future.result() for future in futures] == [DIED] * 20


def test_requests_that_must_not_run_twice_are_told_of_the_first_death(server):
    with ThreadPoolExecutor(20) as clients:
        futures = [clients.submit(server.predict, "once", "wait") for _ in range(20)]
        until(lambda: state(server, "once")["here"] == 20)
        os.kill(server.workers("once")[0], signal.SIGKILL)
        assert [future.result() for future in futures] == [DIED] * 20
    assert state(server, "once")["here"] == 0


@pytest.mark.parametrize(
    ("model", "body", "expected"), [("plain", "hello", "hello"), ("steps", "hello", "HELLO")]
)
def test_functions_and_steps_may_be_asynchronous(server, model, body, expected):
    assert together(server, model, [body] * 4) == [answered(expected)] * 4


def test_a_generator_streams_what_it_yields(server):
    assert server.predict("counting", "3") == streamed("0 ", "1 ", "2 ")


def test_pieces_come_over_torchserves_protocols(server):
    assert server.predict("meeting", "tell a ,b ,c") == streamed("a ", "b ", "c")
    asked = Asked(server)
    assert asked.torchserve_stream("meeting", "tell a ,b") == [b"a ", b"b"]
    assert asked.torchserve_whole("meeting", "tell a ,b") == b"a b"


def test_pieces_come_over_kserves_and_amds_protocols(server):
    asked = Asked(server)
    # The handler returns an empty text when all is said: that is a piece, too.
    assert asked.generate_stream("meeting", "tell a ,b") == ["a ", "b", ""]
    assert asked.model_stream_infer("meeting", "tell a ,b") == [b"a ", b"b", b""]
    assert asked.websocket("meeting", "tell a ,b") == [b"a ", b"b", b""]
    assert asked.instances("meeting", "tell a ,b", "tell c") == (200, ["a b", "c"])
