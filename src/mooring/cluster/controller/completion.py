"""When a change is done: on all nodes that it concerns, failed and undone, or waiting for a node that fits. Runs in the controller."""

from mooring.cluster.controller.desired_state import DesiredState
from mooring.cluster.controller.placement import Key
from mooring.cluster.controller.reconciler import Reconciler
from mooring.cluster.controller.replicas import ABSENT
from mooring.cluster.controller.views import left_on_node
from mooring.cluster.records import (
    Change,
    DrainNode,
    RegisterVersion,
    ScaleVersion,
    SetDefault,
    UnregisterVersion,
)
from mooring.core.errors import ModelLoadFailed, ModelNotFound


def is_done(change: Change, version: str, state: DesiredState, reconciler: Reconciler, now: float) -> bool:
    """Whether a change is done; ``version`` is the one that it concerns, where it did not name one. Raises what it failed with."""
    match change:
        case RegisterVersion():
            return _is_registered(Key(change.model, change.version), state, reconciler)
        case UnregisterVersion():
            return change.model not in state.models or bool(
                version and state.find(change.model, version) is None
            )
        case ScaleVersion():
            return _is_scaled(Key(change.model, version), change, state, reconciler)
        case SetDefault():
            return reconciler.orders.know_routing(reconciler.nodes.usable(now))
        case DrainNode():
            return change.undo or _is_drained(change.node, reconciler, now)


def _is_registered(key: Key, state: DesiredState, reconciler: Reconciler) -> bool:
    version = state.find(*key)
    reason = reconciler.undone.get(key, "")
    if version is None or version.rollout is None:
        if reason:
            raise ModelLoadFailed(
                f"version '{key.version}' of model '{key.model}' could not be loaded: {reason}",
                model=key.model,
                version=key.version,
            )
        if version is None or version.retiring:
            raise ModelNotFound(f"model '{key.model}' was unregistered meanwhile", model=key.model)
        return True
    waits = key in reconciler.plan.missing and not reconciler.plan.nodes.get(key)
    return waits and not version.rollout.undo and not reconciler.replicas.get(key)


def _is_scaled(key: Key, change: ScaleVersion, state: DesiredState, reconciler: Reconciler) -> bool:
    version = state.find(*key)
    if version is None or version.retiring:
        raise ModelNotFound(f"model '{key.model}' was unregistered meanwhile", model=key.model)
    targets, replicas = reconciler.plan.nodes.get(key, []), reconciler.replicas.get(key, {})
    least = change.min_workers or 0
    ready = all(
        replicas.get(name, ABSENT).done and reconciler.ready_workers(name, key) >= least for name in targets
    )
    placed = version.placement.all_nodes or len(targets) == version.replicas or key in reconciler.plan.missing
    return ready and placed and {*replicas} == {*targets}


def _is_drained(name: str, reconciler: Reconciler, now: float) -> bool:
    """Whether nothing is left on a node but what has no other place."""
    node = reconciler.nodes.find(name)
    if node is None or not reconciler.nodes.is_usable(node, now):
        return True
    return all(
        key in reconciler.plan.missing and not reconciler.plan.nodes.get(key)
        for key in left_on_node(node, reconciler)
    )
