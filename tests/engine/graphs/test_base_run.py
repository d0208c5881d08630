"""What every run has: it starts when its body is decoded, and leaves nothing behind however it ends."""

import pytest

from mooring.core.buffers import Buffer
from mooring.core.errors import InvalidInput
from mooring.core.requests import BodyKind, InferenceRequest, InferenceResponse, UndecodedBody
from mooring.engine.graphs.base_run import BaseRun


class FakeTicket:
    def __init__(self):
        self.cancelled = 0

    def cancel(self):
        self.cancelled += 1


class Bodies:
    """Decodes bodies when a test says so."""

    def __init__(self):
        self.ticket = FakeTicket()
        self.done = None

    def read(self, request, done):
        self.done = done
        return self.ticket


class CountedBuffer(Buffer):
    """Memory that knows how often it was given back."""

    released = 0

    def release(self):
        self.released += 1


class Run(BaseRun):
    started = 0

    def __init__(self, request, outcomes, runs, bodies):
        super().__init__(request, outcomes.append, runs)
        self._begin(bodies.read)

    def _start(self):
        self.started += 1
        self._tickets["model"] = self.asked = FakeTicket()

    def _name_answer(self, answer):
        answer.model = "named"

    def refuse(self, error):
        self._refuse_request(error)

    def deliver(self, answer):
        self._deliver_answer(answer)

    def fail(self, error):
        self._end_with_error(error)


@pytest.fixture
def memory():
    return CountedBuffer(memoryview(bytearray(8)))


def begin(memory=None):
    """A run, the outcomes that its caller gets, the set that it stands in, and what reads its body."""
    body = None if memory is None else UndecodedBody(BodyKind.V2, memory)
    outcomes, runs, bodies = [], set(), Bodies()
    return Run(InferenceRequest("m", "", "1", [], body=body), outcomes, runs, bodies), outcomes, runs, bodies


def test_tensors_start_at_once_and_a_body_when_it_has_been_read(memory):
    run, _, runs, _ = begin()
    assert (run.started, runs) == (1, {run})
    run, _, runs, bodies = begin(memory)
    assert (run.started, runs) == (0, {run})
    bodies.done(None)
    assert (run.started, memory.released) == (1, 0)  # the memory is now that of the inputs


def test_a_body_that_cannot_be_read_is_the_callers_error(memory):
    run, outcomes, runs, bodies = begin(memory)
    error = InvalidInput("no JSON")
    bodies.done(error)
    assert (run.started, outcomes, runs, memory.released) == (0, [error], set(), 1)


def test_who_leaves_while_the_body_is_read_leaves_no_memory_behind(memory):
    run, outcomes, runs, bodies = begin(memory)
    run.cancel()
    assert (outcomes, runs, bodies.ticket.cancelled, memory.released) == ([], set(), 1, 1)


def test_the_memory_of_a_refused_request_is_given_back_once(memory):
    run, outcomes, _, _ = begin(memory)
    run.refuse(InvalidInput("no"))
    run.cancel()
    assert (len(outcomes), memory.released) == (1, 1)


@pytest.mark.parametrize("end", ["cancel", "fail", "deliver"])
def test_however_it_ends_what_is_under_way_is_withdrawn_and_the_caller_hears_once(end):
    run, outcomes, runs, _ = begin()
    error, answer = InvalidInput("no"), InferenceResponse([])
    heard = {"cancel": [], "fail": [error], "deliver": [answer]}[end]
    {"cancel": run.cancel, "fail": lambda: run.fail(error), "deliver": lambda: run.deliver(answer)}[end]()
    run.fail(InvalidInput("later"))
    assert (outcomes, runs, run.asked.cancelled) == (heard, set(), 1)
    assert answer.model == ("named" if end == "deliver" else "")
