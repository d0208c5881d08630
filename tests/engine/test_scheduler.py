"""Who runs when, on which worker, and what each caller is told: the scheduler with workers and a clock that are fakes."""

import logging

import pytest
from scheduler_kit import Stage

from mooring.core.errors import (
    DeadlineExceeded,
    ErrorRecord,
    ModelFailed,
    ModelNotReady,
    QueueFull,
    WorkerDied,
)
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import CodeOptions, ModelMetadata
from mooring.core.tensors import Tensor
from mooring.engine.admission import NO_LOAD, QueueLoad
from mooring.engine.queued_request import IllegalTransition
from mooring.observability.statistics import RestartReason


@pytest.fixture
def stage():
    return Stage()


# When requests leave.


def test_a_lone_request_leaves_at_the_end_of_the_turn_in_which_it_came(stage):
    stage.arrive("a")
    assert stage.sent() == [[]]
    stage.loop.turn()
    assert stage.sent() == [[["a"]]]
    assert stage.loop.timers == []


def test_a_version_is_idle_when_nothing_waits_and_nothing_runs(stage):
    assert stage.scheduler.idle
    stage.arrive("a")
    assert (stage.scheduler.idle, stage.scheduler.waiting) == (False, 1)
    stage.loop.turn()
    assert (stage.scheduler.idle, stage.scheduler.waiting) == (False, 0)
    stage.worker.answer()
    assert stage.scheduler.idle


def test_requests_that_come_in_one_turn_leave_together():
    stage = Stage(max_batch_size=8)
    for name in "abc":
        stage.arrive(name)
    stage.loop.turn()
    assert stage.sent() == [[["a", "b", "c"]]]


def test_a_batch_has_no_more_rows_than_the_model_takes():
    stage = Stage(max_batch_size=4)
    stage.ask("busy")
    stage.ask("a", "b", rows=3)
    stage.worker.answer()
    assert stage.sent() == [[["busy"], ["a"]]]


def test_what_waits_leaves_as_soon_as_the_worker_is_idle_and_before_the_answers_are_written(stage):
    stage.ask("a", "b")
    seen = []
    stage.worker.sent[0][0].done = lambda _outcome: seen.append(stage.sent())
    stage.worker.answer()
    assert seen == [[[["a"], ["b"]]]]


def test_requests_are_spread_over_the_idle_workers():
    stage = Stage(workers=2, max_batch_size=8)
    for name in "abcd":
        stage.arrive(name)
    stage.loop.turn()
    assert sorted(map(len, (batch for (batch,) in stage.sent()))) == [2, 2]


def test_a_worker_with_the_most_room_is_sent_to_first_and_gets_no_more_than_fits():
    stage = Stage(workers=2, capacity=4, max_batch_size=1)
    first, second = stage.pool.workers
    stage.pool.idle[:] = [first]
    stage.ask("a", "b")
    stage.pool.idle[:] = [second, first]
    for name in "cdefghijk":
        stage.arrive(name)
    stage.loop.turn()
    assert second.names == [["c", "d", "e", "f"]]
    assert first.names[-1] == ["g", "h"]
    assert stage.scheduler.waiting == 3


def test_with_an_exact_delay_a_lone_request_waits_for_others_but_no_longer_than_that():
    stage = Stage(max_batch_size=4, max_delay=0.5, exact_delay=True)
    stage.ask("a")
    assert stage.loop.timers == [0.5]
    stage.loop.advance(0.2)
    stage.ask("b")
    stage.loop.advance(0.29)
    assert stage.sent() == [[]]
    stage.loop.advance(0.02)
    assert stage.sent() == [[["a", "b"]]]


def test_with_an_exact_delay_a_full_batch_leaves_at_once():
    stage = Stage(max_batch_size=2, max_delay=0.5, exact_delay=True)
    stage.ask("a", "b")
    assert stage.sent() == [[["a", "b"]]]


def test_without_an_exact_delay_an_idle_worker_is_not_kept_waiting():
    stage = Stage(max_batch_size=4, max_delay=0.5)
    stage.ask("a")
    assert stage.sent() == [[["a"]]]


def four_at_once(stage):
    """A model that takes 8 ms a row has just answered four callers in one call."""
    for name in "abcd":
        stage.arrive(name)
    stage.loop.turn()
    stage.worker.answer(seconds=0.032)


def test_a_slow_model_waits_a_moment_for_the_callers_that_it_has_just_answered():
    stage = Stage(max_batch_size=8)
    four_at_once(stage)
    stage.ask("e")
    assert stage.worker.names[1:] == []
    assert stage.loop.timers == pytest.approx([0.002])
    stage.ask("f", "g", "h")
    assert stage.worker.names[1:] == [["e", "f", "g", "h"]], "all of them are back"


def test_a_slow_model_waits_no_longer_than_a_quarter_of_a_row():
    stage = Stage(max_batch_size=8)
    four_at_once(stage)
    stage.ask("e")
    stage.loop.advance(0.0019)
    assert stage.worker.names[1:] == []
    stage.loop.advance(0.0002)
    assert stage.worker.names[1:] == [["e"]]


def test_a_fast_model_waits_for_nobody():
    stage = Stage(max_batch_size=8)
    for name in "abcd":
        stage.arrive(name)
    stage.loop.turn()
    stage.worker.answer(seconds=0.0004)
    stage.ask("e")
    assert stage.worker.names[1:] == [["e"]]


def test_a_caller_of_two_slow_workers_leaves_the_other_one_its_share():
    stage = Stage(workers=2, max_batch_size=8)
    first = stage.pool.workers[0]
    stage.pool.idle[:] = [first]
    for name in "ab":
        stage.arrive(name)
    stage.loop.turn()
    stage.ask(*"cdefgh")
    first.answer(seconds=0.02)
    assert [len(batch) for batch in first.names] == [2, 4]
    assert stage.scheduler.waiting == 2


def test_the_load_tells_who_waits_who_runs_and_since_when_the_oldest_waits(stage):
    assert stage.scheduler.load == NO_LOAD
    began = stage.clock.now
    stage.ask("runs")
    assert stage.scheduler.load == QueueLoad(0, 1)
    stage.clock.now = began + 2.0
    stage.ask("one")
    stage.clock.now = began + 3.0
    stage.ask("two")
    assert stage.scheduler.load == QueueLoad(2, 1, began + 2.0)
    stage.finish()
    assert stage.scheduler.load == NO_LOAD


# Who is served first.


def test_a_better_priority_is_served_first(stage):
    stage.ask("busy", "none")
    stage.ask("two", priority=2)
    stage.ask("one", priority=1)
    stage.finish()
    assert stage.answered == ["busy", "one", "two", "none"]


# Who is refused.


def test_a_request_that_finds_the_queue_full_is_refused_at_once():
    stage = Stage(queue_size=2)
    stage.ask("runs", "a", "b", "c")
    assert stage.refusals(QueueFull) == ["c"]
    assert stage.outcomes["c"][0].message == (
        "the queue of model 'm' is full, with 2 requests waiting; try again later"
    )
    assert isinstance(stage.scheduler.overload_error(), QueueFull)
    stage.worker.answer()
    assert stage.scheduler.overload_error() is None


def test_the_refused_are_told_when_there_should_be_room():
    stage = Stage(queue_size=3, workers=2)
    stage.ask("a")
    stage.pool.workers[1].answer(seconds=0.5)
    stage.pool.idle.clear()
    stage.ask("b", "c", "d", "e")
    assert stage.outcomes["e"][0].retry_after == pytest.approx(0.5 * 3 / 2)


def test_requests_that_an_idle_worker_takes_do_not_fill_the_queue():
    stage = Stage(queue_size=1, workers=3)
    for name in "abc":
        stage.arrive(name)
    assert stage.refusals(QueueFull) == []
    assert stage.scheduler.waiting == 1


def test_with_job_tickets_only_what_an_idle_worker_can_take_is_accepted():
    stage = Stage(job_ticket=True, workers=2)
    for name in "abc":
        stage.arrive(name)
    assert stage.refusals(QueueFull) == ["c"]
    assert stage.outcomes["c"][0].message == "model 'm' has no idle worker; try again later"
    stage.loop.turn()
    stage.ask("d")
    assert stage.refusals(QueueFull) == ["c", "d"]


def test_a_smaller_bound_refuses_new_requests_and_leaves_the_others():
    stage = Stage(queue_size=10)
    stage.ask("runs", "a", "b", "c")
    stage.scheduler.set_queue_size(2)
    stage.ask("d")
    assert stage.refusals(QueueFull) == ["d"]
    assert stage.queue == ["a", "b", "c"]


def test_while_a_version_is_drained_new_requests_are_refused_and_accepted_ones_are_served(stage):
    stage.ask("runs", "waits")
    stage.scheduler.refuse_new(ModelNotReady("it is leaving"))
    stage.ask("late")
    assert stage.refusals(ModelNotReady) == ["late"]
    assert not stage.scheduler.idle
    stage.finish()
    assert stage.answered == ["late", "runs", "waits"]
    assert stage.scheduler.idle


def test_a_version_that_is_given_up_refuses_those_that_wait_and_answers_those_that_run(stage):
    stage.ask("runs", "waits")
    stage.scheduler.refuse_all(ModelNotReady("it failed"))
    assert stage.refusals(ModelNotReady) == ["waits"]
    stage.worker.answer()
    assert stage.told("runs") == [InferenceResponse]
    stage.ask("late")
    stage.scheduler.accept_new()
    stage.ask("again")
    assert stage.refusals(ModelNotReady) == ["waits", "late"]
    assert stage.worker.names[-1] == ["again"]


def test_what_a_worker_hands_back_to_a_version_that_is_given_up_is_refused(stage):
    stage.ask("a")
    stage.scheduler.refuse_all(ModelNotReady("it failed"))
    stage.worker.give_back()
    assert stage.refusals(ModelNotReady) == ["a"]
    assert stage.scheduler.idle


# Deadlines.


def test_a_request_past_its_deadline_never_reaches_a_worker(stage):
    stage.ask("runs")
    stage.ask("late", deadline=stage.clock() + 1)
    stage.ask("in time", deadline=stage.clock() + 3)
    stage.clock.now += 2
    stage.worker.answer()
    assert stage.worker.names == [["runs"], ["in time"]]
    assert stage.refusals(DeadlineExceeded) == ["late"]
    assert stage.outcomes["late"][0].message == "model 'm' did not answer in time"


def test_a_request_that_waits_is_refused_when_its_deadline_has_passed_and_not_before(stage):
    stage.ask("runs")
    stage.ask("late", deadline=stage.clock() + 1)
    stage.scheduler.check_deadlines(stage.clock() + 0.9)
    assert stage.refusals(DeadlineExceeded) == []
    stage.scheduler.check_deadlines(stage.clock() + 1)
    assert stage.refusals(DeadlineExceeded) == ["late"]
    assert stage.scheduler.waiting == 0


def test_a_request_that_runs_past_its_deadline_is_refused_and_its_worker_is_told(stage):
    ticket = stage.ask("a", deadline=stage.clock() + 1)
    stage.scheduler.check_deadlines(stage.clock() + 1)
    assert stage.refusals(DeadlineExceeded) == ["a"]
    assert stage.worker.cancelled == [ticket]
    stage.worker.answer()
    assert len(stage.outcomes["a"]) == 1
    assert stage.scheduler.idle


def test_a_request_that_was_answered_in_time_is_not_refused_later(stage):
    stage.ask("a", deadline=stage.clock() + 1)
    stage.worker.answer(borrowed=False)
    assert not stage.pool.owner._with_deadline, "nothing is kept of it"
    stage.scheduler.check_deadlines(stage.clock() + 10)
    assert stage.told("a") == [InferenceResponse]


# Callers that go.


def test_a_cancelled_request_never_reaches_a_worker(stage):
    stage.ask("runs")
    stage.ask("gone").cancel()
    stage.ask("stays")
    stage.finish()
    assert stage.worker.names == [["runs"], ["stays"]]
    assert stage.outcomes["gone"] == []


def test_of_a_request_that_is_cancelled_while_it_runs_the_worker_is_told_and_the_answer_is_dropped(stage):
    ticket = stage.ask("a")
    ticket.cancel()
    assert stage.worker.cancelled == [ticket]
    answer = InferenceResponse([Tensor("y", "FP32", [1], stage.memory.allocate(4))])
    stage.worker.answer(answer)
    assert (stage.outcomes["a"], stage.memory.out, stage.scheduler.idle) == ([], 0, True)


def test_memory_is_kept_until_no_worker_can_use_it_any_more(stage):
    tensor = Tensor("x", "FP32", [1], stage.memory.allocate(4))
    ticket = stage.ask("a", inputs=[tensor])
    ticket.cancel()
    assert stage.memory.out == 1
    stage.worker.answer()
    assert stage.memory.out == 0


# Workers that die or hand requests back.


def test_what_a_worker_hands_back_is_first_in_its_old_order():
    stage = Stage(max_batch_size=2)
    for name in "ab":
        stage.arrive(name)
    stage.loop.turn()
    stage.ask("c", "d")
    stage.pool.idle.clear()
    stage.pool.owner.requeue(stage.worker.sent[0])
    assert stage.queue == ["a", "b", "c", "d"]
    stage.pool.add()
    assert stage.pool.workers[-1].names == [["a", "b"]]


def test_a_cancelled_request_that_is_handed_back_is_gone(stage):
    stage.ask("a", deadline=stage.clock() + 1).cancel()
    stage.worker.give_back()
    assert (stage.worker.names, stage.scheduler.idle) == ([["a"]], True)
    stage.scheduler.check_deadlines(stage.clock() + 2)
    assert stage.outcomes["a"] == []


def test_a_request_that_ran_on_a_worker_that_died_is_tried_once_more_and_then_fails():
    stage = Stage(workers=2)
    stage.pool.idle.pop()
    first, second = stage.pool.workers
    stage.ask("a")
    stage.pool.kill(first)
    assert stage.outcomes["a"] == []
    stage.pool.idle.append(second)
    stage.pool.owner.on_worker_free()
    assert second.names == [["a"]]
    stage.pool.kill(second)
    assert stage.told("a") == [WorkerDied]
    assert stage.scheduler.idle


@pytest.mark.parametrize(("spec", "retry"), [({"retry": False}, True), ({}, False)])
def test_a_request_is_not_tried_again_where_that_could_do_harm(spec, retry):
    stage = Stage(**spec)
    stage.ask("a")
    stage.pool.kill(stage.worker, retry=retry)
    assert stage.told("a") == [WorkerDied]


def test_a_request_that_was_streamed_in_part_is_not_tried_again(stage):
    ticket = stage.ask("a")
    ticket.piece(InferenceResponse([], final=False))
    stage.pool.kill(stage.worker)
    assert stage.told("a") == [InferenceResponse, WorkerDied]


def test_a_request_that_had_not_started_waits_again_whether_or_not_it_may_be_retried():
    stage = Stage(retry=False)
    stage.ask("a")
    stage.pool.kill(stage.worker, started=False)
    assert (stage.outcomes["a"], stage.queue) == ([], ["a"])


def test_a_request_without_a_worker_wakes_the_model_and_waits():
    woken = []
    stage = Stage(workers=0, more={"wake": lambda: woken.append(True)})
    stage.ask("a")
    assert woken == [True]
    stage.pool.add()
    assert stage.sent() == [[["a"]]]


# What callers are told, and what is counted.


def test_an_answer_says_which_model_and_version_gave_it_to_which_request(stage):
    stage.ask("a")
    stage.worker.answer()
    (answer,) = stage.outcomes["a"]
    assert (answer.model, answer.version, answer.id) == ("m", "1", "a")


@pytest.mark.parametrize("borrowed", [False, True])
def test_outcomes_of_one_message_go_to_their_own_callers(borrowed):
    stage = Stage(max_batch_size=3)
    for name in "abc":
        stage.arrive(name)
    stage.loop.turn()
    failed = ErrorRecord("ModelFailed", "no", code=500)
    stage.worker.answer(InferenceResponse([]), failed, InferenceResponse([]), borrowed=borrowed)
    assert [stage.told(name) for name in "abc"] == [[InferenceResponse], [ModelFailed], [InferenceResponse]]
    assert (stage.outcomes["b"][0].model, stage.outcomes["b"][0].version) == ("m", "1")
    assert stage.scheduler.idle
    assert stage.statistics.counts.outcomes == [1, 2]


def test_an_answer_of_one_message_may_come_by_itself(stage):
    ticket = stage.ask("a")
    ticket.answer(InferenceResponse([]))
    assert (stage.told("a"), stage.scheduler.idle) == ([InferenceResponse], True)


def test_an_answer_to_a_request_that_no_worker_has_ends_no_run(stage):
    stage.ask("runs")
    stage.ask("waits").answer(InferenceResponse([]))
    assert stage.pool.owner.running == 1


def test_nobody_is_answered_twice(stage):
    ticket = stage.ask("a")
    stage.worker.answer()
    with pytest.raises(IllegalTransition):
        ticket.answer(InferenceResponse([]))


def test_a_request_is_not_given_to_a_second_worker(stage):
    ticket = stage.ask("a")
    with pytest.raises(IllegalTransition):
        stage.pool.owner.start_batch([ticket], stage.worker, stage.clock())


def test_time_in_the_queue_and_to_the_answer_is_counted_for_each_request(stage):
    stage.ask("a", "b")
    stage.clock.now += 2
    stage.worker.answer()
    stage.clock.now += 3
    stage.worker.answer()
    counts = stage.statistics.counts
    assert counts.queue == [0.0, 2.0]
    assert counts.latency == [0.0, 7.0]
    assert counts.requests == [0, 2]


def test_requests_that_named_a_version_are_counted_apart(stage):
    stage.submit(InferenceRequest("m", "1", "a", []))
    stage.loop.turn()
    stage.worker.answer()
    assert stage.statistics.counts.requests == [1, 0]


def test_refused_requests_are_counted_as_failed_and_cancelled_ones_not_at_all():
    stage = Stage(queue_size=1)
    stage.ask("runs").cancel()
    stage.ask("waits", "refused")
    stage.scheduler.refuse_all(ModelNotReady("it failed"))
    stage.finish()
    assert stage.statistics.counts.outcomes == [2, 0]


def test_a_model_that_fails_every_request_logs_only_so_many_reasons(stage, caplog):
    caplog.set_level(logging.ERROR, logger="mooring")
    for number in range(30):
        stage.ask(str(number))
        stage.worker.answer(ErrorRecord("ModelFailed", "no", code=500))
    stage.clock.now += 2
    stage.ask("later")
    stage.worker.answer(ErrorRecord("ModelFailed", "no", code=500))
    told = [record for record in caplog.records if "prediction failed" in record.getMessage()]
    assert len(told) == 21


def test_headers_go_to_handlers_only():
    for backend, left in (("handler", [(b"a", b"b")]), ("onnx", None)):
        stage = Stage(backend=backend)
        stage.ask("a", headers=[(b"a", b"b")])
        assert stage.worker.sent[0][0].request.headers == left


def test_headers_and_batches_are_as_the_code_of_a_loaded_model_asks():
    stage = Stage(backend="function", size_by_default=True)
    stage.scheduler.adopt_code(CodeOptions(headers=True, max_batch_size=4, max_delay=0.5))
    stage.ask("a", headers=[(b"a", b"b")])
    assert stage.sent() == [[]]  # it waits for others, for half a second
    stage.clock.now += 1
    stage.scheduler.dispatch()
    assert stage.worker.sent[0][0].request.headers == [(b"a", b"b")]
    assert stage.scheduler.spec.batching.max_batch_size == 4


def test_a_configuration_that_names_a_batch_size_goes_before_the_code():
    stage = Stage(backend="function", max_batch_size=2, size_by_default=False)
    stage.scheduler.adopt_code(CodeOptions(max_batch_size=4))
    assert stage.scheduler.spec.batching.max_batch_size == 2


# Memory for answers.


def test_once_an_answer_was_large_the_next_requests_take_memory_for_theirs_along(stage):
    stage.ask("a")
    assert stage.worker.sent[0][0].answer_slot is None
    stage.pool.owner.large_answer(300_000)
    stage.worker.answer()
    stage.ask("b")
    assert len(stage.worker.sent[1][0].answer_slot) == 300_000
    stage.worker.answer()
    assert stage.memory.out == 0


def test_a_request_that_is_handed_back_gives_its_memory_back_and_gets_new(stage):
    stage.pool.owner.large_answer(300_000)
    stage.ask("a")
    stage.worker.give_back()
    assert (stage.worker.names, stage.memory.out) == ([["a"], ["a"]], 1)


# What the pool reports.


def test_news_of_workers_goes_to_the_version(stage):
    loaded, died = ModelMetadata("m"), WorkerDied("Worker died.")
    stage.pool.owner.on_worker_loaded(loaded)
    stage.pool.owner.on_worker_failed(died)
    stage.pool.owner.on_worker_recycled()
    stage.pool.owner.on_worker_restarted(RestartReason.FROZEN)
    assert stage.news == [loaded, died]
    assert stage.statistics.workers == [1, 1]
    assert stage.statistics.restarts[RestartReason.FROZEN] == sum(stage.statistics.restarts) == 1


def test_an_idle_worker_that_is_too_many_may_end(stage):
    assert stage.pool.owner.may_dismiss(stage.worker)


def test_the_pool_is_checked_with_the_deadlines(stage):
    stage.scheduler.check_deadlines(7.0)
    assert stage.pool.checks == [7.0]
