"""The real front on a real port, every protocol mounted, and a service that answers as a test tells it to."""

import asyncio
from typing import NamedTuple

import pytest
from protocol_wire import FakeService, Reply, read_reply

from mooring.core.buffers import HeapAllocator
from mooring.observability.metrics import Metrics
from mooring.protocols.application import Application
from mooring.protocols.kserve.v1 import KServeV1
from mooring.protocols.openapi import Description
from mooring.protocols.responses import Responses
from mooring.protocols.torchserve.inference import TorchServeInference
from mooring.protocols.torchserve.management import TorchServeManagement
from mooring.protocols.torchserve.metrics import TorchServeMetrics
from mooring.web.http1 import HttpServer, Limits


class Served(NamedTuple):
    """A listener, what is behind it and how to talk to it."""

    service: FakeService
    metrics: Metrics
    port: int

    async def send(self, request: bytes) -> Reply:
        """One request on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        try:
            return await asyncio.wait_for(read_reply(reader, head=request.startswith(b"HEAD ")), 5)
        finally:
            writer.close()
            await writer.wait_closed()

    async def call(self, method: str, target: str, body: bytes = b"", *headers: str) -> Reply:
        """One request, written for the caller."""
        lines = [f"{method} {target} HTTP/1.1", "host: here", *headers]
        if body:
            lines.append(f"content-length: {len(body)}")
        return await self.send("\r\n".join([*lines, "", ""]).encode() + body)


async def listening(
    service: FakeService, kind: str, cors: dict[str, str] | None = None
) -> tuple[HttpServer, Metrics]:
    """A server with the endpoints of one port."""
    metrics = Metrics()
    responses = Responses(metrics.responses, cors=cors)
    description = Description(responses, "0.0.1")
    v1 = KServeV1(service, responses)
    endpoints = {
        "inference": lambda: [*TorchServeInference(service, responses, description).endpoints(), *v1.endpoints()],
        "management": lambda: [
            *TorchServeManagement(service, service, responses, description).endpoints(), *v1.readiness(),
        ],
        "metrics": lambda: TorchServeMetrics(metrics, responses).endpoints(),
    }[kind]()  # fmt: skip
    endpoints = [*description.endpoints(), *endpoints]
    description.cover(endpoints)
    server = HttpServer(
        Application(endpoints, responses),
        limits=Limits(max_body_bytes=1_000_000, max_url_bytes=2000),
        allocator=HeapAllocator(),
        refuse=responses.refuse_message,
    )
    await server.start("127.0.0.1", 0)
    return server, metrics


def _fixture(kind: str):
    @pytest.fixture(name=kind)
    async def fixture():
        service = FakeService()
        server, metrics = await listening(service, kind)
        yield Served(service, metrics, server.port)
        await server.close()

    return fixture


inference = _fixture("inference")
management = _fixture("management")
metrics = _fixture("metrics")
