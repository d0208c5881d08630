"""gRPC calls: an HTTP/2 stream with messages, a deadline, metadata and a status. What is called is not known here.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from mooring.core.buffers import Payload
from mooring.core.timing import RequestTiming
from mooring.web.grpc import responses
from mooring.web.grpc.context import GrpcContext
from mooring.web.grpc.headers import CallHead
from mooring.web.grpc.messages import CompressedMessage, MessageReader
from mooring.web.grpc.responses import JOIN_LIMIT, MESSAGE_PREFIX
from mooring.web.grpc.rpc import Rpc, StreamingRpc, UnaryRpc
from mooring.web.grpc.status import MalformedMessages, Status, StatusError
from mooring.web.http2 import frames
from mooring.web.http2.errors import ErrorCode
from mooring.web.http2.hpack import Field, encode
from mooring.web.http2.streams import Part, Stream, StreamConnection


class Call(Stream):
    """One call, of a method that is unary or streaming.

    ``deadline`` is on the monotonic clock. ``on_cancelled`` is called once if nobody waits for the answer any more: the
    client is gone, or the deadline is over; whatever is answered after that is dropped. All of it happens on the loop's
    thread.

    How this works. ``begin`` refuses a call for what its head says. Content goes to the ``MessageReader``, whose errors
    end the call. ``end`` sends a status after everything that was written; a call that ends before the client has sent
    everything drops the rest.
    """

    __slots__ = ("_admit", "_context", "_head", "_head_sent", "_reader", "deadline", "on_cancelled")

    def __init__(
        self,
        context: GrpcContext,
        connection: StreamConnection,
        number: int,
        head: CallHead,
        admit: Callable[[Rpc], None] | None,
        *,
        unary: bool,
    ) -> None:
        super().__init__(connection, number, context.now)
        self._context = context
        self._admit = admit
        self._head = head
        self._head_sent = False
        self._reader = MessageReader(context, head.encoding, unary=unary)
        self.deadline = None if head.timeout is None else time.monotonic() + head.timeout
        self.on_cancelled: Callable[[], object] | None = None

    # For the methods

    # Of a call whose client asks where the time goes; not in the slots, so that no other call has anything to set.
    timing: RequestTiming | None = None

    @property
    def metadata(self) -> Sequence[Field]:
        """Every header but HTTP's own, as sent; names in lower case."""
        return self._head.metadata

    @property
    def custom_metadata(self) -> tuple[Field, ...]:
        """The metadata that is the caller's own, for the model."""
        return self._head.custom_metadata

    @property
    def request_id(self) -> str:
        """The caller's own id of this request, from its header x-request-id; empty without one. The answer repeats it."""
        return self._head.request_id.decode()

    @property
    def path(self) -> str:
        """The method's name: ``/package.Service/Method``."""
        return self._head.path.decode("latin-1")

    @property
    def peer(self) -> str:
        """The client's address with its port; empty on a unix socket."""
        return self.connection.peer

    def header(self, name: bytes) -> bytes | None:
        """The last value of a name, in lower case; of one that ends in ``-bin`` the bytes that it stands for."""
        return self._head.header(name)

    def end(self, status: Status, text: str = "", *, retry_after: int = 0) -> None:
        """End the call, after everything that was written. A second end does nothing."""
        if not self.state.server_sends or self.end_queued:
            return
        self._drop_request()
        fields = responses.status_fields(status, text, retry_after)
        self._end_with(fields if self._head_sent else self._head_fields() + fields)

    # For the connection

    def begin(self) -> None:
        """End a call that its head, or ``Method.admit``, refuses before its messages come; start one that needs none."""
        head = self._head
        if head.http_status:
            self._end_with([(b":status", head.http_status), (b"content-length", b"0")])
        elif head.error is not None:
            fields = [*responses.status_fields(*head.error), responses.ACCEPTED_ENCODINGS]
            self._end_with(self._head_fields() + fields)
        elif self._admit is not None:
            try:
                self._admit(self)
            except StatusError as error:
                self.end(error.status, str(error))

    def receive_content(self, data: bytes, start: int, end: int) -> None:
        try:
            self._reader.feed(data, start, end)
        except StatusError as error:
            self._fail_reading(error)
        else:
            self._content_received()

    @property
    def receive_buffer(self) -> memoryview | None:
        return self._reader.receive_buffer

    def buffer_filled(self, size: int) -> None:
        try:
            self._reader.buffer_filled(size)
        except StatusError as error:
            self._fail_reading(error)
        else:
            self._content_received()

    def reset_received(self) -> None:
        self._drop_request()
        cancelled, self.on_cancelled = self.on_cancelled, None
        self._cancel_waiters()
        if cancelled is not None:
            cancelled()

    def check_timeouts(self, now: float) -> None:
        if self.deadline is not None and now > self.deadline:
            if self.end_queued:  # the answer is there, and the client did not take it in time
                self.connection.reset(self, ErrorCode.CANCEL)
            else:
                self._fail(Status.DEADLINE_EXCEEDED, "the deadline is over")
        elif self._awaits_content():
            if now - self.last_progress > self._context.limits.body_timeout:
                self._fail(Status.DEADLINE_EXCEEDED, "the request took too long to come")
            elif self._reader.incoming is not None and (
                text := self._reader.incoming.pace_error(now, self._context.limits)
            ):
                self._fail(Status.DEADLINE_EXCEEDED, text)
        elif self._answer_stalled(now):
            self.connection.reset(self, ErrorCode.CANCEL)

    # For the kinds of calls

    def _content_received(self) -> None:
        """Let the client send on, after some content."""
        if increment := self._reader.window_increment(self.receive_window):
            self.connection.grant_window(self, increment)

    def _cancel_waiters(self) -> None:
        """Cancel what waits for this call."""

    def _awaits_content(self) -> bool:
        """Whether the client must send more soon."""
        return self._reader.incoming is not None

    def _answer_stalled(self, now: float) -> bool:
        """Whether the client has not taken its answer for too long."""
        return False

    def _too_large(self) -> StatusError:
        limit = self._context.max_message_bytes
        return StatusError(Status.RESOURCE_EXHAUSTED, f"the answer is larger than {limit} bytes")

    def _drop_request(self) -> None:
        """Drop what has come, and what is still coming."""
        if self._reader.receive_buffer is not None:
            self.connection.detach_buffer(self)
        self._reader.discard()

    def _fail(self, status: Status, text: str) -> None:
        """End a call before its method has an answer, and give up what the method does."""
        self.end(status, text)
        self.reset_received()

    def _fail_reading(self, error: StatusError) -> None:
        self._fail(error.status, str(error))
        if isinstance(error, MalformedMessages):
            self.connection.charge_reset()

    def _queue_head_once(self) -> None:
        """Let the head of the answer go before what is queued next."""
        if not self._head_sent:
            self._head_sent = True
            self.queue_head(responses.pack_head(self.id, self._head.request_id))

    def _head_fields(self) -> list[Field]:
        return responses.head_fields(self._head.request_id)

    def _end_with(self, fields: list[Field]) -> None:
        trailers = frames.pack_headers(self.id, encode(fields), self.sender.max_frame_size, end_stream=True)
        if self.has_queued:
            self.queue_content((), None, trailers)
            self.sender.send_queued(self)
        else:
            self.sender.send_end(self, 0, trailers)


CallT = TypeVar("CallT", bound=Rpc)


class Method(msgspec.Struct, Generic[CallT], frozen=True):
    """What is called by one path: ``start`` begins it, with a message to take where it is unary.

    ``admit`` gets the call before any message comes, and may raise ``StatusError``.
    """

    start: Callable[[CallT], None]
    admit: Callable[[Rpc], None] | None = None


class UnaryCall(Call):
    """A call with one message and one answer. Its method is started when the message is there."""

    __slots__ = ("_inflating", "_method")

    def __init__(
        self,
        context: GrpcContext,
        connection: StreamConnection,
        number: int,
        head: CallHead,
        method: Method[UnaryRpc],
    ) -> None:
        super().__init__(context, connection, number, head, method.admit, unary=True)
        self._method = method
        self._inflating: asyncio.Future[None] | None = None

    @property
    def message(self) -> bytes:
        """The message, left where it is."""
        return bytes(self._reader.messages[0])

    def take_message(self) -> Payload:
        """Take the message; the caller's to release."""
        return self._reader.take()

    def respond(self, parts: Sequence[Part], released: Callable[[], None] | None = None) -> None:
        """Send the answer, and end the call. ``released`` is called when nobody reads the parts any more."""
        size = sum(map(len, parts))
        if 0 < self._context.max_message_bytes < size:
            error = self._too_large()
            self.end(error.status, str(error))
        elif self.state.server_sends:
            if self._reader.messages:
                self._drop_request()
            if size <= JOIN_LIMIT and self.sender.can_send(self, size + MESSAGE_PREFIX.size):
                answer = responses.pack_answer(self.id, parts, size, self._head.request_id)
                self.sender.send_end(self, size + MESSAGE_PREFIX.size, answer)
            else:
                self._respond_in_frames(parts, size, released, responses.pack_ok(self.id))
                return
        if released is not None:
            released()

    def _respond_in_frames(
        self, parts: Sequence[Part], size: int, released: Callable[[], None] | None, trailers: bytes
    ) -> None:
        if self._reader.messages:
            self._drop_request()
        self._queue_head_once()
        self.queue_content(responses.prefix_message(parts, size), released, trailers)
        self.sender.send_queued(self)

    def request_complete(self) -> None:
        reader = self._reader
        if reader.discarding:
            return
        if reader.incomplete:
            self._fail(Status.INVALID_ARGUMENT, "the request ends inside a message")
        elif not reader.messages:
            self._fail(Status.INVALID_ARGUMENT, "the request has no message")
        elif isinstance(reader.messages[0], CompressedMessage):
            self._inflating = asyncio.ensure_future(self._start_inflated())
        else:
            self._method.start(self)

    async def _start_inflated(self) -> None:
        try:
            await self._reader.inflate_first()
        except StatusError as error:
            self._fail(error.status, str(error))
        else:
            self._method.start(self)

    def _awaits_content(self) -> bool:
        return self.state.client_sends or self._reader.incoming is not None

    def _answer_stalled(self, now: float) -> bool:
        return self.has_queued and now - self.last_progress > self._context.limits.write_timeout

    def _cancel_waiters(self) -> None:
        if self._inflating is not None:
            self._inflating.cancel()


class StreamingCall(Call):
    """A call with any number of messages either way. Its method is started at once, and ends the call by ``end``."""

    __slots__ = ("_message_waiter", "_method", "_window_waiter")

    def __init__(
        self,
        context: GrpcContext,
        connection: StreamConnection,
        number: int,
        head: CallHead,
        method: Method[StreamingRpc],
    ) -> None:
        super().__init__(context, connection, number, head, method.admit, unary=False)
        self._method = method
        self._message_waiter: asyncio.Future[None] | None = None
        self._window_waiter: asyncio.Future[None] | None = None

    def begin(self) -> None:
        super().begin()
        if self.state.server_sends:
            self._method.start(self)

    async def read_message(self) -> Payload | None:
        """Wait for the next message and take it, the caller's to release; None after the client's last.

        Raises ``StatusError`` for one that cannot be inflated.
        """
        reader = self._reader
        while not reader.messages:
            if not self.state.client_sends or not self.state.server_sends:
                return None
            self._message_waiter = asyncio.get_running_loop().create_future()
            try:
                await self._message_waiter
            finally:
                self._message_waiter = None
        message = reader.take()
        self._content_received()
        return await reader.inflate(message) if isinstance(message, CompressedMessage) else message

    async def write_message(self, message: bytes) -> None:
        """Send one message of several, and wait until there is room for another. Raises ``StatusError`` if too large."""
        if 0 < self._context.max_message_bytes < len(message):
            raise self._too_large()
        if not self.state.server_sends:
            return
        self._queue_head_once()
        self.queue_content(responses.prefix_message([message], len(message)), None)
        self.sender.send_queued(self)
        if self.has_queued and self.state.server_sends:
            self._window_waiter = asyncio.get_running_loop().create_future()
            try:
                await self._window_waiter
            finally:
                self._window_waiter = None

    def request_complete(self) -> None:
        if self._reader.discarding:
            return
        if self._reader.incomplete:
            self._fail(Status.INVALID_ARGUMENT, "the request ends inside a message")
        else:
            _wake(self._message_waiter)

    def queue_drained(self) -> None:
        _wake(self._window_waiter)

    def _content_received(self) -> None:
        if self._reader.messages:
            _wake(self._message_waiter)
        super()._content_received()

    def _cancel_waiters(self) -> None:
        for waiter in (self._message_waiter, self._window_waiter):
            if waiter is not None:
                waiter.cancel()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
