"""When the model was called, request by request."""

import time

import pytest

from mooring.backends.call_times import CallTimes, end_call
from mooring.core.requests import InferenceRequest


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 10.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


def requests(count):
    return [InferenceRequest("m", "", str(number), []) for number in range(count)]


def test_requests_that_share_a_call_have_its_span(clock):
    first, second, other = requests(3)
    times = CallTimes()
    clock.now = 11.0
    begun = times.begin_call([first, second, first], 3)  # two samples of the first one
    clock.now = 12.0
    end_call(begun)
    assert times.span_of(first, 9) == times.span_of(second, 9) == (11.0, 12.0, 3, 1)
    assert times.span_of(other, 9) is None  # it was at fault, and the model not called for it


def test_calls_of_one_request_go_from_the_first_to_the_last(clock):
    (request,) = requests(1)
    times = CallTimes()
    end_call(times.begin_call([request], 4))
    clock.now = 15.0
    begun = times.begin_call([request], 2)
    clock.now = 16.0
    end_call(begun)
    assert times.span_of(request, 9) == (10.0, 16.0, 6, 2)


def test_call_that_raises_has_ended_when_its_error_is_there(clock):
    (request,) = requests(1)
    times = CallTimes()
    times.begin_call([request], 1)
    clock.now = 12.0
    assert times.span_of(request, 9) == (10.0, 12.0, 1, 1)


def test_piece_moves_the_end(clock):
    (request,) = requests(1)
    times = CallTimes()
    end_call(times.begin_call([request], 1))  # a generator is there at once
    clock.now = 13.0
    assert times.note_piece(request) == (10.0, 13.0, 1, 1)
    clock.now = 14.0
    assert times.span_of(request, 9) == (10.0, 13.0, 1, 1)


def test_backend_that_notes_nothing_has_the_whole_batch_as_its_call(clock):
    (request,) = requests(1)
    times = CallTimes(whole=True)
    clock.now = 12.0
    assert times.note_piece(request) == (10.0, 12.0, 1, 1)
    clock.now = 13.0
    assert times.span_of(request, 8) == (10.0, 13.0, 8, 1)


def test_steps_are_one_call_of_the_largest_step(clock):
    (request,) = requests(1)
    times = CallTimes()
    for began, rows in ((10.0, 2), (12.0, 4), (14.0, 1)):
        clock.now = began + 1.0
        times.note_step(request, began, rows)
    assert times.span_of(request, 9) == (10.0, 15.0, 4, 1)
