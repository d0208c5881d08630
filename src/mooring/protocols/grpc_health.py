"""grpc.health.v1, which load balancers and Kubernetes ask."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

from mooring.codecs.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from mooring.protocols.grpc_errors import status_error
from mooring.protocols.grpc_messages import parse_message, read_bytes, sync_handler
from mooring.protocols.grpc_server import Service, StreamingMethod, UnaryMethod
from mooring.tokens import Access
from mooring.web.grpc.calls import StreamingCall

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
            {"Check": UnaryMethod(Access.OPEN, sync_handler(HealthCheckRequest, self.check))},
            {"Watch": StreamingMethod(Access.OPEN, self.watch)},
            on_stop=self._leaving.set,
        )

    def check(self, asked: HealthCheckRequest) -> HealthCheckResponse:
        """The state now."""
        if asked.service not in self._known:
            raise status_error("NOT_FOUND", f"no service '{asked.service}' is served here")
        return HealthCheckResponse(status=self._status(asked.service))

    async def watch(self, call: StreamingCall) -> None:
        """The state now and whenever it has changed, until the server stops."""
        message = await read_bytes(call)
        if message is None:
            return
        name, told = parse_message(HealthCheckRequest, message).service, None
        while True:
            status = self._status(name)
            if status != told:
                told = status
                await call.write_message(HealthCheckResponse(status=status).SerializeToString())
            if self._leaving.is_set():
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), _LOOK_EVERY)

    def _status(self, name: str) -> HealthCheckResponse.ServingStatus.ValueType:
        if name not in self._known:
            return HealthCheckResponse.SERVICE_UNKNOWN
        serving = not self._leaving.is_set() and self._ready()
        return HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
