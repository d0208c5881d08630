"""grpc.health.v1, which load balancers and Kubernetes ask."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

import grpc

from mooring.codecs.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from mooring.protocols.grpc_messages import read
from mooring.protocols.grpc_server import Context, Method, Service, receive
from mooring.tokens import Access

# How late a watcher may hear of a change, in seconds: readiness is looked at, nobody announces it.
_LOOK_EVERY = 0.5


class Health:
    """Serving when ``ready`` says so, for the server as a whole (no name) and for each of its services alike."""

    def __init__(self, ready: Callable[[], bool], services: Collection[str]) -> None:
        self._ready = ready
        self._known = {"", *services}
        self._leaving = asyncio.Event()

    def service(self) -> Service:
        """What the server mounts."""
        return Service(
            "grpc.health.v1.Health",
            {"Check": Method(Access.OPEN, self.check)},
            {"Watch": Method(Access.OPEN, self.watch)},
            leave=self._leaving.set,
        )

    async def check(self, message: bytes, context: Context) -> bytes:
        """The state now."""
        name = read(HealthCheckRequest, message).service
        if name not in self._known:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service '{name}' is served here")
        return HealthCheckResponse(status=self._status(name)).SerializeToString()

    async def watch(self, context: Context) -> None:
        """The state now and whenever it has changed, until the server stops."""
        message = await receive(context)
        if message is None:
            return
        name, told = read(HealthCheckRequest, message).service, None
        while True:
            status = self._status(name)
            if status != told:
                told = status
                await context.write(HealthCheckResponse(status=status).SerializeToString())
            if self._leaving.is_set():
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), _LOOK_EVERY)

    def _status(self, name: str) -> HealthCheckResponse.ServingStatus.ValueType:
        if name not in self._known:
            return HealthCheckResponse.SERVICE_UNKNOWN
        serving = not self._leaving.is_set() and self._ready()
        return HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
