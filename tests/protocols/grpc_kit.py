"""A gRPC server before a service to order, and a plain channel to it."""

import asyncio
from typing import NamedTuple

import grpc
from protocol_wire import FakeService

from mooring.codecs.proto import inference_pb2 as pb
from mooring.core.buffers import HeapAllocator
from mooring.core.requests import InferenceResponse
from mooring.core.service import ModelMetadata
from mooring.core.tensors import TensorSpec
from mooring.protocols.grpc_health import Health
from mooring.protocols.grpc_server import GrpcServer
from mooring.protocols.kserve.v2_grpc import NAME, TORCHSERVE_NAME, KServeV2Grpc

SERVICE = f"/{NAME}/"


class TensorService(FakeService):
    """Answers with the tensors that it was asked with, and is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = lambda request: [InferenceResponse(request.inputs, model=request.model, version="1.0")]

    def ready(self, model: str = "", version: str = "") -> bool:
        return self._find(model, version)[0].ready if model else self.alive

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        self._find(model, version)
        tensors = [TensorSpec("x", "FP32", [-1, 4])]
        return ModelMetadata(
            model, ["1.0", "2.0"], "onnxruntime_onnx", tensors, [TensorSpec("y", "BYTES", [-1])]
        )


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


async def serve(service: TensorService, **how) -> GrpcServer:
    """Every method over a service."""
    v2 = KServeV2Grpc(service, HeapAllocator(), version="0.0.1", extensions=["binary_tensor_data"])
    health = Health(service.ready, [NAME, TORCHSERVE_NAME])
    server = GrpcServer([*v2.services(), health.service()], **how)
    await server.start("127.0.0.1", 0)
    return server


async def until(condition, limit: float = 5) -> None:
    """Return when it is true."""
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.005)
