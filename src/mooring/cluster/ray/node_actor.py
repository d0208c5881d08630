"""The node actor: starts or adopts the node server of its machine, and is its way to the others. A Ray actor on each node.

What it does for its server is in ``relay.py``; here is how that is done with Ray. It holds nothing that matters: when it dies Ray
starts it again, it adopts the server that runs, and the controller gives it the assignment once more.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import ray
from ray.exceptions import RayActorError, RayTaskError

from mooring import __version__
from mooring.cluster import messages
from mooring.cluster.ray.actor_names import ActorHandles
from mooring.cluster.ray.file_transfer import fetch_from, read_piece, write_piece
from mooring.cluster.ray.held_calls import HeldCalls, Return
from mooring.cluster.ray.orders import AssignmentOrder, AssignmentTaken, NodeFound, NodeOrder
from mooring.cluster.ray.streams import IncomingStreams, OutgoingStreams
from mooring.cluster.records import PROTOCOL, Change, ClusterView, NodeAssignment, NodeStatus
from mooring.cluster.relay import NodeRelay, group_messages
from mooring.cluster.routing_changes import apply_changes
from mooring.cluster.run_folder import (
    RunFolder,
    ServerProcess,
    claim_run_folder,
    default_cluster_dir,
    make_private_folder,
)
from mooring.core.errors import ClusterUnavailable
from mooring.observability.logs import get_logger

log = get_logger(__name__)

# Seconds until the lock of a folder must be free, whose actor is ending.
_LOCK_PATIENCE = 30.0
# Seconds between two looks at the server's process, and until one that has ended is started again.
_LOOK = 0.5
_AGAIN = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# Seconds that a server must have run for its end not to count as a failed start.
_LONG = 60.0
# Bytes of messages in one call that travel as its arguments; what is more goes through the object store.
_INLINE = 1 << 20
# Bytes of messages of one argument of a call: Ray takes arguments of up to 100 KB along, and puts others into its object store.
_ARGUMENT = 90_000
# Ray puts an argument of more than 100 KB into the object store.
_PIECE = 90_000
# Seconds in which a server must have taken an assignment, or refused it.
_ASSIGN_PATIENCE = 5.0
# Seconds in which a controller that is being started again must be found.
_CONTROLLER_PATIENCE = 15.0


class NodeActor:
    """One node's actor. ``order`` is a ``NodeOrder`` as JSON; all methods are called through Ray, on one event loop.

    Implements ``relay.ActorPort``.
    """

    def __init__(self, order: bytes) -> None:
        self._order = msgspec.json.decode(order, type=NodeOrder)
        self._node_id = ray.get_runtime_context().get_node_id()
        self._address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._actors = ActorHandles()
        self._names: dict[str, str] = {}  # of a node -> of its actor
        self._outgoing = OutgoingStreams()
        self._incoming = IncomingStreams(self._pass_on)
        self._held = HeldCalls()
        self._folder: RunFolder | None = None
        self._server: ServerProcess | None = None
        self._relay: NodeRelay | None = None
        self._attached: messages.Attached | None = None
        self._status: NodeStatus | None = None
        self._refused = refuse_order(self._order)
        self._failed = ""
        self._reporting: asyncio.Task[None] | None = None
        self._wanted: list[tuple[tuple[int, int], asyncio.Future[AssignmentTaken]]] = []
        self._stopping = False
        self._assignment: NodeAssignment | None = None
        self._work = asyncio.get_running_loop().create_task(self._run())

    # Called by the controller and by commands

    async def describe(self) -> bytes:
        """Return how the node is, a ``NodeFound`` as JSON."""
        return msgspec.json.encode(self._describe())

    async def assign(self, assignment: bytes) -> bytes:
        """Give the server its assignment, an ``AssignmentOrder`` as JSON; return an ``AssignmentTaken`` when it has answered."""
        wanted = self._complete(msgspec.json.decode(assignment, type=AssignmentOrder))
        if wanted is None:
            return msgspec.json.encode(AssignmentTaken(reason="it has another routing table", whole=True))
        if self._relay is None or not self._relay.is_attached:
            reason = self._refused or self._failed or "the node server is not there yet"
            return msgspec.json.encode(AssignmentTaken(reason=reason))
        answer: asyncio.Future[AssignmentTaken] = asyncio.get_running_loop().create_future()
        self._wanted.append(((wanted.epoch, wanted.generation), answer))
        before, self._names = self._names, wanted.routing.nodes  # the server may send to them at once
        self._relay.assign(wanted)
        try:
            taken = await asyncio.wait_for(answer, _ASSIGN_PATIENCE)
        except TimeoutError:
            taken = AssignmentTaken(reason=f"the node server did not answer in {_ASSIGN_PATIENCE:g} s")
        if taken.taken:
            self._assignment = wanted
            self._find_peers()
        else:
            self._names = before
        return msgspec.json.encode(taken)

    def _complete(self, order: AssignmentOrder) -> NodeAssignment | None:
        """The assignment with its whole routing table; None where the changes are not those of the table that the server has."""
        wanted, before = order.assignment, self._assignment
        if order.changes is None:
            return wanted
        if before is None or before.epoch != wanted.epoch:
            return None
        table = apply_changes(before.routing, order.changes)
        return None if table is None else msgspec.structs.replace(wanted, routing=table)

    def _find_peers(self) -> None:
        """Find the actors of all nodes now: nobody can be found while Ray's head is away."""

        async def find() -> None:
            for name in self._names.values():
                with suppress(LookupError):
                    await self._actors.find(name)

        self._finding = asyncio.get_running_loop().create_task(find())

    async def stop_server(self, patience: float) -> None:
        """End the server: its requests get so many seconds to finish. Returns when it is gone."""
        self._stopping = True
        if self._server is not None:
            await asyncio.to_thread(self._server.end, patience)

    # Called by other node actors and by commands

    async def deliver(
        self, node: str, stream: int, number: int, accepted: int, *groups: list[Any]
    ) -> Return | None:
        """Pass on messages of another node's server: lists of them, or one list with a reference to a list of all.

        Return after a moment at most, with what the server here has sent there meanwhile.
        """
        await self._incoming.take(node, stream, number, [message for group in groups for message in group])
        return await self._held.hold(node, accepted)

    async def has_file(self, sha256: str) -> bool:
        """Whether the node has the model file with this hash."""
        return await asyncio.to_thread((self._files / sha256).exists)

    async def read_file(self, sha256: str, offset: int, size: int) -> bytes:
        """Return a piece of a model file. Raises ``FileNotFoundError``; no bytes are its end."""
        return await asyncio.to_thread(read_piece, self._files, sha256, offset, size)

    async def write_file(self, sha256: str, offset: int, data: bytes, *, last: bool) -> None:
        """Take a piece of a model file that a command brings; with the ``last`` one it is there, checked by its hash."""
        await asyncio.to_thread(write_piece, self._files, sha256, offset, data, last=last)

    @property
    def _files(self) -> Path:
        if self._attached is None:
            raise FileNotFoundError("the node server is not there yet")
        return Path(self._attached.files)

    # What the relay asks for

    async def send(self, node: str, payloads: Sequence[bytes]) -> None:
        """Have another node's actor take messages. Raises if it is not known that it has."""
        stream, number = self._outgoing.next(node)  # first of all: what follows may change the order
        if self._held.is_held(node, stream, payloads):
            self._held.give_back(node, stream, number, payloads)
            return
        groups: list[list[Any]] = list(group_messages(payloads, _ARGUMENT))
        try:
            handle = await self._actors.find(self._name_of(node))
            if sum(map(len, payloads)) > _INLINE:
                groups = [[await asyncio.to_thread(ray.put, list(payloads))]]
            accepted = self._incoming.accepted(node)
            returned: Return | None = await handle.deliver.remote(
                self._node, stream, number, accepted, *groups
            )
        except Exception as error:
            self._outgoing.break_off(node, stream)
            self._incoming.break_off(node)  # the call may have had messages to bring back
            if isinstance(error, RayTaskError):  # whose text is the other actor's traceback
                raise ConnectionError(str(error.cause)) from error
            raise
        if returned is not None:
            with suppress(
                ConnectionError
            ):  # of a stream that is over, or no server is there: their loss is noticed
                await self._incoming.take(node, *returned)

    async def ask(self, change: Change | None) -> ClusterView | None:
        """Ask the controller. Raises the error that it answers with, and ``ClusterUnavailable``."""
        end = time.monotonic() + _CONTROLLER_PATIENCE
        while True:
            try:
                controller = await self._actors.find(self._order.controller)
                data = await controller.ask.remote(msgspec.json.encode(change))
            except (LookupError, RayActorError) as error:
                self._actors.forget(self._order.controller)
                if time.monotonic() > end:
                    raise ClusterUnavailable(f"the controller cannot be reached: {error}") from error
                await asyncio.sleep(_LOOK)
                continue
            answer = msgspec.msgpack.decode(data, type=messages.ControllerAnswer)
            if answer.error is not None:
                raise answer.error.error()
            return answer.view

    async def fetch_file(self, sha256: str, node: str) -> Path:
        """Bring a model file from another node; return where it lies, not checked."""
        return await fetch_from(await self._actors.find(self._name_of(node)), sha256, self._files)

    def attached(self, attached: messages.Attached) -> None:
        """The server works for this actor from now on."""
        self._attached, self._failed, self._refused = attached, "", ""
        if self._assignment is not None and self._relay is not None:
            self._relay.assign(self._assignment)
        self.report(attached.status)

    def refused(self, refuse: messages.Refuse) -> None:
        """The server does not work with this actor, or has refused an assignment."""
        log.warning("node server refused", reason=refuse.reason)
        if self._attached is None:
            self._refused = refuse.reason
            self._tell_controller()
        wanted, self._wanted = self._wanted, []
        for (epoch, _), answer in wanted:
            if not answer.done():
                later = refuse.epoch if refuse.epoch > epoch else 0
                answer.set_result(AssignmentTaken(epoch=later, reason=refuse.reason))

    def report(self, status: NodeStatus) -> None:
        """Pass the server's state on to the controller, with the address of this node in it."""
        status = msgspec.structs.replace(status, address=reach_at(status.address, self._address))
        self._status = status
        self._tell_controller()
        has = (status.epoch, status.generation)
        for wanted, answer in self._wanted:
            if wanted <= has and not answer.done():
                answer.set_result(AssignmentTaken(taken=True))
        self._wanted = [each for each in self._wanted if not each[1].done()]

    def lost(self) -> None:
        """The server has ended; ``_run`` starts it again."""
        self._attached = None

    # Its own work

    async def _run(self) -> None:
        """Have a server run for as long as this actor does."""
        if self._refused:
            self._tell_controller()
            return
        try:
            directory = Path(self._order.cluster_dir) if self._order.cluster_dir else default_cluster_dir()
            self._folder = folder = await asyncio.to_thread(
                claim_run_folder,
                make_private_folder(directory, self._order.cluster),
                self._address,
                int(os.environ.get("RAY_RAYLET_PID", "0")),
                _LOCK_PATIENCE,
            )
        except (OSError, TimeoutError) as error:
            log.error("node server not started", reason=str(error))  # noqa: TRY400 - the reason says it all
            self._failed = str(error)
            self._tell_controller()
            return
        self._relay = NodeRelay(
            folder.socket,
            self,
            cluster=self._order.cluster,
            node=self._node_id,
            actor=ray.get_runtime_context().get_actor_name() or "",
        )
        self._relay.start()
        self._server = folder.find_server()
        failures = 0
        while not self._stopping:
            if self._server is None:
                self._server = await asyncio.to_thread(folder.start_server, self._settings(folder))
                log.info("node server started", process=self._server.pid, folder=str(folder.path))
            began = time.monotonic()
            while self._server.alive and not self._stopping:  # noqa: ASYNC110 - nobody tells when it ends
                await asyncio.sleep(_LOOK)
            if self._stopping:
                return
            failures = 0 if time.monotonic() - began > _LONG else failures + 1
            self._failed = f"the node server has ended: {folder.last_words()} (all of it is in {folder.log})"
            log.error("node server ended", process=self._server.pid, reason=self._failed)
            self._attached, self._server = None, None
            self._tell_controller()
            await asyncio.sleep(_AGAIN[min(failures, len(_AGAIN)) - 1] if failures else 0.0)

    def _settings(self, folder: RunFolder) -> str:
        return (
            f"{self._order.settings}\ncluster_socket = {msgspec.json.encode(str(folder.socket)).decode()}\n"
        )

    @property
    def _node(self) -> str:
        return self._attached.status.node if self._attached is not None else ""

    def _name_of(self, node: str) -> str:
        try:
            return self._names[node]
        except KeyError:
            raise LookupError(f"no node '{node}' in the routing table") from None

    def _pass_on(self, node: str, payloads: Sequence[bytes]) -> None:
        if self._relay is None:
            raise ConnectionError("no node server is attached")
        self._relay.deliver(node, payloads)

    def _describe(self) -> NodeFound:
        return NodeFound(
            actor=ray.get_runtime_context().get_actor_name() or "",
            node_id=self._node_id,
            software=self._attached.software if self._attached is not None else __version__,
            pid=self._attached.pid if self._attached is not None else 0,
            status=self._status if self._attached is not None else None,
            refused=self._refused,
            failed=self._failed,
            assigned=self._assignment is not None,
        )

    def _tell_controller(self) -> None:
        """Send the newest state to the controller, as soon as the report before is through."""
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.get_running_loop().create_task(self._report())

    async def _report(self) -> None:
        sent = None
        with suppress(LookupError, RayActorError):
            while sent is None or sent != self._describe():
                sent = self._describe()
                controller = await self._actors.find(self._order.controller)
                await controller.report.remote(msgspec.json.encode(sent))
            return
        self._actors.forget(self._order.controller)  # the next report looks for it again


def reach_at(listening: str, address: str) -> str:
    """Where other machines reach a listener of the node with this address.

    >>> reach_at("http://0.0.0.0:8080", "10.0.0.1"), reach_at("http://10.0.0.7:80", "10.0.0.1")
    ('http://10.0.0.1:8080', 'http://10.0.0.7:80')
    """
    parts = urlsplit(listening)
    if parts.hostname not in ("0.0.0.0", "::") or parts.port is None:  # noqa: S104 - compared, not bound
        return listening
    return f"{parts.scheme}://{f'[{address}]' if ':' in address else address}:{parts.port}"


def refuse_order(order: NodeOrder) -> str:
    """Why this node's software cannot work with the controller that gave the order; empty where it can."""
    if order.protocol == PROTOCOL:
        return ""
    return (
        f"this node has Mooring {__version__} (messages {PROTOCOL}), the controller Mooring {order.software}"
        f" (messages {order.protocol}): install the same version on all nodes"
    )
