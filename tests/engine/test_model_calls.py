"""Calls of models by models: both ends of the socket, with an engine that answers when the test says so."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from mooring.core.errors import InvalidInput, ModelNotFound, ModelRefused, ServerUnreachable
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.tensors import Tensor
from mooring.engine.model_calls import ModelCallServer, OpenCalls
from mooring.worker_process.model_client import ModelCalls


class FakeEngine:
    """Keeps what it is sent. ``stages`` are those of chains, by name."""

    def __init__(self, **stages):
        self.registry = SimpleNamespace(
            models={
                name: SimpleNamespace(versions={"1": SimpleNamespace(spec=SimpleNamespace(stages=each))})
                for name, each in stages.items()
            }
        )
        self.entry = self
        self.sent = []
        self.cancelled = []
        self.came = threading.Event()

    def submit(self, request, done):
        self.sent.append((request, done))
        self.came.set()
        return SimpleNamespace(cancel=lambda: self.cancelled.append(request.model))

    def ready(self, model, version):
        if model == "nowhere":
            raise ModelNotFound(f"no '{model}'")
        return version != "2"


class FakeAdministration:
    def __init__(self):
        self.done = []

    async def load(self, model, *, config, files):
        if model == "broken":
            raise InvalidInput("broken")
        self.done.append(("load", model, config, files))

    async def unload(self, model, *, dependents):
        self.done.append(("unload", model, dependents))


@pytest.fixture
async def server(tmp_path):
    made = ModelCallServer(FakeEngine(), FakeAdministration())
    made.listen(tmp_path / "calls")
    made.path = str(tmp_path / "calls")
    yield made
    made.close()


def request(model="b", data=b"\1\0\0\0"):
    return InferenceRequest(model, "", "id", [Tensor("x", "INT32", [len(data) // 4], data)])


class Caller:
    """The calls of one worker, with what came of them in order."""

    def __init__(self, server, name="a"):
        self.calls = ModelCalls(server.path, name)
        self.outcomes = []
        self._changed = threading.Condition()

    def done(self, outcome):
        with self._changed:
            self.outcomes.append(outcome)
            self._changed.notify_all()

    async def has(self, count):
        def wait():
            with self._changed:
                return self._changed.wait_for(lambda: len(self.outcomes) >= count, 10)

        assert await asyncio.to_thread(wait)
        return self.outcomes


async def sent(server, count=1):
    while len(server.engine.sent) < count:
        await asyncio.sleep(0.005)
    return server.engine.sent


async def test_answer_comes_back_with_its_large_tensors(server):
    caller = Caller(server)
    large = np.arange(100_000, dtype=np.int32).tobytes()
    await asyncio.to_thread(caller.calls.submit, request(data=large), caller.done)
    ((asked, done),) = await sent(server)
    assert bytes(asked.inputs[0].data) == large
    done(InferenceResponse([Tensor("y", "INT32", [100_000], large)]))
    (answer,) = await caller.has(1)
    assert bytes(answer.outputs[0].data) == large


async def test_pieces_and_errors_come_in_order(server):
    caller = Caller(server)
    caller.calls.submit(request(), caller.done)
    ((_, done),) = await sent(server)
    done(InferenceResponse([], final=False))
    done(ModelRefused("no", code=404))
    piece, error = await caller.has(2)
    assert not piece.final
    assert (error.message, error.code) == ("no", 404)


async def test_cancelled_call_is_withdrawn(server):
    caller = Caller(server)
    ticket = caller.calls.submit(request(), caller.done)
    ((_, done),) = await sent(server)
    ticket.cancel()
    while not server.engine.cancelled:
        await asyncio.sleep(0.005)
    done(InferenceResponse([]))
    assert not caller.outcomes


async def test_calls_of_a_worker_that_ends_are_given_up(server):
    caller = Caller(server)
    caller.calls.submit(request(), caller.done)
    await sent(server)
    caller.calls._sock.shutdown(2)
    while not server.engine.cancelled:
        await asyncio.sleep(0.005)
    server.open_calls.add("b", "a")  # nothing waits any more


async def test_open_calls_fail_when_the_server_ends(server):
    caller = Caller(server)
    caller.calls.submit(request(), caller.done)
    await sent(server)
    server.close()
    (error,) = await caller.has(1)
    assert isinstance(error, ServerUnreachable)
    with pytest.raises(ServerUnreachable):
        await asyncio.to_thread(caller.calls.submit, request(), caller.done)


async def test_models_are_loaded_and_unloaded(server):
    calls = Caller(server).calls
    await asyncio.to_thread(calls.load, "b", {"1/model.py": b"text"}, {"max_batch_size": 2})
    await asyncio.to_thread(lambda: calls.unload("b", dependents=True))
    assert server.administration.done == [
        ("load", "b", {"max_batch_size": 2}, {"1/model.py": b"text"}),
        ("unload", "b", True),
    ]
    for model, why in (("broken", "broken"), ("a", "cannot load or unload itself")):
        with pytest.raises(InvalidInput, match=why):
            await asyncio.to_thread(calls.load, model, {}, None)


async def test_models_are_asked_whether_they_are_ready(server):
    calls = Caller(server).calls
    found = [
        await asyncio.to_thread(calls.is_ready, *each) for each in (("b", ""), ("b", "2"), ("nowhere", ""))
    ]
    assert found == [True, False, False]


async def test_refused_circle_reaches_the_caller(server):
    caller = Caller(server)
    caller.calls.submit(request("a"), caller.done)
    (error,) = await caller.has(1)
    assert isinstance(error, InvalidInput)
    assert "model 'a' calls itself" in error.message
    assert not server.engine.sent


def test_circles_are_refused_at_any_length():
    calls = OpenCalls(FakeEngine())
    calls.add("a", "b")
    calls.add("b", "c")
    with pytest.raises(InvalidInput, match="c -> a -> b -> c"):
        calls.add("c", "a")
    calls.remove("a", "b")
    calls.add("c", "a")


def test_chain_waits_for_its_stages():
    calls = OpenCalls(FakeEngine(chain=["pre", "a"]))
    with pytest.raises(InvalidInput, match="a -> chain -> a"):
        calls.add("a", "chain")
    calls.add("b", "chain")


def test_same_call_twice_is_no_circle_and_ends_twice():
    calls = OpenCalls(FakeEngine())
    calls.add("a", "b")
    calls.add("a", "b")
    calls.remove("a", "b")
    with pytest.raises(InvalidInput):
        calls.add("b", "a")
    calls.remove("a", "b")
    calls.add("b", "a")
