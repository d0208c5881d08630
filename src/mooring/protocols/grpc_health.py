"""The gRPC health checking protocol (grpc.health.v1), which load balancers and Kubernetes ask."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

from mooring.codecs.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from mooring.protocols.grpc_errors import status_error
from mooring.protocols.grpc_messages import parse_message, read_bytes, sync_handler
from mooring.protocols.grpc_server import Service, StreamingMethod, UnaryMethod
from mooring.tokens import Access
from mooring.web.grpc.rpc import StreamingRpc

# Seconds after which a watcher hears of a change at the latest: readiness is polled, nobody announces it.
_POLL_INTERVAL = 0.5

NAME = "grpc.health.v1.Health"


class Health:
    """Answers SERVING while ``ready()`` is true, for the server as a whole (no name) and for each of its services alike."""

    def __init__(self, ready: Callable[[], bool], services: Collection[str]) -> None:
        self._ready = ready
        self._names = {"", *services}
        self._stopping = asyncio.Event()

    def service(self) -> Service:
        """Return the service to mount."""
        return Service(
            NAME,
            {"Check": UnaryMethod(Access.OPEN, sync_handler(HealthCheckRequest, self.check))},
            {"Watch": StreamingMethod(Access.OPEN, self.watch)},
            on_stop=self._stopping.set,
        )

    def check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        """Answer with the state now. Raises ``StatusError`` for a service that is not served."""
        if request.service not in self._names:
            raise status_error("NOT_FOUND", f"no service '{request.service}' is served here")
        return HealthCheckResponse(status=self._status(request.service))

    async def watch(self, call: StreamingRpc) -> None:
        """Answer with the state now and whenever it has changed, until the server stops."""
        message = await read_bytes(call)
        if message is None:
            return
        name, last = parse_message(HealthCheckRequest, message).service, None
        while True:
            status = self._status(name)
            if status != last:
                last = status
                await call.write_message(HealthCheckResponse(status=status).SerializeToString())
            if self._stopping.is_set():
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _POLL_INTERVAL)

    def _status(self, name: str) -> HealthCheckResponse.ServingStatus.ValueType:
        if name not in self._names:
            return HealthCheckResponse.SERVICE_UNKNOWN
        serving = not self._stopping.is_set() and self._ready()
        return HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
