"""The cluster as people see it: ``mooring cluster status`` and ``models``. Runs in the controller."""

from mooring.cluster.controller.cluster_port import Host
from mooring.cluster.controller.desired_state import DesiredState, DesiredVersion
from mooring.cluster.controller.nodes import Node
from mooring.cluster.controller.placement import Key
from mooring.cluster.controller.reconciler import Reconciler
from mooring.cluster.controller.replicas import ABSENT
from mooring.cluster.records import ClusterView, NodeView, ReplicaView, VersionView


def describe_cluster(name: str, state: DesiredState, reconciler: Reconciler, now: float) -> ClusterView:
    """Everything: nodes, also such as have not started yet, and versions, also such as failed."""
    nodes = [describe_node(node, state, reconciler, now) for node in reconciler.nodes]
    starting = [
        NodeView(
            node=host.name,
            state=_state_of_host(host),
            reason=host.refused or host.failed,
            address="",
            software="",
            seconds_since_heard=0.0,
            resources=host.total,
        )
        for host in reconciler.nodes.hosts
        if not host.node
    ]
    known = {Key(model, version) for model, version, _ in state}
    versions = [
        describe_version(Key(model, version), desired, state, reconciler) for model, version, desired in state
    ]
    failed = [
        VersionView(
            *key, "FAILED", reason, is_default=False, wanted_replicas=0, min_replicas=0, max_replicas=0
        )
        for key, reason in reconciler.undone.items()
        if key not in known
    ]
    return ClusterView(
        name,
        reconciler.orders.epoch,
        reconciler.orders.generation,
        sorted([*nodes, *starting], key=lambda node: node.node),
        sorted([*versions, *failed], key=lambda version: (version.model, version.version)),
    )


def describe_node(node: Node, state: DesiredState, reconciler: Reconciler, now: float) -> NodeView:
    """One node that has a name."""
    host, status = node.host, node.status
    shown, reason = _state_of_node(node, state, reconciler, now)
    return NodeView(
        node=node.name,
        state=shown,
        reason=reason,
        address=status.address if status is not None else "",
        software=status.software if status is not None else "",
        seconds_since_heard=now - node.heard if node.heard is not None else 0.0,
        resources=host.total if host is not None else {},
    )


def _state_of_node(node: Node, state: DesiredState, reconciler: Reconciler, now: float) -> tuple[str, str]:
    host = node.host
    if host is not None and host.refused:
        return "REFUSED", host.refused
    if node.heard is None:
        return (_state_of_host(host), host.failed) if host is not None else ("STARTING", "")
    if not reconciler.nodes.is_usable(node, now):
        dead = host is None or not host.alive
        if host is not None and host.failed and not dead:
            return "FAILED", host.failed
        return (
            "LOST",
            "Ray has no such node any more" if dead else f"it has not reported for {now - node.heard:.0f} s",
        )
    if node.name not in state.drained:
        return "READY", ""
    left = left_on_node(node, reconciler)
    stuck = [
        f"model {key.model} {key.version}: {reconciler.plan.missing[key]}"
        for key in left
        if key in reconciler.plan.missing
    ]
    return ("DRAINING", "; ".join(stuck)) if left else ("DRAINED", "")


def _state_of_host(host: Host) -> str:
    """The state of a node that has never reported."""
    if host.refused:
        return "REFUSED"
    if not host.alive:
        return "LOST"
    return "FAILED" if host.failed else "STARTING"


def left_on_node(node: Node, reconciler: Reconciler) -> list[Key]:
    """The versions that a node has or is ordered to have."""
    return sorted({*node.versions, *reconciler.orders.versions_of(node.name)})


def describe_version(
    key: Key, desired: DesiredVersion, state: DesiredState, reconciler: Reconciler
) -> VersionView:
    """One version. What is missing is told although some replicas are there."""
    placement = desired.placement
    found = [
        (node.name, status)
        for node in reconciler.nodes
        if (status := node.versions.get(key)) is not None and node.name in reconciler.replicas.get(key, ())
    ]
    replicas = reconciler.replicas.get(key, {})
    failure = next(
        (f"node {name}: {each.failed}" for name, each in sorted(replicas.items()) if each.failed), ""
    )
    planned = len(reconciler.plan.nodes.get(key, ()))
    return VersionView(
        *key,
        _state_of_version(key, desired, reconciler, failed=bool(failure)),
        failure or _reason_of_version(key, desired, reconciler),
        is_default=state.models[key.model].default == key.version,
        wanted_replicas=planned if placement.all_nodes else desired.replicas,
        min_replicas=placement.min_replicas,
        max_replicas=placement.max_replicas,
        replicas=[ReplicaView(name, status) for name, status in found],
    )


def _reason_of_version(key: Key, desired: DesiredVersion, reconciler: Reconciler) -> str:
    return (reconciler.undone if desired.retiring else reconciler.plan.missing).get(key, "")


def _state_of_version(key: Key, desired: DesiredVersion, reconciler: Reconciler, *, failed: bool) -> str:
    replicas = reconciler.replicas.get(key, {})
    if desired.retiring:
        return "FAILED" if key in reconciler.undone else "UNLOADING"
    if any(replicas.get(name, ABSENT).serves for name in reconciler.seats.get(key, ())):
        return "READY"
    if failed:
        return "FAILED"
    if key in reconciler.plan.missing and not reconciler.plan.nodes.get(key):
        return "PENDING"
    # One that nobody asks has no replica, and its next request is answered all the same.
    idle = not desired.replicas and not desired.placement.all_nodes
    return "READY" if idle else "LOADING"
