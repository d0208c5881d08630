"""A listener with every endpoint of v2, over a service whose models are Python functions of tensors."""

import json
from typing import Any

from protocol_wire import FakeService, Served

from mooring.codecs.v2_json import decode_request
from mooring.core.buffers import HeapAllocator
from mooring.core.errors import ModelLoadFailed, ModelNotFound, ModelNotReady
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import (
    BatchUsage,
    Duration,
    ModelConfig,
    ModelMetadata,
    ModelState,
    ModelUsage,
    ServerAdministration,
)
from mooring.core.tensors import Tensor, TensorSpec
from mooring.observability.metrics import Metrics
from mooring.protocols.access import Gate
from mooring.protocols.application import Application
from mooring.protocols.dialect import V2, Dialect
from mooring.protocols.inflater import Inflater
from mooring.protocols.kserve.generate import Generate
from mooring.protocols.kserve.repository import Repository
from mooring.protocols.kserve.settings import LogSettings, Settings, TraceSettings
from mooring.protocols.kserve.shared_memory import SharedMemory, SharedMemoryEndpoints
from mooring.protocols.kserve.statistics import Statistics
from mooring.protocols.kserve.v2 import KServeV2
from mooring.protocols.openapi import ApiDescription
from mooring.protocols.responses import Responses
from mooring.web.http1 import HttpServer, Limits

LIMIT = 2_000_000


class TensorService(FakeService):
    """Models that answer with their inputs, and an administration that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.inputs = {"echo": [TensorSpec("x", "FP32", [-1, 2])]}
        self.answer = lambda request: [named(request, echoed(request))]

    def ready(self, model: str = "", version: str = "") -> bool:
        return super().ready(model, version) if model else all(state.ready for state in self.states)

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        state = self._find(model, version)[0]
        if not state.ready:
            raise ModelNotReady(f"model '{model}' version '{state.version}' is {state.state}", model=model)
        inputs = self.inputs.get(model, [])
        return ModelMetadata(model, [state.version], "python", inputs, inputs)

    def index(self) -> list[ModelState]:
        return [*self.states, ModelState("stored", "", "", ready=False, is_default=False)]

    async def config(self, model: str, version: str = "") -> ModelConfig:
        state = self._find(model, version)[0]
        specs = self.inputs.get(model, [])
        return ModelConfig(
            model, state.version, "python", "function", 8, specs, specs, 2, 0.001, {"a": 1, "b": True}
        )

    async def usage(self, model: str = "", version: str = "") -> list[ModelUsage]:
        states = self._find(model, version) if model else self.states
        spent = Duration(3, 300)
        return [
            ModelUsage(
                state.name, state.version, 1_700_000_000_000, 5, 3, spent, Duration(1, 9), spent, spent,
                [BatchUsage(2, Duration(2, 200))],
            )
            for state in states
        ]  # fmt: skip

    async def load(self, model: str, version: str = "", **options) -> None:
        if model == "nobody":
            raise ModelNotFound(f"model '{model}' is not in the repository", model=model)
        if model == "broken":
            raise ModelLoadFailed("its file is no model", model=model)
        self.calls.append(("load", model, version, options))

    async def unload(self, model: str, version: str = "", *, dependents: bool = False) -> None:
        self._find(model, version)
        self.calls.append(("unload", model, version, dependents))


class FakeServer(ServerAdministration):
    level = "info"

    def log_level(self) -> str:
        return self.level

    def set_log_level(self, level: str) -> None:
        self.level = level

    def devices(self):
        return {"CPU": 2}


def echoed(request: InferenceRequest) -> InferenceResponse:
    """The inputs as outputs, as a worker gives them."""
    body = request.body
    inputs = request.inputs if body is None else decode_request(bytes(body.data)).inputs
    outputs = [Tensor(each.name, each.datatype, each.shape, each.data) for each in inputs]
    return InferenceResponse(outputs)


def named(request: InferenceRequest, response: InferenceResponse) -> InferenceResponse:
    """What the engine adds."""
    response.model = request.model
    response.version = request.version or "1.0"
    response.id = response.id or request.id
    return response


async def listening_v2(
    service: TensorService, *, dialect: Dialect = V2, changes: bool = True, shared: bool = True
) -> tuple[HttpServer, Served, SharedMemory]:
    metrics = Metrics()
    responses = Responses(metrics.responses)
    memory = SharedMemory(HeapAllocator())
    v2 = KServeV2(service, responses, version="0.0.1", dialect=dialect, memory=memory if shared else None)
    log, trace = LogSettings(FakeServer()), TraceSettings()
    parts = [
        Statistics(service, responses),
        Repository(service, responses, v2.bodies, dialect=dialect),
        Settings(service, log, trace, responses, v2.bodies),
        SharedMemoryEndpoints(memory if shared else None, responses, v2.bodies),
        Generate(service, responses, v2.bodies, dialect=dialect),
    ]
    description = ApiDescription(responses, "0.0.1")
    endpoints = [*description.endpoints(), *v2.endpoints()]
    for part in parts:
        v2.extensions.extend(part.extensions)
        endpoints.extend(part.endpoints())
    description.add_endpoints(endpoints)
    limits = Limits(max_body_bytes=LIMIT, max_url_bytes=2000)
    inflater = Inflater(responses, limits=limits)
    server = HttpServer(
        Application(endpoints, responses, gate=Gate(closed=not changes), inflater=inflater),
        limits=limits,
        allocator=HeapAllocator(),
        render_error=responses.format_refusal,
    )
    await server.start("127.0.0.1", 0)
    return server, Served(service, metrics, server.port), memory


def infer_body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def x(data: Any = (1.0, 2.0), shape: Any = (1, 2), datatype: Any = "FP32", **more: Any) -> dict[str, Any]:
    """The input of echo."""
    return {"name": "x", "shape": list(shape), "datatype": datatype, "data": data, **more}
