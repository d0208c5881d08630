"""The order of a queue, its bound, and what becomes of requests that are withdrawn, offloaded or too late."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.requests import InferenceRequest
from mooring.engine.queued_request import DONE, OFFLOADED, RUNNING, QueuedRequest
from mooring.engine.request_queue import RequestQueue


class Line:
    """A queue, and requests for it that are numbered as they come."""

    def __init__(self, size=1000):
        self.queue = RequestQueue(size)
        self.expired = []
        self._count = 0

    def request(self, name, *, rows=1, priority=0, deadline=None):
        self._count += 1
        request = InferenceRequest("m", "", name, [], priority=priority, deadline=deadline)
        return QueuedRequest(None, request, None, rows, 0.0, self._count)

    def push(self, *names, **more):
        for name in names:
            queued = self.request(name, **more)
            self.queue.push(queued)
        return queued

    def withdraw(self, queued):
        queued.move_to(DONE)
        self.queue.forget_withdrawn()

    def expire(self, queued):
        self.expired.append(queued.request.id)
        self.withdraw(queued)

    def take(self, max_rows=100, now=0.0, runs_alone=None):
        batch = self.queue.take_batch(max_rows, now, self.expire, runs_alone)
        for queued in batch:
            queued.move_to(RUNNING)
        return [queued.request.id for queued in batch]

    @property
    def names(self):
        return [queued.request.id for queued in self.queue]


@pytest.fixture
def line():
    return Line()


def test_requests_leave_in_the_order_in_which_they_came(line):
    line.push("a", "b", "c")
    assert line.take() == ["a", "b", "c"]
    assert line.queue.waiting == 0


def test_of_priorities_the_smallest_number_is_served_first_and_none_last(line):
    line.push("none")
    line.push("two", priority=2)
    line.push("one", priority=1)
    line.push("second none")
    line.push("second one", priority=1)
    assert line.take() == ["one", "second one", "two", "none", "second none"]


@given(st.lists(st.integers(0, 3), max_size=30))
def test_within_a_priority_nobody_overtakes(priorities):
    line = Line()
    for number, priority in enumerate(priorities):
        line.push(str(number), priority=priority)
    expected = sorted(range(len(priorities)), key=lambda at: (priorities[at] or 99, at))
    assert line.take() == [str(at) for at in expected]


def test_once_no_priorities_wait_arrivals_are_not_compared_any_more(line):
    line.push("one", priority=1)
    line.take()
    line.push("a", "b")
    assert not line.queue._prioritized
    assert line.take() == ["a", "b"]


def test_a_batch_has_no_more_rows_than_it_may(line):
    line.push("a", rows=3)
    line.push("b", rows=3)
    line.push("c", rows=3)
    assert line.take(max_rows=6) == ["a", "b"]
    assert line.queue.waiting == 1


def test_a_request_that_is_larger_than_a_batch_goes_by_itself(line):
    line.push("large", rows=10)
    line.push("b")
    assert line.take(max_rows=4) == ["large"]


def test_what_runs_alone_shares_a_batch_with_nobody_before_or_behind_it(line):
    line.push("a", "alone", "c")

    def runs_alone(queued):
        return queued.request.id == "alone"

    assert [line.take(runs_alone=runs_alone) for _ in "abc"] == [["a"], ["alone"], ["c"]]


def test_what_ran_on_a_worker_that_died_runs_alone(line):
    line.push("a")
    line.push("again").attempts = 1
    line.push("c")
    assert [line.take() for _ in "abc"] == [["a"], ["again"], ["c"]]


def test_a_request_past_its_deadline_is_not_taken_and_makes_room_for_the_next(line):
    line.push("late", deadline=5.0)
    line.push("b", deadline=5.1)
    line.push("c")
    assert line.take(max_rows=2, now=5.0) == ["b", "c"]
    assert line.expired == ["late"]
    assert line.queue.waiting == 0


def test_a_withdrawn_request_is_skipped_and_does_not_count(line):
    first, second = line.push("a"), line.push("b")
    line.push("c")
    line.withdraw(first)
    assert (line.queue.waiting, line.queue.head()) == (2, second)
    assert line.take() == ["b", "c"]


def test_withdrawn_requests_do_not_pile_up(line):
    line.push("kept")
    for _ in range(1000):
        line.withdraw(line.push("gone"))
    assert line.names == ["kept"]
    assert len(line.queue._entries) < 100


def test_what_comes_back_from_a_worker_is_first_whatever_the_priorities(line):
    line.push("one", priority=1)
    line.queue.push_first(line.request("back"))
    assert line.take() == ["back", "one"]


def test_an_offloaded_request_is_not_taken_but_counts_against_the_bound():
    line = Line(size=2)
    queued = line.push("a")
    line.push("b")
    line.queue.offload(queued)
    assert (queued.state, line.queue.waiting, line.queue.offloaded, line.queue.limit) == (OFFLOADED, 1, 1, 1)
    assert line.take() == ["b"]
    line.queue.end_offload()
    assert (line.queue.offloaded, line.queue.limit) == (0, 2)


def test_a_request_that_is_put_back_has_its_old_place(line):
    line.push("a")
    moved = line.push("b")
    line.push("c")
    line.queue.offload(moved)
    line.push("first", priority=1)
    line.queue.put_back(moved)
    assert line.names == ["first", "a", "b", "c"]
    assert line.take() == ["first", "a", "b", "c"]


def test_a_queue_that_is_resized_while_requests_are_offloaded_keeps_their_count():
    line = Line(size=5)
    line.push("x")
    queued = line.push("a")
    line.queue.offload(queued)
    line.queue.resize(3)
    assert line.queue.limit == 2
    line.queue.put_back(queued)
    assert (line.queue.limit, line.queue.waiting) == (3, 2)


def test_a_request_whose_precedence_changes_gets_a_new_place(line):
    delayed = line.push("a")
    line.push("b")
    delayed.delayed = True
    line.queue.reinsert(delayed)
    line.push("c")
    assert line.take() == ["b", "c", "a"]


def test_the_oldest_request_is_the_one_that_came_first_whatever_its_priority():
    line = Line()
    assert line.queue.oldest_arrival() == math.inf
    for name, arrived, priority in (("a", 5.0, 0), ("b", 6.0, 0), ("c", 7.0, 1)):
        queued = line.request(name, priority=priority)
        queued.arrived = arrived
        line.queue.push(queued)
        if name == "a":
            first = queued
    assert line.queue.oldest_arrival() == 5.0
    line.withdraw(first)
    assert line.queue.oldest_arrival() == 6.0
    line.take()
    assert line.queue.oldest_arrival() == math.inf
