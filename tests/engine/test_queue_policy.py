"""Who waits, for how long and before whom, where a model's configuration says so."""

import pytest
from test_offload import FakePool, turn

from mooring.core.errors import QueueFull, QueueTimeout
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.engine.queue_policy import PolicyScheduler
from mooring.observability.statistics import ModelStatistics
from mooring.repository.spec import ModelSpec, QueuePolicy, WaitPolicy


class Stage:
    """A scheduler with one worker, which is busy until the test lets it go on."""

    def __init__(self, queue_size=10, **policy):
        spec = ModelSpec(
            name="m", version="1", backend="x", location="", queue_size=queue_size,
            queue_policy=QueuePolicy(**policy),
        )  # fmt: skip
        self.scheduler = PolicyScheduler(
            spec, ModelStatistics("m", "1"), lambda _size: None, lambda _news: None
        )
        self.scheduler.pool = FakePool(self.scheduler)
        (self.worker,) = self.scheduler.pool.idle
        self.outcomes = {}
        self.answered = []

    async def ask(self, *names, priority=0):
        for name in names:
            outcomes = self.outcomes[name] = []

            def done(outcome, name=name, outcomes=outcomes):
                outcomes.append(outcome)
                self.answered.append(name)

            ticket = self.scheduler.submit(InferenceRequest("m", "", name, [], priority=priority), done, 1)
            await turn()
        return ticket

    def refusals(self, kind):
        return [name for name, outcomes in self.outcomes.items() if isinstance((outcomes or [None])[0], kind)]

    def waiting_in_order(self):
        return [each.request.id for each in self.scheduler._queue if each.state == 0]


@pytest.fixture
async def stage():
    return Stage


async def busy(stage, **policy):
    """A stage whose worker has a request already."""
    found = stage(**policy)
    await found.ask("running")
    return found


async def test_who_has_waited_too_long_is_refused(stage):
    found = await busy(stage, policy=WaitPolicy(timeout=0.5))
    await found.ask("a", "b")
    waits = [each.since for each in found.scheduler._queue if each.state == 0]
    found.scheduler.check(waits[0] + 0.4)
    assert found.refusals(QueueTimeout) == []
    found.scheduler.check(waits[0] + 0.5)
    assert found.refusals(QueueTimeout) == ["a"]
    found.scheduler.check(waits[1] + 1)
    assert found.refusals(QueueTimeout) == ["a", "b"]
    assert "Request timeout expired" in found.outcomes["a"][0].message
    assert found.scheduler.waiting == 0


async def test_who_runs_has_all_the_time_there_is(stage):
    found = await busy(stage, policy=WaitPolicy(timeout=0.5))
    found.scheduler.check(1e12)
    assert found.outcomes["running"] == []


async def test_with_delay_it_is_served_after_all_others_of_its_priority(stage):
    found = await busy(stage, policy=WaitPolicy(timeout=0.5, delays=True), levels=2, default_level=2)
    await found.ask("old", "older")
    await found.ask("high", priority=1)
    since = found.scheduler._queue[0].since
    found.scheduler.check(since + 100)
    await found.ask("new")
    assert found.waiting_in_order() == ["high", "new", "old", "older"]
    assert found.refusals(QueueTimeout) == []


async def test_of_priorities_the_first_is_served_first_and_none_is_the_default_one(stage):
    found = await busy(stage, levels=3, default_level=2)
    await found.ask("low", priority=3)
    await found.ask("none")
    await found.ask("unknown", priority=9)
    await found.ask("high", priority=1)
    assert found.waiting_in_order() == ["high", "none", "unknown", "low"]


async def test_each_priority_has_a_queue_of_its_own_size(stage):
    found = await busy(
        stage,
        levels=2,
        default_level=2,
        policy=WaitPolicy(queue_size=2),
        by_level={1: WaitPolicy(queue_size=1)},
    )
    await found.ask("a", "b", "c")
    await found.ask("d", "e", priority=1)
    assert found.refusals(QueueFull) == ["c", "e"]
    assert found.waiting_in_order() == ["d", "a", "b"]


async def test_a_further_process_has_its_share_of_each_size(stage):
    found = await busy(stage, levels=1, default_level=1, policy=WaitPolicy(queue_size=4))
    found.scheduler.limit(5)
    await found.ask("a", "b", "c")
    assert found.refusals(QueueFull) == ["c"]


async def test_the_whole_queue_has_its_size_beside(stage):
    found = await busy(stage, queue_size=1, policy=WaitPolicy(timeout=5))
    await found.ask("a", "b")
    assert found.refusals(QueueFull) == ["b"]


async def test_answers_come_in_the_order_of_the_requests(stage):
    found = await busy(stage, ordered=True)
    ticket = await found.ask("a")
    await found.ask("b")
    _, b = (each for each in found.scheduler._queue if each.state == 0)
    b.answer(InferenceResponse([]))
    assert found.answered == []
    ticket.cancel()
    found.worker.sent[0][0].answer(InferenceResponse([]))
    assert found.answered == ["running", "b"]
