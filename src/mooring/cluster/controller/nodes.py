"""The nodes of a cluster as the controller knows them: what Ray says of their machines, and what they report. Runs in the controller."""

from collections.abc import Iterator, Sequence

import msgspec

from mooring.cluster.controller.cluster_port import Host
from mooring.cluster.controller.placement import Key
from mooring.cluster.records import NodeStatus, VersionStatus

# Seconds after which a node that nobody hears of, and that nobody drains, is forgotten.
_FORGOTTEN = 600.0


class Node(msgspec.Struct):
    """One node. ``heard`` is when it last reported, None where it never did; ``host`` is None until Ray says where it is."""

    name: str
    host: Host | None = None
    status: NodeStatus | None = None
    heard: float | None = None
    versions: dict[Key, VersionStatus] = {}

    @property
    def actor(self) -> str:
        """The name of its actor."""
        return self.host.actor if self.host is not None else ""


class NodeTable:
    """All nodes by name. A node is *usable* while Ray has its machine, it reports, and server and actor understand each other."""

    def __init__(self, lost_after: float) -> None:
        self._lost_after = lost_after
        self._nodes: dict[str, Node] = {}
        self.hosts: Sequence[Host] = ()

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def find(self, name: str) -> Node | None:
        """The node of that name, None where there never was one."""
        return self._nodes.get(name)

    def note_hosts(self, hosts: Sequence[Host], now: float) -> None:
        """Take what Ray says of all machines. Of two with the same node the one that lives counts: a raylet started anew."""
        self.hosts = hosts
        for node in self._nodes.values():
            node.host = None
        for host in sorted(hosts, key=lambda host: host.alive):
            if host.node:
                self._nodes.setdefault(host.node, Node(host.node)).host = host
        for node in [each for each in self._nodes.values() if each.host is None]:
            if node.heard is None or now - node.heard > _FORGOTTEN:
                del self._nodes[node.name]

    def note_status(self, status: NodeStatus, now: float) -> None:
        """Take the report of a node. One that is older than what is known, because it came late, changes nothing."""
        node = self._nodes.setdefault(status.node, Node(status.node))
        known = node.status
        behind = known is not None and (status.epoch, status.generation) < (known.epoch, known.generation)
        if behind and status.epoch:  # a node server that has started anew knows no epoch
            return
        node.status, node.heard = status, now
        node.versions = {Key(each.model, each.version): each for each in status.versions}

    def is_usable(self, node: Node, now: float) -> bool:
        """Whether the node can be given orders and asked."""
        return (
            node.heard is not None
            and now - node.heard <= self._lost_after
            and not (node.host is not None and (not node.host.alive or node.host.refused))
        )

    def usable(self, now: float) -> dict[str, Node]:
        """The usable nodes by name."""
        return {name: node for name, node in sorted(self._nodes.items()) if self.is_usable(node, now)}

    def is_complete(self, now: float) -> bool:
        """Whether every machine that lives has said how it is, or never will."""
        return all(
            host.refused or host.failed or (host.node and self.is_usable(self._nodes[host.node], now))
            for host in self.hosts
            if host.alive
        )
