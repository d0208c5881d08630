"""What server and worker say to each other, and how it is framed on their socket.

A frame is four bytes of length (little-endian) and one msgpack message. Payloads in a slot of the arena travel as
the slot's handle; all others inline.
"""

import socket
from collections.abc import Iterator
from typing import Any

import msgspec

from mooring.backends.backend import LoadContext
from mooring.core.buffers import Buffer, Slot
from mooring.core.errors import ErrorRecord
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import ModelMetadata
from mooring.observability.records import Record
from mooring.repository.spec import ModelSpec

_HEADER = 4
_SLOT_CODE = 1
_GRANT_CODE = 2


class Load(msgspec.Struct, array_like=True, tag="load"):
    """First message to a worker: the model it is to be."""

    spec: ModelSpec
    context: LoadContext


class Batch(msgspec.Struct, array_like=True, tag="batch", gc=False):
    """Requests that wait at the same moment. ``grants`` are slots that large answers may be written to."""

    keys: list[int]
    requests: list[InferenceRequest]
    grants: list[Slot | None] | None = None


class Cancel(msgspec.Struct, array_like=True, tag="cancel"):
    """Nobody waits for these any more."""

    keys: list[int]


class Loaded(msgspec.Struct, array_like=True, tag="loaded"):
    """The model can infer. ``capacity`` is how many requests it takes while others run; 0: one message at a time."""

    metadata: ModelMetadata
    capacity: int = 0


class LoadFailed(msgspec.Struct, array_like=True, tag="failed"):
    """The model cannot be loaded; the worker ends after this. ``lasting``: nor will it be from the same files."""

    error: ErrorRecord
    lasting: bool = False


class Results(msgspec.Struct, array_like=True, tag="results", gc=False):
    """Answers, in any order. ``batches`` has the rows and seconds of every call of the model among them.

    A worker with a capacity answers requests of many messages in one of these, and sends pieces here, too.
    ``records`` is what the model's own code measured meanwhile: nothing costs a byte, and no message of its own.
    """

    keys: list[int]
    outcomes: list[InferenceResponse | ErrorRecord]
    batches: list[tuple[int, float]]
    records: list[Record] | None = None


class Piece(msgspec.Struct, array_like=True, tag="piece"):
    """Part of a streamed answer."""

    key: int
    response: InferenceResponse


class Returned(msgspec.Struct, array_like=True, tag="returned"):
    """Requests of a batch that were not started, because one before them is slow: give them to somebody else."""

    keys: list[int]


class Measured(msgspec.Struct, array_like=True, tag="measured"):
    """What the model's own code measured, where it is too much to wait for the next answers."""

    records: list[Record]


class InGrant:
    """Stands for a payload that lies in the first ``size`` bytes of the slot granted to its request.

    A plain class: msgspec must not know how to encode it, or it would travel as a map.
    """

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


ToWorker = Load | Batch | Cancel
ToServer = Loaded | LoadFailed | Results | Piece | Returned | Measured


def _encode_special(value: Any) -> Any:
    if isinstance(value, Buffer):
        if value.slot is None:
            return value.view
        return msgspec.msgpack.Ext(_SLOT_CODE, msgspec.msgpack.encode(value.slot))
    if isinstance(value, InGrant):
        return msgspec.msgpack.Ext(_GRANT_CODE, value.size.to_bytes(8, "little"))
    raise TypeError(f"{type(value).__name__} cannot be sent to another process")


def encode_inline(value: Any) -> Any:
    """For an encoder whose messages go where this process's slots mean nothing."""
    return value.view if isinstance(value, Buffer) else _encode_special(value)


def decode_special(code: int, data: memoryview) -> Any:
    """For a decoder: what the encoders write that msgpack does not know."""
    if code == _SLOT_CODE:
        return msgspec.msgpack.decode(data, type=Slot)
    if code == _GRANT_CODE:
        return InGrant(int.from_bytes(data, "little"))
    raise ValueError(f"message with an unknown extension {code}")


class Frames:
    """Takes bytes from a socket and yields whole frames.

    A frame is a view of the receive buffer: it must be decoded before the next call of ``receive``.
    """

    def __init__(self, capacity: int = 262_144) -> None:
        self._capacity = capacity
        self._buffer = bytearray(capacity)
        self._start = 0
        self._end = 0

    def receive(self, sock: socket.socket) -> int:
        """Read once; how many bytes came, 0 at the end of the stream. Raises ``BlockingIOError`` if none wait."""
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._buffer) > self._capacity:  # one large message must not keep its memory for ever
                self._buffer = bytearray(self._capacity)
        elif self._missing() > len(self._buffer) - self._end:
            self._make_room()
        with memoryview(self._buffer) as view:
            count = sock.recv_into(view[self._end :])
        self._end += count
        return count

    def _missing(self) -> int:
        have = self._end - self._start
        if have < _HEADER:
            return _HEADER - have
        return _HEADER + int.from_bytes(self._buffer[self._start : self._start + _HEADER], "little") - have

    def _make_room(self) -> None:
        have = self._end - self._start
        size = max(len(self._buffer), have + self._missing())
        moved = bytearray(size)
        moved[:have] = self._buffer[self._start : self._end]
        self._buffer, self._start, self._end = moved, 0, have

    def __iter__(self) -> Iterator[memoryview]:
        view = memoryview(self._buffer)
        while self._end - self._start >= _HEADER:
            begin = self._start + _HEADER
            length = int.from_bytes(self._buffer[self._start : begin], "little")
            if self._end - begin < length:
                return
            self._start = begin + length
            yield view[begin : self._start]


class Codec:
    """Messages to frames and back. Frames are built in one reused buffer: send them before the next ``frame``.

    ``lends`` is False for a worker: the slots it sees belong to the server, which frees those of a request as soon as
    it is answered, so what an answer has in one travels by itself.
    """

    def __init__(self, *, lends: bool = True) -> None:
        # Whether the last frame had memory in it that somebody must release: most have none.
        self.lent = False
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._encode_lent if lends else encode_inline)
        self._to_worker = msgspec.msgpack.Decoder(ToWorker, ext_hook=decode_special)
        self._to_server = msgspec.msgpack.Decoder(ToServer, ext_hook=decode_special)
        self._frame = bytearray(65_536)

    def frame(self, message: ToWorker | ToServer) -> bytearray:
        """The message with its length before it."""
        self.lent = False
        frame = self._frame
        self._encoder.encode_into(message, frame, _HEADER)
        frame[:_HEADER] = (len(frame) - _HEADER).to_bytes(_HEADER, "little")
        return frame

    def _encode_lent(self, value: Any) -> Any:
        self.lent = True
        return _encode_special(value)

    def to_worker(self, frame: memoryview) -> ToWorker:
        """What the server said."""
        message: ToWorker = self._to_worker.decode(frame)
        return message

    def to_server(self, frame: memoryview) -> ToServer:
        """What the worker said."""
        message: ToServer = self._to_server.decode(frame)
        return message
