"""What Ray's autoscaler is to know of a cluster: how large it must be, and which nodes may end. Runs in the controller, without Ray.

A node that is kept counts whole, since a replica has it: what is needed beside it does not fit there, whatever Ray's own count says.
A node without a replica still has a node server and a node actor, which serve whoever asks there. Ray takes a node with an actor
for one in use, so both have to end before its autoscaler ends the node.
"""

from collections.abc import Collection, Iterable, Sequence

import msgspec

from mooring.cluster.controller.cluster_port import ResourceRequest, Resources

# What a request for a node asks for where a replica reserves nothing.
_LEAST: Resources = {"CPU": 1}
_COUNTED = ("CPU", "GPU")


class Machine(msgspec.Struct, frozen=True):
    """One of Ray's nodes that lives. ``node`` is the name of its node server, "" before there is one."""

    host: str
    node: str
    is_head: bool = False
    total: Resources = {}


class NodeDemand(msgspec.Struct, frozen=True):
    """The bundles that a cluster must be able to hold all at once, each with the labels that its node must have."""

    bundles: list[Resources] = []
    labels: list[dict[str, str]] = []


def total_demand(
    machines: Iterable[Machine], keep: Collection[str], more: Sequence[ResourceRequest]
) -> NodeDemand:
    """What Ray's autoscaler is asked for: every node of ``keep`` as it is, and a place for each of ``more``."""
    kept = [
        {name: machine.total[name] for name in _COUNTED if machine.total.get(name)}
        for machine in machines
        if machine.node in keep
    ]
    kept = [bundle for bundle in kept if bundle]
    added = [dict(each.resources) or dict(_LEAST) for each in more]
    return NodeDemand(kept + added, [{} for _ in kept] + [dict(each.labels) for each in more])


class IdleNodes:
    """Says which nodes may end: those that nobody has needed for ``timeout`` seconds. 0 is never. The head stays.

    ``released`` has Ray's ids of those that may; they are taken back when more nodes are needed.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._since: dict[str, float] = {}
        self.released: set[str] = set()

    def look(
        self, now: float, machines: Iterable[Machine], keep: Collection[str], *, wants_more: bool
    ) -> list[str]:
        """Return the ids of those that may end from now on."""
        if wants_more:
            self._since.clear()
            self.released.clear()
        alive = {machine.host: machine for machine in machines}
        self.released &= alive.keys()
        idle = {
            host
            for host, machine in alive.items()
            if machine.node and machine.node not in keep and not machine.is_head and not wants_more
        }
        self._since = {host: self._since.get(host, now) for host in idle - self.released}
        due = [host for host, since in self._since.items() if self._timeout and now - since >= self._timeout]
        self.released.update(due)
        return due
