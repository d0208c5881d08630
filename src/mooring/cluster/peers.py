"""Sessions with the servers of other nodes: order, receipt, flow, and who is silent. Runs in the first process of a node server.

A node that sends requests to another one opens a *session* there, and the answers come back in it. Between the two are actors
and calls of Ray, which may lose, delay and overtake each other; a session makes of that what a connection is. Its packets have
numbers; a gap that does not close ends it. The receiver tells how many bytes it has got, and no more than ``WINDOW`` are on
their way beyond those: what waits stays where its memory is accounted for. While answers are owed the opener pings, and a session
in which nothing is heard for ``SILENCE`` seconds is lost. Whatever comes of a lost session later is dropped.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import msgspec

from mooring import __version__
from mooring.cluster import sessions
from mooring.cluster.records import PROTOCOL
from mooring.cluster.sessions import Arrival, Transfer
from mooring.core.buffers import Buffer
from mooring.ipc.messages import AttachingEncoder
from mooring.observability.logs import get_logger

log = get_logger(__name__)

SILENCE = 1.0
"""Seconds without a word after which a node that owes an answer is lost."""

WINDOW = 4 << 20
"""Bytes of a session that may be on their way."""

# Seconds without a word after which a node whose requests run here is gone: it pings while it waits.
_ABANDONED = 3.0
_PING_EVERY = 0.25
_TICK = 0.1
# Bytes that a session sends in one turn of the event loop.
_TURN = 1 << 20
# Packets that came before those that they follow, which a session keeps.
_EARLY = 65_536
# Seconds until it is tried whether a node that was lost is there again, the first time and at most.
_AVOID, _AVOID_MOST = 0.5, 5.0


class Owner(Protocol):
    """Whom a session serves."""

    @property
    def busy(self) -> bool:
        """Whether answers are awaited in the session, or given."""

    def receive(self, head: bytes | bytearray | memoryview, payloads: Sequence[Buffer | None]) -> None:
        """Take a message and the memory of its payloads; None is one that there was no memory for."""

    def on_lost(self, reason: str, refused_from: int | None) -> None:
        """The session is over. With a number no packet from that one on was taken at the other end."""


class Session:
    """One session, at either end. ``number`` is what this end calls it, ``other`` what the other end does (0: not open yet).

    ``instance`` tells the opener which run of the other server it is open to; 0 before it is open.
    """

    def __init__(
        self, peers: "Peers", node: str, owner: Callable[["Session"], Owner], other: int = 0
    ) -> None:
        self.node = node
        self.number = secrets.randbits(62) | 1
        self.other = other
        self.instance = 0
        self.is_opener = not other
        self.lost = False
        self._peers = peers
        # What waits to be sent: lanes take turns, within a lane the order is kept.
        self._lanes: dict[Hashable, deque[Transfer]] = {}
        self._pumping = False
        self._sent_packets = 0
        self._sent = self._confirmed = 0  # bytes
        self._received = self._told = 0  # bytes
        self._expected = 0  # the number of the next packet
        self._early: dict[int, sessions.Packet] = {}
        self._announced = 0  # packets that the other end has sent, as it says
        self._arrivals: dict[int, Arrival] = {}
        self._silent = self._stuck = self._unpinged = 0.0
        self._owner = owner(self)

    def send(
        self, message: object, lane: Hashable = None, on_end: Callable[[], None] | None = None
    ) -> Transfer:
        """Send a message after those of the same lane; without one it has a lane of its own.

        Raises ``OverflowError`` for one above 2 GB.
        """
        transfer = Transfer(message, self._peers.encoder, on_end)
        if self.lost:
            transfer.end()
            return transfer
        self._lanes.setdefault(transfer if lane is None else lane, deque()).append(transfer)
        self._peers.watch(self)
        if not self._pumping:
            self._pump()
        return transfer

    def drop(self, transfer: Transfer, lane: Hashable = None) -> None:
        """Send nothing more of a message; ``lane`` as it was sent."""
        key = transfer if lane is None else lane
        transfers = self._lanes.get(key)
        if transfers is None or transfer not in transfers:
            return
        transfers.remove(transfer)
        if not transfers:
            del self._lanes[key]
        self._abort(transfer)

    def drop_lane(self, lane: Hashable) -> None:
        """Send nothing more of the messages of a lane."""
        for transfer in self._lanes.pop(lane, ()):
            self._abort(transfer)

    def _abort(self, transfer: Transfer) -> None:
        abort = transfer.abort()
        if abort is not None:
            self._peers.send_encoded(self.node, [self._make_packet(abort, 0)])

    def open(self, other: int, instance: int) -> None:
        """The other end has opened the session."""
        self._heard()
        self.other, self.instance = other, instance
        self._pump()

    def take_packet(self, packet: sessions.Packet) -> None:
        """Take a packet and all that waited for it. Raises ``ValueError`` for one that makes no sense."""
        self._heard()
        self._peers.watch(self)
        self._confirm(packet.received)
        if packet.number != self._expected:
            if packet.number > self._expected:
                self._early[packet.number] = packet
                if len(self._early) > _EARLY:
                    self.lose("packets are missing")
            return
        self._take_content(packet.content)
        while not self.lost and (packet_next := self._early.pop(self._expected, None)) is not None:
            self._take_content(packet_next.content)
        if not self.lost and self._received - self._told >= WINDOW // 4:
            self._tell(ping=False)

    def take_alive(self, alive: sessions.Alive) -> None:
        """The other end is there, and says how far it is."""
        self._heard()
        self._announced = max(self._announced, alive.sent)
        self._confirm(alive.received)
        self._peers.watch(self)
        if alive.ping:
            self._tell(ping=False)

    def tick(self, passed: float) -> bool:
        """Look at the session; False where nobody waits for anything in it."""
        busy = self._owner.busy
        if self._expected < self._announced:
            self._stuck += passed
            if self._stuck >= 2 * SILENCE:
                self.lose("packets are missing")
                return False
        elif not busy and not self._lanes and self.other:
            self._silent = 0.0
            return False
        self._silent += passed
        self._unpinged += passed
        if self._silent >= (SILENCE if self.is_opener else _ABANDONED):
            self.lose(f"nothing was heard of it for {self._silent:.1f} seconds")
            return False
        if self.is_opener and self.other and self._unpinged >= _PING_EVERY:
            self._tell(ping=True)
        return True

    def lose(self, reason: str, refused_from: int | None = None, *, tell: bool = True) -> None:
        """End the session: the owner hears of it, and with ``tell`` the other end, if it can."""
        if self.lost:
            return
        self.lost = True
        self._peers.forget(self, reason)
        if tell and self.other:
            self._peers.send(self.node, sessions.Closed(self.other, reason))
        lanes, self._lanes = self._lanes, {}
        for transfers in lanes.values():
            for transfer in transfers:
                transfer.end()
        for arrival in self._arrivals.values():
            arrival.release()
        self._arrivals.clear()
        self._early.clear()
        self._owner.on_lost(reason, refused_from)

    def _heard(self) -> None:
        self._silent = 0.0
        self._peers.note_heard(self.node)

    def _confirm(self, received: int) -> None:
        if received > self._confirmed:
            self._confirmed = received
            if not self._pumping:
                self._pump()

    def _tell(self, *, ping: bool) -> None:
        self._told = self._received
        if ping:
            self._unpinged = 0.0
        alive = sessions.Alive(self.other, self.number, self._sent_packets, self._received, ping)
        self._peers.send(self.node, alive)

    def _pump(self) -> None:
        """Send what waits, as far as the window and this turn of the event loop allow."""
        self._pumping = False
        budget, packets = _TURN, list[bytes]()
        while self._lanes and self.other and not self.lost and self._sent - self._confirmed < WINDOW:
            if budget <= 0:
                self._pumping = True
                self._peers.loop.call_soon(self._pump)
                break
            lane, transfers = next(iter(self._lanes.items()))
            transfer = transfers[0]
            if transfer.first_packet < 0:
                transfer.first_packet = self._sent_packets
            content = transfer.next_content()
            size = len(content.data) if isinstance(content, sessions.Whole | sessions.Part) else 0
            packets.append(self._make_packet(content, size))
            budget -= size
            del self._lanes[lane]
            if transfer.finished:
                transfers.popleft()
            if transfers:
                self._lanes[lane] = transfers  # behind the others
            if transfer.finished:
                transfer.end()
        if packets:  # together, so that they share a call
            self._peers.send_encoded(self.node, packets)

    def _make_packet(self, content: sessions.Content, size: int) -> bytes:
        number, self._sent_packets = self._sent_packets, self._sent_packets + 1
        self._sent += size
        self._told = self._received
        return self._peers.encode(sessions.Packet(self.other, self.number, number, self._received, content))

    def _take_content(self, content: sessions.Content) -> None:
        self._expected += 1
        self._stuck = 0.0
        if isinstance(content, sessions.Whole):
            self._received += len(content.data)
            self._owner.receive(content.data, ())
        elif isinstance(content, sessions.Begin):
            self._arrivals[content.transfer] = Arrival(content.sizes, self._peers.allocate)
            self._deliver_complete(content.transfer)
        elif isinstance(content, sessions.Part):
            self._received += len(content.data)
            arrival = self._arrivals.get(content.transfer)
            if arrival is None:
                raise ValueError("a part of a message that has not begun")
            arrival.add(content.data)
            self._deliver_complete(content.transfer)
        else:
            arrival = self._arrivals.pop(content.transfer, None)
            if arrival is not None:
                arrival.release()

    def _deliver_complete(self, transfer: int) -> None:
        arrival = self._arrivals[transfer]
        if arrival.complete:
            del self._arrivals[transfer]
            self._owner.receive(arrival.head, arrival.payloads)


class Peers:
    """The sessions of this node, those that it opened and those that others did.

    ``transmit`` sends messages to another node. ``serve`` makes the owner of a session that another node has opened. Received
    payloads go into memory that ``allocate`` gives. All methods belong to the event loop's thread.
    """

    def __init__(
        self,
        transmit: Callable[[str, list[bytes]], None],
        allocate: Callable[[int], Buffer],
        serve: Callable[[Session], Owner],
        *,
        clock: Callable[[], float] = time.monotonic,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.allocate = allocate
        self.encoder = AttachingEncoder()
        self.loop = loop or asyncio.get_running_loop()
        self._instance = secrets.randbits(62) | 1
        self._transmit = transmit
        self._serve = serve
        self._clock = clock
        self.encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(sessions.Message).decode
        self._sessions: dict[int, Session] = {}
        self._opened: dict[str, Session] = {}  # by this node
        self._served: dict[str, Session] = {}
        self._watched: set[Session] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._ticked = 0.0
        self._avoided: dict[str, tuple[float, float]] = {}  # until when, and for how long

    def session_to(self, node: str, owner: Callable[[Session], Owner]) -> Session:
        """The session that this node has opened at another one, or a new one for ``owner``."""
        session = self._opened.get(node)
        if session is None:
            session = self._opened[node] = Session(self, node, owner)
            self._sessions[session.number] = session
            self.watch(session)
            self.send(node, sessions.Open(session.number, PROTOCOL, __version__))
        return session

    def is_avoided(self, node: str) -> bool:
        """Whether a node was lost and not heard of since, so that others are to be asked."""
        return node in self._avoided

    def may_probe(self, node: str) -> bool:
        """Whether it is time to look whether a node that was lost is there again."""
        avoided = self._avoided.get(node)
        return avoided is not None and self._clock() >= avoided[0]

    def receive(self, node: str, messages: Sequence[bytes]) -> None:
        """Take messages of another node's server, as they come."""
        for raw in messages:
            try:
                message = self._decode(raw)
            except msgspec.MsgspecError as error:
                log.warning("message of another node not understood", node=node, reason=str(error))
                continue
            self._take(node, message)

    def on_unreachable(self, node: str, reason: str) -> None:
        """Something did not get to a node: whatever session there is with it has lost a packet."""
        for session in (self._opened.get(node), self._served.get(node)):
            if session is not None:
                session.lose(reason, tell=False)

    def send(self, node: str, message: sessions.Message) -> None:
        """Send a message to another node."""
        self._transmit(node, [self.encode(message)])

    def send_encoded(self, node: str, messages: list[bytes]) -> None:
        """Send messages that are encoded already, together."""
        self._transmit(node, messages)

    def watch(self, session: Session) -> None:
        """Look at a session until nobody waits for anything in it."""
        if session.lost:
            return
        self._watched.add(session)
        if self._ticking is None:
            self._ticked = self._clock()
            self._ticking = self.loop.call_later(_TICK, self._tick)

    def note_heard(self, node: str) -> None:
        """A node is there."""
        self._avoided.pop(node, None)

    def forget(self, session: Session, reason: str) -> None:
        """A session is over."""
        self._sessions.pop(session.number, None)
        self._watched.discard(session)
        mine = self._opened if session.is_opener else self._served
        if mine.get(session.node) is session:
            del mine[session.node]
        if session.is_opener:
            _, before = self._avoided.get(session.node, (0.0, 0.0))
            span = min(2 * before, _AVOID_MOST) if before else _AVOID
            self._avoided[session.node] = self._clock() + span, span
            if not before:  # else it was tried whether it is there again
                log.warning("node lost", node=session.node, reason=reason)

    def close(self) -> None:
        """End all sessions."""
        for session in list(self._sessions.values()):
            session.lose("the server stops")
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def _take(self, node: str, message: sessions.Message) -> None:
        if isinstance(message, sessions.Open):
            self._open(node, message)
            return
        session = self._sessions.get(message.session)
        if session is None or session.node != node:
            self._refuse(node, message)
        elif isinstance(message, sessions.Packet):
            try:
                session.take_packet(message)
            except (
                Exception
            ) as error:  # the supervisor: a fault with one node must not end what all others need
                log.exception("packet of another node not taken", node=node)
                session.lose(f"a packet was not understood: {error}")
        elif isinstance(message, sessions.Alive):
            session.take_alive(message)
        elif isinstance(message, sessions.Opened):
            session.open(message.other, message.instance)
        elif isinstance(message, sessions.Rejected):
            session.lose(message.reason, 0, tell=False)
        else:
            refused = message.number if message.number >= 0 else None
            session.lose(message.reason, refused, tell=False)

    def _open(self, node: str, message: sessions.Open) -> None:
        if message.protocol != PROTOCOL:
            reason = f"it runs Mooring {__version__}, this node {message.software}: install the same version on all nodes"
            self.send(node, sessions.Rejected(message.session, reason))
            return
        older = self._served.get(node)
        if older is not None:
            older.lose("it has opened another session", tell=False)
        session = self._served[node] = Session(self, node, self._serve, message.session)
        self._sessions[session.number] = session
        self.send(node, sessions.Opened(message.session, session.number, self._instance))

    def _refuse(self, node: str, message: sessions.Message) -> None:
        """Tell the other end that its session is over here. What is over at both ends needs no word."""
        if isinstance(message, sessions.Packet):
            self.send(node, sessions.Closed(message.sender, "it does not know this session", message.number))
        elif isinstance(message, sessions.Alive):
            self.send(node, sessions.Closed(message.sender, "it does not know this session"))
        elif isinstance(message, sessions.Opened):
            self.send(node, sessions.Closed(message.other, "the session is over"))

    def _tick(self) -> None:
        now = self._clock()
        # What this process slept through, nobody was silent in: nothing of it was heard.
        passed, self._ticked = min(now - self._ticked, 2 * _TICK), now
        for session in list(self._watched):
            if not session.tick(passed):
                self._watched.discard(session)
        self._ticking = self.loop.call_later(_TICK, self._tick) if self._watched else None
