"""gRPC as a transport: services of methods that take and give bytes, on the event loop of the process.

No message is known here. A method that raises becomes a status; what is not an error of ours is a fault of ours.
"""

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from mooring.codecs.compression import inflate
from mooring.core.buffers import Allocator, HeapAllocator
from mooring.core.errors import BodyMemoryFull, InputTooLarge, MooringError
from mooring.core.timing import RequestTiming
from mooring.observability.call_log import CallLog
from mooring.observability.traffic import Traffic
from mooring.protocols.access import Check, Gate
from mooring.protocols.dialect import V2, Dialect
from mooring.protocols.grpc_errors import end_with_error, status_error
from mooring.protocols.status import grpc_gate
from mooring.tokens import Access
from mooring.web.grpc import headers
from mooring.web.grpc.calls import Call, Method, StreamingCall, UnaryCall
from mooring.web.grpc.headers import CallHead
from mooring.web.grpc.memory_call import MemoryCall
from mooring.web.grpc.observed_calls import ObservedStreamingCall, ObservedUnaryCall
from mooring.web.grpc.rpc import Rpc, StreamingRpc, UnaryRpc
from mooring.web.grpc.status import Status, StatusError
from mooring.web.grpc.timed_calls import (
    ObservedTimedStreamingCall,
    ObservedTimedUnaryCall,
    TimedStreamingCall,
    TimedUnaryCall,
)
from mooring.web.http1 import Limits
from mooring.web.http2.connection import Http2Connection
from mooring.web.http2.context import Http2Limits
from mooring.web.http2.hpack import Field
from mooring.web.http2.streams import StreamConnection
from mooring.web.server import Listener

UnaryHandler = Callable[[UnaryRpc], Coroutine[None, None, None] | None]
"""Answers a call through it, at once or later; a coroutine is run as a task, which is cancelled with the call."""

StreamingHandler = Callable[[StreamingRpc], Coroutine[None, None, None]]
"""Reads messages and writes answers; the call ends with OK when it returns."""

# Bytes that a compressed message may become where messages have no limit.
_MAX_INFLATED = 1 << 26


class UnaryMethod(NamedTuple):
    """A method with one message and one answer, and what a client needs for it, which may depend on the message."""

    access: Access | Callable[[bytes], Access]
    handler: UnaryHandler


class StreamingMethod(NamedTuple):
    """A method with any number of messages either way, and what a client needs for it."""

    access: Access
    handler: StreamingHandler


class Service(msgspec.Struct, frozen=True):
    """The methods of one service, by name. ``on_stop`` is called when the server begins to stop: streams should end."""

    name: str
    unary: Mapping[str, UnaryMethod] = {}
    streaming: Mapping[str, StreamingMethod] = {}
    on_stop: Callable[[], None] = lambda: None
    dialect: Dialect = V2


class ConnectionAge(msgspec.Struct, frozen=True):
    """Seconds after which a connection takes no new calls, and seconds that its calls get then; 0 is no limit."""

    max_age: float = 0.0
    grace: float = 0.0

    def limits(self) -> Http2Limits:
        """The limits of the connections."""
        return Http2Limits(max_age=self.max_age or float("inf"), max_age_grace=self.grace or float("inf"))


class GrpcServer(Listener):
    """One address. ``max_message_bytes`` 0 is no limit, as clients of Triton expect; a limit holds both ways, and
    ``max_request_bytes`` for what comes.

    Methods are put behind the ``gate`` here. Large messages are received into the allocator's memory. With ``times_all`` every
    call of a model says where the time went, else those whose clients ask for that.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        gate: Gate | None = None,
        allocator: Allocator | None = None,
        max_message_bytes: int = 0,
        max_request_bytes: int = 0,
        limits: Limits | None = None,
        age: ConnectionAge | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        reuse_port: bool = False,
        calls: CallLog | None = None,
        times_all: bool = False,
        traffic: Traffic | None = None,
    ) -> None:
        super().__init__(limits or Limits(), tls=tls, reuse_port=reuse_port, traffic=traffic)
        self._calls = calls
        self._new_unary: type[UnaryCall] = UnaryCall if calls is None else ObservedUnaryCall
        self._new_streaming: type[StreamingCall] = StreamingCall if calls is None else ObservedStreamingCall
        self._new_timed_unary = TimedUnaryCall if calls is None else ObservedTimedUnaryCall
        self._new_timed_streaming = TimedStreamingCall if calls is None else ObservedTimedStreamingCall
        if times_all:
            self._new_unary, self._new_streaming = self._new_timed_unary, self._new_timed_streaming
        self.allocator: Allocator = allocator or HeapAllocator()
        self.max_message_bytes = max_message_bytes
        self.max_request_bytes, self.max_request_key = max_message_bytes, "grpc_max_message_size"
        if max_request_bytes and not 0 < max_message_bytes <= max_request_bytes:
            self.max_request_bytes, self.max_request_key = max_request_bytes, "grpc_max_request_size"
        self.http2 = (age or ConnectionAge()).limits()
        self._services = services
        self._tasks: set[asyncio.Task[None]] = set()
        gate = gate or Gate()
        self._unary: Mapping[bytes, Method[UnaryRpc]] = {
            f"/{service.name}/{name}".encode(): self._mount_unary(gate, service, name, method)
            for service in services
            for name, method in service.unary.items()
        }
        self._streaming: Mapping[bytes, Method[StreamingRpc]] = {
            f"/{service.name}/{name}".encode(): self._mount_streaming(gate, service, name, method)
            for service in services
            for name, method in service.streaming.items()
        }

    def new_connection(self) -> Http2Connection:
        return Http2Connection(self)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 — as in the listener
        """Take nothing new, answer what was accepted; give up after ``timeout`` seconds."""
        for service in self._services:
            service.on_stop()
        await super().drain(timeout)

    async def close(self) -> None:
        """End what still runs."""
        await super().close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def unary_methods(self) -> Iterator[tuple[str, str, Access]]:
        """Service, name and access of every unary method; open where the access depends on the message."""
        for service in self._services:
            for name, (access, _) in service.unary.items():
                yield service.name, name, access if isinstance(access, Access) else Access.OPEN

    def run_call(
        self,
        path: str,
        metadata: Sequence[Field],
        message: bytes,
        deadline: float | None,
        receive: Callable[[bytes], None],
        end_received: Callable[[Status, str], None],
        timing: RequestTiming | None = None,
    ) -> MemoryCall:
        """Answer a call with one message that came to another process; all is checked as if it had come here.

        ``receive`` gets each message of the answer, then ``end_received`` the status.
        """
        own: list[Field] = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode())]
        head = headers.parse_head([*own, *metadata])
        call = MemoryCall(head, message, deadline, receive, end_received, timing)
        try:
            if (streaming := self._streaming.get(head.path)) is not None:
                if streaming.admit is not None:
                    streaming.admit(call)
                streaming.start(call)
            else:
                unary = self._unary.get(head.path, _UNKNOWN)
                if unary.admit is not None:
                    unary.admit(call)
                unary.start(call)
        except StatusError as error:
            call.end(error.status, str(error))
        return call

    # For connections

    @property
    def calls(self) -> CallLog:
        """The log of calls; there is one where calls are observed."""
        assert self._calls is not None
        return self._calls

    def parse_head(self, fields: list[Field]) -> CallHead:
        return headers.parse_head(fields)

    def trailers_error(self, head: CallHead) -> str:
        return "" if headers.is_trailers(head) else "no trailers"

    def start_stream(self, connection: StreamConnection, number: int, head: CallHead) -> Call | None:
        if head.malformed:
            return None
        call: Call
        unary = self._unary.get(head.path)
        if unary is not None:
            new = self._new_timed_unary if head.timed else self._new_unary
            call = new(self, connection, number, head, unary)
        elif (streaming := self._streaming.get(head.path)) is not None:
            new_stream = self._new_timed_streaming if head.timed else self._new_streaming
            call = new_stream(self, connection, number, head, streaming)
        else:
            call = self._new_unary(self, connection, number, head, _UNKNOWN)
        call.begin()
        return call

    def inflate(self, data: bytes, encoding: str, count: Callable[[int], None]) -> bytes:
        try:
            return inflate(data, encoding, self.max_request_bytes or _MAX_INFLATED, count)
        except BodyMemoryFull:  # the call words it
            raise
        except InputTooLarge as error:
            raise StatusError(Status.RESOURCE_EXHAUSTED, error.message) from None
        except MooringError as error:
            raise StatusError(Status.INVALID_ARGUMENT, error.message) from None

    # Methods

    def _mount_unary(self, gate: Gate, service: Service, name: str, method: UnaryMethod) -> Method[UnaryRpc]:
        admit, handler = _guard_method(gate, service.name, method)

        def start(call: UnaryRpc) -> None:
            try:
                work = handler(call)
            except Exception as error:  # the protocol edge
                end_with_error(call, service.name, name, error, service.dialect)
                return
            if work is not None:
                self._run_task(call, service, name, work)

        return Method(start, admit)

    def _mount_streaming(
        self, gate: Gate, service: Service, name: str, method: StreamingMethod
    ) -> Method[StreamingRpc]:
        async def run(call: StreamingRpc) -> None:
            await method.handler(call)
            call.end(Status.OK)

        def start(call: StreamingRpc) -> None:
            self._run_task(call, service, name, run(call))

        return Method(start, _admission_check(gate.check(method.access), service.name))

    def _run_task(self, call: Rpc, service: Service, name: str, work: Coroutine[None, None, None]) -> None:
        """Run a method as a task of its own."""

        async def run() -> None:
            try:
                await work
            except Exception as error:  # the protocol edge
                end_with_error(call, service.name, name, error, service.dialect)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A call that ends at once is over before its work has begun.
        task.add_done_callback(lambda _: work.close())
        call.on_cancelled = task.cancel


def _refuse_unknown(call: Rpc) -> None:
    raise StatusError(Status.UNIMPLEMENTED, f"method '{call.path}' is not offered here")


_UNKNOWN: Method[UnaryRpc] = Method(_refuse_unknown, admit=_refuse_unknown)


def _guard_method(
    gate: Gate, service: str, method: UnaryMethod
) -> tuple[Callable[[Rpc], None] | None, UnaryHandler]:
    """What is asked before a message is received, and the handler: itself where nothing depends on the message."""
    access, handler = method
    if isinstance(access, Access):
        return _admission_check(gate.check(access), service), handler
    checks = {each: gate.check(each) for each in Access}
    if not any(checks.values()):
        return None, handler

    def check_first(call: UnaryRpc) -> Coroutine[None, None, None] | None:
        check = checks[access(call.message)]
        if check is not None:
            _check_token(check, service, call)
        return handler(call)

    return None, check_first


def _admission_check(check: Check | None, service: str) -> Callable[[Rpc], None] | None:
    return None if check is None else (lambda call: _check_token(check, service, call))


def _check_token(check: Check, service: str, call: Rpc) -> None:
    refusal = check(call.header(b"authorization"))
    if refusal is not None:
        raise status_error(*grpc_gate(refusal, service))
