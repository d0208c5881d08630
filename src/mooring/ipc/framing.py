"""Frames on a socket: how messages between processes are cut, sent and received. Costs grow with the bytes, no faster.

    length                     message                           most of them; all numbers little-endian, 4 bytes
    length | PAYLOADS, count   sizes (8 bytes each)  message  payloads          with large payloads beside the message

A large payload is sent from where it lies and received into memory of its own, so each side holds it once. Where the
receiver has no memory for one, it drops that payload and says so; the message and all others arrive.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from mooring.core.buffers import Buffer, heap

HEADER = 4
PAYLOADS = 1 << 31
"""Set in the length of a message that payloads follow."""

_COUNTED = struct.Struct("<II")
# Pieces that are given to the socket at a time. It takes some 200 KB, and the system allows 1,024 pieces.
_PIECES = 16
# Bytes of a buffer that is kept for the next message.
_KEPT = 262_144
# Bytes that a buffer grows by at a time, or by as many as it has. A length is no reason for memory before the bytes come:
# code of a model may write anything into its channel.
_STEP = 1 << 22


class Encoder(Protocol):
    """Turns messages into frames, in a buffer that it uses again."""

    attached: list[memoryview]

    def frame(self, message: Any) -> bytearray:
        """The length and the message. ``attached`` are the payloads to send after it."""
        ...

    def detach(self) -> None:
        """Leave the last frame to whoever holds it, and build the next one elsewhere."""
        ...


def pieces(frame: bytearray, attached: Sequence[memoryview]) -> list[memoryview]:
    """What to send of a message with payloads, in this order."""
    sizes = struct.pack(f"<{len(attached)}Q", *[view.nbytes for view in attached])
    head = _COUNTED.pack(len(frame) - HEADER | PAYLOADS, len(attached)) + sizes
    return [memoryview(head), memoryview(frame)[HEADER:], *attached]


class FrameWriter:
    """Sends messages over a socket that does not block: what it does not take at once follows when it can.

    Nothing is copied for that: what waits are views of the frame and of the payloads, which must not change. A message
    is encoded before any of it is sent, so that one that cannot be encoded leaves no half a frame.
    """

    def __init__(self, sock: socket.socket, encoder: Encoder) -> None:
        self._sock = sock
        self._encoder = encoder
        self._unsent: deque[memoryview] = deque()
        self._loop = asyncio.get_running_loop()

    def send(self, message: Any) -> None:
        """Send the message after all before it; nothing happens once the other end is gone.

        Raises ``MemoryError`` and ``OverflowError`` for one that cannot be encoded; nothing of it is sent then.
        """
        encoder = self._encoder
        frame = encoder.frame(message)
        if encoder.attached:
            payloads, encoder.attached = encoder.attached, []
            self._send_later(pieces(frame, payloads))
            return
        if self._unsent:
            self._send_later([memoryview(frame)])
            return
        try:
            sent = self._sock.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError:  # the other end is gone, and whoever listens to this socket will hear of it
            return
        if sent < len(frame):
            self._send_later([memoryview(frame)[sent:]])

    def _send_later(self, rest: list[memoryview]) -> None:
        self._encoder.detach()
        if not self._unsent:
            self._loop.add_writer(self._sock, self._send_rest)
        self._unsent += rest

    def _send_rest(self) -> None:
        # Once per turn of the loop: a fast reader of a large payload must not keep everybody else waiting.
        unsent = self._unsent
        try:
            sent = self._sock.sendmsg(list(islice(unsent, _PIECES)))
        except BlockingIOError:
            return
        except OSError:
            unsent.clear()
            sent = 0
        while unsent and sent >= unsent[0].nbytes:
            sent -= unsent.popleft().nbytes
        if sent:
            unsent[0] = unsent[0][sent:]
        if not unsent:
            self._loop.remove_writer(self._sock)

    def close(self) -> None:
        """Forget what was not sent. Call it before the socket is closed."""
        self._loop.remove_writer(self._sock)
        self._unsent.clear()


def send_whole(sock: socket.socket, encoder: Encoder, message: Any) -> None:
    """Send a message over a socket that blocks. Raises ``OSError``, and ``MemoryError`` before any of it is sent."""
    frame = encoder.frame(message)
    if not encoder.attached:
        sock.sendall(frame)
    else:
        payloads, encoder.attached = encoder.attached, []
        for piece in pieces(frame, payloads):
            sock.sendall(piece)
    if len(frame) > _KEPT:
        encoder.detach()  # one large frame must not keep its memory for ever


def heap_buffer(size: int) -> Buffer:
    """Memory for a payload, which nobody counts. Raises ``MemoryError``."""
    return Buffer(heap(size))


class Frames:
    """Takes bytes from a socket and yields whole messages.

    A message is a view of the receive buffer: it must be decoded before the next call of ``receive``. ``attached`` are
    the payloads of the message that was yielded last, until the next one is asked for; None stands for one that there
    was no memory for.
    """

    def __init__(self, capacity: int = _KEPT, *, allocate: Callable[[int], Buffer] = heap_buffer) -> None:
        self.attached: list[Buffer | None] = []
        self._capacity = capacity
        self._allocate = allocate
        self._buffer = bytearray(capacity)
        self._start = 0
        self._end = 0
        # A message whose payloads are on their way, the sizes of those that have not begun, and the one that has.
        self._message: bytes | None = None
        self._sizes: deque[int] = deque()
        self._payloads: list[Buffer | None] = []
        self._left = 0

    def receive(self, sock: socket.socket) -> int:
        """Read once; how many bytes came, 0 at the end of the stream.

        Raises ``BlockingIOError`` if none wait, and ``MemoryError`` where there is no room for the message itself.
        """
        if self._left:
            return self._receive_payload(sock)
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._buffer) > self._capacity:  # one large message must not keep its memory for ever
                self._buffer = bytearray(self._capacity)
        elif len(self._buffer) - self._end < min(self._missing(), _KEPT):
            self._make_room()
        with memoryview(self._buffer) as view:
            count = sock.recv_into(view[self._end :])
        self._end += count
        return count

    def _receive_payload(self, sock: socket.socket) -> int:
        payload = self._payloads[-1]
        room = memoryview(self._buffer) if payload is None else payload.view[-self._left :]
        count = sock.recv_into(room[: self._left])
        self._left -= count
        return count

    def _missing(self) -> int:
        have = self._end - self._start
        if have < HEADER:
            return HEADER - have
        length = int.from_bytes(self._buffer[self._start : self._start + HEADER], "little")
        if length < PAYLOADS:
            return HEADER + length - have
        if have < _COUNTED.size:
            return _COUNTED.size - have
        count = int.from_bytes(self._buffer[self._start + HEADER : self._start + _COUNTED.size], "little")
        return _COUNTED.size + 8 * count + length - PAYLOADS - have

    def _make_room(self) -> None:
        have = self._end - self._start
        size = max(len(self._buffer), have + min(self._missing(), max(have, _STEP)))
        moved = bytearray(size)
        moved[:have] = self._buffer[self._start : self._end]
        self._buffer, self._start, self._end = moved, 0, have

    def __iter__(self) -> Iterator[memoryview]:
        view = memoryview(self._buffer)
        while True:
            if self._message is not None:
                if not self._receive_buffered(view):
                    return
                message, self._message = self._message, None
                self.attached, self._payloads = self._payloads, []
                yield memoryview(message)
                self.attached = []
            if self._end - self._start < HEADER:
                return
            begin = self._start + HEADER
            length = int.from_bytes(self._buffer[self._start : begin], "little")
            if length >= PAYLOADS:
                if self._missing() > 0:
                    return
                self._begin_payloads()
                continue
            if self._end - begin < length:
                return
            self._start = begin + length
            yield view[begin : self._start]

    def _begin_payloads(self) -> None:
        """Take the message that payloads follow out of the buffer, which is all here."""
        length, count = _COUNTED.unpack_from(self._buffer, self._start)
        begin = self._start + _COUNTED.size
        self._sizes.extend(struct.unpack_from(f"<{count}Q", self._buffer, begin))
        begin += 8 * count
        self._start = begin + length - PAYLOADS
        self._message = bytes(self._buffer[begin : self._start])

    def _receive_buffered(self, view: memoryview) -> bool:
        """Put what the buffer has of the payloads where it belongs; whether all of them are complete."""
        while True:
            if self._left:
                here = min(self._left, self._end - self._start)
                payload = self._payloads[-1]
                if payload is not None:
                    filled = len(payload) - self._left
                    payload.view[filled : filled + here] = view[self._start : self._start + here]
                self._start += here
                self._left -= here
            if self._left or not self._sizes:
                return not self._left
            self._left = self._sizes.popleft()
            self._payloads.append(self._memory(self._left))

    def _memory(self, size: int) -> Buffer | None:
        try:
            return self._allocate(size)
        except MemoryError:
            return None
