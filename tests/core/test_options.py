"""Options of models: which layer wins, what depends on what, and that nothing is left open."""

import pytest
from model_kit import GROUP_OF, GROUPS, model_options
from msgspec import structs
from options_kit import unlike

from mooring.core.options import (
    UNDECLARED,
    Batching,
    ModelLimits,
    ModelOptions,
    Scaling,
    SequenceOptions,
    Timeouts,
    declare,
    or_undeclared,
    override,
    resolve_options,
)

RANGE = {"min_workers", "max_workers", "workers_by_default"}


@pytest.mark.parametrize("option", sorted(GROUP_OF))
def test_what_a_layer_declares_is_in_force_and_nothing_else_changes(option):
    group = GROUPS[GROUP_OF[option]]
    value = unlike(group, option)
    options = override(ModelOptions(), declare(group, **{option: value}))
    assert options == override(ModelOptions(), structs.replace(group(), **{option: value}))
    assert getattr(getattr(options, GROUP_OF[option]), option) == value
    assert override(options, declare(group)) == options


@pytest.mark.parametrize("option", sorted(set(GROUP_OF) - RANGE - {"enabled"}))
def test_the_later_of_two_layers_wins_and_the_defaults_lose_to_both(option):
    group = GROUPS[GROUP_OF[option]]
    built_in, other = getattr(group(), option), unlike(group, option)
    layers = [declare(group, **{option: value}) for value in (other, built_in)]
    defaults = model_options(**{option: other})
    assert resolve_options(defaults, *layers) == ModelOptions()
    assert resolve_options(ModelOptions(), *reversed(layers)) == defaults


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({}, (3, 3, True)),
        ({"min_workers": 2}, (2, 2, False)),
        ({"max_workers": 5}, (3, 5, False)),
        ({"max_workers": 2}, (2, 2, False)),
        ({"min_workers": 0}, (0, 1, False)),
        ({"min_workers": 4, "max_workers": 6}, (4, 6, False)),
        ({"max_requests": 9}, (3, 3, True)),
    ],
)
def test_who_names_one_end_of_the_range_of_workers_decides_both(declared, expected):
    defaults = ModelOptions(scaling=Scaling(min_workers=3, max_workers=3))
    scaling = resolve_options(defaults, declare(Scaling, **declared)).scaling
    assert (scaling.min_workers, scaling.max_workers, scaling.workers_by_default) == expected


def test_a_model_that_keeps_state_has_no_request_run_twice_whatever_is_declared():
    layers = declare(SequenceOptions, enabled=True), declare(ModelLimits, retry=True)
    assert not resolve_options(ModelOptions(), *layers).limits.retry
    assert not resolve_options(ModelOptions(), *reversed(layers)).limits.retry


def test_a_value_that_a_source_does_not_have_is_undeclared():
    layer = declare(Timeouts, response_timeout=or_undeclared(None), startup_timeout=or_undeclared(0.0))
    assert layer.response_timeout is UNDECLARED
    timeouts = resolve_options(ModelOptions(timeouts=Timeouts(response_timeout=7.0)), layer).timeouts
    assert (timeouts.response_timeout, timeouts.startup_timeout) == (7.0, 0.0)


def test_an_option_that_no_group_has_is_an_error():
    with pytest.raises(TypeError):
        declare(Batching, max_batch=4)
