"""One HTTP/2 stream: its state, its windows, and the frames that wait to be sent.

Rule 1: every state of a stream, and every move between two, is in the table ``TRANSITIONS`` (RFC 9113, 5.1):

    IDLE ──▶ OPEN ──▶ HALF_CLOSED_REMOTE ──▶ CLOSED      a request that is complete, then its answer
              ├─────▶ HALF_CLOSED_LOCAL ───────▲         an answer before that; the rest of the request is refused
              └────────────── reset ───────────┘

The two reserved states are missing: this server pushes nothing, and no client may.
"""

import enum
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from mooring.web.http2 import frames
from mooring.web.http2.errors import ErrorCode

Part = bytes | memoryview
"""Some bytes of an answer. A view stays valid until the callback that was queued after it is called."""

# Bytes of content that one stream sends before it is the next one's turn.
_BURST = 1 << 20


class StreamState(enum.Enum):
    """A state, and which sides may still send content in it."""

    IDLE = "idle", False, False
    OPEN = "open", True, True
    HALF_CLOSED_REMOTE = "half-closed (remote)", False, True
    HALF_CLOSED_LOCAL = "half-closed (local)", True, False
    CLOSED = "closed", False, False

    def __init__(self, title: str, client_sends: bool, server_sends: bool) -> None:
        self.title = title
        self.client_sends = client_sends
        self.server_sends = server_sends

    __hash__ = object.__hash__  # enum's own is a function in Python, called for every frame


class StreamEvent(enum.Enum):
    """What moves a stream from state to state."""

    HEADERS_RECEIVED = enum.auto()
    END_STREAM_RECEIVED = enum.auto()
    END_STREAM_SENT = enum.auto()
    RESET = enum.auto()  # RST_STREAM by either side, or the connection is gone

    __hash__ = object.__hash__


IDLE, OPEN, HALF_CLOSED_REMOTE, HALF_CLOSED_LOCAL, CLOSED = StreamState
HEADERS_RECEIVED, END_STREAM_RECEIVED, END_STREAM_SENT, RESET = StreamEvent

TRANSITIONS: dict[StreamState, dict[StreamEvent, StreamState]] = {
    IDLE: {HEADERS_RECEIVED: OPEN},
    OPEN: {END_STREAM_RECEIVED: HALF_CLOSED_REMOTE, END_STREAM_SENT: HALF_CLOSED_LOCAL, RESET: CLOSED},
    HALF_CLOSED_REMOTE: {END_STREAM_SENT: CLOSED, RESET: CLOSED},
    HALF_CLOSED_LOCAL: {END_STREAM_RECEIVED: CLOSED, RESET: CLOSED},
    CLOSED: {RESET: CLOSED},  # a reset may cross the end
}


class IllegalTransition(Exception):
    """A stream was to make a move that is not in the table: a bug of the server, never the client's."""


class StreamSender(Protocol):
    """The sending half of the connection, as a stream needs it."""

    @property
    def max_frame_size(self) -> int:
        """Bytes of the largest frame that the client takes."""
        ...

    def can_send(self, stream: "Stream", size: int) -> bool:
        """Whether ``size`` bytes of content may leave now, in one frame, before anything else that waits."""
        ...

    def send_end(self, stream: "Stream", size: int, data: bytes) -> None:
        """Send frames that end the stream, with ``size`` bytes of content for which ``can_send`` was true."""
        ...

    def send_queued(self, stream: "Stream") -> None:
        """Send what the stream has queued as far as the windows allow, and the rest when they do."""
        ...


class StreamConnection(Protocol):
    """The connection, as a stream needs it."""

    @property
    def peer(self) -> str:
        """The client's address with its port; empty on a unix socket."""
        ...

    @property
    def sender(self) -> StreamSender: ...

    def initial_windows(self) -> tuple[int, int]:
        """Bytes that a new stream may send, and that its client may."""
        ...

    def grant_window(self, stream: "Stream", increment: int) -> None:
        """Let the client send ``increment`` bytes more."""
        ...

    def detach_buffer(self, stream: "Stream") -> None:
        """Write nothing more to the stream's receive buffer: the memory may soon be another's."""
        ...

    def reset(self, stream: "Stream", code: ErrorCode) -> None:
        """End the stream with RST_STREAM."""
        ...

    def charge_reset(self) -> None:
        """Count against the client a stream that ends early for what it sent, as if it had reset it. May raise."""
        ...


class Stream:
    """One request and its answer, as far as HTTP/2 knows them. A subclass says what they mean.

    How this works. The connection calls ``receive_content`` with content as it comes, or writes it straight into
    ``receive_buffer`` and calls ``buffer_filled``; then ``end_received``. The subclass answers through ``sender``: at once
    with ``send_end`` where the windows allow, otherwise it queues content and the trailers that end the stream, and
    ``take_frames`` cuts as many frames of them as the windows allow. ``reset_received`` is called once where the stream
    ends otherwise. ``send_window`` is how many bytes may be sent, ``receive_window`` how many the client may send.
    ``has_queued`` says that something waits to be sent. ``last_progress`` is the time when bytes last moved either way, on the listener's clock, in seconds.
    """

    __slots__ = (
        "_queue",
        "_queued_head",
        "_queued_trailers",
        "connection",
        "has_queued",
        "id",
        "last_progress",
        "receive_window",
        "send_window",
        "sender",
        "state",
    )

    def __init__(self, connection: StreamConnection, number: int, now: float) -> None:
        self.connection = connection
        self.sender = connection.sender
        self.id = number
        self.state = OPEN  # the head of the request is there
        self.send_window, self.receive_window = connection.initial_windows()
        self.last_progress = now
        self._queue: deque[Part | Callable[[], None]] | None = None
        self._queued_head = self._queued_trailers = b""
        self.has_queued = False

    def advance(self, event: StreamEvent) -> None:
        """Move to the next state. Raises ``IllegalTransition`` where the table has none."""
        try:
            self.state = TRANSITIONS[self.state][event]
        except KeyError:
            raise IllegalTransition(
                f"stream {self.id} is {self.state.title}: {event.name} cannot be"
            ) from None

    # Called by the connection

    def receive_content(self, data: bytes, start: int, end: int) -> None:
        """Take ``data[start:end]``, the next bytes of the request's content."""
        raise NotImplementedError

    @property
    def receive_buffer(self) -> memoryview | None:
        """Where the next bytes of content are to be written; None where ``receive_content`` should get them."""
        raise NotImplementedError

    def buffer_filled(self, size: int) -> None:
        """Note that ``size`` bytes were written to ``receive_buffer``."""
        raise NotImplementedError

    def end_received(self) -> None:
        """Note that the request is complete (END_STREAM)."""
        if self.state is OPEN:
            self.state = (
                HALF_CLOSED_REMOTE  # as ``advance`` does, without its call: nearly every request ends so
            )
        else:
            self.advance(END_STREAM_RECEIVED)
        self.request_complete()

    def request_complete(self) -> None:
        """Act on a request that is complete."""
        raise NotImplementedError

    def reset_received(self) -> None:
        """Give up: the client is gone, or it or the server has reset the stream. What is sent from now on is dropped."""
        raise NotImplementedError

    def check_timeouts(self, now: float) -> None:
        """End what has taken too long."""
        raise NotImplementedError

    def queue_drained(self) -> None:
        """Note that everything queued has been sent."""

    # The queue

    @property
    def end_queued(self) -> bool:
        """Whether the end of the stream waits to be sent."""
        return bool(self._queued_trailers)

    def queue_head(self, head: bytes) -> None:
        """Queue frames that no window limits, to leave in one write with the content that is queued next."""
        self._queued_head = head

    def queue_content(
        self, parts: Sequence[Part], released: Callable[[], None] | None, trailers: bytes = b""
    ) -> None:
        """Queue content, a callback for when nobody reads the parts any more, and frames that end the stream."""
        queue = self._queue = self._queue if self._queue is not None else deque()
        queue.extend(part for part in parts if len(part))
        if released is not None:
            queue.append(released)
        self._queued_trailers = trailers
        self.has_queued = bool(queue) or bool(trailers)

    def take_frames(self, limit: int, into: list[Part]) -> tuple[int, list[Callable[[], None]]]:
        """Append queued frames with at most ``limit`` bytes of content to a list.

        Returns how many bytes of content they have, and the callbacks that are due once they have been sent.
        """
        left = limit = min(limit, self.send_window, _BURST)
        released: list[Callable[[], None]] = []
        queue = self._queue or deque()
        if self._queued_head:
            into.append(self._queued_head)
            self._queued_head = b""
        while queue:
            if callable(first := queue[0]):
                released.append(first)
                queue.popleft()
                continue
            if left <= 0:
                break
            left -= self._take_frame(queue, min(left, self.sender.max_frame_size), into)
        self.send_window -= limit - left
        if not queue and self._queued_trailers:
            into.append(self._queued_trailers)
            self._queued_trailers = b""
            self.advance(END_STREAM_SENT)
        self.has_queued = bool(queue) or bool(self._queued_trailers)
        return limit - left, released

    def _take_frame(self, queue: deque[Part | Callable[[], None]], limit: int, into: list[Part]) -> int:
        """Append one DATA frame of as many parts as fit; how many bytes of content it has."""
        place, size = len(into), 0
        into.append(b"")  # the head, once the size is known
        while queue and size < limit and not callable(part := queue[0]):
            if len(part) <= limit - size:
                into.append(part)
                queue.popleft()
                size += len(part)
            else:
                view = memoryview(part)
                into.append(view[: limit - size])
                queue[0] = view[limit - size :]
                size = limit
        into[place] = frames.HEAD.pack(size << 8 | frames.DATA, 0, self.id)
        return size

    def discard_queue(self) -> list[Callable[[], None]]:
        """Send nothing of what is queued. Returns the callbacks that are due then."""
        queue, self._queue = self._queue, None
        self._queued_head = self._queued_trailers = b""
        self.has_queued = False
        return [each for each in queue or () if callable(each)]
