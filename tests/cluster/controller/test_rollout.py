"""The steps of a new version: forward where all is well, back where one node fails, and how many nodes at a time."""

import msgspec

from mooring.cluster.controller.desired_state import DesiredState, DesiredVersion, Rollout, VersionSettings
from mooring.cluster.controller.placement import Key
from mooring.cluster.controller.replicas import Replica
from mooring.cluster.controller.rollout import advance_rollout, next_to_upgrade, settings_on
from mooring.cluster.records import ModelFiles

OLD, NEW = (VersionSettings(files=ModelFiles(name, "m", 1)) for name in ("old", "new"))
DONE, LOADING = Replica(serves=True, done=True), Replica()
KEY = Key("m", "2")


def state(rollout, **fields):
    old = DesiredVersion(settings=OLD)
    new = DesiredVersion(settings=NEW, rollout=rollout, **fields)
    made = DesiredState().with_version("m", "1", old).with_version("m", "2", new)
    return made.with_default("m", "1")


def advance(before, replicas, *, known=True, targets="ab"):
    return advance_rollout(before, KEY, targets, replicas, default_known=known)


def test_it_waits_until_all_its_nodes_are_ready_and_then_takes_over_step_by_step():
    before = state(Rollout(make_default=True, retire="1"))
    assert advance(before, {"a": DONE, "b": LOADING}) is before
    assert advance(before, {"a": DONE}) is before
    assert advance(before, {}, targets="") is before
    ready = {"a": DONE, "b": DONE}
    switched = advance(before, ready)
    assert switched.models["m"].default == "2"
    assert switched.find("m", "1").retiring is False
    # The old one stays until every node knows the new default.
    assert advance(switched, ready, known=False) is switched
    last = advance(switched, ready)
    assert (last.find("m", "1").retiring, last.find("m", "2").rollout) == (True, None)


def test_a_version_that_is_no_default_is_just_done():
    done = advance(state(Rollout()), {"a": DONE, "b": DONE})
    assert (done.models["m"].default, done.find("m", "2").rollout) == ("1", None)


def test_a_failure_takes_the_new_one_away_and_leaves_the_old_one():
    undone = advance(
        state(Rollout(make_default=True, retire="1")), {"a": DONE, "b": Replica(failed="no memory")}
    )
    assert undone.find("m", "2").retiring
    assert undone.find("m", "2").rollout.undo == "node b: no memory"
    assert (undone.models["m"].default, undone.find("m", "1").retiring) == ("1", False)


def test_a_failed_replacement_goes_back_to_what_was_before():
    before = state(Rollout(before=OLD, upgraded=["a"]))
    undone = advance(before, {"a": Replica(serves=True, failed="no"), "b": DONE})
    assert undone.find("m", "2").settings == OLD
    assert advance(undone, {"a": LOADING, "b": DONE}) is undone
    assert advance(undone, {"a": DONE, "b": DONE}).find("m", "2").rollout is None


def test_a_replacement_reaches_one_node_then_two_then_four():
    found = dict.fromkeys("abcdefg", DONE)
    rollout, waves = Rollout(before=OLD), []
    while more := next_to_upgrade(rollout, found):
        waves.append("".join(more))
        rollout = msgspec.structs.replace(rollout, upgraded=[*rollout.upgraded, *more])
        assert next_to_upgrade(rollout, {**found, **dict.fromkeys(more, LOADING)}) == []
    assert waves == ["a", "bc", "defg"]


def test_a_node_has_the_settings_of_its_wave():
    version = DesiredVersion(settings=NEW, rollout=Rollout(before=OLD, upgraded=["a"]))
    assert (settings_on(version, "a"), settings_on(version, "b")) == (NEW, OLD)
    assert settings_on(DesiredVersion(settings=NEW), "b") == NEW
