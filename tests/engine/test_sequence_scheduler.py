"""The scheduler of models that keep state, with workers that only take notes."""

import pytest
from fakes import FakeCodecs
from scheduler_kit import Stage

from mooring.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelNotReady,
    QueueFull,
    SequenceLost,
    WorkerDied,
)
from mooring.core.options import SequenceOptions
from mooring.core.requests import BodyKind, Form, InferenceRequest, UndecodedBody
from mooring.core.tensors import Tensor
from mooring.engine.admission import QueueLoad
from mooring.engine.sequence_scheduler import SequenceScheduler


def made(
    workers=1, rows=8, *, codecs=None, queue_size=100, job_ticket=False, delay=0.0, batch=None, **settings
):
    read_body = (codecs or FakeCodecs(at_hand=True)).reader()
    return Stage(
        SequenceScheduler,
        workers=workers,
        more={"read_body": read_body},
        max_batch_size=rows,
        batch_dimension=batch,
        max_delay=delay,
        exact_delay=bool(delay),
        job_ticket=job_ticket,
        queue_size=queue_size,
        sequence=SequenceOptions(enabled=True, **{"max_sequences": 10, "max_queued_steps": 10, **settings}),
    )


@pytest.fixture
def stage():
    return made()


def asked(stage, sequence, step, *, start=False, end=False, deadline=None):
    said = [("id", sequence), ("start", start), ("end", end)]
    headers = [(f"ts_request_sequence_{name}".encode(), str(value).encode()) for name, value in said]
    request = InferenceRequest("m", "", step, [], form=Form.BODY, deadline=deadline, headers=headers)
    outcomes = []
    return stage.scheduler.submit(request, outcomes.append, 1), outcomes


def test_the_next_step_leaves_when_the_one_before_it_is_answered_and_nothing_else_happens(stage):
    for step in "abc":
        asked(stage, "s", step)
    (worker,) = stage.pool.workers
    for count in (1, 2, 3):
        stage.loop.turn()
        assert len(worker.sent) == count
        worker.answer()
    assert worker.names == [["a"], ["b"], ["c"]]
    assert stage.scheduler.idle


def test_the_next_step_leaves_when_the_one_before_it_is_withdrawn(stage):
    (worker,) = stage.pool.workers
    asked(stage, "s", "a")
    stage.loop.turn()
    waiting, _ = asked(stage, "s", "b")
    asked(stage, "s", "c")
    waiting.cancel()
    worker.answer()
    stage.loop.turn()
    assert worker.names == [["a"], ["c"]]


def test_the_load_has_the_oldest_step_that_waits_whether_or_not_it_was_read():
    codecs = FakeCodecs()
    stage = made(codecs=codecs)
    began = stage.clock.now
    asked(stage, "s", "a")
    stage.loop.turn()
    assert stage.scheduler.load == QueueLoad(0, 1)
    stage.clock.now = began + 1.0
    unread(stage, "large")
    stage.clock.now = began + 2.0
    asked(stage, "s", "b")
    assert stage.scheduler.load == QueueLoad(2, 1, began + 1.0)
    codecs.work()
    stage.loop.turn()
    assert stage.scheduler.load.oldest in (began + 1.0, began + 2.0)
    assert stage.scheduler.load.waiting + stage.scheduler.load.running == 3


def unread(stage, step, *, body=None, deadline=None):
    """A step whose body nobody has read."""
    told = '"parameters": {"sequence_id": 7, "sequence_start": true}'
    body = body or f'{{"inputs": [{{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}}], {told}}}'
    undecoded = UndecodedBody(BodyKind.V2, body.encode())
    request = InferenceRequest("m", "", step, [], deadline=deadline, body=undecoded)
    outcomes = []
    return stage.scheduler.submit(request, outcomes.append, 1), outcomes


def test_a_large_body_is_read_elsewhere_before_it_is_a_step_of_its_sequence():
    codecs = FakeCodecs()
    stage = made(codecs=codecs)
    (worker,) = stage.pool.workers
    queued, _ = unread(stage, "a")
    stage.loop.turn()
    assert (worker.sent, stage.scheduler.waiting, stage.scheduler.idle) == ([], 1, False)
    codecs.work()
    stage.loop.turn()
    assert worker.names == [["a"]]
    assert (queued.step.id, queued.request.inputs[0].name) == (7, "x")
    worker.answer()
    assert (stage.scheduler.idle, stage.scheduler.waiting) == (True, 0)


def test_a_large_body_that_makes_no_sense_is_refused_and_leaves_nothing_behind():
    codecs = FakeCodecs()
    stage = made(codecs=codecs)
    _, outcomes = unread(stage, "a", body="{}")
    codecs.work()
    assert isinstance(outcomes[0], InvalidInput)
    assert (stage.scheduler.idle, stage.scheduler.open_sequences()) == (True, [])


def test_a_step_whose_body_is_being_read_can_be_withdrawn_refused_and_come_too_late():
    codecs = FakeCodecs()
    stage = made(codecs=codecs)
    queued, _ = unread(stage, "a")
    queued.cancel()
    _, late = unread(stage, "b", deadline=1.0)
    stage.scheduler.check_deadlines(2.0)
    _, refused = unread(stage, "c")
    stage.scheduler.refuse_all(ModelNotReady("no"))
    assert [type(each[0]) for each in (late, refused)] == [DeadlineExceeded, ModelNotReady]
    assert (codecs.cancelled, stage.scheduler.idle, stage.scheduler.waiting) == (3, True, 0)


def test_with_job_tickets_a_step_that_would_wait_is_refused_and_its_sequence_goes_on():
    stage = made(workers=2, rows=1, job_ticket=True)
    first, second = stage.pool.workers
    outcomes = [asked(stage, name, name + "1")[1] for name in "abc"]
    stage.loop.turn()
    assert [worker.names for worker in (first, second)] == [[["a1"]], [["b1"]]]
    (refused,) = outcomes[2]
    assert isinstance(refused, QueueFull)
    assert refused.message == "model 'm' has no idle worker; try again later"
    assert isinstance(asked(stage, "a", "a2")[1][0], QueueFull)  # its own first step still runs
    first.answer()
    # The other worker has as few sequences, and is busy: a new one goes where it can run.
    asked(stage, "c", "c1")
    stage.loop.turn()
    assert first.names == [["a1"], ["c1"]]
    assert isinstance(asked(stage, "a", "a2")[1][0], QueueFull)  # c's step runs where a's state is
    second.answer()
    assert isinstance(asked(stage, "a", "a2")[1][0], QueueFull)  # nor can it run anywhere else
    first.answer()
    asked(stage, "a", "a2")
    stage.loop.turn()
    assert first.names == [["a1"], ["c1"], ["a2"]]
    first.answer()
    assert stage.scheduler.idle


def test_with_job_tickets_a_call_takes_as_many_steps_as_it_has_rows():
    stage = made(rows=2, job_ticket=True)
    (worker,) = stage.pool.workers
    outcomes = [asked(stage, name, name)[1] for name in "abc"]
    stage.loop.turn()
    assert worker.names == [["a", "b"]]
    assert (outcomes[:2], len(outcomes[2])) == ([[], []], 1)
    worker.answer()
    asked(stage, "c", "c")
    stage.loop.turn()
    assert worker.names == [["a", "b"], ["c"]]


def test_a_step_past_its_deadline_never_reaches_a_worker(stage):
    _, outcomes = asked(stage, "s", "a", deadline=0.0)
    asked(stage, "s", "b")
    stage.loop.turn()
    assert isinstance(outcomes[0], DeadlineExceeded)
    assert stage.pool.workers[0].names == [["b"]]
    assert (b"ts_request_sequence_start", b"true") in stage.pool.workers[0].sent[0][0].request.headers


def test_a_step_that_runs_past_its_deadline_still_counts(stage):
    step, outcomes = asked(stage, "s", "a", deadline=1e9)
    stage.loop.turn()
    asked(stage, "s", "b")
    stage.scheduler.check_deadlines(2e9)
    assert isinstance(outcomes[0], DeadlineExceeded)
    (worker,) = stage.pool.workers
    assert worker.cancelled == [step]
    stage.loop.turn()
    assert worker.names == [["a"]]
    worker.answer()
    stage.loop.turn()
    assert worker.names == [["a"], ["b"]]


def test_a_sequence_that_waits_for_room_gets_it_when_one_is_over():
    stage = made(max_per_worker=1, max_idle=10.0)
    (worker,) = stage.pool.workers
    asked(stage, "s", "a")
    asked(stage, "t", "b")
    stage.loop.turn()
    worker.answer()
    stage.loop.turn()
    assert worker.names == [["a"]]
    stage.scheduler.check_deadlines(1e12)
    stage.loop.turn()
    assert worker.names == [["a"], ["b"]]


def test_what_ran_gets_the_reason_and_what_waited_hears_that_its_state_is_lost():
    stage = made(workers=2)
    first, second = stage.pool.workers
    _, ran = asked(stage, "s", "a")
    stage.loop.turn()
    _, waited = asked(stage, "s", "b")
    _, anew = asked(stage, "s", "c", start=True)
    dead, alive = (first, second) if first.sent else (second, first)
    stage.pool.kill(dead)
    assert isinstance(ran[0], WorkerDied)
    assert isinstance(waited[0], SequenceLost)
    stage.loop.turn()
    assert (anew, alive.names) == ([], [["c"]])


def test_a_step_that_had_not_begun_begins_elsewhere():
    stage = made(workers=2)
    asked(stage, "s", "a")
    stage.loop.turn()
    dead = next(worker for worker in stage.pool.workers if worker.sent)
    stage.pool.kill(dead, started=False)
    stage.loop.turn()
    assert stage.pool.workers[0].names == [["a"]]


def test_a_worker_that_dies_idle_takes_its_sequences_with_it():
    stage = made(workers=2)
    asked(stage, "s", "a")
    stage.loop.turn()
    worker = next(worker for worker in stage.pool.workers if worker.sent)
    worker.answer()
    stage.loop.turn()
    stage.pool.kill(worker)
    _, outcomes = asked(stage, "s", "b")
    assert isinstance(outcomes[0], SequenceLost)


def test_new_sequences_go_to_the_workers_that_stay():
    stage = made(workers=2)
    for name in ("s", "t", "u"):
        asked(stage, name, name)
    stage.loop.turn()
    first, second = sorted(stage.pool.workers, key=lambda worker: -len(worker.sent[0]))
    for worker in (first, second):
        worker.answer()
    stage.pool.wanted = 1
    assert not stage.scheduler.may_dismiss(second)
    asked(stage, "v", "v")
    stage.loop.turn()
    assert first.names[-1] == ["v"]
    asked(stage, second.sent[0][0].request.id, "last", end=True)
    stage.loop.turn()
    shedding = stage.pool.shedding
    second.answer()
    assert stage.scheduler.may_dismiss(second)
    assert stage.pool.shedding > shedding


def test_everyone_who_waits_is_told_when_the_model_is_given_up(stage):
    stage.pool.idle.clear()
    told = [asked(stage, name, name)[1] for name in "abc"]
    stage.loop.turn()
    stage.scheduler.refuse_all(ModelNotReady("it failed"))
    assert [type(outcomes[0]) for outcomes in told] == [ModelNotReady] * 3
    assert stage.scheduler.idle


def v2_step(stage, sequence, step, *, rows=1, deadline=None, **said):
    """A step of a client of the Open Inference Protocol."""
    parameters = {"sequence_id": sequence, **{f"sequence_{key}": value for key, value in said.items()}}
    request = InferenceRequest(
        "m",
        "",
        step,
        [Tensor("x", "FP32", [rows, 1], b"1234" * rows)],
        deadline=deadline,
        parameters=parameters,
    )
    outcomes = []
    return stage.scheduler.submit(request, outcomes.append, rows), outcomes


def test_more_sequences_than_slots_wait_in_order_and_get_the_slots_that_others_leave():
    stage = made(rows=2, max_sequences=0, max_per_worker=2, direct=True)
    (worker,) = stage.pool.workers
    for name in "abcd":
        asked(stage, name, f"{name}1", start=True)
    asked(stage, "b", "b2", end=True)
    stage.loop.turn()
    for _ in range(3):
        worker.answer()
        stage.loop.turn()
    assert worker.names == [["a1", "b1"], ["b2"], ["c1"]]
    assert [[queued.step.slot for queued in call] for call in worker.sent] == [[0, 1], [1], [1]]


def test_a_waiting_sequence_gets_the_slot_of_an_idle_one_when_the_model_is_unloaded():
    stage = made(max_sequences=0, max_per_worker=1)
    (worker,) = stage.pool.workers
    asked(stage, "a", "a1", start=True)
    _, told = asked(stage, "b", "b1", start=True, end=True)
    stage.loop.turn()
    worker.answer()
    stage.scheduler.refuse_new(ModelNotReady("model 'm' is being unloaded"))
    stage.scheduler.check_deadlines(stage.clock())
    stage.loop.turn()
    worker.answer()
    assert worker.names == [["a1"], ["b1"]]
    assert len(told) == 1
    assert stage.scheduler.idle


def test_so_many_sequences_wait_as_the_queue_has_room_for():
    stage = made(queue_size=2, max_sequences=0, max_per_worker=1)
    told = [asked(stage, name, name, start=True)[1] for name in "abcd"]
    assert told[:3] == [[], [], []]
    (error,) = told[3]
    assert isinstance(error, QueueFull)
    assert error.message == "model 'm' has 2 sequences waiting for a worker, as many as may; try again later"
    assert asked(stage, "c", "c2")[1] == []  # a further step of one that waits is no new sequence


def test_the_first_call_with_free_slots_waits_until_enough_of_them_have_a_step():
    stage = made(rows=4, delay=0.5, max_per_worker=4, direct=True, minimum_slot_utilization=0.5)
    (worker,) = stage.pool.workers
    asked(stage, "a", "a1", start=True)
    stage.loop.turn()
    assert worker.names == []
    asked(stage, "b", "b1", start=True)
    stage.loop.turn()
    assert worker.names == [["a1", "b1"]]
    worker.answer()
    asked(stage, "a", "a2")
    stage.loop.turn()
    stage.loop.advance(0.5)
    assert worker.names[1:] == [["a2"]]


def test_steps_of_candidates_leave_at_a_preferred_size_or_when_the_oldest_has_waited():
    stage = made(rows=4, delay=0.5, max_per_worker=8, preferred_batch_size=(2,))
    (worker,) = stage.pool.workers
    for name in "abc":
        asked(stage, name, name, start=True)
    stage.loop.turn()
    assert worker.names == [["a", "b"]]
    worker.answer()
    stage.loop.turn()
    assert worker.names == [["a", "b"]]
    stage.loop.advance(0.5)
    assert worker.names == [["a", "b"], ["c"]]


@pytest.mark.parametrize("error", [InvalidInput("the shape"), DeadlineExceeded("too late")])
def test_a_first_step_that_its_worker_refuses_leaves_no_sequence_open(error):
    stage = made(max_sequences=0, max_per_worker=1)
    (worker,) = stage.pool.workers
    _, first = v2_step(stage, 7, "a1", start=True)
    _, second = v2_step(stage, 7, "a2")
    _, other = v2_step(stage, 8, "b1", start=True)
    stage.loop.turn()
    worker.answer(error)
    assert (first, second) == ([error], [])
    stage.loop.turn()
    assert "must specify the START flag on the first request of the sequence" in second[0].message
    assert stage.scheduler.open_sequences() == ["8"]
    assert worker.names == [["a1"], ["b1"]]
    assert other == []


def test_a_step_of_several_rows_is_refused_where_there_is_a_batch_dimension():
    stage = made(batch=True, max_per_worker=8, direct=True)
    _, outcomes = v2_step(stage, 7, "a", rows=2, start=True)
    assert outcomes[0].message == (
        "inference request to model 'm' must specify batch-size 1 due to requirements of sequence batcher"
    )
    assert stage.scheduler.open_sequences() == []


def test_all_who_wait_get_the_reason_for_which_a_model_is_given_up():
    stage = made(max_sequences=0, max_per_worker=1)
    told = [v2_step(stage, 7, step, start=step == "a")[1] for step in "abc"]
    stage.scheduler.refuse_all(ModelNotReady("gone"))
    assert [[type(each) for each in outcomes] for outcomes in told] == [[ModelNotReady]] * 3


def test_a_first_step_whose_time_is_over_while_it_waits_for_a_slot_takes_its_followers_with_it():
    stage = made(max_sequences=0, max_per_worker=1)
    (worker,) = stage.pool.workers
    v2_step(stage, 1, "a1", start=True)
    _, late = v2_step(stage, 2, "b1", start=True, deadline=stage.clock.now + 1)
    _, follower = v2_step(stage, 2, "b2", end=True)
    v2_step(stage, 3, "c1", start=True)
    stage.loop.turn()
    stage.scheduler.check_deadlines(stage.clock.now + 2)
    stage.loop.turn()
    assert [type(each) for each in late] == [DeadlineExceeded]
    assert "must specify the START flag" in follower[0].message
    v2_step(stage, 1, "a2", end=True)
    worker.answer()
    stage.loop.turn()
    worker.answer()
    stage.loop.turn()
    assert worker.names == [["a1"], ["a2"], ["c1"]]
