"""gRPC over HTTP/2: messages, deadlines, metadata and statuses of calls; what is called is the host's business.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import base64
import enum
import re
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from mooring.core.buffers import LARGE, Buffer, Payload
from mooring.core.errors import BodyMemoryFull
from mooring.core.memory import Claim
from mooring.web.http1_format import REQUEST_ID
from mooring.web.http2 import frames
from mooring.web.http2.context import Http2Context
from mooring.web.http2.errors import ErrorCode
from mooring.web.http2.hpack import Field, encode
from mooring.web.http2.streams import Part, Stream, StreamConnection
from mooring.web.listener import Limits
from mooring.web.pace import Pace

# Up to here an answer is joined to one piece; above, joining costs more than a vector.
JOINED = 16_384
# A compressed message up to here is inflated at once, a larger one in a thread: it may become a thousand times as much.
_INFLATED_AT_ONCE = 4096
# Where the end of a large message lies: its last tensor is then as well aligned as its size allows.
_ALIGNMENT = 64
_PREFIX = struct.Struct(">BI")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_TYPE = re.compile(rb"application/grpc(\+proto)?\s*(;.*)?", re.IGNORECASE)
_UNSAFE = re.compile(rb"[^ -$&-~]")
_ENCODINGS = frozenset({"identity", "gzip", "deflate"})
_ACCEPTED: Field = (b"grpc-accept-encoding", b"identity,deflate,gzip")
_NAME = re.compile(rb":?[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"[^\x00\r\n]*")
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
# What belongs to the connections of HTTP/1 (RFC 9113, 8.2.2).
_FOREIGN = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})

_GRPCS = frozenset({b"content-type", b"te", b"user-agent"})

_BEGIN: list[Field] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
_BEGIN_BLOCK = encode(_BEGIN)
_OK_BLOCK = encode([(b"grpc-status", b"0")])
# An answer of one small message: headers, the head of its content with the message's prefix; then comes the message.
_ANSWER = struct.Struct(f">IBI{len(_BEGIN_BLOCK)}sIBIBI")
_BEGIN_HEAD = len(_BEGIN_BLOCK) << 8 | frames.HEADERS
_OK_HEAD = len(_OK_BLOCK) << 8 | frames.HEADERS
_LAST = frames.END_HEADERS | frames.END_STREAM


class Status(enum.IntEnum):
    """How a call ends."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Refused(Exception):
    """Ends a call with a status and a text."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


class Head(msgspec.Struct, frozen=True):
    """What a header block says of a call. ``fault`` is why it is none, and ``refusal`` a status of HTTP."""

    path: bytes = b""
    metadata: Sequence[Field] = ()
    timeout: float | None = None
    encoding: str = "identity"
    fault: str = ""
    refusal: bytes = b""
    problem: tuple[Status, str] | None = None
    request_id: bytes = b""  # as its caller calls it
    passed: list[Field] = []  # what of the metadata is the caller's own, and no header of gRPC's


class Compressed(bytes):
    """A message as it came, to be inflated before anybody reads it."""


class Method(msgspec.Struct, frozen=True):
    """What is called by one path. ``start`` gets the call, when its message is there or with ``single`` False at once.

    ``admit`` gets it before that and may raise ``Refused``.
    """

    start: Callable[["Call"], None]
    single: bool = True
    admit: Callable[["Call"], None] | None = None


class GrpcContext(Http2Context, Protocol):
    """What the calls of one listener share. ``max_request_bytes`` is for a message that comes, and ``max_request_key``
    the setting that says so.
    """

    limits: Limits
    methods: Mapping[bytes, Method]
    max_message_bytes: int
    max_request_bytes: int
    max_request_key: str

    def inflate(self, data: bytes, encoding: str, count: Callable[[int], None]) -> bytes:
        """A message that came compressed, counted as it grows; called from threads, too. Raises ``Refused``."""
        ...


def read_head(fields: list[Field]) -> Head:
    """What the fields of a block say; never raises."""
    named: dict[bytes, bytes] = {}
    ordinary = 0
    for name, value in fields:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            return Head(fault="a header has a character that it cannot have")
        if name.startswith(b":"):
            if ordinary or name in named or name not in _PSEUDO:
                return Head(fault=f"the pseudo-header {name.decode()} is unknown, repeated or out of place")
        else:
            ordinary += 1
            if name in _FOREIGN or (name == b"te" and value.lower() != b"trailers"):
                return Head(fault=f"the header {name.decode()} is none of HTTP/2")
        named[name] = value
    if len(named.keys() & {b":method", b":scheme", b":path"}) < 3 or not named[b":path"]:
        return Head(fault="a pseudo-header is missing", metadata=fields)
    return _call_head(fields, named)


def _call_head(fields: list[Field], named: Mapping[bytes, bytes]) -> Head:
    if named[b":method"] != b"POST":
        return Head(refusal=b"405")
    if not _TYPE.fullmatch(named.get(b"content-type", b"")):
        return Head(refusal=b"415")
    encoding = named.get(b"grpc-encoding", b"identity").decode("latin-1")
    timeout, problem = None, None
    if encoding not in _ENCODINGS:
        problem = Status.UNIMPLEMENTED, f"messages in the encoding '{encoding}' cannot be read here"
    if b"grpc-timeout" in named:
        found = _TIMEOUT.fullmatch(named[b"grpc-timeout"])
        if found is None:
            problem = Status.INVALID_ARGUMENT, "the header grpc-timeout is no number with a unit"
        else:
            timeout = int(found[1]) * _UNITS[found[2].decode()]
    metadata = [field for field in fields if not field[0].startswith(b":")]
    request_id = named.get(b"x-request-id", b"")
    return Head(
        named[b":path"],
        metadata,
        timeout,
        encoding,
        problem=problem,
        request_id=request_id if REQUEST_ID.fullmatch(request_id) else b"",
        passed=[field for field in metadata if field[0] not in _GRPCS and not field[0].startswith(b"grpc-")],
    )


class Call(Stream):
    """One call. ``deadline`` is on the monotonic clock; ``metadata`` as sent, names in lower case.

    ``on_cancelled`` is called once if nobody waits for the answer any more: the client is gone, or the deadline is
    over. Whatever is answered after that is dropped. All of it happens on the loop's thread.
    """

    __slots__ = (
        "_begun",
        "_claim",
        "_collected",
        "_compressed",
        "_deaf",
        "_filled",
        "_head",
        "_host",
        "_messages",
        "_method",
        "_missing",
        "_pace",
        "_prefix",
        "_reader",
        "_slot",
        "_unpacking",
        "_unread",
        "_whole",
        "_writer",
        "deadline",
        "on_cancelled",
    )

    def __init__(
        self, host: GrpcContext, connection: StreamConnection, number: int, head: Head, method: Method
    ) -> None:
        super().__init__(connection, number, host.now)
        self._host = host
        self._head = head
        self._method = method
        self.deadline = None if head.timeout is None else time.monotonic() + head.timeout
        self.on_cancelled: Callable[[], object] | None = None
        # The messages that nobody has read, and the one that is on its way.
        self._messages: deque[Payload] = deque()
        self._unread = 0
        self._deaf = False  # nothing that comes is of use any more
        self._prefix = b""
        self._compressed = False
        self._missing = self._filled = 0
        self._slot: Buffer | None = None
        self._whole: Buffer | None = None  # the memory that the slot ends
        self._collected: bytearray | None = None
        self._claim: Claim | None = None  # to the memory of what lies here otherwise
        self._pace: Pace | None = None
        self._reader: asyncio.Future[None] | None = None
        self._unpacking: asyncio.Future[None] | None = None
        # The answer.
        self._begun = False
        self._writer: asyncio.Future[None] | None = None

    # For the methods

    @property
    def metadata(self) -> Sequence[Field]:
        """Every header but HTTP's own, as sent."""
        return self._head.metadata

    @property
    def passed(self) -> list[Field]:
        """The metadata that is the caller's own, for the model; shared with calls of the same head."""
        return self._head.passed

    @property
    def request_id(self) -> str:
        """What the caller calls this request, in its header x-request-id; empty where it says nothing. It is answered."""
        return self._head.request_id.decode()

    @property
    def path(self) -> str:
        """What is called: ``/package.Service/Method``."""
        return self._head.path.decode("latin-1")

    @property
    def peer(self) -> str:
        """The client's address without its port; empty on a unix socket."""
        return self.connection.peer

    def header(self, name: bytes) -> bytes | None:
        """The last value of a name, in lower case; of one that ends in ``-bin`` the bytes that it stands for."""
        for each, value in reversed(self._head.metadata):
            if each == name:
                return unpacked(value) if name.endswith(b"-bin") else value
        return None

    def time_remaining(self) -> float | None:
        """Seconds to the deadline; None where there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def message(self) -> bytes:
        """The next message that has come, left where it is."""
        return bytes(self._messages[0])

    def take(self) -> Payload:
        """The next message that has come; the caller's to release. There must be one."""
        message = self._messages.popleft()
        self._unread -= len(message) + _PREFIX.size
        if self._claim is not None and not isinstance(message, Buffer):
            self._claim.shrink(len(message))
        if not self._method.single:
            self._replenish()
        return message

    async def read(self) -> Payload | None:
        """The next message, the caller's to release; None after the client's last."""
        while not self._messages:
            if not self.state.client_sends or not self.state.server_sends:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        message = self.take()
        return await self._inflate(message) if isinstance(message, Compressed) else message

    def respond(self, parts: Sequence[Part], then: Callable[[], None] | None = None) -> None:
        """The one answer, and the end of the call. ``then`` is called when nobody reads the parts any more."""
        if self._method.single and not self._fits(parts):
            self.end(
                Status.RESOURCE_EXHAUSTED, f"the answer is larger than {self._host.max_message_bytes} bytes"
            )
        elif self.state.server_sends:
            if self._messages:
                self._drop_incoming()
            size = sum(map(len, parts))
            if size <= JOINED and self.sender.can_send(self, size + _PREFIX.size):
                self._respond_joined(parts, size)
            else:
                self._begin()
                self.queue_content(self._packed(parts, size), then, self._ok())
                self.sender.send_queued(self)
                return
        if then is not None:
            then()

    async def write(self, message: bytes) -> None:
        """One message of several. Returns when there is room for another. Raises ``Refused`` for one that is too large."""
        if not self._fits([message]):
            raise Refused(
                Status.RESOURCE_EXHAUSTED, f"the answer is larger than {self._host.max_message_bytes} bytes"
            )
        if not self.state.server_sends:
            return
        self._begin()
        self.queue_content(self._packed([message], len(message)), None)
        self.sender.send_queued(self)
        if self.has_queued and self.state.server_sends:
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    def end(self, status: Status, text: str = "") -> None:
        """The end of the call, after everything that was written. A second one does nothing."""
        if not self.state.server_sends or self.end_queued:
            return
        self._drop_incoming()
        fields = [(b"grpc-status", b"%d" % status)]
        if text:
            fields.append((b"grpc-message", percent_encoded(text)))
        self._finish_with(fields if self._begun else self._begin_fields() + fields)

    def _finish_with(self, fields: list[Field]) -> None:
        tail = frames.pack_headers(self.id, encode(fields), self.sender.max_frame_size, end_stream=True)
        if self.has_queued:
            self.queue_content((), None, tail)
            self.sender.send_queued(self)
        else:
            self.sender.send_end(self, 0, tail)

    # For the connection

    def receive_content(self, chunk: bytes, start: int, end: int) -> None:
        while start < end and not self._deaf:
            if self._missing:
                start = self._collect(chunk, start, end)
                continue
            if self._prefix or end - start < _PREFIX.size:
                most = start + _PREFIX.size - len(self._prefix)
                self._prefix += chunk[start : min(most, end)]
                start = min(most, end)
                if len(self._prefix) < _PREFIX.size:
                    break
                flag, size = _PREFIX.unpack(self._prefix)
                self._prefix = b""
            else:
                flag, size = _PREFIX.unpack_from(chunk, start)
                start += _PREFIX.size
            if not self._expect(flag, size):
                return
            if size <= end - start and size <= LARGE:
                self._arrive(chunk[start : start + size])
                start += size
            else:
                self._make_room(size)
        if not self._deaf:
            self._replenish()

    @property
    def receive_buffer(self) -> memoryview | None:
        return self._slot.view[self._filled :] if self._slot is not None else None

    def buffer_filled(self, size: int) -> None:
        if not self._count(size):
            return
        self._filled += size
        self._missing -= size
        if not self._missing:
            self._complete()
        self._replenish()

    def request_complete(self) -> None:
        if self._deaf:
            return
        if self._missing or self._prefix:
            self._fail(Status.INVALID_ARGUMENT, "the request ends inside a message")
        elif not self._method.single:
            self._wake()
        elif not self._messages:
            self._fail(Status.INVALID_ARGUMENT, "the request has no message")
        elif isinstance(message := self._messages[0], Compressed):
            self._unpacking = asyncio.ensure_future(self._start_inflated(message))
        else:
            self._method.start(self)

    async def _start_inflated(self, message: Compressed) -> None:
        try:
            self._messages[0] = await self._inflate(message)
        except Refused as refused:
            self._fail(refused.status, str(refused))
        else:
            self._claim = None
            self._method.start(self)

    async def _inflate(self, message: Compressed) -> Payload:
        """Raises ``Refused``."""
        inflate, encoding = self._host.inflate, self._head.encoding
        claim = self._host.allocator.claim()
        try:
            if len(message) <= _INFLATED_AT_ONCE:
                data = inflate(message, encoding, claim.grow)
            else:
                data = await asyncio.to_thread(inflate, message, encoding, claim.grow)
            if len(data) <= LARGE:
                return data
            _, payload = self._aligned(self._host.allocator.allocate, len(data))
            payload.view[:] = data
        except MemoryError as error:
            raise _no_memory(error, "the message that this one is inflated to") from None
        finally:
            claim.release()
        return payload

    def reset_received(self) -> None:
        self._drop_incoming()
        told, self.on_cancelled = self.on_cancelled, None
        for waiter in (self._reader, self._writer, self._unpacking):
            if waiter is not None and not waiter.done():
                waiter.cancel()
        if told is not None:
            told()

    def queue_drained(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    def check_timeouts(self, now: float) -> None:
        limits = self._host.limits
        silence = now - self.last_progress
        if self.deadline is not None and now > self.deadline:
            if self.end_queued:  # the answer is there, and the client did not take it in time
                self.connection.reset(self, ErrorCode.CANCEL)
            else:
                self._fail(Status.DEADLINE_EXCEEDED, "the deadline is over")
        elif self._missing or (self._method.single and self.state.client_sends):
            fault = "the request took too long to come" if silence > limits.body_timeout else self._slow(now)
            if fault:
                self._fail(Status.DEADLINE_EXCEEDED, fault)
        elif self._method.single and self.has_queued and silence > limits.write_timeout:
            self.connection.reset(self, ErrorCode.CANCEL)

    def _slow(self, now: float) -> str:
        """What is wrong with the pace of the message that is on its way; empty where nothing is."""
        if not self._missing:
            return ""
        if self._pace is None:
            self._pace = Pace(now, self._filled)
        return self._pace.fault(now, self._filled, self._host.limits)

    def begin(self) -> None:
        """The head is there. Answers what is wrong with it, and starts what waits for no message."""
        if self._head.refusal:
            self._finish_with([(b":status", self._head.refusal), (b"content-length", b"0")])
            return
        if self._head.problem is not None:
            status, text = self._head.problem
            fields = [(b"grpc-status", b"%d" % status), (b"grpc-message", percent_encoded(text)), _ACCEPTED]
            self._finish_with(self._begin_fields() + fields)
            return
        if self._method.admit is not None:
            try:
                self._method.admit(self)
            except Refused as refused:
                self.end(refused.status, str(refused))
                return
        if not self._method.single:
            self._method.start(self)

    # Receiving

    def _expect(self, flag: int, size: int) -> bool:
        """Whether a message may come that begins so; otherwise the call is over."""
        host = self._host
        most = host.max_request_bytes
        if most and size > most:
            self._fail(
                Status.RESOURCE_EXHAUSTED,
                f"the message has {size} bytes, and {most} are allowed ({host.max_request_key})",
            )
        elif flag > 1 or (flag and self._head.encoding == "identity"):
            self._fail(Status.INTERNAL, "a message says that it is compressed, and the call does not say how")
        elif self._method.single and self._messages:
            self._fail(Status.INVALID_ARGUMENT, "the method takes one message, and a second came")
        else:
            self._compressed = bool(flag)
            return True
        self.connection.charge_reset()
        return False

    def _make_room(self, size: int) -> None:
        """Where a message goes that is large, or comes in pieces."""
        self._missing, self._filled, self._pace = size, 0, None
        if size <= LARGE or self._compressed:
            self._collected = bytearray()
            return
        try:
            self._whole, self._slot = self._aligned(self._host.allocator.expect, size)
        except MemoryError as error:
            self._missing = 0
            refused = _no_memory(error, f"a message of {size} bytes")
            self._fail(refused.status, str(refused))

    def _aligned(self, allocate: Callable[[int], Buffer], size: int) -> tuple[Buffer, Buffer]:
        """Memory whose end is aligned, and what of it a message gets."""
        before = -size % _ALIGNMENT
        whole = allocate(before + size)
        return whole, whole.tail(before)

    def _count(self, size: int) -> bool:
        """Count bytes of a message as those of all bodies are; False where there is no room, and the call is over."""
        try:
            if self._whole is not None:
                self._whole.received(size)
            else:
                if self._claim is None:
                    self._claim = self._host.allocator.claim()
                self._claim.grow(size)
        except BodyMemoryFull as error:
            self._fail(Status.RESOURCE_EXHAUSTED, error.message)
            return False
        return True

    def _collect(self, chunk: bytes, start: int, end: int) -> int:
        used = min(self._missing, end - start)
        if not self._count(used):
            return end
        if self._slot is not None:
            self._slot.view[self._filled : self._filled + used] = memoryview(chunk)[start : start + used]
        elif self._collected is not None:
            self._collected += chunk[start : start + used]
        self._filled += used
        self._missing -= used
        if not self._missing:
            self._complete()
        return start + used

    def _complete(self) -> None:
        slot, self._slot, self._whole = self._slot, None, None
        collected, self._collected = self._collected, None
        if slot is not None:
            self._arrive(slot)
        elif collected is not None:
            if self._claim is not None:
                self._claim.shrink(len(collected))
            self._arrive(bytes(collected))

    def _arrive(self, message: Payload) -> None:
        lies_here = self._compressed or not self._method.single  # others are read at once
        if lies_here and not isinstance(message, Buffer) and not self._count(len(message)):
            return
        self._messages.append(Compressed(message) if self._compressed else message)
        self._unread += len(message) + _PREFIX.size
        if not self._method.single:
            self._wake()

    def _replenish(self) -> None:
        """Let the client send on: all of a message that has begun, and as much again as has been read."""
        window = self._host.http2.stream_window
        if self._missing > self.receive_window:
            # No window is larger than 2 GB: of a message above that the rest is allowed as it comes.
            more = min(self._missing + (window >> 1), frames.MAX_WINDOW) - self.receive_window
            if more >= window >> 1:
                self.connection.grant_window(self, more)
        elif self.receive_window < window >> 1 and not (self._method.single and self._messages):
            more = window - self._unread - self.receive_window
            if more >= window >> 1:
                self.connection.grant_window(self, more)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _drop_incoming(self) -> None:
        """What has come, or is still coming, is of no use any more."""
        self._deaf = True
        slot, self._slot, self._missing = self._slot, None, 0
        self._whole = self._collected = self._claim = None
        self._prefix = b""
        if slot is not None:
            self.connection.detach_buffer(self)
        for message in (slot, *self._messages):
            if isinstance(message, Buffer):
                message.release()
        self._messages.clear()

    def _fail(self, status: Status, text: str) -> None:
        """The call is over before its method had an answer."""
        self.end(status, text)
        self.reset_received()

    # Answering

    def _fits(self, parts: Sequence[Part]) -> bool:
        most = self._host.max_message_bytes
        return not most or sum(map(len, parts)) <= most

    def _begin(self) -> None:
        """Let the head of the answer go before what is queued next."""
        if not self._begun:
            self._begun = True
            self.queue_head(self._begin_frame())

    def _begin_fields(self) -> list[Field]:
        given = self._head.request_id
        return [*_BEGIN, (b"x-request-id", given)] if given else _BEGIN

    def _begin_frame(self) -> bytes:
        block = encode(self._begin_fields()) if self._head.request_id else _BEGIN_BLOCK
        return frames.HEAD.pack(len(block) << 8 | frames.HEADERS, frames.END_HEADERS, self.id) + block

    def _respond_joined(self, parts: Sequence[Part], size: int) -> None:
        number = self.id
        if self._head.request_id:
            content = frames.HEAD.pack(size + 5 << 8, 0, number) + _PREFIX.pack(0, size)
            head = self._begin_frame() + content
        else:
            head = _ANSWER.pack(
                _BEGIN_HEAD, frames.END_HEADERS, number, _BEGIN_BLOCK,
                size + 5 << 8, 0, number, 0, size,
            )  # fmt: skip
        self.sender.send_end(self, size + 5, b"".join((head, *parts, self._ok())))

    def _ok(self) -> bytes:
        return frames.HEAD.pack(_OK_HEAD, _LAST, self.id) + _OK_BLOCK

    def _packed(self, parts: Sequence[Part], size: int) -> list[Part]:
        """The message with its prefix, in few pieces: small ones are joined."""
        packed: list[Part] = []
        small: list[Part] = [_PREFIX.pack(0, size)]
        for part in parts:
            if len(part) <= JOINED:
                small.append(part)
            else:
                packed += (b"".join(small), part)
                small = []
        return [*packed, b"".join(small)]


def _no_memory(error: MemoryError, what: str) -> Refused:
    text = error.message if isinstance(error, BodyMemoryFull) else f"there is no memory for {what}"
    return Refused(Status.RESOURCE_EXHAUSTED, text)


def percent_encoded(text: str) -> bytes:
    """A text as a header carries it.

    >>> percent_encoded("50 % of Ü")
    b'50 %25 of %C3%9C'
    """
    return _UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], text.encode("utf-8", "replace"))


def unpacked(value: bytes) -> bytes | None:
    """The bytes of a binary header, padded or not; None where it is none."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except ValueError:
        return None
