"""What the controller asks of Ray, done with Ray: nodes, their actors, reservations and the autoscaler. Runs in the controller."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mooring import __version__
from mooring.cluster.autoscaled_nodes import IdleNodes, Machine, NodeDemand, total_demand
from mooring.cluster.controller.cluster_port import (
    HigherEpoch,
    Host,
    NodeGone,
    Reservation,
    ResourceRequest,
)
from mooring.cluster.ray.actor_names import NAMESPACE, ActorHandles, controller_name, node_actor_name
from mooring.cluster.ray.node_actor import NodeActor
from mooring.cluster.ray.orders import AssignmentOrder, AssignmentTaken, ControllerOrder, NodeFound, NodeOrder
from mooring.cluster.ray.ray_nodes import RayNode, choose_nodes, list_nodes
from mooring.cluster.ray.reservations import Reservations
from mooring.cluster.records import PROTOCOL, NodeAssignment, NodeStatus, RoutingTable
from mooring.cluster.routing_changes import RoutingChanges, SentTables
from mooring.observability.logs import get_logger

log = get_logger(__name__)

# Calls that a node actor has at a time: it holds one of every other node.
_CALLS = 10_000
# Seconds between two questions to Ray's head about its nodes.
_LOOK = 0.5
# Seconds in which a node actor must answer.
_PATIENCE = 8.0
# The same when it ends its server, beyond the time that requests have.
_STOP_PATIENCE = 5.0
# Seconds that the server of a node that is given back gets to answer what it has.
_RELEASE_PATIENCE = 60.0


class RayPort:
    """Implements ``controller.cluster_port.ClusterPort``. ``on_status`` is called with all that nodes report."""

    def __init__(self, order: ControllerOrder, on_status: Callable[[NodeStatus], None]) -> None:
        self._order = order
        self._on_status = on_status
        self._actors = ActorHandles()
        self._tables = SentTables()  # by the name of the node's actor
        self._reservations = Reservations(order.cluster)
        self._nodes: dict[str, RayNode] = {}  # by Ray's id
        self._found: dict[str, NodeFound] = {}  # by Ray's id
        self._assigned: dict[str, NodeAssignment] = {}  # by the node's name: the latest one
        self._failed: dict[str, str] = {}  # by Ray's id: why there is no node actor
        self._asked = NodeDemand()
        self._idle = IdleNodes(order.idle_timeout)
        self._keep: frozenset[str] | None = None  # until the controller has said it
        self._more: Sequence[ResourceRequest] = ()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def watch(self) -> None:
        """Keep what is known of Ray's nodes fresh. Runs for as long as the controller."""
        while True:
            with suppress(RayError, ConnectionError, TimeoutError):
                await self.look()
                self._release_idle()
            await asyncio.sleep(_LOOK)

    async def look(self) -> None:
        """Ask Ray for its nodes once."""
        nodes = choose_nodes(await asyncio.to_thread(list_nodes), self._order.nodes)
        self._nodes = {each.node_id: each for each in nodes}

    def report(self, found: NodeFound) -> None:
        """Take what a node actor says; one that is being ended is not heard any more."""
        if found.node_id in self._idle.released:
            return
        self._found[found.node_id] = found
        self._failed.pop(found.node_id, None)
        if found.status is not None:
            self._on_status(found.status)
            if not found.assigned and found.status.node in self._assigned:
                self._run(self._assign_again(found.status.node))

    def _run(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def _assign_again(self, node: str) -> None:
        """Tell an actor that was started again what its server has, and who the other nodes are."""
        with suppress(NodeGone, HigherEpoch):
            await self.assign(node, self._assigned[node])

    async def hosts(self) -> Sequence[Host]:
        """All chosen nodes."""
        return [self._describe(each) for each in self._nodes.values()]

    def _describe(self, node: RayNode) -> Host:
        found = self._found.get(node.node_id)
        return Host(
            host=node.node_id,
            node=found.status.node if found is not None and found.status is not None else "",
            actor=found.actor if found is not None else "",
            alive=node.alive and node.node_id not in self._idle.released,
            total=dict(node.total),
            free=dict(node.free),
            labels=dict(node.labels),
            accelerator_type=node.accelerator_type,
            refused=found.refused if found is not None else "",
            failed=self._failure_of(node.node_id),
            is_head=node.is_head,
            address=node.address,
        )

    def _failure_of(self, node_id: str) -> str:
        if node_id in self._idle.released:
            return "it has no replica, and Ray's autoscaler may end it"
        found = self._found.get(node_id)
        return self._failed.get(node_id) or (found.failed if found is not None else "")

    async def start_node(self, host: str) -> None:
        """Make the node actor there, or find the one that is."""
        handle = await asyncio.to_thread(self._make_actor, host)
        self._run(self._meet(host, handle))

    def _make_actor(self, node_id: str) -> Any:
        order = NodeOrder(
            cluster=self._order.cluster,
            controller=controller_name(self._order.cluster),
            protocol=PROTOCOL,
            software=__version__,
            settings=self._order.settings,
            cluster_dir=self._order.cluster_dir,
        )
        return (
            ray.remote(NodeActor)
            .options(
                name=node_actor_name(self._order.cluster, node_id),
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=_CALLS,
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
            )
            .remote(msgspec.json.encode(order))
        )

    async def _meet(self, node_id: str, handle: Any) -> None:
        try:
            self.report(msgspec.json.decode(await handle.describe.remote(), type=NodeFound))
        except RayError as error:
            self._failed[node_id] = _first_line(error)
            log.warning("node actor not started", host=node_id, reason=self._failed[node_id])

    async def assign(self, node: str, assignment: NodeAssignment) -> None:
        """Give a node its assignment, whose routing table goes as what has changed where its actor has the one before."""
        self._assigned[node] = assignment
        name = self.actor_of(node)
        changes = self._tables.changes_for(name, assignment.routing)
        answer = await self._send_order(name, assignment, changes)
        if answer.whole:
            answer = await self._send_order(name, assignment, None)
        if answer.epoch:
            raise HigherEpoch(answer.epoch)
        if not answer.taken:
            raise NodeGone(answer.reason)
        self._tables.note_taken(name, assignment.routing)

    async def _send_order(
        self, name: str, assignment: NodeAssignment, changes: RoutingChanges | None
    ) -> AssignmentTaken:
        """Send an assignment to a node's actor. Until it is known that it came, nobody knows which table the actor has."""
        self._tables.forget(name)
        if changes is not None:
            assignment = msgspec.structs.replace(assignment, routing=RoutingTable())
        order = msgspec.json.encode(AssignmentOrder(assignment, changes))
        try:
            handle = await self._actors.find(name)
            data = await asyncio.wait_for(handle.assign.remote(order), _PATIENCE)
        except (LookupError, RayActorError) as error:
            self._actors.forget(name)
            raise NodeGone(_first_line(error)) from error
        except TimeoutError:
            raise NodeGone(f"its actor did not answer in {_PATIENCE:g} s") from None
        return msgspec.json.decode(data, type=AssignmentTaken)

    def actor_of(self, node: str) -> str:
        """The actor of a node. Of two that a node had one after the other, that on the raylet which lives."""
        found = [
            each for each in self._found.values() if each.status is not None and each.status.node == node
        ]
        alive = [each for each in found if each.node_id in self._nodes and self._nodes[each.node_id].alive]
        if not alive:
            raise NodeGone(f"Ray has no node for '{node}' now")
        return alive[-1].actor

    async def reserve(self, node: str, model: str, version: str, request: ResourceRequest) -> Reservation:
        """Hold resources for a replica."""
        name = self.actor_of(node)
        node_id = next(each.node_id for each in self._found.values() if each.actor == name)
        return await self._reservations.reserve(node, node_id, model, version, request.resources)

    async def release(self, node: str, model: str, version: str) -> None:
        """Give them back."""
        await self._reservations.release(node, model, version)

    async def reservations(self) -> Sequence[Reservation]:
        """All that is held for this cluster."""
        return await self._reservations.find_all()

    async def request_nodes(self, keep: Sequence[str], more: Sequence[ResourceRequest]) -> None:
        """Tell Ray's autoscaler how large the cluster must be, and let nodes end that are not in use for long."""
        self._keep, self._more = frozenset(keep), more
        demand = total_demand(self._machines(), self._keep, more)
        if demand != self._asked:
            await asyncio.to_thread(
                request_resources, bundles=demand.bundles, bundle_label_selectors=demand.labels
            )
            self._asked = demand

    def _machines(self) -> list[Machine]:
        found = []
        for each in self._nodes.values():
            told = self._found.get(each.node_id)
            name = told.status.node if told is not None and told.status is not None else ""
            if each.alive:
                found.append(Machine(each.node_id, name, each.is_head, dict(each.total)))
        return found

    def _release_idle(self) -> None:
        """End server and actor of nodes that nobody needs, so that Ray takes them for idle."""
        if self._keep is None:
            return
        now = time.monotonic()
        for node_id in self._idle.look(now, self._machines(), self._keep, wants_more=bool(self._more)):
            log.info(
                "node released", host=node_id, reason="it has no replica, and Ray's autoscaler may end it"
            )
            self._found.pop(node_id, None)
            self._run(self._stop_node(node_id, _RELEASE_PATIENCE))

    async def stop_nodes(self, patience: float) -> list[str]:
        """End all node servers and node actors, and give everything back that is held. Returns the addresses of nodes that did not answer."""
        alive = [each for each in self._nodes.values() if each.alive]
        stopped = await asyncio.gather(*(self._stop_node(each.node_id, patience) for each in alive))
        for each in await self._reservations.find_all():
            await self._reservations.release(each.node, each.model, each.version)
        return [node.address for node, ended in zip(alive, stopped, strict=True) if not ended]

    async def _stop_node(self, node_id: str, patience: float) -> bool:
        """End the server and the actor of a node; False where the node does not answer. One without an actor is at its end."""
        name = node_actor_name(self._order.cluster, node_id)
        try:
            handle = await self._actors.find(name)
            await asyncio.wait_for(handle.stop_server.remote(patience), patience + _STOP_PATIENCE)
            await asyncio.to_thread(ray.kill, handle)
        except LookupError:
            return True
        except (RayError, TimeoutError):
            return False
        finally:
            self._actors.forget(name)
        return True


def _first_line(error: BaseException) -> str:
    lines = [each.strip() for each in str(error).splitlines() if each.strip()]
    named = [each for each in lines if "Error:" in each]
    return (named or lines or [type(error).__name__])[-1 if named else 0]
