"""Answers in the order of their requests, whoever is ready first and whoever goes away."""

import pytest

from mooring.core.errors import QueueFull
from mooring.core.requests import InferenceResponse
from mooring.engine.ordering import OrderedTicket, Ordering


@pytest.fixture
def heard():
    return []


def entered(ordering, heard, *names):
    return [ordering.add_request(lambda outcome, name=name: heard.append((name, outcome))) for name in names]


def answer(final=True):
    return InferenceResponse([], final=final)


def names(heard):
    return [name for name, _ in heard]


def test_an_answer_waits_for_those_before_it(heard):
    first, second, third = entered(Ordering(), heard, "a", "b", "c")
    third(answer())
    second(answer())
    assert heard == []
    first(answer())
    assert names(heard) == ["a", "b", "c"]


def test_pieces_of_the_oldest_are_not_held(heard):
    first, second = entered(Ordering(), heard, "a", "b")
    first(answer(final=False))
    second(answer(final=False))
    assert names(heard) == ["a"]
    first(answer())
    assert names(heard) == ["a", "a", "b"]
    second(answer())
    assert names(heard) == ["a", "a", "b", "b"]


def test_a_refusal_waits_as_an_answer_does(heard):
    first, second = entered(Ordering(), heard, "a", "b")
    second(QueueFull("full"))
    assert heard == []
    first(answer())
    assert names(heard) == ["a", "b"]


def test_nobody_waits_for_who_went_away(heard):
    class Cancelled:
        count = 0

        def cancel(self):
            self.count += 1

    first, second = entered(Ordering(), heard, "a", "b")
    second(answer())
    ticket = Cancelled()
    OrderedTicket(ticket, first).cancel()
    first(answer())
    assert (names(heard), ticket.count) == (["b"], 1)
