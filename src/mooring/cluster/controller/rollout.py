"""The way of a new version to its place, and back where a node cannot serve it: pure rules. Runs in the controller.

    registered ──▶ loaded on all its nodes ──▶ default on all nodes ──▶ the version before drains ──▶ done
        │                     │ a node fails
        │                     └──▶ taken away again, the version before never stopped
        └── in the place of itself: on one node, on two more, on four more …, each loads it beside what it serves

Each step is a new desired state, which is written before anybody acts on it: a controller that starts anew goes on from there. A node that dies is no
failure; its replica is placed elsewhere.
"""

from collections.abc import Collection, Mapping

from msgspec import structs

from mooring.cluster.controller.desired_state import DesiredState, DesiredVersion, Rollout, VersionSettings
from mooring.cluster.controller.placement import Key
from mooring.cluster.controller.replicas import ABSENT, Replica


def advance_rollout(
    state: DesiredState,
    key: Key,
    targets: Collection[str],
    replicas: Mapping[str, Replica],
    *,
    default_known: bool,
) -> DesiredState:
    """Take the next step of a version's rollout; the same state where it has to wait.

    ``targets`` are the nodes that it is placed on, ``default_known`` is whether all usable nodes know the model's default.
    """
    version = state.find(*key)
    if version is None or version.rollout is None or version.retiring:
        return state
    rollout = version.rollout
    found = {name: replicas.get(name, ABSENT) for name in targets}
    complete = bool(found) and all(replica.done for replica in found.values())
    if rollout.undo:
        return _with_rollout(state, key, None) if complete else state
    failed = next((f"node {name}: {each.failed}" for name, each in sorted(found.items()) if each.failed), "")
    if failed:
        return undo_rollout(state, key, failed)
    if rollout.before is not None and (more := next_to_upgrade(rollout, found)):
        return _with_rollout(state, key, structs.replace(rollout, upgraded=[*rollout.upgraded, *more]))
    if not complete:
        return state
    if rollout.make_default and state.models[key.model].default != key.version:
        return state.with_default(key.model, key.version)
    if not rollout.retire:
        return _with_rollout(state, key, None)
    if not default_known:
        return state
    return _with_rollout(retire_version(state, Key(key.model, rollout.retire)), key, None)


def undo_rollout(state: DesiredState, key: Key, reason: str) -> DesiredState:
    """Go back to what was before: the earlier settings, or nothing."""
    version = state.find(*key)
    assert version is not None
    assert version.rollout is not None
    before, undo = version.rollout.before, Rollout(undo=reason)
    if before is None:
        return state.with_version(*key, structs.replace(version, retiring=True, rollout=undo))
    return state.with_version(*key, structs.replace(version, settings=before, rollout=undo))


def next_to_upgrade(rollout: Rollout, found: Mapping[str, Replica]) -> list[str]:
    """The nodes that get the new settings next: as many at a time as have them already, and one."""
    upgraded = [name for name in found if name in rollout.upgraded]
    done = sum(found[name].done for name in upgraded)
    room = done + 1 - (len(upgraded) - done)
    return sorted(name for name in found if name not in rollout.upgraded)[: max(room, 0)]


def settings_on(version: DesiredVersion, node: str) -> VersionSettings:
    """The settings that a node has the version with while it is being replaced there, and afterwards."""
    rollout = version.rollout
    if rollout is None or rollout.before is None or node in rollout.upgraded:
        return version.settings
    return rollout.before


def retire_version(state: DesiredState, key: Key) -> DesiredState:
    """Serve a version no more once it has answered what it has; nothing happens where it is gone."""
    version = state.find(*key)
    if version is None:
        return state
    return state.with_version(*key, structs.replace(version, retiring=True, rollout=None))


def _with_rollout(state: DesiredState, key: Key, rollout: Rollout | None) -> DesiredState:
    version = state.find(*key)
    assert version is not None
    return state.with_version(*key, structs.replace(version, rollout=rollout))
