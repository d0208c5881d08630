"""The scheduler of models that keep state, with workers that only take notes."""

import asyncio

import pytest
from codec_kit import CodecsAtHand

from mooring.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelNotReady,
    QueueFull,
    SequenceLost,
    WorkerDied,
)
from mooring.core.requests import Form, InferenceRequest, InferenceResponse
from mooring.core.tensors import Tensor
from mooring.engine.sequence_scheduler import SequenceScheduler
from mooring.observability.statistics import ModelStatistics
from mooring.repository.spec import ModelSpec, SequenceSettings
from mooring.workers.handle import WorkerState


class FakeWorker:
    def __init__(self, pool):
        self.state = WorkerState.READY
        self.pool = pool
        self.capacity = 0
        self.sent = []
        self.cancelled = []

    def send(self, batch):
        self.state = WorkerState.BUSY
        self.sent.append(batch)

    def cancel(self, work):
        self.cancelled.append(work)

    def names(self):
        """What it was sent: the steps of each call."""
        return [[work.request.id for work in batch] for batch in self.sent]

    def answer(self):
        """As the real one does: free first, then the answers."""
        self.state = WorkerState.READY
        self.pool.idle.append(self)
        self.pool.owner.worker_free()
        for work in self.sent[-1]:
            work.answer(InferenceResponse([]))


class FakePool:
    def __init__(self, owner, count):
        self.owner = owner
        self.workers = [FakeWorker(self) for _ in range(count)]
        self.idle = list(self.workers)
        self.wanted = self.ready = count
        self.leaving = ()
        self.shedding = 0

    def check(self, now):
        pass

    def shed(self):
        self.shedding += 1

    def kill(self, worker, *, started=True):
        worker.state = WorkerState.ENDED
        self.workers.remove(worker)
        works = worker.sent[-1] if worker.sent and worker not in self.idle else []
        if worker in self.idle:
            self.idle.remove(worker)
        self.owner.worker_lost(
            works if started else [], [] if started else works, WorkerDied("Worker died."), retry=True
        )


@pytest.fixture
async def scheduler():
    return made()


def made(workers=1, rows=8, *, job_ticket=False, codecs=None, **settings):
    spec = ModelSpec(
        name="m", version="1", backend="x", location="", max_batch_size=rows, retry=False, job_ticket=job_ticket,
        sequence=SequenceSettings(**{"most": 10, "waiting": 10, **settings}),
    )  # fmt: skip
    read = (codecs or CodecsAtHand()).reader()
    statistics = ModelStatistics("m", "1")
    scheduler = SequenceScheduler(spec, statistics, lambda _size: None, lambda _health: None, read)
    scheduler.pool = FakePool(scheduler, workers)
    return scheduler


def asked(scheduler, sequence, step, *, start=False, end=False, deadline=None):
    said = [("id", sequence), ("start", start), ("end", end)]
    headers = [(f"ts_request_sequence_{name}".encode(), str(value).encode()) for name, value in said]
    request = InferenceRequest("m", "", step, [], Form.BODY, deadline=deadline, headers=headers)
    outcomes = []
    return scheduler.submit(request, outcomes.append, 1), outcomes


async def turn():
    for _ in range(3):
        await asyncio.sleep(0)


async def test_the_next_step_leaves_when_the_one_before_it_is_answered_and_nothing_else_happens(scheduler):
    for step in "abc":
        asked(scheduler, "s", step)
    (worker,) = scheduler.pool.workers
    for count in (1, 2, 3):
        await turn()
        assert len(worker.sent) == count
        worker.answer()
    assert worker.names() == [["a"], ["b"], ["c"]]
    assert scheduler.idle


async def test_the_next_step_leaves_when_the_one_before_it_is_withdrawn(scheduler):
    (worker,) = scheduler.pool.workers
    asked(scheduler, "s", "a")
    await turn()
    waiting, _ = asked(scheduler, "s", "b")
    asked(scheduler, "s", "c")
    waiting.cancel()
    worker.answer()
    await turn()
    assert worker.names() == [["a"], ["c"]]


def unread(scheduler, step, *, body=None, deadline=None):
    """A step whose body nobody has read."""
    told = '"parameters": {"sequence_id": 7, "sequence_start": true}'
    body = body or f'{{"inputs": [{{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}}], {told}}}'
    tensor = Tensor("request", "BYTES", [1], [body.encode()], json=True)
    request = InferenceRequest("m", "", step, [tensor], deadline=deadline)
    outcomes = []
    return scheduler.submit(request, outcomes.append, 1), outcomes


async def test_a_large_body_is_read_elsewhere_before_it_is_a_step_of_its_sequence():
    codecs = CodecsAtHand(wait=True)
    scheduler = made(codecs=codecs)
    (worker,) = scheduler.pool.workers
    queued, _ = unread(scheduler, "a")
    await turn()
    assert (worker.sent, scheduler.waiting, scheduler.idle) == ([], 1, False)
    codecs.work()
    await turn()
    assert worker.names() == [["a"]]
    assert (queued.step.id, queued.request.inputs[0].name) == (7, "x")
    worker.answer()
    assert (scheduler.idle, scheduler.waiting) == (True, 0)


async def test_a_large_body_that_makes_no_sense_is_refused_and_leaves_nothing_behind():
    codecs = CodecsAtHand(wait=True)
    scheduler = made(codecs=codecs)
    _, outcomes = unread(scheduler, "a", body="{}")
    codecs.work()
    assert isinstance(outcomes[0], InvalidInput)
    assert (scheduler.idle, scheduler.sequences()) == (True, [])


async def test_a_step_whose_body_is_being_read_can_be_withdrawn_refused_and_come_too_late():
    codecs = CodecsAtHand(wait=True)
    scheduler = made(codecs=codecs)
    queued, _ = unread(scheduler, "a")
    queued.cancel()
    _, late = unread(scheduler, "b", deadline=1.0)
    scheduler.check(2.0)
    _, refused = unread(scheduler, "c")
    scheduler.refuse_all(ModelNotReady("no"))
    assert [type(each[0]) for each in (late, refused)] == [DeadlineExceeded, ModelNotReady]
    assert (codecs.cancelled, scheduler.idle, scheduler.waiting) == (3, True, 0)


async def test_with_job_tickets_a_step_that_would_wait_is_refused_and_its_sequence_goes_on():
    scheduler = made(workers=2, rows=1, job_ticket=True)
    first, second = scheduler.pool.workers
    outcomes = [asked(scheduler, name, name + "1")[1] for name in "abc"]
    await turn()
    assert [worker.names() for worker in (first, second)] == [[["a1"]], [["b1"]]]
    (refused,) = outcomes[2]
    assert isinstance(refused, QueueFull)
    assert refused.message == "model 'm' has no idle worker; try again later"
    assert isinstance(asked(scheduler, "a", "a2")[1][0], QueueFull)  # its own first step still runs
    first.answer()
    # The other worker has as few sequences, and is busy: a new one goes where it can run.
    asked(scheduler, "c", "c1")
    await turn()
    assert first.names() == [["a1"], ["c1"]]
    assert isinstance(asked(scheduler, "a", "a2")[1][0], QueueFull)  # c's step runs where a's state is
    second.answer()
    assert isinstance(asked(scheduler, "a", "a2")[1][0], QueueFull)  # nor can it run anywhere else
    first.answer()
    asked(scheduler, "a", "a2")
    await turn()
    assert first.names() == [["a1"], ["c1"], ["a2"]]
    first.answer()
    assert scheduler.idle


async def test_with_job_tickets_a_call_takes_as_many_steps_as_it_has_rows():
    scheduler = made(rows=2, job_ticket=True)
    (worker,) = scheduler.pool.workers
    outcomes = [asked(scheduler, name, name)[1] for name in "abc"]
    await turn()
    assert worker.names() == [["a", "b"]]
    assert (outcomes[:2], len(outcomes[2])) == ([[], []], 1)
    worker.answer()
    asked(scheduler, "c", "c")
    await turn()
    assert worker.names() == [["a", "b"], ["c"]]


async def test_a_step_past_its_deadline_never_reaches_a_worker(scheduler):
    _, outcomes = asked(scheduler, "s", "a", deadline=0.0)
    asked(scheduler, "s", "b")
    await turn()
    assert isinstance(outcomes[0], DeadlineExceeded)
    assert scheduler.pool.workers[0].names() == [["b"]]
    assert (b"ts_request_sequence_start", b"true") in scheduler.pool.workers[0].sent[0][0].request.headers


async def test_a_step_that_runs_past_its_deadline_still_counts(scheduler):
    step, outcomes = asked(scheduler, "s", "a", deadline=1e9)
    await turn()
    asked(scheduler, "s", "b")
    scheduler.check(2e9)
    assert isinstance(outcomes[0], DeadlineExceeded)
    (worker,) = scheduler.pool.workers
    assert worker.cancelled == [step]
    await turn()
    assert worker.names() == [["a"]]
    worker.answer()
    await turn()
    assert worker.names() == [["a"], ["b"]]


async def test_a_sequence_that_waits_for_room_gets_it_when_one_is_over():
    scheduler = made(per_worker=1, max_idle=10.0)
    (worker,) = scheduler.pool.workers
    asked(scheduler, "s", "a")
    asked(scheduler, "t", "b")
    await turn()
    worker.answer()
    await turn()
    assert worker.names() == [["a"]]
    scheduler.check(1e12)
    await turn()
    assert worker.names() == [["a"], ["b"]]


async def test_what_ran_gets_the_reason_and_what_waited_hears_that_its_state_is_lost():
    scheduler = made(workers=2)
    first, second = scheduler.pool.workers
    _, ran = asked(scheduler, "s", "a")
    await turn()
    _, waited = asked(scheduler, "s", "b")
    _, anew = asked(scheduler, "s", "c", start=True)
    dead, alive = (first, second) if first.sent else (second, first)
    scheduler.pool.kill(dead)
    assert isinstance(ran[0], WorkerDied)
    assert isinstance(waited[0], SequenceLost)
    await turn()
    assert (anew, alive.names()) == ([], [["c"]])


async def test_a_step_that_had_not_begun_begins_elsewhere():
    scheduler = made(workers=2)
    asked(scheduler, "s", "a")
    await turn()
    dead = next(worker for worker in scheduler.pool.workers if worker.sent)
    scheduler.pool.kill(dead, started=False)
    await turn()
    assert scheduler.pool.workers[0].names() == [["a"]]


async def test_a_worker_that_dies_idle_takes_its_sequences_with_it():
    scheduler = made(workers=2)
    asked(scheduler, "s", "a")
    await turn()
    worker = next(worker for worker in scheduler.pool.workers if worker.sent)
    worker.answer()
    await turn()
    scheduler.pool.kill(worker)
    _, outcomes = asked(scheduler, "s", "b")
    assert isinstance(outcomes[0], SequenceLost)


async def test_new_sequences_go_to_the_workers_that_stay():
    scheduler = made(workers=2)
    for name in ("s", "t", "u"):
        asked(scheduler, name, name)
    await turn()
    first, second = sorted(scheduler.pool.workers, key=lambda worker: -len(worker.sent[0]))
    for worker in (first, second):
        worker.answer()
    scheduler.pool.wanted = 1
    assert not scheduler.may_go(second)
    asked(scheduler, "v", "v")
    await turn()
    assert first.names()[-1] == ["v"]
    asked(scheduler, second.sent[0][0].request.id, "last", end=True)
    await turn()
    shedding = scheduler.pool.shedding
    second.answer()
    assert scheduler.may_go(second)
    assert scheduler.pool.shedding > shedding


async def test_everyone_who_waits_is_told_when_the_model_is_given_up(scheduler):
    scheduler.pool.idle.clear()
    told = [asked(scheduler, name, name)[1] for name in "abc"]
    await turn()
    scheduler.refuse_all(ModelNotReady("it failed"))
    assert [type(outcomes[0]) for outcomes in told] == [ModelNotReady] * 3
    assert scheduler.idle
