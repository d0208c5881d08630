"""One stream of an HTTP/2 connection: what both of its sides may still send, and what waits to be sent."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from mooring.web.http2 import frames
from mooring.web.http2.frames import Code

Part = bytes | memoryview
"""Some bytes of an answer. A view stays valid until what was given with it is called."""

# What of an answer leaves in one write, and so goes before what other streams have to send.
_BURST = 1 << 20


class Carrier(Protocol):
    """The connection, as far as a stream needs it."""

    peer: str
    max_frame: int

    def takes(self, stream: "Stream", size: int) -> bool:
        """Whether so many bytes of content may leave now, in one frame."""
        ...

    def send_last(self, stream: "Stream", size: int, answer: bytes) -> None:
        """Frames that are the end of a stream, and have ``size`` bytes of content that ``takes`` allowed."""
        ...

    def push(self, stream: "Stream") -> None:
        """Send what the stream has waiting, as far as the client lets it, and the rest when it does."""
        ...

    def grant(self, stream: "Stream", more: int) -> None:
        """Let the client send so many bytes more."""
        ...

    def mute(self, stream: "Stream") -> None:
        """Write nothing more to the room that the stream has given: it may be another's soon."""
        ...

    def reset(self, stream: "Stream", code: Code) -> None:
        """End the stream before its time."""
        ...

    def blame(self) -> None:
        """A stream ends early for what its client sent: that counts as if the client had reset it."""
        ...


class Stream:
    """One request and its answer. ``window`` is what may be sent, ``allowed`` what the client may send, in bytes.

    The rest of its state is ``ended``, the client sends no more; and ``closed``, nobody does.
    """

    __slots__ = ("_lead", "_out", "_tail", "allowed", "carrier", "closed", "ended", "id", "since", "window")

    def __init__(self, carrier: Carrier, number: int, window: int, allowed: int, now: float) -> None:
        self.carrier = carrier
        self.id = number
        self.window = window
        self.allowed = allowed
        self.since = now  # the last time that something moved
        self.ended = self.closed = False
        self._out: deque[Part | Callable[[], None]] | None = None
        self._lead = self._tail = b""

    # What the connection says

    def receive(self, chunk: bytes, start: int, end: int) -> None:
        """Some bytes of content."""
        raise NotImplementedError

    def room(self) -> memoryview | None:
        """Where the next bytes of content belong; None for ``receive``."""
        raise NotImplementedError

    def filled(self, size: int) -> None:
        """So many bytes were written to that room."""
        raise NotImplementedError

    def finish(self) -> None:
        """The client has said everything."""
        raise NotImplementedError

    def abandon(self) -> None:
        """The client is gone, or has lost interest. Whatever is sent from now on is dropped."""
        raise NotImplementedError

    def expire(self, now: float) -> None:
        """Look at what has taken too long."""
        raise NotImplementedError

    def drained(self) -> None:
        """Everything that was to be sent has been."""

    # What waits to be sent

    @property
    def waiting(self) -> bool:
        """Whether something does."""
        return bool(self._out) or bool(self._tail)

    @property
    def ending(self) -> bool:
        """Whether its end waits to be sent."""
        return bool(self._tail)

    def lead(self, answer: bytes) -> None:
        """Frames without content, to be sent before what is queued next, whatever the windows are; in the same write."""
        self._lead = answer

    def queue(self, parts: Sequence[Part], then: Callable[[], None] | None, tail: bytes = b"") -> None:
        """Content to be sent, what to call when nobody reads the parts any more, and frames that end the stream."""
        out = self._out = self._out if self._out is not None else deque()
        out.extend(part for part in parts if len(part))
        if then is not None:
            out.append(then)
        self._tail = tail

    def cut(self, most: int, into: list[Part]) -> tuple[int, list[Callable[[], None]]]:
        """Put frames with at most so many bytes of content into a list: how many they have, and what to call then."""
        left = most = min(most, self.window, _BURST)
        over: list[Callable[[], None]] = []
        out = self._out or deque()
        if self._lead:
            into.append(self._lead)
            self._lead = b""
        while out:
            if callable(first := out[0]):
                over.append(first)
                out.popleft()
                continue
            if left <= 0:
                break
            left -= self._cut_frame(out, min(left, self.carrier.max_frame), into)
        self.window -= most - left
        if not out and self._tail:
            into.append(self._tail)
            self._tail = b""
            self.closed = True
        return most - left, over

    def _cut_frame(self, out: deque[Part | Callable[[], None]], most: int, into: list[Part]) -> int:
        """One frame of content, out of as many parts as are there."""
        place, size = len(into), 0
        into.append(b"")
        while out and size < most and not callable(part := out[0]):
            if len(part) <= most - size:
                into.append(part)
                out.popleft()
                size += len(part)
            else:
                view = memoryview(part)
                into.append(view[: most - size])
                out[0] = view[most - size :]
                size = most
        into[place] = frames.HEAD.pack(size << 8 | frames.DATA, 0, self.id)
        return size

    def drop(self) -> list[Callable[[], None]]:
        """Send nothing of what waits: what to call then."""
        out, self._out, self._lead, self._tail = self._out, None, b"", b""
        return [each for each in out or () if callable(each)]
