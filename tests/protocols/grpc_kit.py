"""A gRPC server before a service to order, and a plain channel to it."""

import asyncio
from typing import NamedTuple
from unittest.mock import Mock

import grpc
from protocol_wire import FakeService

from mooring.codecs.proto import inference_pb2 as pb
from mooring.core.buffers import HeapAllocator
from mooring.core.errors import ModelLoadFailed, ModelNotFound
from mooring.core.options import TORCHSERVE_HEADERS
from mooring.core.requests import InferenceResponse
from mooring.core.service import (
    BatchUsage,
    Duration,
    ModelConfig,
    ModelMetadata,
    ModelState,
    ModelUsage,
    ServerAdministration,
)
from mooring.core.tensors import TensorSpec
from mooring.mount.grpc import inference_services
from mooring.mount.routes import Administrative
from mooring.protocols.access import Gate
from mooring.protocols.dialect import V2, Dialect
from mooring.protocols.grpc_reflection import Reflection
from mooring.protocols.grpc_server import GrpcServer
from mooring.protocols.kserve.settings import LogSettings, TraceSettings
from mooring.protocols.kserve.shared_memory import SharedMemory
from mooring.protocols.kserve.v2_grpc import NAME

SERVICE = f"/{NAME}/"


class TensorService(FakeService):
    """Answers with the tensors that it was asked with, and is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = lambda request: [InferenceResponse(request.inputs, model=request.model, version="1.0")]
        self.changes: list[tuple] = []
        self.held = asyncio.Event()
        self.held.set()
        self.administration = FakeServerAdministration()

    def ready(self, model: str = "", version: str = "") -> bool:
        return self._find(model, version)[0].ready if model else self.alive

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        self._find(model, version)
        tensors = [TensorSpec("x", "FP32", [-1, 4])]
        return ModelMetadata(
            model, ["1.0", "2.0"], "onnxruntime_onnx", tensors, [TensorSpec("y", "BYTES", [-1])]
        )

    def index(self) -> list[ModelState]:
        return [*self.states, ModelState("shelved", "", "", ready=False, is_default=False)]

    async def config(self, model: str, version: str = "") -> ModelConfig:
        state = self._find(model, version)[0]
        inputs = [TensorSpec("x", "FP32", [-1, 4]), TensorSpec("t", "BYTES", [-1, 1])]
        return ModelConfig(
            model, state.version, "onnxruntime_onnx", "onnx", 8, inputs, [TensorSpec("y", "BF16", [-1])], 2, 0.005,
            {"flag": True, "text": "a"},
        )  # fmt: skip

    async def usage(self, model: str = "", version: str = "") -> list[ModelUsage]:
        states = self._find(model, version or "all") if model else self.states
        return [
            ModelUsage(
                state.name, state.version, 1_700_000_000_000, 2**63 + 5, 4, Duration(3, 30), Duration(1, 10),
                Duration(4, 8), Duration(4, 32), [BatchUsage(2, Duration(4, 32))],
            )
            for state in states
        ]  # fmt: skip

    async def load(self, model: str, version: str = "", **how) -> None:
        self._change("load", model, version, **how)
        await self.held.wait()

    async def unload(self, model: str, version: str = "", *, dependents: bool = False) -> None:
        self._change("unload", model, version, dependents=dependents)

    async def load_worker(self, worker: str, parameters) -> str:
        self._change("load_worker", worker, parameters=parameters)
        return f"{worker}-0"

    async def unload_worker(self, endpoint: str) -> None:
        self._change("unload_worker", endpoint)

    def _change(self, verb: str, name: str, *more, **how) -> None:
        self.changes.append((verb, name, *more, how))
        if name == "nobody":
            raise ModelNotFound(model=name)
        if name == "broken":
            raise ModelLoadFailed("model 'broken' has no weights", model=name)


class FakeServerAdministration(ServerAdministration):
    """A level, and some devices."""

    level = "info"

    def log_level(self) -> str:
        return self.level

    def set_log_level(self, level: str) -> None:
        self.level = level

    def devices(self) -> dict[str, int]:
        return {"CPU": 4, "MI300X": 2}


class Talk(NamedTuple):
    """A server, what is behind it, and a channel to it."""

    service: TensorService
    server: GrpcServer
    channel: grpc.aio.Channel

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    async def call(self, method: str, message: object = b"", *, kind=None, service: str = SERVICE, **how):
        """The answer to one message, as a message of the kind named like the method unless another is given."""
        data = message if isinstance(message, bytes) else message.SerializeToString()
        answer = await self.channel.unary_unary(service + method)(data, timeout=how.pop("timeout", 5), **how)
        return (kind or getattr(pb, f"{method}Response")).FromString(answer)

    async def refused(self, method: str, message: object = b"", **how) -> tuple[str, str]:
        """The name of the status, and its text."""
        try:
            answer = await self.call(method, message, **how)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details()
        raise AssertionError(f"answered with {answer}")


async def serve(
    service: TensorService, *, changes: bool = True, memory: SharedMemory | None = None, dialect: Dialect = V2
) -> GrpcServer:
    """Everything that a server mounts, over a service."""
    administrative = Administrative(
        models=service,
        server=service.administration,
        workflows=Mock(),
        metrics=Mock(),
        log_settings=LogSettings(service.administration),
        trace_settings=TraceSettings(),
    )
    services = inference_services(
        service,
        administrative,
        HeapAllocator(),
        extensions=["binary_tensor_data"],
        dialect=dialect,
        memory=memory,
        sequence_headers=TORCHSERVE_HEADERS,
    )
    server = GrpcServer([*services, *Reflection(services).services()], gate=Gate(closed=not changes))
    await server.start("127.0.0.1", 0)
    return server


async def until(condition, limit: float = 5) -> None:
    """Return when it is true."""
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.005)
