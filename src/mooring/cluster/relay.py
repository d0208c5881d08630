"""A node actor's end of the connection to its node server, and the bundling of messages to other nodes. Runs in node actors.

How the actor calls other actors is not known here: it gives the functions for that (``ActorPort``). To each other node a
few calls are under way at a time; what comes meanwhile waits, and goes with the next one as one call. So a lone message
leaves at once, and under load the cost of a call is shared by all that it carries.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

from mooring import __version__
from mooring.cluster import messages
from mooring.cluster.records import PROTOCOL, Change, ClusterView, NodeAssignment, NodeStatus
from mooring.core.errors import ErrorRecord, MooringError
from mooring.ipc.message_link import MessageLink
from mooring.observability.logs import get_logger

log = get_logger(__name__)

# Calls to one node that are not confirmed yet.
_CALLS = 4
# Bytes of messages that go with one call, beyond the first message.
_BUNDLE = 1 << 20
# Bytes of messages that wait for one node. Senders wait for each other's receipt (peers.py) and stay far below.
_WAITING = 64 << 20
# Seconds before the next try to connect to a server that does not listen yet.
_AGAIN = 0.05


class ActorPort(Protocol):
    """What a node actor does for its server. A function that raises tells the server so."""

    async def send(self, node: str, messages: Sequence[bytes]) -> None:
        """Have ``NodeRelay.deliver`` called on another node; return once it was. Raises where that is not known."""

    async def ask(self, change: Change | None) -> ClusterView | None:
        """Ask the controller. Raises ``MooringError`` as it answers, or ``ClusterUnavailable``."""

    async def fetch_file(self, sha256: str, node: str) -> Path:
        """Bring a file from another node into the folder that ``Attached.files`` names. Raises where it cannot be had."""

    def attached(self, attached: messages.Attached) -> None:
        """The server works for this actor from now on; called again after every reconnection."""

    def refused(self, refuse: messages.Refuse) -> None:
        """The server does not work with this actor, or has refused an assignment."""

    def report(self, status: NodeStatus) -> None:
        """The server tells its state, for the controller."""

    def lost(self) -> None:
        """The server has ended, or another actor has taken this one's place; the relay tries to attach again."""


class NodeRelay:
    """Connects an actor with the server that listens at ``path``; ``attach`` says who it is.

    ``start`` begins to connect and keeps trying, ``close`` ends it. All methods belong to the event loop's thread.
    """

    def __init__(self, path: Path, port: ActorPort, *, cluster: str, node: str, actor: str) -> None:
        self._path = path
        self._port = port
        self._attach = messages.Attach(PROTOCOL, __version__, cluster, node, actor)
        self._server: MessageLink[messages.ToActor] | None = None
        self._is_attached = False
        self._lanes: dict[str, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def is_attached(self) -> bool:
        """Whether the server works for this actor now."""
        return self._is_attached

    def start(self) -> None:
        """Connect to the server as soon as it listens."""
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def close(self) -> None:
        """Leave the server, which goes on by itself, and give up what is under way."""
        self._closed = True
        for task in (self._connecting, *self._tasks):
            if task is not None:
                task.cancel()
        if self._server is not None:
            self._server.close()
            self._server = None
        self._is_attached = False

    def assign(self, assignment: NodeAssignment) -> bool:
        """Pass an assignment to the server; False where none is attached, and then it must be passed again later."""
        if not self._is_attached or self._server is None:
            return False
        self._server.send(messages.Assign(assignment))
        return True

    def deliver(self, node: str, payloads: Sequence[bytes]) -> None:
        """Pass on what the server of another node has sent. Raises ``ConnectionError`` where no server is attached."""
        if not self._is_attached or self._server is None:
            raise ConnectionError(f"no node server is attached at {self._path}")
        self._server.send(messages.Incoming(node, list(payloads)))

    async def _connect(self) -> None:
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(sock, str(self._path))
            except OSError:
                sock.close()
                await asyncio.sleep(_AGAIN)
                continue
            except BaseException:
                sock.close()
                raise
            break
        self._server = MessageLink(sock, messages.ToActor, self._receive, self._on_lost)
        self._server.send(self._attach)

    def _on_lost(self) -> None:
        self._server, self._is_attached = None, False
        self._lanes.clear()
        if not self._closed:
            self._port.lost()
            self.start()

    def _receive(self, message: messages.ToActor) -> None:
        if isinstance(message, messages.Outgoing):
            self._send(message)
        elif isinstance(message, messages.Report):
            self._port.report(message.status)
        elif isinstance(message, messages.AskController):
            self._run(self._ask(message))
        elif isinstance(message, messages.FetchFile):
            self._run(self._fetch_file(message))
        elif isinstance(message, messages.Attached):
            self._is_attached = True
            self._port.attached(message)
        else:
            self._port.refused(message)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, message: messages.AskController) -> None:
        server = self._server
        try:
            answer = messages.ControllerAnswer(message.key, await self._port.ask(message.change))
        except MooringError as error:
            answer = messages.ControllerAnswer(message.key, error=ErrorRecord.of(error))
        except Exception as error:  # the supervisor: whoever asked must not wait for ever
            log.exception("controller not asked")
            record = ErrorRecord("ClusterUnavailable", f"the controller cannot be asked: {error}")
            answer = messages.ControllerAnswer(message.key, error=record)
        if server is not None:
            server.send(answer)

    async def _fetch_file(self, message: messages.FetchFile) -> None:
        server = self._server
        try:
            answer = messages.FileFetched(
                message.key, path=str(await self._port.fetch_file(message.sha256, message.node))
            )
        except Exception as error:  # the supervisor: Ray raises what it likes, and the server must hear of it
            reason = f"{type(error).__name__}: {error}"
            answer = messages.FileFetched(
                message.key, error=f"node '{message.node}' did not give it: {reason}"
            )
        if server is not None:
            server.send(answer)

    def _send(self, message: messages.Outgoing) -> None:
        lane = self._lanes.get(message.node)
        if lane is None:
            lane = self._lanes[message.node] = _Lane()
        lane.add(message.messages)
        if lane.size > _WAITING:
            self._give_up(message.node, f"{lane.size} bytes wait for it, and it takes none")
            return
        self._fill(message.node, lane)

    def _fill(self, node: str, lane: "_Lane") -> None:
        """Call the other node's actor while something waits and calls are left."""
        while lane.waiting and lane.calls < _CALLS:
            lane.calls += 1
            self._run(self._call(node, lane, lane.take()))

    async def _call(self, node: str, lane: "_Lane", bundle: list[bytes]) -> None:
        try:
            await self._port.send(node, bundle)
        except Exception as error:  # the supervisor: Ray raises what it likes, and the server must hear of it
            if self._lanes.get(node) is lane:
                self._give_up(node, f"{type(error).__name__}: {error}")
            return
        lane.calls -= 1
        if self._lanes.get(node) is lane:
            self._fill(node, lane)
            if not lane.calls:
                del self._lanes[node]

    def _give_up(self, node: str, reason: str) -> None:
        """Drop what waits for a node: its server may have missed something, so that all after it is of no use."""
        del self._lanes[node]
        if self._server is not None:
            self._server.send(messages.NodeUnreachable(node, reason))


def group_messages(payloads: Sequence[bytes], most: int) -> list[list[bytes]]:
    """Group messages, in order, each group of no more than ``most`` bytes or of one message.

    >>> group_messages([b"aa", b"b", b"cccc", b"d"], 3)
    [[b'aa', b'b'], [b'cccc'], [b'd']]
    """
    groups: list[list[bytes]] = []
    room = 0
    for message in payloads:
        if not groups or len(message) > room:
            groups.append([])
            room = most
        groups[-1].append(message)
        room -= len(message)
    return groups


class _Lane:
    """What waits for one other node, and how many calls to it are under way."""

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.size = 0
        self.calls = 0

    def add(self, payloads: Sequence[bytes]) -> None:
        self.waiting.extend(payloads)
        self.size += sum(map(len, payloads))

    def take(self) -> list[bytes]:
        """Take the messages of the next call: at least one, and no more than ``_BUNDLE`` bytes with further ones."""
        bundle = [self.waiting.popleft()]
        size = len(bundle[0])
        while self.waiting and size + len(self.waiting[0]) <= _BUNDLE:
            bundle.append(self.waiting.popleft())
            size += len(bundle[-1])
        self.size -= size
        return bundle
