"""The server's side of one worker: what it sends, and what it makes of every message that comes back."""

import asyncio

import pytest
from virtual_time import set_clock, turns, virtual_time
from worker_fakes import FakeHandlePool, FakeProcess, FakeWork

from mooring.core.errors import ErrorRecord, ModelFailed, OutOfResources, WorkerDied
from mooring.core.requests import InferenceResponse
from mooring.core.tensors import Tensor
from mooring.ipc.messages import Batch, Cancel, JoiningMissed, MetricRecords, Piece, Results, Unstarted
from mooring.observability.records import Record
from mooring.workers import handle as handle_module
from mooring.workers.handle import WorkerHandle, WorkerState

PART = InferenceResponse([Tensor("x", "FP32", [1], b"1234")], final=False)


class Line:
    """A worker with its channel. ``works`` are what it was sent."""

    def __init__(self, *, capacity=0, **process):
        self.pool = FakeHandlePool()
        self.process = FakeProcess(**process)
        self.worker = WorkerHandle(self.pool, self.process, "9000")
        self.worker.state = WorkerState.READY
        self.worker.capacity = capacity
        self.works = {}
        asyncio.get_running_loop().closers.append(self.close)

    def close(self):
        self.worker.close()
        self.process.theirs.close()

    def send(self, *keys):
        works = [FakeWork(key) for key in keys]
        self.works |= {work.key: work for work in works}
        if self.worker not in self.pool.idle:
            self.pool.idle.append(self.worker)
        self.worker.send(works)

    async def say(self, message):
        self.process.say(message)
        await turns()

    async def answer(self, *keys, outcome=None):
        self.process.answer(*keys, outcome=outcome)
        await turns()

    @property
    def log(self):
        return self.pool.heard


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    set_clock(monkeypatch, handle_module)


@virtual_time
async def test_requests_go_in_one_message_and_the_worker_is_busy_until_all_are_answered():
    line = Line()
    line.send(1, 2)
    (batch,) = line.process.heard
    assert isinstance(batch, Batch)
    assert (batch.keys, [request.id for request in batch.requests]) == ([1, 2], ["1", "2"])
    assert (line.worker.state, line.worker.served) == (WorkerState.BUSY, 2)
    await line.answer(1)
    assert line.worker.state is WorkerState.BUSY
    assert "idle" not in line.log
    await line.answer(2)
    assert line.worker.state is WorkerState.READY
    assert [len(work.answers) for work in line.works.values()] == [1, 1]


@virtual_time
async def test_the_pool_hears_that_a_worker_is_free_before_its_answers_are_handed_out():
    line = Line()
    line.send(1)
    await line.answer(1)
    assert line.log == [("batches", [(1, 0.5, 1)]), "idle", ("answers", [1], False)]


@virtual_time
async def test_pieces_go_to_their_request_and_one_of_a_request_that_is_over_to_nobody():
    line = Line()
    line.send(1)
    await line.say(Piece(1, PART))
    await line.say(Piece(7, PART))
    assert [len(work.pieces) for work in line.works.values()] == [1]
    assert line.worker.state is WorkerState.BUSY


@virtual_time
async def test_what_a_worker_hands_back_waits_again_and_the_worker_is_free_for_it():
    line = Line()
    line.send(1, 2, 3)
    await line.say(Unstarted([2, 3]))
    assert line.log == [("requeue", [2, 3])]
    await line.answer(1)
    assert line.log[2:] == ["idle", ("answers", [1], False)]
    line.send(4)
    await line.say(Unstarted([4]))
    assert line.log[-2:] == [("requeue", [4]), "idle"]


@virtual_time
async def test_news_of_the_model_go_to_the_pool():
    line = Line()
    line.worker.state = WorkerState.STARTING
    line.process.load(capacity=3)
    await turns()
    assert (line.log, line.worker.state, line.worker.room) == (["loaded"], WorkerState.READY, 3)
    line.process.fail()
    await line.say(JoiningMissed())
    await line.say(MetricRecords([Record("a", "ms", "counter", {}, [1.0])]))
    assert line.log[1:] == ["load failed", "joining missed", ("records", 1)]


@virtual_time
async def test_a_worker_is_told_whom_nobody_waits_for_any_more():
    line = Line()
    line.send(1)
    line.worker.cancel(line.works[1])
    *_, cancel = line.process.heard
    assert isinstance(cancel, Cancel)
    assert cancel.keys == [1]


# With a capacity.


@virtual_time
async def test_a_worker_with_a_capacity_is_idle_while_it_has_room():
    line = Line(capacity=2)
    line.send(1)
    assert (line.pool.idle, line.worker.room) == ([line.worker], 1)
    line.pool.idle.clear()
    line.send(2)
    assert (line.pool.idle, line.worker.room) == ([], 0)
    line.worker.offer()
    assert line.pool.idle == []
    await line.answer(2)
    assert (line.worker.state, line.log[-1]) == (WorkerState.BUSY, "room")
    await line.answer(1)
    assert line.worker.state is WorkerState.READY


@virtual_time
async def test_one_that_is_to_go_takes_nothing_more():
    line = Line(capacity=2)
    line.worker.retiring = True
    line.send(1)
    assert line.pool.idle == []


@virtual_time
async def test_answers_of_a_worker_with_a_capacity_come_in_any_order_and_in_pieces():
    line = Line(capacity=4)
    line.send(1)
    line.send(2)
    await line.say(Results([2, 1, 1], [ErrorRecord("ModelFailed", "odd"), PART, InferenceResponse([])], []))
    one, two = line.works[1], line.works[2]
    assert [error.message for error in two.answers] == ["odd"]
    assert isinstance(two.answers[0], ModelFailed)
    assert (two.answers[0].model, two.answers[0].version) == ("m", "1")
    assert (len(one.pieces), len(one.answers)) == (1, 1)


# Memory.


@pytest.mark.parametrize("capacity", [0, 2])
@virtual_time
async def test_requests_that_there_is_no_memory_to_send_are_refused_and_the_worker_serves_on(
    monkeypatch, capacity
):
    line = Line(capacity=capacity)

    def send(_message):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(line.worker._writer, "send", send)
        line.send(1)
        await turns()
    (answer,) = line.works[1].answers
    assert "no memory" in answer.message
    assert line.worker.state is WorkerState.READY
    assert isinstance(answer.error() if isinstance(answer, ErrorRecord) else answer, OutOfResources)


@virtual_time
async def test_the_size_of_a_large_answer_is_told():
    line = Line()
    line.send(1)
    large = InferenceResponse([Tensor("x", "UINT8", [100_000], bytes(100_000))])
    await line.answer(1, outcome=large)
    assert ("large", 100_000) in line.log


@virtual_time
async def test_a_worker_that_says_what_no_worker_says_is_ended():
    line = Line()
    line.process.theirs.send(b"\x04\x00\x00\x00\xc1\xc1\xc1\xc1")
    await turns()
    assert (line.log, line.process.kills) == (["closed"], 1)


# Death.


@virtual_time
async def test_what_a_dead_worker_had_is_told_apart_by_how_far_it_was():
    line = Line()
    line.send(1, 2, 3, 4)
    await line.answer(1)
    line.process.progress.start(0, 2, 3)  # two done, of which one is answered, and the third runs
    line.worker.report_death(WorkerDied("Worker died."), retry=False)
    assert line.pool.owner.deaths == [([3], [4], False), ([2], [], True)]


@virtual_time
async def test_a_worker_that_is_only_sent_something_has_started_nothing_of_it():
    line = Line()
    line.process.progress.start(0, 5, 5)  # of the message before
    line.send(1, 2)
    line.worker.report_death(WorkerDied("Worker died."), retry=True)
    assert line.pool.owner.deaths == [([], [1, 2], True)]


@virtual_time
async def test_a_worker_with_a_capacity_may_have_started_all():
    line = Line(capacity=4)
    line.send(1, 2)
    await line.answer(1)
    line.worker.report_death(WorkerDied("Worker died."), retry=True)
    assert line.pool.owner.deaths == [([2], [], True)]


@virtual_time
async def test_the_end_of_the_channel_is_told_once_all_before_it_is_heard():
    line = Line()
    line.send(1)
    line.process.answer(1)
    line.process.end(1)
    await turns()
    assert line.log[1:] == ["idle", ("answers", [1], False), "closed"]


@virtual_time
async def test_other_senders_see_what_a_worker_has_to_do():
    line = Line(channels=2)
    progress = line.process.progress
    line.send(1, 2)
    assert progress.wanted_by_others(1)
    await line.answer(1, 2)
    assert not progress.wanted_by_others(1)
