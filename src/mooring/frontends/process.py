"""A frontend process: the process that takes connections beside the server's first one (``frontends`` above 1).

It serves everything that the first process does. What only needs workers it does by itself; all else the first process
answers: requests and gRPC calls over the link, HTTP calls over a private unix socket.
"""

import asyncio
import gc
import socket
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import uvloop

from mooring import __version__
from mooring.core.memory import BodyMemory
from mooring.core.options import SequenceHeaders
from mooring.engine.response_cache import ResponseCache
from mooring.frontends.balancing import Load
from mooring.frontends.load import load_of
from mooring.frontends.messages import CONNECTION, GRPC, HTTP, LISTENER, LOAD_EVERY
from mooring.frontends.service import FrontendService
from mooring.frontends.settings import FrontendSettings
from mooring.hardware import count_pool_threads
from mooring.ipc.arena import Arena
from mooring.mount.grpc import frontend_services, grpc_listener
from mooring.mount.listeners import Listeners, by_load, reuse_port
from mooring.mount.observed_service import observe_service
from mooring.mount.routes import Services, inference_endpoints
from mooring.observability.load import ThreadLoad
from mooring.observability.log_output.line_writer import LineWriter, is_written
from mooring.observability.log_output.setup import add_reader, setup_logging
from mooring.observability.logs import ACCESS_LOG, get_logger
from mooring.observability.loop_lag import LoopLag
from mooring.observability.metrics import Metrics
from mooring.observability.recent import RecordForwarder
from mooring.process_titles import set_process_title
from mooring.protocols.amd.metrics import count_requests
from mooring.protocols.dialect import dialect_for
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.grpc_server import ConnectionAge, GrpcServer
from mooring.protocols.openapi import ApiDescription
from mooring.signals import end_with_parent, leave_to_first_process
from mooring.tokens import Access, Token, TokenTable
from mooring.web.certificates import RENEWAL, certificates_of
from mooring.web.http1 import Exchange
from mooring.web.migration import SocketChannel
from mooring.web.relay import Relay
from mooring.web.routing import Match
from mooring.web.server import Listener

log = get_logger(__name__)


class Connections:
    """The connections of a frontend process: those that it is given, gives back, and is to accept.

    ``listeners`` are in the order of their numbers; ``sockets`` is how many listening sockets come over the channel.
    With ``reports`` the first process is told of the load.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        sockets: int,
        frontend: FrontendService,
        channel: socket.socket,
        *,
        reports: bool,
    ) -> None:
        self._listeners = listeners
        self._missing = sockets
        self._complete = asyncio.Event()
        self._frontend = frontend
        self._channel = SocketChannel(channel, self._receive)
        self._load = ThreadLoad()
        self._ticker: asyncio.TimerHandle | None = None
        if reports:
            self._report()

    async def begin(self) -> None:
        """Wait until every listening socket has come, and connections are accepted where they are to be."""
        while self._missing:
            self._complete.clear()
            await self._complete.wait()
        for each in self._listeners:
            await each.adjusted()

    async def end(self) -> None:
        """Adopt the connections that have come, and migrate none any more."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._channel.receive_all()
        self._channel.close()
        for each in self._listeners:
            await each.wait_adopted()

    def migrate(self, share: float, mark: int) -> None:
        """Have this share of the connections go to the process with the number ``mark``."""
        self._channel.migrate(self._listeners[HTTP].connections, share, mark)

    def set_accepting(self, numbers: Sequence[int]) -> None:
        """Accept connections from the sockets of the listeners with these numbers, and of no others."""
        for number, listener in enumerate(self._listeners):
            listener.set_accepting(number in numbers)

    def _receive(self, mark: int, sock: socket.socket) -> None:
        if mark == CONNECTION:
            self._listeners[HTTP].adopt(sock)
        else:
            self._missing -= 1
            self._listeners[mark - LISTENER].add_socket(sock)
            self._complete.set()

    def _report(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(LOAD_EVERY, self._report)
        load = load_of(round(self._load.read_share(), 2), self._listeners)
        self._frontend.report(load if load.connections or load.fixed else Load(0.0, 0))


class FrontendServer:
    """The parts of one frontend process, and the ``Commands`` of the first process.

    ``sockets`` are the link, that over which descriptors of workers come, and the channel of connections; ``memory``
    describes the shared memory of its large payloads. ``logged`` has what the first process is told of the log.
    """

    def __init__(
        self,
        number: int,
        settings: FrontendSettings,
        sockets: tuple[socket.socket, socket.socket, socket.socket],
        memory: int,
        logged: RecordForwarder | None = None,
    ) -> None:
        config = settings.config
        link, descriptors, channel = sockets
        arena = Arena(config.arena_size, number, memory, memory=BodyMemory(config.max_body_memory))
        self._line_writer = LineWriter()
        metrics = Metrics(
            config.metrics_mode,
            system=False,
            writer=self._line_writer,
            access_log=config.access_log and is_written(ACCESS_LOG),
        )
        cache = ResponseCache(config.response_cache_size // config.frontends)
        frontend = FrontendService(
            number, link, descriptors, arena, metrics, commands=self, cache=cache, logged=logged
        )
        tokens = None
        if settings.tokens is not None:
            tokens = TokenTable(settings.tokens, settings.renewable)
        self._tokens = tokens
        self._settings = settings
        self._dialect = dialect_for(config)
        self._metrics = metrics
        self._frontend = frontend
        self._service = observe_service(frontend, metrics.calls)
        self._certificates = certificates_of(config)
        self._listeners = Listeners(config, metrics, arena, tokens, self._certificates)
        self._relay = Relay(settings.relay_socket, self._not_relayed)
        self._served: list[Listener] = [
            self._listeners.listener(
                settings.addresses[HTTP].address,
                self._endpoints(),
                frontend.overload_error,
                fallback_app=self._relay,
                shared=True,
            ),
            self._grpc_server(arena),
        ]
        expected = sum(each.sockets for each in settings.addresses)
        self._connections = Connections(self._served, expected, frontend, channel, reports=by_load(config))

    async def serve(self) -> None:
        """Take connections until the first process drains, then answer what was accepted."""
        for listener, shared in zip(self._served, self._settings.addresses, strict=True):
            if shared.sockets:
                listener.start_without_socket()
                listener.set_accepting(not by_load(self._settings.config))
            else:
                await listener.start(shared.address.host, shared.address.port)
        renewing = asyncio.ensure_future(self._renew_certificates())
        lag = LoopLag(self._metrics.lag)
        await self._connections.begin()
        self._frontend.listening()
        await self._frontend.ended.wait()
        renewing.cancel()
        limit = self._frontend.limit
        await self._connections.end()
        await asyncio.gather(*(listener.drain(limit) for listener in self._served))
        await self._frontend.drain(limit)
        self._relay.close()
        lag.stop()
        self._frontend.close()
        self._line_writer.close()

    def migrate(self, share: float, mark: int) -> None:
        self._connections.migrate(share, mark)

    def set_accepting(self, listeners: Sequence[int]) -> None:
        self._connections.set_accepting(listeners)

    def set_tokens(self, tokens: Mapping[Access, Token]) -> None:
        if self._tokens is not None:
            self._tokens.replace(tokens)

    def _grpc_server(self, arena: Arena) -> GrpcServer:
        settings, config = self._settings, self._settings.config
        address = settings.addresses[GRPC].address
        services = frontend_services(
            self._service,
            arena,
            self._frontend.relay_call,
            settings.relayed_methods,
            extensions=settings.extensions,
            dialect=self._dialect,
            sequence_headers=SequenceHeaders(
                config.sequence_id_header, config.sequence_start_header, config.sequence_end_header
            ),
            faults=self._listeners.responses.faults,
        )
        age = ConnectionAge(config.grpc_max_connection_age, config.grpc_max_connection_age_grace)
        shared = reuse_port(config, address)
        return grpc_listener(config, self._listeners, address, services, arena, age, reuse_port=shared)

    async def _renew_certificates(self) -> None:
        while self._certificates is not None:
            await asyncio.sleep(RENEWAL)
            self._certificates.renew()

    def _endpoints(self) -> list[Endpoint]:
        """The endpoints of the inference address: those that need only the service, and relays to the first process."""
        responses, relay = self._listeners.responses, self._relay
        services = Services(
            inference=self._service,
            responses=responses,
            cors=self._listeners.cors,
            dialect=self._dialect,
            ping_format=self._settings.config.ping_format,
            console=self._listeners.console,
            relay=relay,
        )
        description = ApiDescription(responses, __version__)  # a call for it is relayed
        own, _ = inference_endpoints(services, description)
        served = {each.pattern for each in own}
        relayed = [each for each in self._settings.relayed if each.pattern not in served]
        own += [
            Endpoint(
                each.pattern,
                self._relay_call,
                each.access,
                methods=each.methods,
                changes=each.changes,
                same_site=each.same_site,
            )
            for each in relayed
        ]
        if services.dialect.workers:
            own = count_requests(own, self._metrics)
        # A method that is not there is refused by the first process, too.
        rest = {each.pattern for each in relayed} - {each.pattern for each in relayed if each.methods is None}
        return [*own, *(Endpoint(pattern, self._relay_call, Access.OPEN) for pattern in sorted(rest))]

    def _relay_call(self, exchange: Exchange, _match: Match) -> None:
        self._relay(exchange)

    def _not_relayed(self, exchange: Exchange, error: Exception) -> None:
        log.error("call not relayed", target=exchange.target.decode("latin-1"), exc_info=error)
        self._listeners.responses.send_fault(exchange, error)


async def _run(
    number: int, descriptors: Sequence[int], settings: FrontendSettings, logged: RecordForwarder | None
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(count_pool_threads()))
    link, passing, channel, memory = descriptors
    sockets = socket.socket(fileno=link), socket.socket(fileno=passing), socket.socket(fileno=channel)
    server = FrontendServer(number, settings, sockets, memory, logged)
    gc.collect()
    gc.freeze()
    await server.serve()


def main(arguments: Sequence[str]) -> None:
    """Be a frontend process until the first process is gone. ``arguments``: number, four descriptors, the first process's pid."""
    number, *descriptors, parent = map(int, arguments)
    end_with_parent(parent)
    leave_to_first_process()
    set_process_title("frontend", str(number))
    settings = FrontendSettings.decoded(sys.stdin.buffer.read())
    setup_logging(settings.config, first=False)
    logged = RecordForwarder() if settings.config.console else None
    if logged is not None:
        add_reader(logged)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(number, descriptors, settings, logged))


if __name__ == "__main__":
    main(sys.argv[1:])
