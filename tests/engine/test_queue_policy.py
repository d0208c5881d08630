"""Who waits, for how long and before whom, where a model's configuration says so."""

from scheduler_kit import Stage

from mooring.core.errors import QueueFull, QueueTimeout
from mooring.core.options import QueuePolicy, WaitPolicy
from mooring.core.requests import InferenceResponse
from mooring.engine.queue_policy import PolicyScheduler


def busy(queue_size=10, **policy):
    """A stage with one worker, which has a request already."""
    stage = Stage(PolicyScheduler, queue_size=queue_size, queue_policy=QueuePolicy(**policy))
    stage.ask("running")
    return stage


def test_who_has_waited_too_long_is_refused():
    stage = busy(policy=WaitPolicy(timeout=0.5))
    stage.ask("a")
    stage.loop.advance(0.2)
    stage.ask("b")
    stage.scheduler.check_deadlines(stage.clock() + 0.2)
    assert stage.refusals(QueueTimeout) == []
    stage.scheduler.check_deadlines(stage.clock() + 0.3)
    assert stage.refusals(QueueTimeout) == ["a"]
    stage.scheduler.check_deadlines(stage.clock() + 1)
    assert stage.refusals(QueueTimeout) == ["a", "b"]
    assert "Request timeout expired" in stage.outcomes["a"][0].message
    assert stage.scheduler.waiting == 0


def test_who_runs_has_all_the_time_there_is():
    stage = busy(policy=WaitPolicy(timeout=0.5))
    stage.scheduler.check_deadlines(1e12)
    assert stage.outcomes["running"] == []


def test_with_delay_it_is_served_after_all_others_of_its_priority():
    stage = busy(policy=WaitPolicy(timeout=0.5, delays=True), levels=2, default_level=2)
    stage.ask("old", "older")
    stage.ask("high", priority=1)
    stage.scheduler.check_deadlines(stage.clock() + 100)
    stage.ask("new")
    assert stage.queue == ["high", "new", "old", "older"]
    assert stage.refusals(QueueTimeout) == []


def test_of_priorities_the_first_is_served_first_and_none_is_the_default_one():
    stage = busy(levels=3, default_level=2)
    stage.ask("low", priority=3)
    stage.ask("none")
    stage.ask("unknown", priority=9)
    stage.ask("high", priority=1)
    assert stage.queue == ["high", "none", "unknown", "low"]


def test_each_priority_has_a_queue_of_its_own_size():
    stage = busy(
        levels=2,
        default_level=2,
        policy=WaitPolicy(queue_size=2),
        by_level={1: WaitPolicy(queue_size=1)},
    )
    stage.ask("a", "b", "c")
    stage.ask("d", "e", priority=1)
    assert stage.refusals(QueueFull) == ["c", "e"]
    assert stage.queue == ["d", "a", "b"]


def test_a_further_process_has_its_share_of_each_size():
    stage = busy(levels=1, default_level=1, policy=WaitPolicy(queue_size=4))
    stage.scheduler.set_queue_size(5)
    stage.ask("a", "b", "c")
    assert stage.refusals(QueueFull) == ["c"]


def test_the_whole_queue_has_its_size_beside():
    stage = busy(queue_size=1, policy=WaitPolicy(timeout=5))
    stage.ask("a", "b")
    assert stage.refusals(QueueFull) == ["b"]


def test_answers_come_in_the_order_of_the_requests():
    stage = busy(ordered=True)
    ticket = stage.ask("a")
    stage.ask("b")
    _, b = (each for each in stage.scheduler._queue if each.state == 0)
    b.answer(InferenceResponse([]))
    assert stage.answered == []
    ticket.cancel()
    stage.worker.sent[0][0].answer(InferenceResponse([]))
    assert stage.answered == ["running", "b"]
