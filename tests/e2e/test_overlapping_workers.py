"""Workers that have several requests at once, as an operator sees them: scaled, blocked, measured; and job tickets."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from e2e_kit import HANDLERS, Server, Wire, answered, refused, request, until
from stream_kit import folder

# Takes as long as its client wants, and says what it has learned of the request.
SLEEPY = (HANDLERS / "sleepy_handler.py").read_text()
MEETING = (HANDLERS / "meeting_handler.py").read_text()
BLOCKING = """
import asyncio, time
class Blocking:
    async def handle(self, data, context):
        text = bytes(data[0]["body"]).decode()
        context.metrics.add_counter("asked", 1)
        if text == "block":
            time.sleep(600)
        if text == "large":
            return [b"x" * 300_000]
        await asyncio.sleep(float(text))
        return [text]
"""
DESCRIBED = """
class Described:
    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [{"steps": "many"}]
        context.metrics.add_counter("steps", 1)
        context.stopping_criteria = [lambda result: True] * len(data)
        return [{"said": bytes(row["body"]).decode()} for row in data]
"""
DIED = refused("500 Internal Server Error", "InternalServerException", "Worker died.")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    models = [
        folder(place, "meeting", MEETING, minWorkers=2, maxWorkers=2),
        folder(place, "blocking", BLOCKING, responseTimeout=1),
        folder(place, "described", DESCRIBED, continuousBatching=True, batchSize=2),
        folder(place, "ticketed", MEETING, useJobTicket=True, maxConcurrentRequests=2),
    ]
    (place / "single").mkdir()
    (place / "single" / "sleepy_handler.py").write_text(SLEEPY)
    (place / "single" / "MAR-INF").mkdir()
    manifest = {"model": {"modelName": "single", "handler": "sleepy_handler:sleep", "configFile": "c.yaml"}}
    (place / "single" / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (place / "single" / "c.yaml").write_text("useJobTicket: true")
    server = Server(tmp_path_factory.mktemp("server"), *models, place / "single")
    try:
        until(lambda: "Mooring is up." in server.log)
        until(lambda: len(server.workers("meeting")) == 2)
        yield server.started()
        assert server.stop() == 0, server.log
        assert not server.faults(), server.log[-9000:]
    finally:
        server.kill()


def managed(server, method, target):
    with Wire(server.ports[1]) as wire:
        wire.send(request(method, target))
        return wire.answer()


def no_ticket(model):
    text = f"model '{model}' has no idle worker; try again later"
    return refused("503 Service Unavailable", "ServiceUnavailableException", text, retry_after="1")


def refused_beside(server, model, text, count):
    """Whether a request is refused while so many others run that say ``text``, and all of those are answered."""
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(server.port)) for _ in range(count)]
        for wire in wires:
            wire.send(request("POST", f"/predictions/{model}", text.encode()))
        refused = server.predict(model, "0") == no_ticket(model)
        answers = [wire.answer() for wire in wires]
    # The one that came last may have got the ticket of one of the others.
    return refused and {answer.code for answer in answers} == {200}


def test_with_job_tickets_who_finds_no_idle_worker_is_refused_at_once(server):
    until(lambda: refused_beside(server, "single", "0.5", 1))
    assert server.predict("single", "0") == answered("slept 0.0")
    assert managed(server, "GET", "/models/single").json()[0]["useJobTicket"] is True


def test_an_asynchronous_worker_is_idle_as_long_as_it_has_room(server):
    with ThreadPoolExecutor(2) as clients:
        running = [clients.submit(server.predict, "ticketed", "meet 2") for _ in range(2)]
        assert [each.result().code for each in running] == [200, 200]
    until(lambda: refused_beside(server, "ticketed", "for 0.5", 2))


def test_a_worker_that_is_scaled_away_finishes_what_it_has_and_gets_nothing_new(server):
    both = server.workers("meeting")
    with ThreadPoolExecutor(8) as clients:
        running = [clients.submit(server.predict, "meeting", "for 1") for _ in range(4)]
        scaled = clients.submit(
            managed, server, "PUT", "/models/meeting?min_worker=1&max_worker=1&synchronous=true"
        )
        assert [each.result() for each in running] == [answered("slept")] * 4
        assert scaled.result().code == 200
    (left,) = server.workers("meeting")
    assert left in both
    assert {server.predict("meeting", "pid").body for _ in range(4)} == {str(left).encode()}
    assert managed(server, "PUT", "/models/meeting?min_worker=2&max_worker=2&synchronous=true").code == 200

    def asked():
        with ThreadPoolExecutor(6) as clients:
            return {
                each.body for each in clients.map(lambda _: server.predict("meeting", "pid 0.3"), range(6))
            }

    until(lambda: asked() == {str(pid).encode() for pid in server.workers("meeting")})


def test_a_handler_that_blocks_its_loop_is_ended_and_replaced(server):
    (before,) = server.workers("blocking")
    with ThreadPoolExecutor(2) as clients:
        blocked = [clients.submit(server.predict, "blocking", text) for text in ("block", "0.2")]
        assert blocked[0].result() == DIED
        assert blocked[1].result() in (DIED, answered("0.2"))
    until(lambda: server.workers("blocking") not in ([before], []))
    assert server.predict("blocking", "0") == answered("0")


def test_large_answers_and_metrics_come_from_asynchronous_handlers_too(server):
    for _ in range(3):
        assert server.predict("blocking", "large") == answered("x" * 300_000)

    def counted(name, model):
        with Wire(server.ports[2]) as wire:
            wire.send(request("GET", f"/metrics?name[]={name}"))
            lines = wire.answer().body.decode().splitlines()
        return [line for line in lines if line.startswith(name) and model in line]

    until(lambda: counted("asked", "blocking"))
    assert server.predict("described", "hello").code == 200
    until(lambda: counted("steps", "described"))


def test_a_handler_under_continuous_batching_describes_its_model(server):
    assert server.predict("described", "hello").json() == {"said": "hello"}
    described = managed(server, "GET", "/models/described?customized=true").json()
    assert described[0]["customizedMetadata"] == {"steps": "many"}
