"""AMD's API before a fake service, in either dialect of v2, and what its clients send."""

import json
from collections.abc import Mapping

from protocol_wire import FakeService

from mooring.core.buffers import HeapAllocator
from mooring.core.service import ModelMetadata, ServerAdministration
from mooring.core.tensors import TensorSpec
from mooring.observability.metrics import Metrics
from mooring.protocols.access import Gate
from mooring.protocols.amd.administration import AmdAdministration
from mooring.protocols.amd.inference_socket import InferenceSocket
from mooring.protocols.amd.metrics import AmdMetrics, count_requests
from mooring.protocols.application import Application
from mooring.protocols.dialect import AMD
from mooring.protocols.kserve.repository import Repository
from mooring.protocols.kserve.v2 import KServeV2
from mooring.protocols.openapi import ApiDescription
from mooring.protocols.options_endpoints import options_endpoints
from mooring.protocols.responses import Responses
from mooring.protocols.torchserve.metrics import TorchServeMetrics
from mooring.repository.catalog import worker_extensions
from mooring.web.http1 import HttpServer, Limits

ANYONE = {"access-control-allow-origin": "*"}


class FakeAdministration(FakeService, ServerAdministration):
    """Does as it is told, and remembers what that was. ``fails`` is what it raises instead."""

    def __init__(self):
        super().__init__()
        self.done = []
        self.fails = None

    def metadata(self, model, version=""):
        self._find(model, version)
        return ModelMetadata(
            model, ["1.0"], "CPU", [TensorSpec("in", "UINT32", [1])], [TensorSpec("out", "UINT32", [1])]
        )

    def _do(self, *what):
        self.done.append(what)
        if self.fails is not None:
            raise self.fails

    async def load(self, model, version="", *, config=None, files=None, parameters=None):
        self._do("load", model, version, config, files, parameters)

    async def unload(self, model, version="", *, dependents=False):
        self._do("unload", model, version)
        self._find(model, version)

    async def load_worker(self, worker, parameters: Mapping):
        self._do("load_worker", worker, dict(parameters))
        return f"{worker}-0"

    async def unload_worker(self, endpoint):
        self._do("unload_worker", endpoint)
        self._find(endpoint, "")

    def log_level(self):
        return "info"

    def set_log_level(self, level):
        raise AssertionError("no protocol here asks for it")

    def devices(self):
        return {"CPU": 4, "NVIDIA H200": 2}


async def listening(service, dialect, *, changes=True):
    metrics = Metrics()
    responses = Responses(metrics.responses, cors=ANYONE if dialect is AMD else None)
    description = ApiDescription(responses, "0.0.1")
    v2 = KServeV2(
        service,
        responses,
        version="0.0.1",
        dialect=dialect,
    )
    v2.extensions += worker_extensions()
    amd = AmdAdministration(service, service, responses)
    repository = Repository(service, responses, v2.bodies, dialect=dialect)
    AmdMetrics(metrics, lambda: 3)
    endpoints = [
        *description.endpoints(),
        *v2.endpoints(),
        *repository.endpoints(),
        *amd.endpoints(),
        *InferenceSocket(service, responses, any_origin=dialect is AMD).endpoints(),
        *TorchServeMetrics(metrics, responses).endpoints(),
    ]
    endpoints += options_endpoints(endpoints, responses)
    description.add_endpoints(endpoints)
    server = HttpServer(
        Application(count_requests(endpoints, metrics), responses, gate=Gate(closed=not changes)),
        limits=Limits(max_body_bytes=1_000_000),
        allocator=HeapAllocator(),
        render_error=responses.format_refusal,
    )
    await server.start("127.0.0.1", 0)
    return server, metrics


def request(*shape, datatype="UINT32", data=(5,), **more):
    tensor = {"name": "in", "shape": list(shape), "datatype": datatype, "data": list(data), "parameters": {}}
    return json.dumps({"inputs": [tensor], "parameters": {}, **more}).encode()
