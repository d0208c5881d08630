"""How requests that ran end: the fast path of an answer beside the way of all outcomes."""

import pytest
from msgspec.structs import replace
from scheduler_kit import Stage

from mooring.core.errors import ErrorRecord
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.tensors import Tensor
from mooring.core.timing import RequestTiming

OUTPUTS = [Tensor("y", "FP32", [1], b"1234")]
NAMED = InferenceResponse(OUTPUTS, model="theirs", version="9", id="own")
OUTCOMES = [InferenceResponse(OUTPUTS), NAMED, InferenceResponse([]), ErrorRecord("ModelFailed", "it raised")]


def finish(outcomes, *, general, version, deadline, cancelled):
    """All that can be seen of requests that have ended; in the ``general`` way where the dispatcher has a hearer."""
    stage = Stage(max_batch_size=8)
    owner = stage.pool.owner
    if general:
        owner._on_finished = lambda _queued, _error, _delivered: None
    stage.ask("before")
    due = None if deadline is None else stage.clock() + deadline
    names = [f"r{at}" for at in range(len(outcomes))]
    tickets = [stage.submit(InferenceRequest("m", version, name, [], deadline=due)) for name in names]
    stage.loop.turn()
    stage.clock.now += 0.25
    stage.worker.answer()
    stage.loop.turn()
    stage.clock.now += 0.5
    if cancelled:
        tickets[0].cancel()
    queued = list(stage.worker.sent[-1])
    given = [replace(each) if isinstance(each, InferenceResponse) else each for each in outcomes]
    stage.worker.answer(*given, borrowed=False)
    told = [
        [replace(each) if type(each) is InferenceResponse else str(each) for each in stage.outcomes[name]]
        for name in names
    ]
    states = [(each.state, each.done, each.worker) for each in queued]
    statistics = stage.statistics
    return (
        told,
        states,
        owner.running,
        set(owner._with_deadline),
        statistics.counts.to_list(),
        statistics.last_queue,
    )


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("deadline", [None, 60.0])
@pytest.mark.parametrize("version", ["", "1"])
@pytest.mark.parametrize("count", [1, len(OUTCOMES)])
def test_an_answer_ends_its_request_as_every_outcome_does(count, version, deadline, cancelled):
    how = {"version": version, "deadline": deadline, "cancelled": cancelled}
    fast, general = (finish(OUTCOMES[:count], general=general, **how) for general in (False, True))
    assert fast == general
    assert fast[2] == 0


def timed(stage, name, deadline=None):
    """A request that asks for timings, and its timing."""
    timing = RequestTiming(stage.clock.now)
    stage.submit(InferenceRequest("m", "", name, [], deadline=deadline, timing=timing))
    return timing


def test_what_a_worker_tells_of_its_call_is_in_the_timing():
    stage = Stage()
    stage.ask("before")
    timing = timed(stage, "timed")
    stage.loop.turn()
    arrived = stage.clock.now
    stage.clock.now += 0.25
    stage.worker.answer()
    stage.loop.turn()
    (queued,) = stage.worker.sent[-1]
    left = stage.clock.now
    queued.note_call((left + 0.5, left + 1.5, 3, 1))
    parts = timing.measure(left + 2.0)
    assert (parts.queue, parts.batch, parts.model, parts.encode, parts.rows) == (0.25, 0.5, 1.0, 0.5, 3)
    assert left == arrived + 0.25


def test_request_that_is_refused_in_the_queue_has_waited_until_then():
    stage = Stage()
    stage.ask("before")
    timing = timed(stage, "late", deadline=stage.clock.now + 1.0)
    stage.loop.turn()
    stage.clock.now += 1.5
    stage.scheduler.check_deadlines(stage.clock.now)
    assert (timing.waited, timing.measure(stage.clock.now).queue) == (True, 1.5)
