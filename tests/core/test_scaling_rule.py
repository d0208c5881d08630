"""The rule that says how many workers or replicas a version should have, on a clock of its own."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.scaling_rule import Demand, ScalingBounds, ScalingRule

LOOK = 0.25
BOUNDS = ScalingBounds(target=0.1, least=1, most=8, window=2.0, cool_down=10.0)


class Units:
    """A version under the rule: what it is given is ready after ``start`` seconds."""

    def __init__(self, bounds=BOUNDS, units=1, start=0.0):
        self.rule, self.bounds, self.start = ScalingRule(), bounds, start
        self.now, self.units, self.ready, self.requests = 100.0, units, units, 0
        self._due = []

    def look(self, **demand):
        """One look; return the units that are wanted then."""
        self.now += LOOK
        self.ready += sum(count for at, count in self._due if at <= self.now)
        self._due = [(at, count) for at, count in self._due if at > self.now]
        self.requests += demand.pop("requests", 0)
        wanted = self.rule.decide(
            self.now,
            self.bounds,
            Demand(units=self.units, ready=self.ready, requests=self.requests, **demand),
        )
        if wanted > self.units:
            self._due.append((self.now + self.start, wanted - self.units))
        else:
            self.ready = min(self.ready, wanted)
        self.units = wanted
        return wanted

    def look_for(self, seconds, **demand):
        """Look for so long; return every number of units that there was."""
        return [self.look(**demand) for _ in range(math.ceil(seconds / LOOK))]


def test_nothing_changes_while_requests_wait_less_than_the_target():
    units = Units(units=2)
    assert set(units.look_for(60, busy=1.4, oldest_wait=0.05, queue_p95=0.08, waiting=1, requests=9)) == {2}


def test_the_oldest_wait_of_a_burst_adds_units_before_anything_was_answered():
    assert Units().look(busy=1, waiting=40, oldest_wait=0.25) == 3


def test_a_wait_just_above_the_target_adds_one_unit():
    assert Units(units=4).look(busy=4, waiting=3, oldest_wait=0.101) == 5


def test_growth_is_bounded_by_four_times_what_is_ready_and_by_the_most():
    assert Units().look(busy=1, waiting=40, oldest_wait=30) == 4
    assert Units(units=4).look(busy=4, waiting=40, oldest_wait=30) == 8
    assert Units(units=8).look(busy=8, waiting=40, oldest_wait=30) == 8


def test_needed_tells_what_the_bounds_forbid():
    units = Units(units=8)
    units.look(busy=8, waiting=40, oldest_wait=0.2)
    assert (units.units, units.rule.needed) == (8, 16)


def test_while_units_start_no_more_are_asked_for_than_the_ready_ones_show():
    units = Units(start=30)
    assert set(units.look_for(29, busy=1, waiting=9, oldest_wait=5)) == {4}


def test_waits_of_answered_requests_count_once_the_units_have_been_the_same_for_a_window():
    units = Units()
    units.look_for(BOUNDS.window, busy=0.5, queue_p95=0.09, requests=1)
    assert units.look(busy=0.5, queue_p95=0.15, requests=1) == 2
    # The waits of before the second unit do not ask for a third.
    assert set(units.look_for(BOUNDS.window - LOOK, busy=0.5, queue_p95=0.15, requests=1)) == {2}
    assert units.look_for(1, busy=0.5, queue_p95=0.15, requests=1)[-1] == 3


def test_units_go_after_a_whole_cool_down_and_at_most_half_at_a_time():
    units = Units(units=8)
    found = units.look_for(45)
    changes = [(at * LOOK, found[at]) for at in range(1, len(found)) if found[at] != found[at - 1]]
    assert [count for _, count in changes] == [4, 2, 1]
    assert changes[0][0] >= BOUNDS.cool_down - LOOK
    assert all(later - at >= BOUNDS.cool_down - LOOK for (at, _), (later, _) in itertools.pairwise(changes))


def test_units_that_work_are_kept():
    units = Units(units=8)
    assert units.look_for(120, busy=2.0, requests=5)[-1] == 3


def test_a_pause_in_a_burst_takes_nothing_away():
    units = Units()
    for _ in range(5):
        units.look_for(2, busy=units.units, waiting=9, oldest_wait=0.5)
        grown = units.units
        assert set(units.look_for(BOUNDS.cool_down - 3)) == {grown}
    assert units.units == 8


def test_a_wait_near_the_target_keeps_the_units():
    units = Units(units=4)
    assert set(units.look_for(60, busy=0.5, queue_p95=0.06, requests=3)) == {4}


def test_the_last_unit_goes_without_requests_and_comes_back_with_the_first():
    units = Units(ScalingBounds(target=0.1, least=0, most=4, window=2.0, cool_down=10.0), start=3)
    assert 0 not in units.look_for(30, requests=1)  # which came and went between two looks
    assert units.look_for(BOUNDS.cool_down + 1)[-1] == 0
    assert set(units.look_for(60)) == {0}
    assert units.look(waiting=1) == 1
    # While the first one starts, nobody knows whether one is enough.
    assert set(units.look_for(2.5, waiting=50, oldest_wait=2)) == {1}


def test_the_last_unit_stays_where_one_is_the_least():
    assert Units(units=3).look_for(120)[-1] == 1


def test_bounds_that_an_operator_changes_hold_at_once():
    units = Units(units=4)
    units.bounds = ScalingBounds(target=0.1, least=6, most=8, window=2.0, cool_down=10.0)
    assert units.look() == 6
    units.bounds = ScalingBounds(target=0.1, least=1, most=2, window=2.0, cool_down=10.0)
    assert units.look(busy=4, waiting=9, oldest_wait=1) == 2


class Queue:
    """Requests of ``seconds`` each that come at a rate, and units that take one at a time."""

    def __init__(self, units, seconds):
        self.units, self.seconds, self.waiting, self.free = units, seconds, [], 0.0

    def run(self, rate, duration):
        """Return the longest wait of each second."""
        waits, second, owed = [], [], 0.0
        for look in range(math.ceil(duration / LOOK)):
            owed += rate * LOOK
            arrived, owed = int(owed), owed - int(owed)
            now = self.units.now
            self.waiting += [now] * arrived
            self.free += self.units.ready * LOOK / self.seconds
            done = min(int(self.free), len(self.waiting))
            self.free = 0.0 if done == len(self.waiting) else self.free - done
            answered, self.waiting = self.waiting[:done], self.waiting[done:]
            oldest = now - self.waiting[0] if self.waiting else 0.0
            second += [oldest, *(now - at for at in answered)]
            busy = min(rate * self.seconds, self.units.ready) if not self.waiting else self.units.ready
            self.units.look(busy=busy, waiting=len(self.waiting), oldest_wait=oldest, requests=done)
            if look % 4 == 3:
                waits.append(max(second))
                second = []
        return waits


def test_a_steady_load_gets_the_units_that_it_needs_and_keeps_them():
    units = Units(start=1.0)
    queue = Queue(units, seconds=0.05)
    waits = queue.run(rate=50, duration=60)  # 2.5 units of work
    assert max(waits[-30:]) <= BOUNDS.target
    before = units.units
    assert before in (3, 4, 5)
    assert max(queue.run(rate=50, duration=120)) <= BOUNDS.target
    assert units.units in (4, before)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 30), st.floats(0, 40), st.integers(0, 100), st.floats(0, 100), st.floats(0, 100)
        ),
        max_size=60,
    ),
    st.integers(0, 3),
    st.integers(0, 6),
)
def test_whatever_happens_the_bounds_hold_and_what_is_kept_is_bounded(looks, least, more):
    bounds = ScalingBounds(target=0.1, least=least, most=max(least + more, 1), window=1.0, cool_down=5.0)
    rule, units, now = ScalingRule(), least, 0.0
    for ready, busy, waiting, oldest, p95 in looks:
        now += LOOK
        demand = Demand(
            units=units,
            ready=min(ready, units),
            busy=busy,
            waiting=waiting,
            oldest_wait=oldest,
            queue_p95=p95,
        )
        wanted = rule.decide(now, bounds, demand)
        assert bounds.least <= wanted <= bounds.most
        if waiting and wanted == 0:
            pytest.fail("a request waits, and nothing is wanted")
        if oldest > bounds.target and waiting:
            assert wanted >= min(units, bounds.most)  # none is taken away while somebody waits too long
        units = wanted
    assert len(rule._maxima) <= len({needed for _, needed in rule._maxima}) + 1
