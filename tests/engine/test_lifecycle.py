"""The lifecycle table: every legal move is made, every other raises."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.engine.lifecycle import MOVES, IllegalMove, Lifecycle, State


def at(state):
    lifecycle = Lifecycle(lambda _: None)
    lifecycle._state = state
    return lifecycle


@pytest.mark.parametrize(("old", "new"), list(itertools.product(State, State)))
def test_a_move_is_made_if_and_only_if_the_table_has_it(old, new):
    lifecycle = at(old)
    if new is old or new in MOVES[old]:
        lifecycle.move_to(new)
        assert lifecycle.state is new
    else:
        with pytest.raises(IllegalMove):
            lifecycle.move_to(new)
        assert lifecycle.state is old


def test_a_version_that_is_unloaded_does_not_come_back_before_it_is_gone():
    assert MOVES[State.UNLOADING] == {State.UNLOADED}
    assert MOVES[State.UNLOADED] == {State.LOADING}


@given(st.lists(st.sampled_from(State)))
def test_every_change_is_told_once_and_standing_still_is_none(states):
    told = []
    lifecycle = Lifecycle(told.append)
    made = []
    for state in states:
        if state in MOVES[lifecycle.state]:
            made.append(state)
            lifecycle.move_to(state)
        elif state is lifecycle.state:
            lifecycle.move_to(state)
    assert told == made


def test_every_state_can_be_left_and_unloaded_can_be_reached_from_all():
    reaches = {State.UNLOADED}
    while True:
        more = {state for state in State if MOVES[state] & reaches} | reaches
        if more == reaches:
            break
        reaches = more
    assert reaches == set(State)
