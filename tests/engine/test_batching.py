"""When batches leave and how they are shared out: no clock, no queue, nothing to wait for."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.engine import batching
from mooring.engine.batching import (
    MAX_MESSAGE_ROWS,
    BatchPolicy,
    RefillWait,
    RowTime,
    SequencePolicy,
    fair_share,
    refill_wait,
)

sizes = st.integers(1, 64)
delays = st.floats(0, 10)


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(batching).failed == 0


@given(sizes, delays, st.integers(1, 1000), delays)
def test_an_idle_worker_is_never_kept_waiting_unless_the_model_asks_for_it(size, delay, waiting, age):
    assert BatchPolicy(size, delay).due_in(waiting, age) == 0.0


@given(sizes, delays, st.integers(1, 1000), delays)
def test_nobody_waits_longer_than_max_delay_even_in_exact_mode(size, delay, waiting, age):
    due = BatchPolicy(size, delay, exact=True).due_in(waiting, age)
    assert due == 0.0 if waiting >= size or age >= delay else age + due <= delay + 1e-9


@given(sizes, delays, st.lists(sizes), st.one_of(st.none(), st.floats(0, 1)), st.integers(1, 64), delays)
def test_steps_of_sequences_leave_after_max_delay_at_the_latest(size, delay, preferred, fill, ready, age):
    policy = SequencePolicy(size, delay, tuple(preferred), fill)
    leave, wait = policy.next_call(ready, age)
    assert leave <= ready
    if age >= delay:
        assert leave > 0
    if not leave:
        assert 0.0 < wait <= delay - age
    if leave and fill is None:
        assert leave <= max(preferred, default=size)


@given(sizes, st.integers(1, 1000), st.integers(1, 16), st.one_of(st.none(), st.floats(1e-9, 10)))
def test_no_worker_gets_more_than_its_even_share(size, waiting, idle, row_time):
    assert 1 <= BatchPolicy(size).share_of_queue(waiting, idle, row_time) <= -(-waiting // idle)


@given(sizes, st.integers(1, 1000), st.integers(1, 16), st.one_of(st.none(), st.floats(0.001, 10)))
def test_a_slow_or_unknown_model_gets_one_batch_at_a_time(size, waiting, idle, row_time):
    assert BatchPolicy(size).share_of_queue(waiting, idle, row_time) <= size


@given(st.integers(1, 5000), st.integers(1, 16), st.floats(1e-9, 10))
def test_in_exact_mode_a_message_is_one_batch(waiting, idle, row_time):
    assert BatchPolicy(4, 1.0, exact=True).share_of_queue(waiting, idle, row_time) <= 4


def test_a_fast_model_gets_many_requests_in_a_message_but_not_without_limit():
    assert BatchPolicy(1).share_of_queue(10_000, 1, 1e-9) == MAX_MESSAGE_ROWS


def test_bad_news_about_the_speed_of_a_model_is_believed_at_once():
    speed = RowTime()
    for _ in range(100):
        speed.observe([(32, 32 * 3e-6, 1)])
    assert speed.value < 1e-5
    speed.observe([(1, 0.5, 1)])
    assert speed.value == 0.5


@pytest.mark.parametrize(("times", "believed"), [(3, False), (5, True)])
def test_a_call_is_bad_news_when_it_takes_more_than_four_times_as_long(times, believed):
    speed = RowTime()
    speed.observe([(1, 0.1, 1)])
    speed.observe([(1, 0.1 * times, 1)])
    assert (speed.value == 0.1 * times) is believed


def test_a_short_hiccup_of_a_fast_model_is_no_news():
    speed = RowTime()
    for _ in range(100):
        speed.observe([(32, 32 * 3e-6, 1)])
    speed.observe([(1, 0.0002, 1)])
    assert speed.value < 3e-5


@given(st.integers(1, 500), st.integers(1, 16), st.integers(1, 64), st.integers(1, 16), st.booleans())
def test_a_worker_with_room_gets_no_more_than_fits_nor_than_its_even_share(waiting, idle, room, size, exact):
    share = BatchPolicy(size, 1.0, exact=exact).share_of_room(waiting, idle, room)
    assert 1 <= share <= min(room, -(-waiting // idle))
    assert share <= size or not exact


@given(st.lists(st.integers(0, 64), min_size=1, max_size=8), st.integers(0, 64))
def test_a_fair_share_is_never_more_than_can_come_and_all_shares_together_are_everybody(running, waiting):
    others = sum(running)
    level = others + waiting
    share = fair_share(level, len(running), others)
    assert 1 <= share <= max(waiting, 1)
    assert share * len(running) >= min(level, waiting)


def test_eight_callers_of_two_workers_settle_at_four_and_four_from_wherever_they_start():
    mine, theirs = 1, 7
    for _ in range(6):
        mine, theirs = fair_share(mine + theirs, 2, mine), mine + theirs - fair_share(mine + theirs, 2, mine)
        mine, theirs = theirs, mine
    assert (mine, theirs) == (4, 4)


def answered(*, running, waiting, rows, now=100.0, row_time=0.008):
    refill = RefillWait()
    refill.note_answers(row_time, running, waiting, rows, now)
    return refill


def test_after_an_answer_a_worker_waits_for_its_share_of_the_callers_and_then_no_more():
    refill = answered(running=4, waiting=0, rows=4)
    assert refill.due_in(1, workers=1, max_size=8, now=100.0) == pytest.approx(0.002)
    assert refill.due_in(3, workers=1, max_size=8, now=100.001) == pytest.approx(0.001)
    assert refill.due_in(4, workers=1, max_size=8, now=100.001) == 0.0
    assert refill.due_in(1, workers=1, max_size=8, now=100.001) == 0.0, "the batch has left"


def test_no_worker_waits_for_more_callers_than_a_batch_has_rows_or_than_run_elsewhere():
    assert answered(running=16, waiting=0, rows=8).due_in(4, workers=2, max_size=4, now=100.0) == 0.0
    refill = answered(running=8, waiting=0, rows=4)
    assert refill.due_in(3, workers=2, max_size=8, now=100.0) > 0.0
    assert refill.due_in(4, workers=2, max_size=8, now=100.0) == 0.0


def test_a_lone_caller_is_never_kept_waiting_for_others():
    assert answered(running=1, waiting=0, rows=1).due_in(1, workers=1, max_size=8, now=100.0) == 0.0


def test_a_lone_caller_of_a_slow_model_is_not_kept_waiting_for_company():
    assert fair_share(1, workers=2, elsewhere=0) == 1
    assert fair_share(2, workers=2, elsewhere=1) == 1


@given(st.floats(0, 100))
def test_waiting_for_company_costs_little_beside_a_row(row_time):
    assert refill_wait(row_time) <= min(row_time / 4, 0.005)
    assert not refill_wait(None)
