"""How requests that ran end: the fast path of an answer beside the way of all outcomes."""

import pytest
from msgspec.structs import replace
from scheduler_kit import Stage

from mooring.core.errors import ErrorRecord
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.tensors import Tensor

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
