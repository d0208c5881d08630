"""grpc.health.v1, which load balancers and Kubernetes ask."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

from mooring.codecs.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from mooring.protocols.grpc_messages import answering, read
from mooring.protocols.grpc_server import Method, Service, receive, refused
from mooring.tokens import Access
from mooring.web.grpc.call import Call

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
            {"Check": Method(Access.OPEN, answering(HealthCheckRequest, self.check))},
            {"Watch": Method(Access.OPEN, self.watch)},
            leave=self._leaving.set,
        )

    def check(self, asked: HealthCheckRequest) -> HealthCheckResponse:
        """The state now."""
        if asked.service not in self._known:
            raise refused("NOT_FOUND", f"no service '{asked.service}' is served here")
        return HealthCheckResponse(status=self._status(asked.service))

    async def watch(self, call: Call) -> None:
        """The state now and whenever it has changed, until the server stops."""
        message = await receive(call)
        if message is None:
            return
        name, told = read(HealthCheckRequest, message).service, None
        while True:
            status = self._status(name)
            if status != told:
                told = status
                await call.write(HealthCheckResponse(status=status).SerializeToString())
            if self._leaving.is_set():
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), _LOOK_EVERY)

    def _status(self, name: str) -> HealthCheckResponse.ServingStatus.ValueType:
        if name not in self._known:
            return HealthCheckResponse.SERVICE_UNKNOWN
        serving = not self._leaving.is_set() and self._ready()
        return HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
