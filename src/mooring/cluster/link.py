"""A node server's end of the connection to its node actor. Runs in the first process of a node server.

The server listens at a unix socket and serves one actor at a time: one that attaches later takes the place of the one
before. Without an actor the server goes on with the assignment that it has; what only the controller can do is then
``ClusterUnavailable``. The highest epoch of an assignment is kept in a file beside the socket, so that a server that was
started again refuses an older controller, too.
"""

import asyncio
import errno
import itertools
import os
import platform
import re
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from mooring import __version__
from mooring.cluster import messages
from mooring.cluster.records import PROTOCOL, Change, ClusterView, NodeAssignment, NodeStatus
from mooring.core.errors import ClusterUnavailable
from mooring.ipc.message_link import MessageLink
from mooring.observability.logs import get_logger

log = get_logger(__name__)

_BACKLOG = 8


class ClusterLink:
    """Listens at ``socket_path`` for the node actor. ``files`` is the folder of model files that an actor may write into.

    ``describe_node`` says what the server has, for the actor that attaches. Register every ``on_…`` callback before ``listen``.
    All methods belong to the event loop's thread.
    """

    def __init__(self, socket_path: Path, describe_node: Callable[[], NodeStatus], files: Path) -> None:
        self.node = choose_node_name(socket_path.with_name("node"))
        self.cluster = ""
        self.attached_once = False
        self._path = socket_path
        self._describe_node = describe_node
        self._files = files
        self._epochs = EpochFile(socket_path.with_name("epoch"))
        self._generation = 0  # of the last assignment of the highest epoch
        self._keys = itertools.count(1)
        self._asked: dict[int, asyncio.Future[ClusterView | None]] = {}
        self._fetching: dict[int, asyncio.Future[Path]] = {}
        self._sock: socket.socket | None = None
        self._actor: MessageLink[messages.ToServer] | None = None
        self._connections: set[MessageLink[messages.ToServer]] = set()  # that have not attached yet
        self._assigned: list[Callable[[NodeAssignment], None]] = []
        self._came: list[Callable[[str, Sequence[bytes]], None]] = []
        self._unreachable: list[Callable[[str, str], None]] = []

    @property
    def attached(self) -> bool:
        """Whether an actor is attached now."""
        return self._actor is not None

    def on_assignment(self, callback: Callable[[NodeAssignment], None]) -> None:
        """Call it with every assignment that is not refused. A whole one each time, maybe the same again."""
        self._assigned.append(callback)

    def on_messages(self, callback: Callable[[str, Sequence[bytes]], None]) -> None:
        """Call it with the name of another node and the messages that its server has sent."""
        self._came.append(callback)

    def on_unreachable(self, callback: Callable[[str, str], None]) -> None:
        """Call it with the name of a node to which something did not get, and why."""
        self._unreachable.append(callback)

    def listen(self) -> None:
        """Listen for the actor. Raises ``OSError``, which names the path."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self._path.is_socket():
                _check_unused(self._path)
                self._path.unlink()
            sock.setblocking(False)
            sock.bind(str(self._path))
            self._path.chmod(0o600)
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise OSError(f"cluster_socket {self._path}: {error.strerror or error}") from None
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock, self._accept)

    def close(self) -> None:
        """Listen no more and let the actor go. What was asked of the controller fails."""
        sock, self._sock = self._sock, None
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
            self._path.unlink(missing_ok=True)
        for link in list(self._connections):
            link.close()
        if self._actor is not None:
            self._actor.close()
            self._on_lost(self._actor)

    def send(self, node: str, payloads: list[bytes]) -> None:
        """Send messages to another node's server. Where no actor is attached, the node is unreachable at once."""
        if self._actor is None:
            # Not from within the sender's own call.
            asyncio.get_running_loop().call_soon(self._tell_unreachable, node, "no node actor is attached")
        else:
            self._actor.send(messages.Outgoing(node, payloads))

    def report(self, status: NodeStatus) -> None:
        """Tell the controller the state of this node; nothing happens without an actor."""
        if self._actor is not None:
            self._actor.send(messages.Report(status))

    async def ask(self, change: Change | None) -> ClusterView | None:
        """Ask a change of the controller, or without one how the cluster is, and wait for the answer.

        Raises the ``MooringError`` with which the controller refuses or fails, and ``ClusterUnavailable`` where it is not
        reached, or the actor is lost before there is an answer: the change may have been made then.
        """
        actor = self._need_actor()
        key = next(self._keys)
        answer: asyncio.Future[ClusterView | None] = asyncio.get_running_loop().create_future()
        self._asked[key] = answer
        try:
            actor.send(messages.AskController(key, change))
            return await answer
        finally:
            self._asked.pop(key, None)

    async def fetch_file(self, sha256: str, node: str) -> Path:
        """Have a model file brought from another node; where it lies, not verified yet.

        Raises ``ClusterUnavailable`` without an actor, and ``OSError`` where the file cannot be had.
        """
        actor = self._need_actor()
        key = next(self._keys)
        fetched: asyncio.Future[Path] = asyncio.get_running_loop().create_future()
        self._fetching[key] = fetched
        try:
            actor.send(messages.FetchFile(key, sha256, node))
            return await fetched
        finally:
            self._fetching.pop(key, None)

    def _need_actor(self) -> MessageLink[messages.ToServer]:
        if self._actor is None:
            raise ClusterUnavailable(
                f"node '{self.node}' has no connection to the cluster's controller now; it serves on what it has"
            )
        return self._actor

    def _accept(self) -> None:
        assert self._sock is not None
        try:
            sock, _ = self._sock.accept()
        except OSError as error:  # no descriptor is left, or who called has ended
            log.warning("node actor not taken", reason=str(error))
            return
        link: MessageLink[messages.ToServer] = MessageLink(
            sock,
            messages.ToServer,
            lambda message: self._receive(link, message),
            lambda: self._on_lost(link),
        )
        self._connections.add(link)

    def _on_lost(self, link: MessageLink[messages.ToServer]) -> None:
        self._connections.discard(link)
        if link is not self._actor:
            return
        self._actor = None
        log.warning("node actor lost", cluster=self.cluster, node=self.node)
        lost = "the connection to the cluster's controller was lost before its answer; the change may have been made"
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ClusterUnavailable(lost))
        for fetched in self._fetching.values():
            if not fetched.done():
                fetched.set_exception(OSError(errno.ECONNRESET, "the node actor is gone"))

    def _receive(self, link: MessageLink[messages.ToServer], message: messages.ToServer) -> None:
        if isinstance(message, messages.Attach):
            self._attach(link, message)
        elif link is not self._actor:  # another one has taken its place meanwhile
            link.close()
            self._connections.discard(link)
        elif isinstance(message, messages.Incoming):
            for came in self._came:
                came(message.node, message.messages)
        elif isinstance(message, messages.NodeUnreachable):
            self._tell_unreachable(message.node, message.reason)
        elif isinstance(message, messages.Assign):
            self._take_assignment(link, message.assignment)
        elif isinstance(message, messages.ControllerAnswer):
            self._take_answer(message)
        else:
            self._take_file(message)

    def _attach(self, link: MessageLink[messages.ToServer], attach: messages.Attach) -> None:
        if attach.protocol != PROTOCOL:
            reason = (
                f"node server '{self.node}' runs Mooring {__version__} (messages {PROTOCOL}), its actor"
                f" Mooring {attach.software} (messages {attach.protocol}): install the same version on all nodes"
            )
            log.error("node actor refused", reason=reason)
            link.send(messages.Refuse(reason, self._epochs.highest))
            return
        before, self._actor = self._actor, link
        self._connections.discard(link)
        if before is not None and before is not link:
            before.close()
            self._actor = before
            self._on_lost(before)
            self._actor = link
        self.cluster, self.attached_once = attach.cluster, True
        log.info("node actor attached", cluster=attach.cluster, node=self.node, actor=attach.actor)
        status = self._describe_node()
        link.send(messages.Attached(PROTOCOL, __version__, os.getpid(), status, str(self._files)))

    def _tell_unreachable(self, node: str, reason: str) -> None:
        for unreachable in self._unreachable:
            unreachable(node, reason)

    def _take_assignment(self, link: MessageLink[messages.ToServer], assignment: NodeAssignment) -> None:
        epoch, highest = assignment.epoch, self._epochs.highest
        if epoch < highest or (epoch == highest and assignment.generation < self._generation):
            reason = (
                f"the assignment {assignment.generation} of epoch {epoch} is older than"
                f" {self._generation} of epoch {highest}, which node '{self.node}' has"
            )
            log.warning("assignment refused", reason=reason)
            link.send(messages.Refuse(reason, highest))
            return
        if epoch > highest:
            try:
                self._epochs.raise_to(epoch)
            except OSError as error:
                reason = f"the epoch cannot be kept: {error}"
                log.error("assignment refused", reason=reason)  # noqa: TRY400 - the reason says it all
                link.send(messages.Refuse(reason, highest))
                return
        self._generation = assignment.generation
        for assigned in self._assigned:
            assigned(assignment)

    def _take_answer(self, message: messages.ControllerAnswer) -> None:
        asked = self._asked.get(message.key)
        if asked is None or asked.done():
            return
        if message.error is not None:
            asked.set_exception(message.error.error())
        else:
            asked.set_result(message.view)

    def _take_file(self, message: messages.FileFetched) -> None:
        fetched = self._fetching.get(message.key)
        if fetched is None or fetched.done():
            return
        if message.error:
            fetched.set_exception(OSError(message.error))
        else:
            fetched.set_result(Path(message.path))


class EpochFile:
    """The highest epoch that this node has seen, which outlives the server. 0 where it has seen none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            text = path.read_text()
        except FileNotFoundError:
            text = "0"
        if not text.strip().isdigit():
            raise ValueError(
                f"{path} holds no epoch but {text!r}: remove it only if no older controller can run"
            )
        self.highest = int(text)

    def raise_to(self, epoch: int) -> None:
        """Keep a higher epoch. Raises ``OSError``, and then the old one holds."""
        new = self._path.with_suffix(".new")
        with new.open("w") as file:
            file.write(f"{epoch}\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        self.highest = epoch


def choose_node_name(path: Path) -> str:
    """The name of this node, which the file at ``path`` keeps: the host's name and 8 digits. Raises ``OSError``."""
    try:
        name = path.read_text().strip()
    except FileNotFoundError:
        name = ""
    if not name:
        host = re.sub(r"[^A-Za-z0-9_-]", "-", platform.node().partition(".")[0]) or "node"
        name = f"{host[:48]}-{secrets.token_hex(4)}"
        path.write_text(f"{name}\n")
    return name


def _check_unused(path: Path) -> None:
    """Raise ``OSError`` where a process listens at the path."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
    raise OSError(errno.EADDRINUSE, "another node server listens there")
