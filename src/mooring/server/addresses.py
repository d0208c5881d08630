"""The addresses of a server: what each serves, its listeners over HTTP and gRPC, and the frontends that share them."""

import asyncio
import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import structs

from mooring import __version__
from mooring.config.model_options import sequence_headers
from mooring.config.settings import Address, Config
from mooring.engine.engine import Engine
from mooring.frontends.balancer import ConnectionBalancer
from mooring.frontends.settings import FrontendSettings, RelayedEndpoint, SharedAddress
from mooring.frontends.supervisor import FrontendSupervisor
from mooring.ipc.arena import Arena
from mooring.mount.listeners import Listeners, by_load, reuse_port
from mooring.mount.routes import (
    Administrative,
    Mount,
    Services,
    inference_endpoints,
    management_endpoints,
    metrics_endpoints,
    readiness_endpoints,
)
from mooring.observability.logs import get_logger
from mooring.protocols.amd.metrics import count_requests
from mooring.protocols.application import NotFound
from mooring.protocols.elsewhere import Elsewhere
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.kserve.shared_memory import SharedMemory
from mooring.protocols.openapi import ApiDescription
from mooring.protocols.options_endpoints import options_endpoints
from mooring.protocols.status import NOT_FOUND
from mooring.server.reservation import Reservation, has_second_grpc, manages_separately
from mooring.tokens import Access
from mooring.web.http1 import HttpServer

if TYPE_CHECKING:
    from mooring.protocols.grpc_server import GrpcServer, Service

log = get_logger(__name__)

_SERVES = {
    "inference_address": "inference is",
    "second_inference_address": "inference is",
    "management_address": "management is",
    "metrics_address": "metrics are",
}
"""What each address has, for the text about a path that another one serves."""


class Listener(Protocol):
    """Whatever takes requests from outside."""

    async def drain(self, limit: float, /) -> None:
        """Take nothing new, answer what was accepted; give up after ``limit`` seconds."""


class Addresses:
    """The listeners of one server. ``stack`` closes them in reverse order.

    How this works: ``listen`` opens every address but the one for inference, and ``listen_at`` that one, with
    the frontends that share it: whoever finds the server ready there may use all others at once. All addresses have been
    bound before: they are those of the ``reservation``.
    """

    def __init__(
        self,
        config: Config,
        stack: AsyncExitStack,
        engine: Engine,
        services: Services,
        administrative: Administrative,
        http: Listeners,
        frontends: FrontendSupervisor,
        arena: Arena,
        relay_socket: Path,
        reservation: Reservation,
    ) -> None:
        self._config = config
        self._reservation = reservation
        self._stack = stack
        self._engine = engine
        self._services = services
        self._administrative = administrative
        self._http = http
        self._frontends = frontends
        self._arena = arena
        self._relay_socket = relay_socket  # where frontend processes relay calls to
        self._not_found: NotFound = lambda _target: NOT_FOUND
        self._memory = SharedMemory(arena) if SharedMemory.available() else None
        self._extensions: list[str] = []  # of v2, which ServerMetadata lists
        self._listeners: list[Listener] = []
        self._grpc: GrpcServer | None = None  # of the address for inference
        self._balancer: ConnectionBalancer | None = None

    @property
    def listening(self) -> Config:
        """The settings with the ports that were found where they say 0."""
        return self._reservation.listening

    async def listen(self) -> Mount:
        """Open every address but the one for inference, whose mount is returned. Raises ``OSError``."""
        inference, *others = self.mounts()
        await self._listen_grpc()
        for mount in others:
            await self.listen_at(mount)
        return inference

    async def drain(self, limit: float) -> None:
        """Accept nothing new, and answer what was accepted; give up after ``limit`` seconds."""
        end = time.monotonic() + limit
        if self._administrative.console is not None:
            self._administrative.console.streams.end()
        if self._balancer is not None:
            self._balancer.stop()
        await asyncio.gather(
            self._frontends.drain(limit), *(listener.drain(limit) for listener in self._listeners)
        )
        if self._balancer is not None:
            await self._balancer.settle(end - time.monotonic())

    def mounts(self) -> list[Mount]:
        """What each address serves. Settings with the same address share a listener (TorchServe's one-port mode)."""
        config, services, administrative = self._config, self._services, self._administrative
        mounts: list[Mount] = []
        inference = self._mount_at(mounts, "inference_address")
        memory = self._memory_at(config.inference_address)
        endpoints, self._extensions = inference_endpoints(services, inference.description, memory)
        inference.add(endpoints)
        self._mount_second(mounts)
        if administrative.console is not None:
            administrative.console.set_check(self._http.gate(inference.address).check(Access.MANAGEMENT))
        management = self._mount_management(mounts) if config.enable_management_api else None
        if config.enable_metrics_api:
            metrics = metrics_endpoints(services, administrative)
            own = self._mount_at(mounts, "metrics_address")
            own.add(metrics)
            if management is inference and own is not inference:  # one port shows all, as in TorchServe
                inference.add(metrics)
        local = all(mount.address.loopback for mount in mounts)
        if self._config.show_errors or (
            self._config.shows_errors and local
        ):  # else strangers learn addresses
            self._not_found = Elsewhere(
                (
                    _SERVES[each.setting],
                    f"{getattr(self.listening, each.setting)}{self._http.root}",
                    each.endpoints,
                )
                for each in mounts
            ).refusal
        return mounts

    def _mount_second(self, mounts: list[Mount]) -> None:
        """The same inference at the second address, without the console: that is read by the rules of the first one."""
        address = self._config.second_inference_address
        if address is None:
            return
        mount = self._mount_at(mounts, "second_inference_address")
        if mount is mounts[0]:
            return
        services = replace(
            self._services, administrative=replace(self._administrative, console=None), console=""
        )
        endpoints, _ = inference_endpoints(services, mount.description, self._memory_at(address))
        mount.add(endpoints)

    def _mount_management(self, mounts: list[Mount]) -> Mount:
        mount = self._mount_at(mounts, "management_address")
        model_api = self._model_api(mount.address)
        mount.add(
            management_endpoints(self._services, self._administrative, mount.description, model_api=model_api)
        )
        if mount is not mounts[0]:
            mount.add(readiness_endpoints(self._services))
        return mount

    def _model_api(self, address: Address) -> bool:
        """Whether models may be registered and unregistered there."""
        chosen = self._config.enable_model_api
        return address.loopback if chosen is None else chosen

    def _memory_at(self, address: Address) -> SharedMemory | None:
        """Shared memory, where the clients are of this machine: others would name objects that are not theirs."""
        return self._memory if address.loopback or self._config.insecure else None

    async def _listen_grpc(self) -> None:
        # Here and not above, and in a thread: it takes some sixty milliseconds to import, and models load meanwhile.
        mount = await asyncio.to_thread(importlib.import_module, "mooring.mount.grpc")
        config, administrative = self._config, self._administrative
        address, managing = config.grpc_address, config.grpc_management_address
        management = mount.management_service(
            self._services.inference, administrative.models, model_api=self._model_api(managing)
        )
        separate = manages_separately(config)
        further = [] if separate or not config.enable_management_api else [management]
        age = mount.ConnectionAge(config.grpc_max_connection_age, config.grpc_max_connection_age_grace)

        def serve_inference(
            address: Address, further: "Sequence[Service]" = (), *, shared: bool = False
        ) -> "GrpcServer":
            services = mount.inference_services(
                self._services.inference,
                administrative,
                self._arena,
                extensions=self._extensions,
                dialect=self._services.dialect,
                memory=self._memory_at(address),
                sequence_headers=sequence_headers(config),
                faults=self._http.responses.faults,
                further=further,
            )
            server: GrpcServer = mount.grpc_listener(
                config, self._http, address, services, self._arena, age, reuse_port=shared
            )
            return server

        self._grpc = server = serve_inference(address, further, shared=reuse_port(config, address))
        await self._start_grpc(server, "grpc_address")
        if config.second_grpc_address is not None and has_second_grpc(config):
            await self._start_grpc(serve_inference(config.second_grpc_address), "second_grpc_address")
        if separate and config.enable_management_api:
            age = mount.ConnectionAge(
                config.grpc_management_max_connection_age, config.grpc_management_max_connection_age_grace
            )
            server = mount.grpc_listener(config, self._http, managing, [management], self._arena, age)
            await self._start_grpc(server, "grpc_management_address")

    async def _start_grpc(self, server: "GrpcServer", name: str) -> None:
        await self._start(server, name)
        address: Address = getattr(self._config, name)
        if not address.path and not address.port:
            log.info("listening for gRPC", host=address.host, port=server.port)

    async def _start(self, listener: "HttpServer | GrpcServer", name: str) -> None:
        """Listen at the address of a setting."""
        address: Address = getattr(self._config, name)
        sockets = self._reservation.take(name)
        with _naming(name):
            if address.path:
                await listener.start_unix(address.path)
            else:
                await listener.start_on(sockets)
        self._stack.push_async_callback(listener.close)
        self._listeners.append(listener)

    def _mount_at(self, mounts: list[Mount], setting: str) -> Mount:
        """The mount of this setting's address."""
        address: Address = getattr(self._config, setting)
        for mount in mounts:
            if mount.address == address and (address.path or address.port):  # port 0 is a new one every time
                return mount
        description = ApiDescription(
            self._services.responses,
            __version__,
            gate=self._http.gate(address),
            root=self._http.root,
            service=self._services.inference,
        )
        mounts.append(Mount(setting, address, description))
        return mounts[-1]

    async def listen_at(self, mount: Mount) -> None:
        """Open an address over HTTP; with the one for inference the frontends are started. Raises ``OSError``."""
        address = mount.address
        endpoints = [*mount.endpoints, *options_endpoints(mount.endpoints, self._services.responses)]
        counted = (
            count_requests(endpoints, self._administrative.metrics)
            if self._services.dialect.workers
            else endpoints
        )
        shared = mount.setting == "inference_address" and self._config.frontends > 1
        listener = self._http.listener(
            address, counted, self._engine.entry.overload_error, shared=shared, not_found=self._not_found
        )
        await self._start(listener, mount.setting)
        if not address.path and not address.port:
            log.info("listening", host=address.host, port=listener.port)
        if shared:
            await self._start_frontends(listener, structs.replace(address, port=listener.port), endpoints)

    async def _start_frontends(
        self, listener: HttpServer, address: Address, endpoints: Sequence[Endpoint]
    ) -> None:
        """Have further processes take connections to this address and to the one of gRPC, too."""
        assert self._grpc is not None
        spread = by_load(self._config)
        listeners, addresses = [listener, self._grpc], [address, self.listening.grpc_address]
        shared = [
            each for each, where in zip(listeners, addresses, strict=True) if spread or where.path
        ]  # the others are bound by every process for itself
        self._balancer = ConnectionBalancer(self._frontends, listeners, shared=shared, by_load=spread)
        internal = self._http.listener(
            address, endpoints, self._engine.entry.overload_error, internal=True, not_found=self._not_found
        )
        with _naming(f"temporary_folder, of which {self._relay_socket} is made"):
            await internal.start_unix(str(self._relay_socket))
        self._stack.push_async_callback(internal.close)
        settings = FrontendSettings(
            self._config,
            [
                SharedAddress(where, len(each.share_sockets()) if each in shared else 0)
                for each, where in zip(listeners, addresses, strict=True)
            ],
            str(self._relay_socket),
            [
                RelayedEndpoint(each.pattern, each.access, each.methods, each.changes, each.same_site)
                for each in endpoints
            ],
            list(self._grpc.unary_methods),
            self._extensions,
        )

        def current_settings() -> bytes:
            tokens = self._administrative.tokens
            if tokens is None:
                return settings.encoded()
            return structs.replace(settings, tokens=tokens.tokens, renewable=tokens.renewable).encoded()

        self._frontends.start(
            current_settings,
            self._engine.entry,
            self._engine.registry,
            run_call=self._grpc.run_call,
            attach=self._balancer.attach,
        )
        self._stack.push_async_callback(self._frontends.close)
        self._stack.callback(self._balancer.close)


@contextmanager
def _naming(setting: str) -> Iterator[None]:
    """Name the setting whose address cannot be listened on."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{error} ({setting})") from None
