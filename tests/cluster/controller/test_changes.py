"""What changes make of the desired state; refusals are shown with the controller."""

from simulation import register

from mooring.cluster.controller.changes import apply_change
from mooring.cluster.controller.desired_state import DesiredState
from mooring.cluster.records import DrainNode, ScaleVersion, SetDefault, UnregisterVersion


def after(*changes):
    state = DesiredState()
    for change in changes:
        state = apply_change(state, change)
    return state


def test_the_first_version_is_the_default_and_a_later_one_when_it_is_ready():
    state = after(register(), register(version="2", make_default=True, retire_previous=True))
    assert state.models["m"].default == "1"
    rollout = state.find("m", "2").rollout
    assert (rollout.make_default, rollout.retire, rollout.before) == (True, "1", None)
    assert after(register(), register(version="2", retire_previous=True)).find("m", "2").rollout.retire == ""


def test_a_version_starts_with_its_fewest_replicas_and_at_least_one():
    assert after(register(min_replicas=0, max_replicas=4)).find("m", "1").replicas == 1
    assert after(register(min_replicas=2, max_replicas=4)).find("m", "1").replicas == 2


def test_a_replacement_remembers_what_was_there_once_that_was_ready():
    first = after(register())
    never_ready = apply_change(first, register(content="y", replace=True)).find("m", "1")
    assert (never_ready.settings.files.sha256, never_ready.rollout.before) == ("y" * 8, None)
    ready = first.with_version(
        "m", "1", first.find("m", "1").__class__(settings=first.find("m", "1").settings)
    )
    replaced = apply_change(ready, register(content="y", replace=True))
    assert replaced.find("m", "1").rollout.before == first.find("m", "1").settings
    again = apply_change(replaced, register(content="z", replace=True))
    assert again.find("m", "1").rollout.before == first.find("m", "1").settings
    # The same once more changes nothing that runs.
    assert apply_change(ready, register(replace=True)).find("m", "1").rollout.before is None


def test_a_model_goes_with_all_its_versions_and_may_come_back_meanwhile():
    state = after(register(), register(version="2"), UnregisterVersion("m"))
    assert all(version.retiring for _, _, version in state)
    back = apply_change(state, register())
    assert not back.find("m", "1").retiring
    assert back.models["m"].default == "1"


def test_replicas_and_workers_are_scaled_each_by_itself():
    state = after(register(), ScaleVersion("m", min_workers=2, max_workers=4))
    version = state.find("m", "1")
    assert (version.min_workers, version.max_workers, version.placement.min_replicas) == (2, 4, 1)
    version = apply_change(state, ScaleVersion("m", min_replicas=3)).find("m", "1")
    assert (version.placement.min_replicas, version.placement.max_replicas, version.replicas) == (3, 3, 3)
    version = apply_change(state, ScaleVersion("m", max_replicas=5)).find("m", "1")
    assert (version.placement.min_replicas, version.placement.max_replicas, version.replicas) == (1, 5, 1)
    assert version.min_workers == 2


def test_a_default_is_set_and_nodes_are_drained_and_back():
    state = after(register(), register(version="2"), SetDefault("m", "2"), DrainNode("b"), DrainNode("a"))
    assert state.models["m"].default == "2"
    assert state.drained == ["a", "b"]
    assert apply_change(state, DrainNode("a", undo=True)).drained == ["b"]


def test_of_two_that_are_to_be_the_default_the_last_one_is():
    state = after(
        register(), *(register(version=each, make_default=True, retire_previous=True) for each in "23")
    )
    found = [state.find("m", each).rollout for each in "23"]
    assert [(each.make_default, each.retire) for each in found] == [(False, ""), (True, "1")]
