"""The messages of a gRPC request, out of the content of its stream: each has a prefix of five bytes with its length."""

import asyncio
from collections import deque
from collections.abc import Callable

from mooring.core.buffers import LARGE, Allocator, Buffer, Payload
from mooring.core.errors import BodyMemoryFull
from mooring.core.memory import Claim
from mooring.web.grpc.context import GrpcContext
from mooring.web.grpc.responses import MESSAGE_PREFIX
from mooring.web.grpc.status import MalformedMessages, Status, StatusError
from mooring.web.http2 import frames
from mooring.web.listener import Limits
from mooring.web.pace import Pace

# A compressed message up to here is inflated at once, a larger one in a thread: it may become a thousand times as much.
_INFLATE_AT_ONCE = 4096
# A large message ends at a multiple of this address, so that its last tensor is as well aligned as its size allows.
_ALIGNMENT = 64
_PREFIX_SIZE = MESSAGE_PREFIX.size


class CompressedMessage(bytes):
    """A message as it came, to be inflated before anybody reads it."""


class IncomingMessage:
    """A message of which only a part has come.

    A large one lies in the allocator's memory, where ``receive_buffer`` is what is still to be written; a small or compressed one
    is collected. ``memory`` is all of that memory, whose end is ``buffer``: bytes that are ``received`` are counted there.
    ``missing`` is how many bytes are still to come.
    """

    __slots__ = ("_collected", "_pace", "buffer", "compressed", "memory", "missing", "received")

    def __init__(self, size: int, allocator: Allocator, *, compressed: bool) -> None:
        """Raises ``MemoryError``, ``BodyMemoryFull`` among them."""
        self.compressed = compressed
        self.missing, self.received = size, 0
        self._pace: Pace | None = None
        self._collected = bytearray()
        self.memory: Buffer | None = None
        self.buffer: Buffer | None = None
        if size > LARGE and not compressed:
            self.memory, self.buffer = allocate_aligned(allocator.expect, size)

    @property
    def receive_buffer(self) -> memoryview | None:
        """The memory for the bytes that are missing; None where they are collected."""
        return self.buffer.view[self.received :] if self.buffer is not None else None

    def add(self, data: bytes, start: int, end: int) -> None:
        """Take ``data[start:end]``, no more than is missing."""
        size = end - start
        if self.buffer is not None:
            self.buffer.view[self.received : self.received + size] = memoryview(data)[start:end]
        else:
            self._collected += data[start:end]
        self.received += size
        self.missing -= size

    def complete(self) -> Payload:
        """The message; a buffer is the caller's to release."""
        return self.buffer if self.buffer is not None else bytes(self._collected)

    def pace_error(self, now: float, limits: Limits) -> str:
        """Return what is wrong with the pace at which it comes; empty where nothing is."""
        if self._pace is None:
            self._pace = Pace(now, self.received)
        return self._pace.fault(now, self.received, limits)


class MessageReader:
    """Cuts the content of one call into messages, which lie in ``messages`` until they are taken.

    How this works. A small message that comes whole, as nearly all do, is copied out of the received bytes and that is
    all. Of any other the rest becomes an ``IncomingMessage``. What lies here is counted as the bodies of all requests
    are: large messages by the allocator, others by a claim, unless a ``unary`` method reads the one message at once.
    ``unread`` is the content of unread messages, prefixes and all; the window is opened by as much as was read.
    """

    __slots__ = (
        "_claim",
        "_context",
        "_encoding",
        "_prefix",
        "_unary",
        "discarding",
        "incoming",
        "messages",
        "unread",
    )

    def __init__(self, context: GrpcContext, encoding: str, *, unary: bool) -> None:
        self._context = context
        self._encoding = encoding
        self._unary = unary
        self.messages: deque[Payload] = deque()
        self.unread = 0
        self.discarding = False
        self._prefix = b""  # a part of one
        self.incoming: IncomingMessage | None = None
        self._claim: Claim | None = None

    @property
    def incomplete(self) -> bool:
        """Whether a part of a message is there, and the rest is not."""
        return self.incoming is not None or bool(self._prefix)

    @property
    def receive_buffer(self) -> memoryview | None:
        """Where the next bytes may be written; None where ``feed`` should get them."""
        return self.incoming.receive_buffer if self.incoming is not None else None

    def feed(self, data: bytes, start: int, end: int) -> None:
        """Take ``data[start:end]``, the next bytes of content. Raises ``StatusError``."""
        while start < end and not self.discarding:
            if self.incoming is not None:
                start = self._continue(self.incoming, data, start, end)
                continue
            if self._prefix or end - start < _PREFIX_SIZE:
                stop = min(start + _PREFIX_SIZE - len(self._prefix), end)
                self._prefix += data[start:stop]
                start = stop
                if len(self._prefix) < _PREFIX_SIZE:
                    break
                compressed, size = MESSAGE_PREFIX.unpack(self._prefix)
                self._prefix = b""
            else:
                compressed, size = MESSAGE_PREFIX.unpack_from(data, start)
                start += _PREFIX_SIZE
            self._check_prefix(compressed, size)
            if size <= end - start and size <= LARGE:
                self._add(data[start : start + size], compressed=compressed)
                start += size
            else:
                self._expect(size, compressed=bool(compressed))

    def buffer_filled(self, size: int) -> None:
        """Note that ``size`` bytes were written to ``receive_buffer``. Raises ``StatusError``."""
        assert self.incoming is not None
        incoming = self.incoming
        self._count(size)
        incoming.received += size
        incoming.missing -= size
        if not incoming.missing:
            self._complete(incoming)

    def take(self) -> Payload:
        """Take the next message; the caller's to release. There must be one."""
        message = self.messages.popleft()
        self.unread -= len(message) + _PREFIX_SIZE
        if self._claim is not None and not isinstance(message, Buffer):
            self._claim.shrink(len(message))
        return message

    def discard(self) -> None:
        """Give up what has come, and look at nothing that follows."""
        self.discarding = True
        incoming, self.incoming = self.incoming, None
        self._claim = None
        self._prefix = b""
        for message in (None if incoming is None else incoming.buffer, *self.messages):
            if isinstance(message, Buffer):
                message.release()
        self.messages.clear()

    def window_increment(self, receive_window: int) -> int:
        """Bytes that the client should be allowed beyond ``receive_window``; 0 for none yet.

        All of a message that has begun, and as much again as has been read.
        """
        window = self._context.http2.stream_window
        if self.incoming is not None and self.incoming.missing > receive_window:
            # No window is larger than 2 GB: of a message above that the rest is allowed as it comes.
            more = min(self.incoming.missing + (window >> 1), frames.MAX_WINDOW) - receive_window
        elif receive_window < window >> 1 and not (self._unary and self.messages) and not self.discarding:
            more = window - self.unread - receive_window
        else:
            return 0
        return more if more >= window >> 1 else 0

    async def inflate(self, message: CompressedMessage) -> Payload:
        """Decompress a message. Raises ``StatusError``."""
        inflate, allocator = self._context.inflate, self._context.allocator
        claim = allocator.claim()
        try:
            if len(message) <= _INFLATE_AT_ONCE:
                data = inflate(message, self._encoding, claim.grow)
            else:
                data = await asyncio.to_thread(inflate, message, self._encoding, claim.grow)
            if len(data) <= LARGE:
                return data
            _, payload = allocate_aligned(allocator.allocate, len(data))
            payload.view[:] = data
        except MemoryError as error:
            raise _no_memory(error, "the message that this one is inflated to") from None
        finally:
            claim.release()
        return payload

    async def inflate_first(self) -> None:
        """Put the inflated message in the place of the only one. Raises ``StatusError``."""
        message = self.messages[0]
        assert isinstance(message, CompressedMessage)
        self.messages[0] = await self.inflate(message)
        self._claim = None

    def _check_prefix(self, compressed: int, size: int) -> None:
        """Raise ``MalformedMessages`` for a message that may not come."""
        limit = self._context.max_request_bytes
        if limit and size > limit:
            raise MalformedMessages(
                Status.RESOURCE_EXHAUSTED,
                f"the message has {size} bytes, and {limit} are allowed ({self._context.max_request_key})",
            )
        if compressed > 1 or (compressed and self._encoding == "identity"):
            raise MalformedMessages(
                Status.INTERNAL, "a message says that it is compressed, and the call does not say how"
            )
        if self._unary and self.messages:
            raise MalformedMessages(
                Status.INVALID_ARGUMENT, "the method takes one message, and a second came"
            )

    def _expect(self, size: int, *, compressed: bool) -> None:
        """Make room for a message that is large, or comes in pieces."""
        try:
            self.incoming = IncomingMessage(size, self._context.allocator, compressed=compressed)
        except MemoryError as error:
            raise _no_memory(error, f"a message of {size} bytes") from None

    def _continue(self, incoming: IncomingMessage, data: bytes, start: int, end: int) -> int:
        """Take bytes of a message that has begun; where the next one begins."""
        stop = min(start + incoming.missing, end)
        self._count(stop - start)
        incoming.add(data, start, stop)
        if not incoming.missing:
            self._complete(incoming)
        return stop

    def _complete(self, incoming: IncomingMessage) -> None:
        self.incoming = None
        message = incoming.complete()
        if self._claim is not None and not isinstance(message, Buffer):
            self._claim.shrink(len(message))
        self._add(message, compressed=incoming.compressed)

    def _add(self, message: Payload, *, compressed: int) -> None:
        stays = compressed or not self._unary  # others are read at once
        if stays and not isinstance(message, Buffer):
            self._count(len(message))
        self.messages.append(CompressedMessage(message) if compressed else message)
        self.unread += len(message) + _PREFIX_SIZE

    def _count(self, size: int) -> None:
        """Count bytes that have come as those of all bodies are. Raises ``StatusError`` where there is no room."""
        try:
            incoming = self.incoming
            if incoming is not None and incoming.memory is not None:
                incoming.memory.received(size)
            else:
                if self._claim is None:
                    self._claim = self._context.allocator.claim()
                self._claim.grow(size)
        except BodyMemoryFull as error:
            raise StatusError(Status.RESOURCE_EXHAUSTED, error.message) from None


def allocate_aligned(allocate: Callable[[int], Buffer], size: int) -> tuple[Buffer, Buffer]:
    """Allocate memory whose end is aligned; all of it, and its last ``size`` bytes, which are to be released."""
    before = -size % _ALIGNMENT
    whole = allocate(before + size)
    return whole, whole.tail(before)


def _no_memory(error: MemoryError, what: str) -> StatusError:
    text = error.message if isinstance(error, BodyMemoryFull) else f"there is no memory for {what}"
    return StatusError(Status.RESOURCE_EXHAUSTED, text)
