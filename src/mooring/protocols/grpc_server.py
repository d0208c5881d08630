"""gRPC as a transport: services of methods that take and give bytes, on the event loop of the process.

Nothing here knows a message. A method that raises becomes a status; what is not an error of ours is a fault of ours.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, NamedTuple, NoReturn, TypeVar
from urllib.parse import quote

import grpc
import msgspec

from mooring.core.errors import MooringError
from mooring.observability.logs import get_logger
from mooring.protocols.access import Gate
from mooring.protocols.dialect import V2, Dialect
from mooring.protocols.status import Asked, Refusal, grpc_gate, grpc_v2
from mooring.tokens import Access
from mooring.web.tls import Certificates, Identity

log = get_logger(__name__)

Context = grpc.aio.ServicerContext[bytes, bytes]
Unary = Callable[[bytes, Context], Awaitable[bytes]]
Streaming = Callable[[Context], Awaitable[None]]
"""Reads what the client sends and writes answers through the context, until it returns."""

_Call = TypeVar("_Call")


class Method(NamedTuple, Generic[_Call]):
    """A method and what a client needs for it, which may depend on what the message asks."""

    access: Access | Callable[[bytes], Access]
    call: _Call


# The text of a status travels percent-encoded in a header, and clients take 8 KB of headers by default.
_LONGEST_TEXT = 4096


class Service(msgspec.Struct, frozen=True):
    """The methods of one service. ``leave`` is called when the server begins to stop: streams should come to an end."""

    name: str
    unary: Mapping[str, Method[Unary]] = {}
    streaming: Mapping[str, Method[Streaming]] = {}
    leave: Callable[[], None] = lambda: None
    dialect: Dialect = V2


class Age(msgspec.Struct, frozen=True):
    """After how many seconds a connection is to be made anew, and how many its calls get then; 0 is no limit."""

    most: float = 0.0
    grace: float = 0.0

    def options(self) -> list[tuple[str, int]]:
        """As gRPC takes them."""
        said = (("grpc.max_connection_age_ms", self.most), ("grpc.max_connection_age_grace_ms", self.grace))
        return [(name, round(seconds * 1000)) for name, seconds in said if seconds]


class GrpcServer:
    """One address. ``max_message_bytes`` 0 is no limit, as clients of Triton expect; a limit holds both ways.

    Methods are put behind the ``gate`` here.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        gate: Gate | None = None,
        max_message_bytes: int = 0,
        age: Age | None = None,
    ) -> None:
        self._services = services
        gate = gate or Gate()
        limit = max_message_bytes or -1
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                # Or a second server on the port would start, and get half of the connections.
                ("grpc.so_reuseport", 0),
                *(age or Age()).options(),
            )
        )
        for service in services:
            handlers = {
                name: _unary(service, name, _guarded(gate, service.name, method))
                for name, method in service.unary.items()
            } | {
                name: _streaming(service, name, _guarded_stream(gate, service.name, method))
                for name, method in service.streaming.items()
            }
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service.name, handlers),)
            )
        self.port = 0

    async def start(self, host: str, port: int, certificates: Certificates | None = None) -> None:
        """Listen; with port 0 on a free one, with ``certificates`` over TLS. Raises ``OSError``."""
        credentials = None if certificates is None else _credentials(certificates)
        await self._listen(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", credentials)

    async def start_unix(self, path: str) -> None:
        """Listen on a unix socket. Raises ``OSError``."""
        await self._listen(f"unix:{path}")

    async def _listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> None:
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address} for gRPC: {error}") from None
        await self._server.start()

    async def drain(self, limit: float) -> None:
        """Take nothing new, answer what was accepted; give up after ``limit`` seconds."""
        for service in self._services:
            service.leave()
        await self._server.stop(limit)

    async def close(self) -> None:
        """End whatever still runs."""
        await self._server.stop(None)


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """What each new connection is shown: the certificates as they are then."""
    shown = certificates.identity

    def renewed() -> grpc.ServerCertificateConfiguration:
        # Asked from gRPC's threads. What has not changed could be None as well, but the types do not know that.
        return _configuration(certificates.identity)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown), renewed, require_client_authentication=bool(shown.client_ca)
    )


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.chain)], root_certificates=identity.client_ca or None
    )


async def refuse(
    context: Context, error: MooringError, asked: Asked | None = None, dialect: Dialect = V2
) -> NoReturn:
    """End a call with what the error is called here. Always raises."""
    await end(context, *worded(error, asked or Asked(error.model, error.version), dialect))


async def end(context: Context, code: str, text: str) -> NoReturn:
    """End a call with a status, by name. Always raises."""
    await context.abort(grpc.StatusCode[code], _shortened(text))


def worded(error: MooringError, asked: Asked, dialect: Dialect) -> tuple[str, str]:
    """The name of an error's status, and its text in the dialect's words."""
    code, text = grpc_v2(error, asked)
    said = dialect.refusal(error, asked)
    return code, text if said is None else said.message


def _shortened(text: str) -> str:
    if len(text) * 12 > _LONGEST_TEXT:  # a character takes twelve bytes at most
        while len(quote(text)) > _LONGEST_TEXT:
            text = text[: len(text) * 3 // 4] + "…"
    return text


async def _fault(context: Context, service: Service, name: str, error: Exception) -> NoReturn:
    log.error("request failed", exc_info=error, service=service.name, method=name)
    await context.abort(
        grpc.StatusCode.INTERNAL, f"{type(error).__name__}: internal server error, see the server's log"
    )


def _guarded(gate: Gate, service: str, method: Method[Unary]) -> Unary:
    """The call behind the gate; the call itself where nothing is asked."""
    needs, call = method
    if isinstance(needs, Access):
        check = gate.check(needs)
        if check is None:
            return call

        async def checked(message: bytes, context: Context) -> bytes:
            await _admit(check(_authorization(context)), service, context)
            return await call(message, context)

        return checked
    checks = {access: gate.check(access) for access in Access}
    if not any(checks.values()):
        return call

    async def read_first(message: bytes, context: Context) -> bytes:
        asked = checks[needs(message)]
        if asked is not None:
            await _admit(asked(_authorization(context)), service, context)
        return await call(message, context)

    return read_first


def _guarded_stream(gate: Gate, service: str, method: Method[Streaming]) -> Streaming:
    """The same for a stream, which is asked once, before its first message is read."""
    needs, call = method
    if not isinstance(needs, Access):
        raise TypeError("what a stream needs cannot depend on a message: there are many")
    check = gate.check(needs)
    if check is None:
        return call

    async def checked(context: Context) -> None:
        await _admit(check(_authorization(context)), service, context)
        await call(context)

    return checked


def _authorization(context: Context) -> bytes | None:
    for name, value in context.invocation_metadata() or ():
        if name == "authorization":
            return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    return None


async def _admit(refusal: Refusal | None, service: str, context: Context) -> None:
    if refusal is not None:
        await end(context, *grpc_gate(refusal, service))


def _unary(service: Service, name: str, method: Unary) -> "grpc.RpcMethodHandler[bytes, bytes]":
    async def answer(message: bytes, context: Context) -> bytes:
        try:
            return await method(message, context)
        except MooringError as error:
            await refuse(context, error, dialect=service.dialect)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # the protocol edge
            await _fault(context, service, name, error)

    return grpc.unary_unary_rpc_method_handler(answer)


def _streaming(service: Service, name: str, method: Streaming) -> "grpc.RpcMethodHandler[bytes, bytes]":
    async def answer(_messages: object, context: Context) -> None:
        try:
            await method(context)
        except MooringError as error:
            await refuse(context, error, dialect=service.dialect)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # the protocol edge
            await _fault(context, service, name, error)

    return grpc.stream_stream_rpc_method_handler(answer)


async def receive(context: Context) -> bytes | None:
    """The next message of a stream, None after the client's last."""
    message: object = await context.read()
    return message if isinstance(message, bytes) else None


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

    async def next(self, context: Context) -> bytes | None:
        """The next message of a stream, None after the client's last and once the server stops."""
        if self.leaving:
            return None
        reading = asyncio.ensure_future(receive(context))
        self._reading.add(reading)
        try:
            await asyncio.wait([reading])
            return None if reading.cancelled() else reading.result()
        finally:
            reading.cancel()
            self._reading.discard(reading)
