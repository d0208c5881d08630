"""Who has the connections: rules alone, looked at in steps of a tenth of a second."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from mooring.frontends.balancing import (
    CROWDED,
    FULL,
    GAP,
    LOOKS,
    PATIENCE,
    RELIEF,
    ROOM,
    BalancePolicy,
    Load,
    Migration,
    queue_share,
)

LOADS = st.lists(
    st.builds(Load, busy=st.floats(0.0, 1.0), connections=st.integers(0, 50)), min_size=2, max_size=6
)


def after(dealing, loads, idle, *, looks, begin=0.0):
    """The moves of so many looks at the same loads."""
    moves = []
    for look in range(looks):
        moves += dealing.next(begin + look / 10, loads, idle)
    return moves


def test_connections_stay_with_the_first_until_its_loop_is_full():
    dealing = BalancePolicy(4)
    assert not after(dealing, [Load(FULL - 0.01, 50), *[Load(0.0, 0)] * 3], 15.0, looks=50)
    assert dealing.open == [True, False, False, False]


def test_a_full_loop_keeps_them_where_no_core_is_idle():
    dealing = BalancePolicy(2)
    assert not after(dealing, [Load(1.0, 32), Load(0.0, 0)], ROOM - 0.01, looks=50)
    assert dealing.open == [True, False]


def test_half_of_them_go_to_a_further_loop_where_cores_are_idle():
    dealing = BalancePolicy(2)
    loads = [Load(1.0, 32), Load(0.0, 0)]
    assert after(dealing, loads, 1.0, looks=LOOKS) == [Migration(0, 1, 0.5)]
    assert dealing.open == [True, True]


def test_one_look_is_chance():
    dealing = BalancePolicy(2)
    for _ in range(20):
        assert not dealing.next(0.0, [Load(1.0, 32), Load(0.0, 0)], 1.0)
        assert not dealing.next(0.1, [Load(0.5, 32), Load(0.0, 0)], 1.0)


def test_a_single_connection_is_not_moved():
    dealing = BalancePolicy(2)
    assert not after(dealing, [Load(1.0, 1), Load(0.0, 0)], 1.0, looks=20)


def test_sixteen_cores_are_used_within_a_second():
    dealing = BalancePolicy(8)
    connections = [64] + [0] * 7
    for look in range(10):
        loads = [Load(1.0 if count else 0.0, count) for count in connections]
        for move in dealing.next(look / 10, loads, 16.0 - sum(load.busy for load in loads)):
            given_away = round(connections[move.giver] * move.share)
            connections[move.giver] -= given_away
            connections[move.taker] += given_away
    assert all(dealing.open)
    assert max(connections) <= 2 * min(connections)


def test_they_come_back_when_fewer_loops_have_the_time_for_them():
    dealing = BalancePolicy(3)
    dealing.open = [True, True, True]
    loads = [Load(0.3, 10), Load(0.2, 10), Load(0.25, 10)]
    assert after(dealing, loads, 4.0, looks=int(PATIENCE * 10) + 2) == [Migration(1, 2, 1.0)]
    assert dealing.open == [True, False, True]


def test_loops_that_compete_for_cores_are_made_fewer_sooner():
    busy = 0.4
    for idle, fewer in ((CROWDED - 0.1, True), (CROWDED + 0.1, False)):
        dealing = BalancePolicy(2)
        dealing.open = [True, True]
        after(dealing, [Load(busy, 10), Load(busy, 10)], idle, looks=30)
        assert dealing.open == [True, not fewer]


def test_whoever_gave_back_and_forth_takes_longer_the_next_time():
    dealing, now, gathered = BalancePolicy(2), 0.0, []
    for _ in range(4):
        while not all(dealing.open):
            dealing.next(now, [Load(1.0, 10), Load(0.0, 0)], 1.0)
            now += 0.1
        opened = now
        while all(dealing.open):
            dealing.next(now, [Load(0.2, 10), Load(0.2, 10)], 1.0)
            now += 0.1
        gathered.append(now - opened)
    assert all(later > 1.5 * sooner for sooner, later in itertools.pairwise(gathered))


def test_open_loops_are_made_equal_although_no_core_is_idle():
    dealing = BalancePolicy(2)
    dealing.open = [True, True]
    assert after(dealing, [Load(1.0, 40), Load(0.4, 3)], 0.0, looks=LOOKS) == [Migration(0, 1, 0.3)]


def test_a_process_that_died_gets_nothing_until_another_has_its_place():
    dealing = BalancePolicy(2)
    loads = [Load(1.0, 32), Load(0.0, 0)]
    after(dealing, loads, 1.0, looks=LOOKS)
    dealing.present = [True, False]
    assert not after(dealing, loads, 1.0, looks=10)
    assert dealing.open == [True, False]
    dealing.present = [True, True]
    assert after(dealing, loads, 1.0, looks=LOOKS) == [Migration(0, 1, 0.5)]


@given(steps=st.lists(LOADS, min_size=1, max_size=30), idle=st.floats(0.0, 32.0), absent=st.integers(1, 6))
def test_every_move_is_between_two_and_to_one_that_is_open(steps, idle, absent):
    count = len(steps[0])
    dealing = BalancePolicy(count)
    dealing.present = [number != absent for number in range(count)]
    for look, loads in enumerate(steps):
        seen = (loads * count)[:count]
        for move in dealing.next(look / 10, seen, idle):
            assert move.giver != move.taker
            assert dealing.open[move.taker]
            assert dealing.present[move.giver]
            assert dealing.present[move.taker]
            assert 0.0 < move.share <= 1.0
            assert seen[move.giver].connections
            assert move.share == 1.0 or move.share >= GAP / 2
        assert dealing.open[0]


@given(size=st.integers(1, 10_000), count=st.integers(1, 24))
def test_the_parts_of_a_bound_are_the_bound(size, count):
    assert queue_share(size, count) * count <= max(size, count)
    assert math.isclose(queue_share(size, count), size / count, abs_tol=1.0)


def test_connections_that_cannot_migrate_open_another_process_too():
    policy = BalancePolicy(2)
    after(policy, [Load(1.0, 0, fixed=5), Load(0.0, 0)], 1.0, looks=LOOKS)
    assert policy.open == [True, True]


def test_a_full_process_leaves_new_fixed_connections_to_one_that_has_room_until_it_has_some_itself():
    policy = BalancePolicy(2)
    policy.open = [True, True]
    policy.next(0.0, [Load(FULL, 0, 9), Load(FULL - GAP, 0, 9)], 0.0)
    assert policy.paused == [True, False]
    policy.next(
        0.1, [Load(FULL - RELIEF, 0, 9), Load(0.1, 0, 9)], 0.0
    )  # it may be full again with the next one
    assert policy.paused == [True, False]
    policy.next(0.2, [Load(FULL - RELIEF - 0.01, 0, 9), Load(0.1, 0, 9)], 0.0)
    assert policy.paused == [False, False]


def test_a_full_process_takes_connections_where_no_other_has_more_room():
    policy = BalancePolicy(3)
    policy.open = [True, True, False]
    policy.next(0.0, [Load(1.0, 0, 9), Load(1.0 - GAP + 0.01, 0, 9), Load(0.0, 0)], 0.0)
    assert policy.paused == [False, False, False]


@given(st.lists(LOADS, min_size=1, max_size=5), st.lists(st.booleans(), min_size=6, max_size=6))
def test_some_open_process_always_takes_connections(looks, are_open):
    policy = BalancePolicy(6)
    for number, loads in enumerate(looks):
        policy.open = [True, *are_open[1:]]
        policy.next(number / 10, [*loads, *[Load(0.0, 0)] * (6 - len(loads))], 0.0)
        taking = [is_open and not paused for is_open, paused in zip(policy.open, policy.paused, strict=True)]
        assert any(taking)
        assert not any(
            paused and not is_open for is_open, paused in zip(policy.open, policy.paused, strict=True)
        )
