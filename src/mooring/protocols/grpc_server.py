"""gRPC as a transport: services of methods that take and give bytes, on the event loop of the process.

Nothing here knows a message. A method that raises becomes a status; what is not an error of ours is a fault of ours.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import NamedTuple

import msgspec

from mooring.codecs.compression import inflate
from mooring.core.buffers import Allocator, HeapAllocator, Payload
from mooring.core.errors import BodyMemoryFull, InputTooLarge, MooringError, OutOfResources
from mooring.observability.logs import get_logger
from mooring.protocols.access import Check, Gate
from mooring.protocols.dialect import V2, Dialect
from mooring.protocols.status import Asked, grpc_gate, grpc_v2
from mooring.tokens import Access
from mooring.web.certificates import Certificates
from mooring.web.grpc import call as grpc
from mooring.web.grpc.call import Call, Head, Refused, Status
from mooring.web.http1 import Limits
from mooring.web.http2.connection import Http2Connection
from mooring.web.http2.context import Http2Limits
from mooring.web.http2.hpack import Field
from mooring.web.http2.streams import StreamConnection
from mooring.web.server import Listener

log = get_logger(__name__)

Work = Callable[[Call], Coroutine[None, None, None] | None]
"""Answers a call through itself, at once or later; a coroutine is run as a task, which ends with the client's interest."""


class Method(NamedTuple):
    """A method and what a client needs for it, which may depend on what the message asks."""

    access: Access | Callable[[bytes], Access]
    call: Work


# The text of a status travels percent-encoded in a header, and clients take 8 KB of headers by default.
_LONGEST_TEXT = 4096


# What a compressed message may become where messages have no limit: it is no more than that on its way.
_LARGEST_INFLATED = 1 << 26


class Service(msgspec.Struct, frozen=True):
    """The methods of one service. ``leave`` is called when the server begins to stop: streams should come to an end.

    A ``unary`` method has its one message when it is called and gives one answer. A ``streaming`` one reads messages,
    writes answers, and is over when it returns.
    """

    name: str
    unary: Mapping[str, Method] = {}
    streaming: Mapping[str, Method] = {}
    leave: Callable[[], None] = lambda: None
    dialect: Dialect = V2


class Age(msgspec.Struct, frozen=True):
    """After how many seconds a connection is to be made anew, and how many its calls get then; 0 is no limit."""

    most: float = 0.0
    grace: float = 0.0

    def limits(self) -> Http2Limits:
        """As HTTP/2 takes them."""
        return Http2Limits(max_age=self.most or float("inf"), max_age_grace=self.grace or float("inf"))


class GrpcServer(Listener):
    """One address. ``max_message_bytes`` 0 is no limit, as clients of Triton expect; a limit holds both ways, and
    ``max_request_bytes`` for what comes.

    Methods are put behind the ``gate`` here. Large messages are received into the allocator's memory.
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
        age: Age | None = None,
    ) -> None:
        super().__init__(limits or Limits())
        self.allocator: Allocator = allocator or HeapAllocator()
        self.max_message_bytes = max_message_bytes
        self.max_request_bytes, self.max_request_key = max_message_bytes, "grpc_max_message_size"
        if max_request_bytes and not 0 < max_message_bytes <= max_request_bytes:
            self.max_request_bytes, self.max_request_key = max_request_bytes, "grpc_max_request_size"
        self.http2 = (age or Age()).limits()
        self._services = services
        self._tasks: set[asyncio.Task[None]] = set()
        gate = gate or Gate()
        self.methods: Mapping[bytes, grpc.Method] = {
            f"/{service.name}/{name}".encode(): self._mounted(gate, service, name, method, single=single)
            for service in services
            for methods, single in ((service.unary, True), (service.streaming, False))
            for name, method in methods.items()
        }

    def new_connection(self) -> Http2Connection:
        return Http2Connection(self)

    async def start(self, host: str, port: int, certificates: Certificates | None = None) -> None:
        """Listen; with port 0 on a free one, with ``certificates`` over TLS. Raises ``OSError``."""
        if certificates is not None:
            self.secure, self._tls = True, certificates.current_rpc
        await super().start(host, port)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 — as in the listener
        """Take nothing new, answer what was accepted; give up after ``timeout`` seconds."""
        for service in self._services:
            service.leave()
        await super().drain(timeout)

    async def close(self) -> None:
        """End whatever still runs."""
        await super().close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def parse_head(self, fields: list[Field]) -> Head:
        return grpc.read_head(fields)

    def trailers_error(self, head: Head) -> str:
        return "" if not head.path and all(name[:1] != b":" for name, _ in head.metadata) else "no trailers"

    def start_stream(self, connection: StreamConnection, number: int, head: Head) -> Call | None:
        if head.fault:
            return None
        method = self.methods.get(head.path, _UNKNOWN)
        call = Call(self, connection, number, head, method)
        call.begin()
        return call

    def inflate(self, data: bytes, encoding: str, count: Callable[[int], None]) -> bytes:
        try:
            return inflate(data, encoding, self.max_request_bytes or _LARGEST_INFLATED, count)
        except BodyMemoryFull:  # the call says it in its own words
            raise
        except InputTooLarge as error:
            raise Refused(Status.RESOURCE_EXHAUSTED, error.message) from None
        except MooringError as error:
            raise Refused(Status.INVALID_ARGUMENT, error.message) from None

    def _mounted(
        self, gate: Gate, service: Service, name: str, method: Method, *, single: bool
    ) -> grpc.Method:
        admit, work = _guarded(gate, service.name, method)

        def start(call: Call) -> None:
            try:
                working = work(call)
            except Exception as error:  # the protocol edge
                _fail(call, service, name, error)
                return
            if working is not None:
                self._run(call, service, name, working, single=single)

        return grpc.Method(start, single, admit)

    def _run(
        self, call: Call, service: Service, name: str, working: Coroutine[None, None, None], *, single: bool
    ) -> None:
        async def run() -> None:
            try:
                await working
            except Exception as error:  # the protocol edge
                _fail(call, service, name, error)
            else:
                if not single:
                    call.end(Status.OK)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A call that ends at once is over before its work has begun.
        task.add_done_callback(lambda _: working.close())
        call.on_cancelled = task.cancel


def _unknown(call: Call) -> None:
    raise Refused(Status.UNIMPLEMENTED, f"method '{call.path}' is not offered here")


_UNKNOWN = grpc.Method(_unknown, admit=_unknown)


def refuse(error: MooringError, asked: Asked | None = None, dialect: Dialect = V2) -> Refused:
    """What ends a call with what the error is called here."""
    return refused(*worded(error, asked or Asked(error.model, error.version), dialect))


def refused(code: str, text: str) -> Refused:
    """What ends a call with a status, by name."""
    return Refused(Status[code], shortened(text))


def worded(error: MooringError, asked: Asked, dialect: Dialect) -> tuple[str, str]:
    """The name of an error's status, and its text in the dialect's words."""
    code, text = grpc_v2(error, asked)
    said = dialect.refusal(error, asked)
    return code, text if said is None else said.message


def shortened(text: str) -> str:
    """A text that fits a header."""
    if len(text) * 12 > _LONGEST_TEXT:  # a character takes twelve bytes at most
        while len(grpc.percent_encoded(text)) > _LONGEST_TEXT:
            text = text[: len(text) * 3 // 4] + "…"
    return text


def fault(error: Exception) -> str:
    """What a client hears of a fault of ours."""
    return f"{type(error).__name__}: internal server error, see the server's log"


def _fail(call: Call, service: Service, name: str, error: Exception) -> None:
    """End a call with what its method has raised."""
    if isinstance(error, MemoryError) and not isinstance(error, MooringError):
        error = OutOfResources("there is no memory for this request")
    if isinstance(error, MooringError):
        error = refuse(error, dialect=service.dialect)
    if isinstance(error, Refused):
        call.end(error.status, str(error))
        return
    log.error("request failed", exc_info=error, service=service.name, method=name)
    call.end(Status.INTERNAL, fault(error))


def _guarded(gate: Gate, service: str, method: Method) -> tuple[Callable[[Call], None] | None, Work]:
    """What to ask before a message is received, and the call; itself where nothing depends on the message."""
    needs, work = method
    if isinstance(needs, Access):
        check = gate.check(needs)
        return None if check is None else (lambda call: _admit(check, service, call)), work
    checks = {access: gate.check(access) for access in Access}
    if not any(checks.values()):
        return None, work

    def read_first(call: Call) -> Coroutine[None, None, None] | None:
        asked = checks[needs(call.message)]
        if asked is not None:
            _admit(asked, service, call)
        return work(call)

    return None, read_first


def _admit(check: Check, service: str, call: Call) -> None:
    refusal = check(call.header(b"authorization"))
    if refusal is not None:
        raise refused(*grpc_gate(refusal, service))


def taken(payload: Payload) -> bytes:
    """The bytes of a message that is small, as a rule. Releases it."""
    if isinstance(payload, bytes):
        return payload
    try:
        return bytes(payload)
    finally:
        payload.release()


async def receive(call: Call) -> bytes | None:
    """The next message of a stream, None after the client's last."""
    message = await call.read()
    return None if message is None else taken(message)


class Questions:
    """Reads the messages of streams that are answered one by one, until the server stops."""

    def __init__(self) -> None:
        self.leaving = False
        self._reading: set[asyncio.Task[bytes | None]] = set()

    def leave(self) -> None:
        """The server stops: wait for no further messages."""
        self.leaving = True
        for reading in self._reading:
            reading.cancel()

    async def next(self, call: Call) -> bytes | None:
        """The next message of a stream, None after the client's last and once the server stops."""
        if self.leaving:
            return None
        reading = asyncio.ensure_future(receive(call))
        self._reading.add(reading)
        try:
            await asyncio.wait([reading])
            return None if reading.cancelled() else reading.result()
        finally:
            reading.cancel()
            self._reading.discard(reading)
