"""The messages of a session between two node servers, and how a large message is cut for its way. No clock, no socket.
Runs in the first process of a node server.

A message that is small travels whole, in one packet. A larger one begins with its sizes, and its bytes follow in parts:
Ray takes arguments up to 100 KB along with a call, and other messages get their turn between two parts.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import msgspec

from mooring.core.buffers import Buffer
from mooring.ipc.framing import HEADER
from mooring.ipc.messages import AttachingEncoder

PART = 80_000
"""Bytes of a message that travel at a time."""


class Open(msgspec.Struct, array_like=True, tag="open"):
    """Take requests from me: the answer is ``Opened`` or ``Rejected``. An older session that the same node opened is over."""

    session: int  # what the opener calls it
    protocol: int
    software: str


class Opened(msgspec.Struct, array_like=True, tag="opened"):
    """The session is open, and called ``other`` at this end. ``instance`` is another one after every start of the server."""

    session: int
    other: int
    instance: int


class Rejected(msgspec.Struct, array_like=True, tag="rejected"):
    """There will be no session, and why."""

    session: int
    reason: str


class Closed(msgspec.Struct, array_like=True, tag="closed"):
    """The session is over at the other end, or not known there. ``number`` is the first packet that was not taken; -1: nobody knows."""

    session: int
    reason: str
    number: int = -1


class Alive(msgspec.Struct, array_like=True, tag="alive"):
    """I am there: I have sent so many packets, and got so many bytes of yours. With ``ping`` the other end says so, too."""

    session: int  # what the receiver calls it
    sender: int  # what the sender calls it
    sent: int
    received: int
    ping: bool = False


class Whole(msgspec.Struct, array_like=True, tag="whole"):
    """A message."""

    data: memoryview


class Begin(msgspec.Struct, array_like=True, tag="begin"):
    """A message of so many bytes, and so many of each payload beside it. They follow as ``Part``."""

    transfer: int
    sizes: list[int]


class Part(msgspec.Struct, array_like=True, tag="part"):
    """The next bytes of a message that has begun. None reach into the next payload."""

    transfer: int
    data: memoryview


class Abort(msgspec.Struct, array_like=True, tag="abort"):
    """The rest of a message will not come."""

    transfer: int


Content = Whole | Begin | Part | Abort


class Packet(msgspec.Struct, array_like=True, tag="packet"):
    """One of the packets of a session, which are taken in the order of their numbers."""

    session: int  # what the receiver calls it
    sender: int  # what the sender calls it
    number: int
    received: int  # bytes that the sender has got so far
    content: Content


Message = Open | Opened | Rejected | Closed | Alive | Packet

_transfers = itertools.count(1)


class Transfer:
    """One message on its way out. ``on_end`` is called once: when all of it has left, or nothing more of it will.

    Its payloads must stay as they are until then.
    """

    def __init__(
        self, message: object, encoder: AttachingEncoder, on_end: Callable[[], None] | None = None
    ) -> None:
        frame = encoder.frame(message)
        payloads, encoder.attached = encoder.attached, []
        encoder.detach()
        self._pieces = [memoryview(frame)[HEADER:], *(view.cast("B") for view in payloads)]
        self._number = next(_transfers)
        self._on_end = on_end
        self._contents = self._cut()
        self.size = sum(view.nbytes for view in self._pieces)
        self.first_packet = -1
        """The number of the packet with which it began; -1 before."""
        self.finished = False

    def next_content(self) -> Content:
        """Return what to send next of it. The one after which it is ``finished`` is the last."""
        return next(self._contents)

    def abort(self) -> Abort | None:
        """End it where it is; what the other end must hear of that, if it has begun and not ended there."""
        begun = self.first_packet >= 0 and not self.finished
        self.end()
        return Abort(self._number) if begun else None

    def end(self) -> None:
        """It has left, or will not leave."""
        self.finished = True
        on_end, self._on_end = self._on_end, None
        self._pieces = []
        if on_end is not None:
            on_end()

    def _cut(self) -> Iterator[Content]:
        pieces = self._pieces
        if len(pieces) == 1 and pieces[0].nbytes <= PART:
            self.finished = True
            yield Whole(pieces[0])
            return
        yield Begin(self._number, [view.nbytes for view in pieces])
        left = self.size
        for view in pieces:
            for start in range(0, view.nbytes, PART):
                data = view[start : start + PART]
                left -= data.nbytes
                self.finished = not left
                yield Part(self._number, data)


class Arrival:
    """One message on its way in, whose bytes come in parts. A payload that there is no memory for is dropped.

    Raises ``ValueError`` where the other end sends what does not fit its own sizes.
    """

    def __init__(self, sizes: Sequence[int], allocate: Callable[[int], Buffer]) -> None:
        if not sizes or any(size < 0 for size in sizes):
            raise ValueError(f"a message of {list(sizes)} bytes")
        self.head = bytearray(sizes[0])
        self.payloads: list[Buffer | None] = [_try_to_allocate(allocate, size) for size in sizes[1:]]
        self._sizes = list(sizes)
        self._at = self._filled = 0
        self._skip_empty()

    @property
    def complete(self) -> bool:
        """Whether all bytes are here."""
        return self._at == len(self._sizes)

    def add(self, data: memoryview) -> None:
        """Add the bytes that come next."""
        end = self._filled + data.nbytes
        if self.complete or end > self._sizes[self._at]:
            raise ValueError("more bytes than were announced")
        if self._at == 0:
            self.head[self._filled : end] = data
        else:
            payload = self.payloads[self._at - 1]
            if payload is not None:
                payload.view[self._filled : end] = data
        self._filled = end
        self._skip_empty()

    def release(self) -> None:
        """Give back the memory: nobody will read it."""
        for payload in self.payloads:
            if payload is not None:
                payload.release()

    def _skip_empty(self) -> None:
        while not self.complete and self._filled == self._sizes[self._at]:
            self._at, self._filled = self._at + 1, 0


def _try_to_allocate(allocate: Callable[[int], Buffer], size: int) -> Buffer | None:
    try:
        return allocate(size)
    except MemoryError:
        return None
