"""A frontend process: the process that takes connections beside the server's first one (``frontends`` above 1).

It serves what only needs workers and hands everything else to the first process: requests over the link, other calls
as they are, over a private unix socket.
"""

import asyncio
import gc
import socket
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import uvloop

from mooring import __version__
from mooring.config.settings import Address, Config
from mooring.core.memory import BodyMemory
from mooring.frontends.balancing import Load
from mooring.frontends.messages import CONNECTION, LOAD_EVERY
from mooring.frontends.service import FrontendService
from mooring.ipc.arena import Arena
from mooring.mount.listeners import Listeners
from mooring.mount.routes import Services, inference_endpoints
from mooring.observability.load import ThreadLoad
from mooring.observability.logs import get_logger, setup
from mooring.observability.metrics import Metrics
from mooring.protocols.amd.metrics import count_requests
from mooring.protocols.dialect import AMD, V2
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.openapi import Description
from mooring.signals import end_with_parent, leave_to_first_process
from mooring.tokens import Access, Token, TokenTable
from mooring.web.certificates import certificates_of
from mooring.web.http1 import Exchange, HttpServer
from mooring.web.migration import SocketChannel
from mooring.web.relay import Relay
from mooring.web.routing import Match

log = get_logger(__name__)


class RelayedEndpoint(msgspec.Struct, frozen=True):
    """An endpoint of the first process. A frontend checks the token for it, before a large body has come."""

    pattern: str
    access: Access
    methods: frozenset[str] | None


class Settings(msgspec.Struct, frozen=True):
    """What a frontend is told before it begins; ``tokens`` is None where clients need none.

    ``address`` has the real port, ``relay_socket`` is the first process's private socket, ``relayed`` what it serves
    there.
    """

    config: Config
    address: Address
    relay_socket: str
    relayed: list[RelayedEndpoint]
    tokens: dict[Access, Token] | None = None
    renewable: tuple[Access, ...] = ()

    def encoded(self) -> bytes:
        """As bytes, for ``decoded``."""
        return msgspec.msgpack.encode(self, enc_hook=str)

    @classmethod
    def decoded(cls, data: bytes) -> "Settings":
        """The inverse of ``encoded``."""
        return msgspec.msgpack.decode(data, type=cls, dec_hook=_decoded)


def _decoded(kind: type, value: Any) -> Any:
    return Address.parse(value, 0) if kind is Address else kind(value)


class Traffic:
    """The connections that this process was given, gives back, and is to accept for some time."""

    def __init__(self, listener: HttpServer, frontend: FrontendService, channel: socket.socket) -> None:
        self._listener = listener
        self._frontend = frontend
        self._channel = SocketChannel(channel, self._arrived)
        self._load = ThreadLoad()
        self._ticker: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Do as the first process says."""
        self._frontend.on_migrate, self._frontend.on_stop_accepting = self._give, self._rest
        self._report()

    async def end(self) -> None:
        """Take up what has come, and give nothing away any more."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._channel.receive_all()
        self._channel.close()
        await self._listener.wait_adopted()

    def _give(self, share: float, mark: int) -> None:
        self._channel.migrate(self._listener.connections, share, mark)

    def _rest(self) -> None:
        self._listener.stop_accepting()
        for task in self._opening:  # it was to listen only just now
            task.add_done_callback(lambda _: self._listener.stop_accepting())

    def _arrived(self, mark: int, sock: socket.socket) -> None:
        if mark == CONNECTION:
            self._listener.adopt(sock)
        else:
            task = asyncio.get_running_loop().create_task(self._listener.listen_on(sock))
            self._opening.add(task)  # the loop itself holds tasks only weakly
            task.add_done_callback(self._opening.discard)

    def _report(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(LOAD_EVERY, self._report)
        busy = round(self._load.look(), 2)
        count = len(self._listener.connections)
        self._frontend.report(Load(busy if count else 0.0, count))


class FrontendServer:
    """The parts of one frontend process."""

    def __init__(
        self,
        settings: Settings,
        frontend: FrontendService,
        channel: socket.socket,
        arena: Arena,
        metrics: Metrics,
    ) -> None:
        config = settings.config
        tokens = None
        if settings.tokens is not None:
            tokens = TokenTable(settings.tokens, settings.renewable)
            frontend.on_tokens = tokens.replace
        self._settings = settings
        self._metrics = metrics
        self._frontend = frontend
        self._listeners = Listeners(config, metrics.responses, arena, tokens, certificates_of(config))
        self._relay = Relay(settings.relay_socket, self._not_relayed)
        self._listener = self._listeners.listener(
            settings.address,
            self._endpoints(),
            frontend.overload_error,
            fallback_app=self._relay,
            shared=True,
        )
        self._traffic = Traffic(self._listener, frontend, channel)

    async def serve(self) -> None:
        """Take connections until the first process has enough of it, then answer what was accepted."""
        address = self._settings.address
        if self._listener.migratable:
            self._listener.start_without_socket()
            self._traffic.begin()
        else:
            await self._listener.start(address.host, address.port)
        self._frontend.listening()
        await self._frontend.ended.wait()
        limit = self._frontend.limit
        await self._traffic.end()
        await self._listener.drain(limit)
        await self._frontend.drain(limit)
        self._relay.close()
        self._frontend.close()

    def _endpoints(self) -> list[Endpoint]:
        """Those that need nothing but the service: everything else is the first process's."""
        responses, relay = self._listeners.responses, self._relay
        services = Services(
            inference=self._frontend,
            responses=responses,
            cors=self._listeners.cors,
            dialect=AMD if self._settings.config.dialect == "amd" else V2,
            relay=relay,
        )
        description = Description(responses, __version__)  # a call for it is relayed
        own, _ = inference_endpoints(services, description)
        served = {each.pattern for each in own}
        relayed = [each for each in self._settings.relayed if each.pattern not in served]
        own += [
            Endpoint(each.pattern, self._relay_call, each.access, methods=each.methods) for each in relayed
        ]
        if services.dialect is AMD:
            own = count_requests(own, self._metrics)
        # A method that is not there is refused by the first process, too.
        rest = {each.pattern for each in relayed} - {each.pattern for each in relayed if each.methods is None}
        return [*own, *(Endpoint(pattern, self._relay_call, Access.OPEN) for pattern in sorted(rest))]

    def _relay_call(self, exchange: Exchange, _match: Match) -> None:
        self._relay(exchange)

    def _not_relayed(self, exchange: Exchange, error: Exception) -> None:
        log.error("call not relayed", target=exchange.target.decode("latin-1"), exc_info=error)
        self._listeners.responses.fault(exchange, error)


async def _run(number: int, descriptors: Sequence[int], settings: Settings) -> None:
    link, passing, channel, memory = descriptors
    config = settings.config
    arena = Arena(config.arena_size, number, memory, memory=BodyMemory(config.max_body_memory))
    metrics = Metrics(config.metrics_mode, system=False)
    frontend = FrontendService(
        number, socket.socket(fileno=link), socket.socket(fileno=passing), arena, metrics
    )
    server = FrontendServer(settings, frontend, socket.socket(fileno=channel), arena, metrics)
    gc.collect()
    gc.freeze()
    await server.serve()


def main(arguments: Sequence[str]) -> None:
    """Be a frontend until the first process is gone. ``arguments``: number, four descriptors, the first process's pid."""
    number, *descriptors, parent = map(int, arguments)
    end_with_parent(parent)
    leave_to_first_process()
    settings = Settings.decoded(sys.stdin.buffer.read())
    setup(settings.config.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(number, descriptors, settings))


if __name__ == "__main__":
    main(sys.argv[1:])
