"""The states of a queued request: every move of the table is made, every other raises, and memory goes back once."""

import itertools
from types import SimpleNamespace

import pytest
from fakes import FakeMemory

from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.tensors import Tensor
from mooring.engine.answer_slots import AnswerSlots
from mooring.engine.queued_request import (
    DONE,
    OFFLOADED,
    RUNNING,
    TRANSITIONS,
    WAITING,
    IllegalTransition,
    QueuedRequest,
    RequestState,
)

LEGAL = {
    (WAITING, RUNNING),
    (WAITING, OFFLOADED),
    (WAITING, DONE),
    (OFFLOADED, WAITING),
    (OFFLOADED, DONE),
    (RUNNING, WAITING),
    (RUNNING, DONE),
}


def queued(state=WAITING, owner=None, inputs=()):
    request = InferenceRequest("m", "", "7", list(inputs))
    return QueuedRequest(owner, request, lambda _outcome: None, 1, 0.0, 1, state=state)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(RequestState, RequestState)))
def test_a_move_is_made_if_and_only_if_it_is_legal(old, new):
    found = queued(old)
    if (old, new) in LEGAL:
        found.move_to(new)
        assert found.state is new
    else:
        with pytest.raises(IllegalTransition, match=f"{old.name} to {new.name}"):
            found.move_to(new)
        assert found.state is old


def test_nothing_comes_back_from_done():
    assert TRANSITIONS[DONE] == ()


def test_an_answer_says_which_model_answers_which_request_unless_the_worker_has_said_so():
    owner = SimpleNamespace(spec=SimpleNamespace(version="3"))
    open_answer = InferenceResponse([])
    queued(owner=owner).fill_identity(open_answer)
    assert (open_answer.model, open_answer.version, open_answer.id) == ("m", "3", "7")
    said = InferenceResponse([], model="other", version="9", id="x")
    queued(owner=owner).fill_identity(said)
    assert (said.model, said.version, said.id) == ("other", "9", "x")


def test_memory_goes_back_once_however_often_it_is_freed():
    memory = FakeMemory()
    owner = SimpleNamespace(slots=AnswerSlots(memory.allocate))
    found = queued(owner=owner, inputs=[Tensor("x", "FP32", [1], memory.allocate(4))])
    found.answer_slot = memory.allocate(100)
    found.release_memory()
    found.release_memory()
    assert memory.out == 0


def test_who_is_served_first_is_the_smallest_priority_none_comes_last_and_the_delayed_after_their_equals():
    found = [queued() for _ in range(4)]
    for each, priority in zip(found, (2, 0, 1, 1), strict=True):
        each.request.priority = priority
    found[3].delayed = True
    assert sorted(found, key=lambda each: each.precedence) == [found[2], found[3], found[0], found[1]]
