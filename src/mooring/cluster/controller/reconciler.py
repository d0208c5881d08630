"""From what is to be served and what nodes report to what each node is told. Runs in the controller.

How this works: nothing is remembered of orders that were given. Each look plans the replicas anew from the desired state and from what nodes have,
says what the next desired state is (``propose``), and once that is written gives every node its whole assignment (``carry_out``), which is
sent where it differs from the one before. So a controller that starts anew comes to the same orders.
"""

import asyncio
from collections.abc import Callable, Mapping

import msgspec
from msgspec import structs

from mooring.cluster.controller.cluster_port import ClusterPort, ResourceRequest
from mooring.cluster.controller.desired_state import DesiredState, DesiredVersion
from mooring.cluster.controller.node_orders import NodeOrders
from mooring.cluster.controller.nodes import Node, NodeTable
from mooring.cluster.controller.placement import (
    AbsentNode,
    Key,
    NodeRoom,
    Plan,
    WantedReplicas,
    plan_placement,
    request_of,
)
from mooring.cluster.controller.replica_scaling import ReplicaScaling
from mooring.cluster.controller.replicas import ABSENT, Replica, read_replica, seat_replicas
from mooring.cluster.controller.reservations import Reservations, free_for_replicas
from mooring.cluster.controller.rollout import advance_rollout, settings_on
from mooring.cluster.records import ReplicaState, RoutingTable, VersionAssignment
from mooring.observability.logs import get_logger

log = get_logger(__name__)


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a controller is, in seconds.

    A node that is silent for ``lost_after`` is lost, and its replicas are placed elsewhere. After its start a controller waits up to ``settle``
    for every node to say what it has. A replica drains for ``drain`` at most. A node that failed to load a version is passed over for ``avoid``,
    and a node server that did not start is started again after ``start_again``. The store is asked for later controllers every ``check``.
    """

    lost_after: float = 3.0
    settle: float = 5.0
    drain: float = 60.0
    avoid: float = 60.0
    start_again: float = 10.0
    check: float = 5.0


class _Drain(msgspec.Struct):
    """A replica that drains, since when, and the generation of the first routing table without it, 0 until there is one."""

    since: float
    generation: int = 0


class Reconciler:
    """The cluster between two looks. ``undone`` says of versions whose registration failed why."""

    def __init__(
        self,
        port: ClusterPort,
        clock: Callable[[], float],
        timings: Timings,
        on_higher_epoch: Callable[[int], None],
    ) -> None:
        self._port = port
        self._clock = clock
        self._timings = timings
        self.nodes = NodeTable(timings.lost_after)
        self.orders = NodeOrders(port, clock, on_higher_epoch)
        self.reservations = Reservations(port, clock)
        self._scaling = ReplicaScaling()
        self.plan = Plan({}, {})
        self._planned_for: tuple[object, object, object] | None = None
        self.replicas: dict[Key, dict[str, Replica]] = {}
        self.seats: dict[Key, dict[str, bool]] = {}
        self.undone: dict[Key, str] = {}
        self._drains: dict[tuple[str, Key], _Drain] = {}
        self._failed: dict[tuple[str, Key], tuple[float, str]] = {}
        self._starts: dict[str, float] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._asked_nodes: tuple[list[str], list[ResourceRequest]] = ([], [])

    async def look(self) -> None:
        """Ask for all machines, and start node servers where there are none."""
        self.nodes.note_hosts(await self._port.hosts(), self._clock())
        for host in self.nodes.hosts:
            again = self._starts.get(host.host, -self._timings.start_again) + self._timings.start_again
            if host.alive and not host.node and not host.refused and self._clock() >= again:
                self._starts[host.host] = self._clock()
                task = asyncio.get_running_loop().create_task(self._start_node(host.host))
                self._starting.add(task)
                task.add_done_callback(self._starting.discard)
        known = {host.host for host in self.nodes.hosts}
        self._starts = {name: when for name, when in self._starts.items() if name in known}

    async def _start_node(self, host: str) -> None:
        try:
            await self._port.start_node(host)
        except Exception as error:  # the edge to Ray: the host is tried again
            log.warning("node server not started", host=host, reason=str(error))

    def propose(self, state: DesiredState) -> DesiredState:
        """The next desired state: the same one where nothing has to change. It is to be written before it is carried out."""
        usable = self.nodes.usable(self._clock())
        self._read_replicas(state, usable)
        state = self._scale(state, usable)
        self._make_plan(state, usable)
        default_known = self.orders.know_routing(usable)
        for key in [Key(model, name) for model, name, _ in state]:
            before = state.find(*key)
            targets = [name for name in self.plan.nodes.get(key, ()) if name in usable]
            state = advance_rollout(
                state, key, targets, self.replicas.get(key, {}), default_known=default_known
            )
            self._note_undo(key, before, state.find(*key))
            if before is not None and before.retiring and not self._is_held(key, usable):
                state = state.with_version(*key, None)
        return state

    def _note_undo(self, key: Key, before: DesiredVersion | None, after: DesiredVersion | None) -> None:
        rollout = None if after is None else after.rollout
        if rollout is not None and rollout.undo and after is not before:
            self.undone[key] = rollout.undo
            log.error("version not rolled out", model=key.model, version=key.version, reason=rollout.undo)

    def _is_held(self, key: Key, usable: Mapping[str, Node]) -> bool:
        return bool(self.seats.get(key)) or any(key in node.versions for node in usable.values())

    def _read_replicas(self, state: DesiredState, usable: Mapping[str, Node]) -> None:
        """See how far each replica is that a node has or is ordered to have."""
        replicas: dict[Key, dict[str, Replica]] = {}
        for name, node in usable.items():
            for key in {*self.orders.versions_of(name), *node.versions}:
                status = node.versions.get(key)
                if status is not None and status.state is ReplicaState.UNLOADING:
                    continue
                fresh = self.orders.is_fresh(node, key) and self._is_ordered(key, state.find(*key), name)
                replicas.setdefault(key, {})[name] = read_replica(status, fresh=fresh)
        self.replicas = replicas
        for model, version, wanted in state:
            key = Key(model, version)
            for name, replica in replicas.get(key, {}).items():
                if replica.failed and wanted.rollout is None and (name, key) not in self._failed:
                    self._failed[name, key] = (self._clock() + self._timings.avoid, replica.failed)
                elif replica.done:
                    self._failed.pop((name, key), None)
        for seat in [seat for seat, (until, _) in self._failed.items() if self._clock() >= until]:
            del self._failed[seat]

    def _is_ordered(self, key: Key, version: DesiredVersion | None, node: str) -> bool:
        """Whether the order that a node has for a version is what is wanted of it now."""
        order = self.orders.versions_of(node).get(key)
        if order is None or version is None:
            return False
        wanted = self._assign(key, version, node, draining=order.draining)
        return order == wanted

    def _scale(self, state: DesiredState, usable: Mapping[str, Node]) -> DesiredState:
        """Give each version the replicas that its requests need."""
        held: dict[Key, int] = {}
        for node in usable.values():
            assert node.status is not None
            for model, counts in node.status.held.items():
                for version, count in counts.items():
                    held[Key(model, version)] = held.get(Key(model, version), 0) + count
        keys = []
        for model, name, desired in state:
            key = Key(model, name)
            keys.append(key)
            if desired.retiring or desired.rollout is not None:
                continue
            statuses = {
                node: usable[node].versions[key]
                for node in self.replicas.get(key, ())
                if key in usable[node].versions
            }
            replicas = self._scaling.decide(self._clock(), key, desired, statuses, held.get(key, 0))
            if replicas != desired.replicas:
                log.info(
                    "replicas changed", model=model, version=name, before=desired.replicas, after=replicas
                )
                state = state.with_version(model, name, structs.replace(desired, replicas=replicas))
        self._scaling.forget(keys)
        return state

    def _make_plan(self, state: DesiredState, usable: Mapping[str, Node]) -> None:
        held, asked = self.reservations.held_by_node(), self.reservations.asked_by_node()
        rooms = {}
        for name, node in usable.items():
            if name not in state.drained and node.host is not None:
                free = free_for_replicas(
                    node.host.total, node.host.free, held.get(name, {}), asked.get(name, {})
                )
                rooms[name] = NodeRoom(free, node.host.labels, node.host.accelerator_type)
        refused, failed = self.reservations.refused_by_version(), self._failed_by_version()
        wanted = {}
        for model, version, desired in state:
            if not desired.retiring:
                key = Key(model, version)
                wanted[key] = WantedReplicas(
                    request_of(desired.placement),
                    None if desired.placement.all_nodes else desired.replicas,
                    desired.placement.strategy,
                    self._current(key, usable),
                    {**refused.get(key, {}), **failed.get(key, {})},
                )
        absent = self._find_absent(rooms, usable)
        if self._planned_for != (rooms, wanted, absent):
            self._planned_for = (rooms, wanted, absent)
            self.plan = plan_placement(rooms, wanted, absent)

    def _find_absent(
        self, rooms: Mapping[str, NodeRoom], usable: Mapping[str, Node]
    ) -> dict[str, AbsentNode]:
        """The machines that live and get no replicas, each with the reason."""
        absent = {}
        for host in self.nodes.hosts:
            if host.alive and host.node not in rooms:
                if host.node in usable:
                    reason = "is drained"
                elif host.refused:
                    reason = "has another version of Mooring"
                elif host.failed:
                    reason = "its server does not start: mooring cluster status says why"
                else:
                    reason = "its server does not report" if host.node else "its server is being started"
                room = NodeRoom(host.total, host.labels, host.accelerator_type)
                absent[host.name] = AbsentNode(room, reason)
        return absent

    def _current(self, key: Key, usable: Mapping[str, Node]) -> list[str]:
        """The nodes of a version now: those that have it and do not drain, and those that are to get it.

        Those that serve it come first, and of those the head, which no autoscaler ends.
        """
        seats = self.seats.get(key, {})
        replicas = {
            name: each for name, each in self.replicas.get(key, {}).items() if not seats.get(name, False)
        }
        planned = [name for name in self.plan.nodes.get(key, ()) if name not in replicas and name in usable]

        def preference(name: str) -> tuple[bool, bool, str]:
            node = usable.get(name)
            is_head = node is not None and node.host is not None and node.host.is_head
            return not replicas[name].serves, not is_head, name

        return [*sorted(replicas, key=preference), *planned]

    def _failed_by_version(self) -> dict[Key, dict[str, str]]:
        failed: dict[Key, dict[str, str]] = {}
        for (name, key), (_, reason) in self._failed.items():
            failed.setdefault(key, {})[name] = reason
        return failed

    def carry_out(self, state: DesiredState) -> None:
        """Tell every node what it is to have. ``state`` is what has been written last."""
        usable = self.nodes.usable(self._clock())
        assignments: dict[str, list[VersionAssignment]] = {name: [] for name in usable}
        seats: dict[Key, dict[str, bool]] = {}
        for model, name, version in state:
            key = Key(model, name)
            seats[key] = self._seat(key, version, usable)
            for node, draining in sorted(seats[key].items()):
                assignments[node].append(self._assign(key, version, node, draining=draining))
        self.seats = seats
        self.orders.give(assignments, self._route(state, usable), state.drained)
        self._number_drains(usable)
        self.orders.send(usable)
        self.reservations.release_others(
            {(node, key) for key, nodes in self._reserved_for(usable).items() for node in nodes}
        )

    def _seat(self, key: Key, version: DesiredVersion, usable: Mapping[str, Node]) -> dict[str, bool]:
        replicas = self.replicas.get(key, {})
        targets = (
            [] if version.retiring else [name for name in self.plan.nodes.get(key, ()) if name in usable]
        )
        request = request_of(version.placement)
        granted = [name for name in targets if self.reservations.find((name, key), request) is not None]
        for name in targets:
            self._drains.pop((name, key), None)
        emptied = [name for name in replicas if self._is_emptied((name, key), replicas[name], usable)]
        unwanted = version.retiring or (not version.replicas and not version.placement.all_nodes)
        seats = seat_replicas(granted, replicas, emptied, unwanted=unwanted)
        for name, draining in seats.items():
            if draining:
                self._drains.setdefault((name, key), _Drain(self._clock()))
            else:
                self._drains.pop((name, key), None)
        return seats

    def _is_emptied(self, seat: tuple[str, Key], replica: Replica, usable: Mapping[str, Node]) -> bool:
        """Whether a draining replica has answered what it had, and nobody sends it more."""
        drain = self._drains.get(seat)
        if drain is None:
            return False
        if self._clock() - drain.since > self._timings.drain:
            return True
        status = usable[seat[0]].status
        assert status is not None
        return (
            0 < drain.generation <= status.generation
            and status.epoch == self.orders.epoch
            and replica.idle
            and self.orders.know_routing(usable, drain.generation)
        )

    def ready_workers(self, node: str, key: Key) -> int:
        """The workers of a replica that can answer."""
        found = self.nodes.find(node)
        status = found.versions.get(key) if found is not None else None
        return status.ready_workers if status is not None else 0

    def _number_drains(self, usable: Mapping[str, Node]) -> None:
        """Note which routing table is the first without the replicas that have begun to drain; forget those that are gone."""
        for (name, key), drain in list(self._drains.items()):
            drain.generation = drain.generation or self.orders.routed
            node = usable.get(name)
            if node is not None and key not in node.versions and name not in self.seats.get(key, ()):
                del self._drains[name, key]

    def _assign(self, key: Key, version: DesiredVersion, node: str, *, draining: bool) -> VersionAssignment:
        settings = settings_on(version, node)
        return VersionAssignment(
            *key,
            settings.files,
            settings.options,
            settings.config,
            version.min_workers,
            version.max_workers,
            self.reservations.gpus_of((node, key)),
            draining,
        )

    def _route(self, state: DesiredState, usable: Mapping[str, Node]) -> RoutingTable:
        table = RoutingTable(
            nodes={name: node.actor for name, node in usable.items() if node.actor},
            replicas={},
            defaults={model: held.default for model, held in state.models.items() if held.default},
            starting={},
            pending={},
            wanted={},
            files={},
        )
        for model, name, version in state:
            key = Key(model, name)
            if version.retiring:
                continue
            before = version.rollout.before if version.rollout is not None else None
            table.files.setdefault(model, {})[name] = (before or version.settings).files.sha256
            wanted = len(usable) if version.placement.all_nodes else version.replicas
            table.wanted.setdefault(model, {})[name] = wanted
            replicas = self.replicas.get(key, {})
            seats = self.seats.get(key, {})
            serving = sorted(
                node for node, draining in seats.items() if not draining and replicas.get(node, ABSENT).serves
            )
            if serving:
                table.replicas.setdefault(model, {})[name] = serving
            elif key in self.plan.missing and not self.plan.nodes.get(key):
                table.pending.setdefault(model, {})[name] = self.plan.missing[key]
            else:
                table.starting.setdefault(model, []).append(name)
        return table

    def _reserved_for(self, usable: Mapping[str, Node]) -> dict[Key, set[str]]:
        """The nodes of each version whose reservation is still needed: a replica that unloads has its resources."""
        needed = {key: {*nodes} for key, nodes in self.plan.nodes.items()}
        for key, nodes in self.seats.items():
            needed.setdefault(key, set()).update(nodes)
        for name, node in usable.items():
            for key in node.versions:
                needed.setdefault(key, set()).add(name)
        return needed

    async def request_nodes(self, state: DesiredState) -> None:
        """Tell Ray's autoscaler which nodes are in use, and what has no place."""
        keep: set[str] = set()
        more: list[ResourceRequest] = []
        for model, name, version in state:
            key = Key(model, name)
            if not version.placement.all_nodes:
                keep.update(self.seats.get(key, ()))
                if key in self.plan.missing and not version.retiring:
                    lacking = version.replicas - len(self.plan.nodes.get(key, ()))
                    more += [request_of(version.placement)] * max(lacking, 0)
        asked = (sorted(keep), more)
        if asked != self._asked_nodes:
            await self._port.request_nodes(*asked)
            self._asked_nodes = asked
