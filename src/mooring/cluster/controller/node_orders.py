"""The assignments that nodes have been given, and which of them they have. Runs in the controller.

How this works: each node has one order that counts, its latest. It is sent until the node has it, one call at a time; an order that is
overtaken meanwhile is never sent. A node that reports less than it was given, because its server started anew, gets it again.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec

from mooring.cluster.controller.cluster_port import ClusterPort, HigherEpoch, NodeGone
from mooring.cluster.controller.nodes import Node
from mooring.cluster.controller.placement import Key
from mooring.cluster.records import NodeAssignment, RoutingTable, VersionAssignment
from mooring.observability.logs import get_logger

log = get_logger(__name__)

# Seconds after which a node that could not be reached is tried again, and which a report may be older than the answer to an order.
_AGAIN = 0.5
_LATE = 1.5


class _Order(msgspec.Struct):
    """The order of one node. ``given`` is what it is to have, with its ``versions``, ``taken`` the generation that it has; ``since`` the generation of each version's latest change."""

    given: NodeAssignment
    versions: dict[Key, VersionAssignment]
    since: dict[Key, int]
    taken: int = 0
    taken_at: float = 0.0
    next_try: float = 0.0
    task: asyncio.Task[None] | None = None


class NodeOrders:
    """What every node is told. ``on_higher_epoch`` is called when one has heard of a later controller."""

    def __init__(
        self, port: ClusterPort, clock: Callable[[], float], on_higher_epoch: Callable[[int], None]
    ) -> None:
        self._port = port
        self._clock = clock
        self._on_higher_epoch = on_higher_epoch
        self._orders: dict[str, _Order] = {}
        self._routing = RoutingTable()
        self._routed = 0
        self.epoch = 0
        self.generation = 0

    def heard_generation(self, generation: int) -> None:
        """Number what comes above all that any node has seen."""
        self.generation = max(self.generation, generation)

    def give(
        self,
        versions: Mapping[str, Sequence[VersionAssignment]],
        routing: RoutingTable,
        draining: Sequence[str],
    ) -> None:
        """Say what every node is to have from now on; whoever is not named keeps what it has."""
        next_generation = self.generation + 1
        if msgspec.structs.replace(routing, generation=0) != msgspec.structs.replace(
            self._routing, generation=0
        ):
            self._routing = msgspec.structs.replace(routing, generation=next_generation)
            self._routed = self.generation = next_generation
        for node, wanted in versions.items():
            before = self._orders.get(node)
            given = NodeAssignment(
                self.epoch, next_generation, list(wanted), self._routing, draining=node in draining
            )
            if (
                before is not None
                and msgspec.structs.replace(given, generation=before.given.generation) == before.given
            ):
                continue
            self.generation = next_generation
            self._change(node, before, given)

    def _change(self, node: str, before: _Order | None, given: NodeAssignment) -> None:
        had = {} if before is None else before.versions
        versions = {Key(each.model, each.version): each for each in given.versions}
        since = {
            key: before.since[key] if before is not None and had.get(key) == each else given.generation
            for key, each in versions.items()
        }
        if before is None:
            self._orders[node] = _Order(given, versions, since)
        else:
            before.given, before.versions, before.since, before.next_try = given, versions, since, 0.0

    def send(self, usable: Mapping[str, Node]) -> None:
        """Begin to send what nodes have not."""
        now = self._clock()
        for name, node in usable.items():
            order = self._orders.get(name)
            if order is None or order.task is not None or now < order.next_try:
                continue
            if order.taken >= order.given.generation and self._has_lost(order, node):
                order.taken = 0
            if order.taken < order.given.generation:
                order.task = asyncio.get_running_loop().create_task(self._send(name, order))

    def _has_lost(self, order: _Order, node: Node) -> bool:
        status = node.status
        return (
            status is not None
            and node.heard is not None
            and node.heard > order.taken_at + _LATE
            and (status.epoch, status.generation) < (self.epoch, order.taken)
        )

    async def _send(self, node: str, order: _Order) -> None:
        given = order.given
        try:
            await self._port.assign(node, given)
            order.taken, order.taken_at = given.generation, self._clock()
        except HigherEpoch as error:
            self._on_higher_epoch(error.epoch)
        except NodeGone as error:
            order.next_try = self._clock() + _AGAIN
            log.debug("node not reached", node=node, reason=str(error))
        except Exception:  # the edge to Ray, whose errors are many: the next tick tries again
            order.next_try = self._clock() + _AGAIN
            log.exception("assignment not sent", node=node)
        finally:
            order.task = None

    def is_fresh(self, node: Node, key: Key) -> bool:
        """Whether the node knew the latest order for this version when it reported."""
        order, status = self._orders.get(node.name), node.status
        since = None if order is None else order.since.get(key)
        return (
            since is not None
            and status is not None
            and status.epoch == self.epoch
            and status.generation >= since
        )

    def versions_of(self, node: str) -> Mapping[Key, VersionAssignment]:
        """The versions that a node is ordered to have."""
        order = self._orders.get(node)
        return {} if order is None else order.versions

    def know_routing(self, nodes: Mapping[str, Node], generation: int | None = None) -> bool:
        """Whether all these nodes have the routing table of this generation, or the latest one."""
        wanted = self._routed if generation is None else generation
        return all((order := self._orders.get(name)) is not None and order.taken >= wanted for name in nodes)

    @property
    def routed(self) -> int:
        """The generation of the latest routing table."""
        return self._routed

    def forget(self, known: Sequence[str]) -> None:
        """Forget all nodes but these."""
        for name in [name for name in self._orders if name not in known]:
            order = self._orders.pop(name)
            if order.task is not None:
                order.task.cancel()
