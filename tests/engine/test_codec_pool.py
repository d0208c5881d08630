"""How many codec processes there are, which caller is offered an idle one, and what happens when all are lost."""

import asyncio

import pytest
from fakes import FakeMemory, FakeWorkerPool

from mooring.core.errors import ModelNotReady, WorkerDied
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.engine import codec_pool as module
from mooring.engine.codec_pool import CodecPool


@pytest.fixture
async def codecs(monkeypatch):
    monkeypatch.setattr(module, "WorkerPool", FakeWorkerPool)
    codecs = CodecPool(2, FakeMemory().allocate, None)
    yield codecs
    await codecs.stop()


def submit(codecs):
    outcomes = []
    codecs.submit(InferenceRequest("", "", "7", []), outcomes.append)
    return outcomes


class Caller:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1


async def test_the_first_process_starts_when_one_is_wanted_and_its_caller_is_called_once(codecs):
    caller = Caller()
    assert codecs._pool.wanted == 0
    assert not codecs.has_idle(caller)
    assert not codecs.has_idle(caller)
    assert codecs._pool.wanted == 1
    await asyncio.sleep(0)
    assert caller.calls == 1
    assert codecs.has_idle(caller)


async def test_another_process_starts_when_all_are_busy_but_no_more_than_there_may_be(codecs):
    caller = Caller()
    for expected in (1, 2, 2):
        codecs.has_idle(caller)
        await asyncio.sleep(0)
        assert codecs._pool.wanted == expected
        submit(codecs)
        await asyncio.sleep(0)


async def test_no_further_process_starts_while_one_is_still_loading(codecs):
    codecs.has_idle(Caller())
    codecs.has_idle(Caller())
    assert codecs._pool.wanted == 1


async def test_a_process_is_not_idle_when_as_many_requests_wait_for_one(codecs):
    codecs.has_idle(Caller())
    await asyncio.sleep(0)
    submit(codecs)  # which leaves at the end of this turn
    assert not codecs.has_idle(Caller())


async def test_a_process_that_is_idle_again_is_offered_to_whoever_found_none(codecs):
    caller = Caller()
    codecs.has_idle(caller)
    await asyncio.sleep(0)
    outcomes = submit(codecs)
    await asyncio.sleep(0)
    codecs.has_idle(caller)
    codecs._pool.workers[0].answer()
    assert caller.calls == 2
    assert isinstance(outcomes[0], InferenceResponse)


async def test_without_a_process_requests_are_refused_and_may_be_tried_again_when_one_is_there(codecs):
    codecs.has_idle(Caller())
    await asyncio.sleep(0)
    outcomes = submit(codecs)
    await asyncio.sleep(0)
    waiting = submit(codecs)
    pool = codecs._pool
    (worker,) = pool.workers
    pool.workers.clear()
    pool.owner.on_worker_failed(WorkerDied("Worker died."))
    assert isinstance(waiting[0], ModelNotReady)
    assert "try again" in waiting[0].message
    worker.answer()
    assert isinstance(outcomes[0], InferenceResponse)
    pool.start(1)
    await asyncio.sleep(0)
    assert submit(codecs) == []
