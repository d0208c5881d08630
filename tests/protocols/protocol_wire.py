"""What the tests of the protocols share: a service to order, the real front before it, responses byte for byte."""

import asyncio
import re
from collections.abc import Callable
from typing import NamedTuple

from error_bodies import without_request_id

from mooring.core.buffers import HeapAllocator
from mooring.core.errors import ModelNotFound, MooringError, VersionNotFound
from mooring.core.requests import InferenceRequest, InferenceResponse, ResponseHead
from mooring.core.service import (
    Done,
    InferenceService,
    ModelAdministration,
    ModelDescription,
    ModelMetadata,
    ModelState,
    Outcome,
    Registration,
    Scaled,
    WorkerDescription,
)
from mooring.core.tensors import Tensor
from mooring.observability.metrics import Metrics
from mooring.protocols.application import Application
from mooring.protocols.kserve.v1 import KServeV1
from mooring.protocols.openapi import ApiDescription
from mooring.protocols.responses import Responses
from mooring.protocols.status import FaultWords
from mooring.protocols.torchserve.inference import TorchServeInference
from mooring.protocols.torchserve.management import TorchServeManagement
from mooring.protocols.torchserve.metrics import TorchServeMetrics
from mooring.web.http1 import HttpServer, Limits

COMMON = (
    b"Pragma: no-cache\r\n"
    b"Cache-Control: no-cache; no-store, must-revalidate, private\r\n"
    b"Expires: Thu, 01 Jan 1970 00:00:00 UTC\r\n"
)
JSON = "application/json"
_ID = re.compile(rb"x-request-id: [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\r\n")


class Reply(NamedTuple):
    """A response as it came; ``raw`` has its x-request-id, if it is a random UUID, replaced by ``ID``."""

    raw: bytes
    status: int
    headers: dict[str, str]
    body: bytes


async def read_reply(reader: asyncio.StreamReader, *, head: bool = False) -> Reply:
    """The next response of a connection, interim ones skipped. The request's id in an error's body is left out."""
    lines = await reader.readuntil(b"\r\n\r\n")
    while lines.startswith(b"HTTP/1.1 100"):
        lines = await reader.readuntil(b"\r\n\r\n")
    first, *rest = lines.decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    if head:
        body = b""
    elif headers.get("transfer-encoding") == "chunked":
        body = await _chunks(reader)
    else:
        whole = await reader.readexactly(int(headers.get("content-length", 0)))
        body = without_request_id(whole, headers.get("x-request-id", ""))
        if body != whole:
            lines = lines.replace(b"content-length: %d" % len(whole), b"content-length: %d" % len(body))
            headers["content-length"] = str(len(body))
    return Reply(_ID.sub(b"x-request-id: ID\r\n", lines) + body, int(first.split()[1]), headers, body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """The chunks of a body as they came, sizes and all."""
    raw = b""
    while not raw.endswith(b"0\r\n\r\n"):
        raw += await reader.readuntil(b"\r\n")
        size = int(raw.split(b"\r\n")[-2], 16)
        raw += await reader.readexactly(size + 2)
    return raw


def answered(
    body: bytes,
    content_type: str = "",
    *,
    first: str = "200 OK",
    more: bytes = b"",
    length: int | None = None,
) -> bytes:
    """A whole response as the wire should have it."""
    kind = f"content-type: {content_type}\r\n".encode() if content_type else b""
    size = len(body) if length is None else length
    end = f"content-length: {size}\r\nconnection: keep-alive\r\n\r\n".encode()
    return b"HTTP/1.1 " + first.encode() + b"\r\nx-request-id: ID\r\n" + kind + COMMON + more + end + body


def refused(first: str, kind: str, message: str, *, more: bytes = b"", error: str = "") -> bytes:
    """A whole error response as the wire should have it. ``message`` and ``error`` are as JSON writes them."""
    last = f',\n  "error": "{error}"' if error else ""
    body = f'{{\n  "code": {first[:3]},\n  "type": "{kind}",\n  "message": "{message}"{last}\n}}\n'
    return answered(body.encode(), JSON, first=first, more=more)


def output(body: bytes, **head: object) -> InferenceResponse:
    """An answer in ``Form.BODY``."""
    tensors = [Tensor("output", "BYTES", [1], [body])]
    return InferenceResponse(tensors, head=ResponseHead(**head) if head else None)


def piece(body: bytes, **head: object) -> InferenceResponse:
    """A piece of a streamed answer that is not the last."""
    response = output(body, **head)
    response.final = False
    return response


def elements(*found: bytes) -> InferenceResponse:
    """An answer in ``Form.INSTANCES``."""
    return InferenceResponse([Tensor("output", "BYTES", [len(found)], list(found))])


class FakeTicket:
    """Knows whether it was cancelled."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    def cancel(self) -> None:
        self.cancelled.set()


class FakeService(InferenceService, ModelAdministration):
    """Remembers requests. ``answer`` says what becomes of one: outcomes to give at once; by default, its first field."""

    def __init__(self) -> None:
        self.requests: list[InferenceRequest] = []
        self.tickets: list[FakeTicket] = []
        self.dones: list[Done] = []
        self.arrived = asyncio.Event()
        self.alive = True
        self.changes: list[tuple[object, ...]] = []
        self.outcome: Scaled | MooringError = Scaled("echo", "1.0", 1)
        self.described: dict[str, ModelMetadata] = {}
        self.states = [
            ModelState("echo", "1.0", "READY", ready=True, is_default=True),
            ModelState("echo", "2.0", "READY", ready=True, is_default=False),
            ModelState("sleepy", "1.0", "LOADING", ready=False, is_default=True),
        ]
        self.answer: Callable[[InferenceRequest], list[Outcome]] = lambda request: [
            output(bytes(request.inputs[0].data[0]) if request.inputs else b"{}")
        ]

    def submit(self, request: InferenceRequest, done: Done) -> FakeTicket:
        self.requests.append(request)
        self.dones.append(done)
        self.tickets.append(FakeTicket())
        self.arrived.set()
        for outcome in self.answer(request):
            done(outcome)
        return self.tickets[-1]

    def _find(self, model: str, version: str) -> list[ModelState]:
        versions = [state for state in self.states if state.name == model]
        if not versions:
            raise ModelNotFound(model=model)
        if version == "all":
            return versions
        found = [s for s in versions if (s.version == version if version else s.is_default)]
        if not found:
            raise VersionNotFound(model=model, version=version)
        return found

    def ready(self, model: str = "", version: str = "") -> bool:
        return self._find(model, version)[0].ready

    def healthy(self) -> bool:
        return self.alive

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        return self.described.get(model) or ModelMetadata(model)

    def models(self) -> list[ModelState]:
        return self.states

    def index(self) -> list[ModelState]:
        return self.states

    def loads(self):
        raise AssertionError("no protocol here asks for it")

    async def config(self, model: str, version: str = ""):
        raise AssertionError("no protocol here asks for it")

    async def usage(self, model: str = "", version: str = ""):
        raise AssertionError("no protocol here asks for it")

    async def load(self, model: str, version: str = "", **changes) -> None:
        raise AssertionError("no protocol here asks for it")

    async def unload(self, model: str, version: str = "", *, dependents: bool = False) -> None:
        raise AssertionError("no protocol here asks for it")

    async def register(self, registration: Registration, *, wait: bool = True) -> Scaled:
        return self._changed("register", registration, wait)

    async def scale(
        self, model: str, version: str = "", *, least: int, most: int, wait: bool = True
    ) -> Scaled:
        return self._changed("scale", model, version, least, most, wait)

    async def set_default(self, model: str, version: str) -> None:
        self._changed("set default", model, version)

    async def unregister(self, model: str, version: str = "") -> None:
        self._changed("unregister", model, version)

    def _changed(self, *change: object) -> Scaled:
        """Remember what was to be changed; ``outcome`` is what comes of it."""
        self.changes.append(change)
        if isinstance(self.outcome, MooringError):
            raise self.outcome
        return self.outcome

    async def load_worker(self, worker: str, parameters) -> str:
        raise AssertionError("no protocol here asks for it")

    async def unload_worker(self, endpoint: str) -> None:
        raise AssertionError("no protocol here asks for it")

    async def describe(self, model: str, version: str = "") -> list[ModelDescription]:
        return [
            ModelDescription(
                name=state.name, version=state.version, url=f"{state.name}.mar", state=state.state,
                is_default=state.is_default, reason=state.reason, detail="", runtime="python", min_workers=1,
                max_workers=2, batch_size=4, max_delay=0.05, response_timeout=120.0, startup_timeout=60.0,
                retry_timeout=300.0, client_timeout=1.5, queue_size=100, pending=3, loaded_at_startup=True,
                workers=[WorkerDescription("9000", 4711, "BUSY", 1_700_000_000.25, 1_000_000)],
            )
            for state in self._find(model, version)
        ]  # fmt: skip


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
    service: FakeService, kind: str, cors: dict[str, str] | None = None, *, model_api: bool = True
) -> tuple[HttpServer, Metrics]:
    """A server with the endpoints of one port, in the words of a start in TorchServe's place."""
    metrics = Metrics()
    responses = Responses(metrics.responses, cors=cors, faults=FaultWords(status=503))
    description = ApiDescription(responses, "0.0.1", service=service)
    v1 = KServeV1(service, responses)
    endpoints = {
        "inference": lambda: [*TorchServeInference(service, responses, description).endpoints(), *v1.endpoints()],
        "management": lambda: [
            *TorchServeManagement(service, service, responses, description, model_api=model_api).endpoints(), *v1.readiness(),
        ],
        "metrics": lambda: TorchServeMetrics(metrics, responses).endpoints(),
    }[kind]()  # fmt: skip
    endpoints = [*description.endpoints(), *endpoints]
    description.add_endpoints(endpoints)
    server = HttpServer(
        Application(endpoints, responses),
        limits=Limits(max_body_bytes=1_000_000, max_url_bytes=2000),
        allocator=HeapAllocator(),
        render_error=responses.format_refusal,
    )
    await server.start("127.0.0.1", 0)
    return server, metrics
