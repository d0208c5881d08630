"""Where the time of a request went: the parts are right, and their sum is not above the total."""

import re
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.timing import Parts, RequestTiming, node_name


def parts_of(text):
    """The milliseconds of each metric of a header."""
    return {name: float(duration) for name, duration in re.findall(r'([^ ,;"]+);dur=([0-9.]+)', text)}


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock, which stands where it is set."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


def test_parts_of_a_request(clock):
    timing = RequestTiming(100.0)
    timing.note_call(1, 100.001, 100.003, (100.004, 100.010, 8, 1))
    clock.now = 100.0125
    assert timing.to_text() == (
        'queue;dur=2, batch;dur=1;desc="8 rows", model;dur=6, encode;dur=2.5, total;dur=12.5'
    )


def test_one_row_is_called_so(clock):
    timing = RequestTiming(100.0)
    timing.note_call(1, 100.0, 100.0, (100.0, 100.0, 1, 1))
    assert 'desc="1 row"' in timing.to_text()


def test_request_that_no_model_saw_has_only_the_total(clock):
    timing = RequestTiming(100.0)
    clock.now = 100.0001
    assert timing.to_text() == "total;dur=0.1"


def test_request_that_was_refused_in_the_queue_has_waited(clock):
    timing = RequestTiming(100.0)
    timing.note_wait(1, 100.0, 100.5)
    clock.now = 100.501
    assert timing.to_text() == "queue;dur=500, total;dur=501"


def test_error_of_a_model_keeps_the_call(clock):
    timing = RequestTiming(100.0)
    timing.note_call(1, 100.0, 100.001, (100.002, 100.003, 1, 1))
    timing.note_wait(1, 100.0, 100.001)
    assert set(parts_of(timing.to_text())) == {"queue", "batch", "model", "encode", "total"}


def test_answer_from_the_cache_says_so(clock):
    timing = RequestTiming(100.0)
    timing.cache = 0.0002
    clock.now = 100.001
    assert timing.to_text() == 'cache;dur=0.2;desc="hit", total;dur=1'


def test_moment_of_a_split_request_counts_once(clock):
    timing = RequestTiming(100.0)
    timing.note_call(1, 100.0, 100.0, (100.001, 100.010, 4, 1))
    timing.note_call(2, 100.0, 100.009, (100.010, 100.020, 4, 1))  # waited while the first part ran
    timing.note_call(3, 100.0, 100.0, (100.0011, 100.015, 2, 1))  # on another worker, at the same time
    clock.now = 100.021
    assert timing.to_text() == (
        'queue;dur=0, batch;dur=1;desc="10 rows in 3 calls", model;dur=19, encode;dur=1, total;dur=21'
    )


def test_later_piece_moves_the_end_of_the_call(clock):
    timing = RequestTiming(100.0)
    timing.note_call(1, 100.0, 100.0, (100.0, 100.005, 1, 1))
    timing.note_call(1, 100.0, 100.0, (100.0, 100.015, 1, 1))
    clock.now = 100.016
    assert parts_of(timing.to_text())["model"] == pytest.approx(15, abs=0.002)
    assert 'desc="1 row"' in timing.to_text()


def test_nodes_have_metrics_of_their_own(clock):
    timing = RequestTiming(100.0)
    node = timing.node("scale")
    node.note_call(1, 100.0, 100.001, (100.002, 100.004, 2, 1))
    node.ended = 100.005
    inner = timing.node("a b").node("x/y")
    inner.note_wait(2, 100.0, 100.001)
    clock.now = 100.010
    assert parts_of(timing.to_text()) == pytest.approx(
        {
            "total": 10, "scale.queue": 1, "scale.batch": 1, "scale.model": 2, "scale.encode": 1,
            "a%20b.x%2Fy.queue": 1,
        }, abs=0.002,
    )  # fmt: skip


def test_header_stays_within_what_grpc_clients_take(clock):
    timing = RequestTiming(100.0)
    timing.note_call(1, 100.0, 100.0, (100.0, 100.0, 1, 1))
    for number in range(1000):
        timing.node(f"node{number}").note_wait(number, 100.0, 101.0)
    text = timing.to_text()
    assert len(text) <= 4096
    assert text.endswith("total;dur=0")
    assert "node100.queue" in text


def test_before_the_first_piece_queue_and_batch_are_known(clock):
    timing = RequestTiming(100.0)
    assert timing.to_early_text() == ""
    timing.note_call(1, 100.0, 100.0, (100.0, 100.0, 1, 1))
    assert timing.to_early_text() == 'queue;dur=0, batch;dur=0;desc="1 row"'


def test_requests_of_one_stream_are_added_up(clock):
    call = RequestTiming(100.0)
    for number, begin in enumerate((101.0, 105.0)):
        request = RequestTiming(begin)
        request.note_call(number, begin, begin + 0.1, (begin + 0.2, begin + 0.5, 2, 1))
        request.node("inner").note_wait(number, begin, begin + 0.1)
        clock.now = begin + 0.6
        call.absorb(request)
    clock.now = 110.0
    assert parts_of(call.to_text()) == pytest.approx(
        {"queue": 200, "batch": 200, "model": 600, "encode": 200, "total": 10_000, "inner.queue": 200},
        abs=0.01,
    )
    assert 'desc="4 rows in 2 calls"' in call.to_text()


def test_call_that_requests_share_counts_once(clock):
    call, whole = RequestTiming(100.0), RequestTiming(100.0)
    for number in range(80):  # eight to a call, and more than are kept apart
        begin = 101.0 + number // 8
        span = begin + 0.2, begin + 0.5, 16, 1
        request = RequestTiming(begin)
        request.note_call(number, begin, begin + 0.1, span)
        clock.now = begin + 0.6
        call.absorb(request)
        whole.note_call(number, begin, begin + 0.1, span)
    for each in (call, whole):
        assert 'desc="160 rows in 10 calls"' in each.to_text()
        assert parts_of(each.to_text())["model"] == pytest.approx(3000, abs=0.01)


def test_it_travels_between_processes(clock):
    timing = RequestTiming(100.0)
    timing.note_call(1, 100.0, 100.001, (100.002, 100.004, 2, 1))
    timing.node("scale").cache = 0.001
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(timing), type=RequestTiming)
    other = RequestTiming(99.0)
    other.follow(sent)
    other.began = timing.began
    assert other.to_text() == timing.to_text()


def test_timings_share_nothing():
    RequestTiming().node("a").note_wait(1, 0.0, 0.0)
    assert RequestTiming().nodes == {}
    assert RequestTiming().calls == {}
    assert RequestTiming().added == Parts()


def test_models_that_come_twice_have_names_of_their_own():
    assert [node_name("a", ()), node_name("a", ("a",)), node_name("a", ("a", "a#2"))] == ["a", "a#2", "a#3"]


moments = st.floats(0.0, 10.0, allow_nan=False)


@given(st.lists(st.tuples(moments, moments, moments, moments), max_size=200), moments)
def test_sum_is_never_above_the_total(calls, more):
    timing = RequestTiming(0.0)
    last = 0.0
    for key, spans in enumerate(calls):
        arrived, left, begin, end = sorted(spans)
        timing.note_call(key, arrived, left, (begin, end, 1, 1))
        last = max(last, end)
    parts = timing.measure(last + more)
    assert parts.queue + parts.batch + parts.model + parts.encode <= last + more + 1e-9
    # Those that began at the same moment are one.
    assert len({sorted(spans)[2] for spans in calls}) <= parts.calls <= len(calls)
    assert min(parts.queue, parts.batch, parts.model, parts.encode) >= -1e-9


@given(st.lists(st.floats(0.0, 0.01), min_size=4, max_size=4))
def test_rounded_sum_is_never_above_the_rounded_total(steps):
    timing = RequestTiming(time.monotonic() - 1.0)
    arrived = timing.began
    left = arrived + steps[0]
    begin = left + steps[1]
    timing.note_call(1, arrived, left, (begin, begin + steps[2], 1, 1))
    told = parts_of(timing.to_text())
    total = told.pop("total")
    assert sum(round(each * 1000) for each in told.values()) <= round(total * 1000)
    assert sum(told.values()) == pytest.approx(total, abs=0.005)
