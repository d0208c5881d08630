"""The Open Inference Protocol over gRPC: ``inference.GRPCInferenceService``, and the same under TorchServe's name.

The extensions come from their own modules and AMD's methods from its protocol; ``services`` puts them together.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

from mooring.codecs import protobuf
from mooring.codecs.proto import inference_pb2 as pb
from mooring.codecs.protobuf import Layout, Regions
from mooring.core.buffers import Allocator
from mooring.core.errors import InvalidInput, ModelNotFound, MooringError, Unsupported
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import InferenceService, Outcome
from mooring.core.tensors import TensorSpec, release
from mooring.protocols.grpc_messages import answering
from mooring.protocols.grpc_server import Context, Service, Streaming, Unary, refuse
from mooring.protocols.kserve.scheduling import scheduled
from mooring.protocols.responses import RequestIds
from mooring.protocols.status import Asked

NAME = "inference.GRPCInferenceService"
TORCHSERVE_NAME = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"


class Reading:
    """From the bytes of a request to what the service takes. It keeps nothing of any one request."""

    def __init__(self, allocator: Allocator, regions: Regions | None) -> None:
        self._allocator = allocator
        self._regions = regions
        self._new_id = RequestIds().new

    def request(self, message: bytes, context: Context) -> tuple[InferenceRequest, Layout, str]:
        """The request, the layout of its answer, and the id that the client gave it. Raises ``MooringError``."""
        request, layout = protobuf.decode_request(message, self._allocator, self._regions)
        try:
            schedule = scheduled(request.parameters)
            _refuse_reserved(schedule.parameters)
        except InvalidInput:
            release(request.inputs)
            raise
        request.parameters, request.priority = schedule.parameters, schedule.priority
        request.deadline = schedule.deadline
        left = context.time_remaining()
        if left is not None:
            deadline = time.monotonic() + left
            request.deadline = min(deadline, request.deadline or deadline)
        given = request.id
        request.id = given or self._new_id()
        return request, layout, given


def _refuse_reserved(parameters: Mapping[str, object] | None) -> None:
    for name in parameters or ():
        if name.startswith("triton_"):
            raise InvalidInput(
                f"parameter '{name}' of the request cannot be set: keys that start with triton_ are reserved"
            )


class _Waiting:
    """Waits for the one answer to a request."""

    __slots__ = ("future", "streams")

    def __init__(self) -> None:
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.streams = False

    def done(self, outcome: Outcome) -> None:
        """What the service says."""
        whole = isinstance(outcome, MooringError) or outcome.final
        if whole and not self.future.done():
            self.future.set_result(outcome)
            return
        if isinstance(outcome, InferenceResponse):
            release(outcome.outputs)
        if not self.future.done():
            self.streams = True
            self.future.set_result(Unsupported("the model answers in pieces: ask it with ModelStreamInfer"))


class KServeV2Grpc:
    """The methods of the protocol itself. ``extensions`` is what ServerMetadata lists."""

    def __init__(
        self,
        service: InferenceService,
        allocator: Allocator,
        *,
        version: str,
        extensions: Sequence[str] = (),
        regions: Regions | None = None,
    ) -> None:
        self._service = service
        self._reading = Reading(allocator, regions)
        self._about = pb.ServerMetadataResponse(name="mooring", version=version, extensions=extensions)

    def services(
        self, unary: Mapping[str, Unary] | None = None, streaming: Mapping[str, Streaming] | None = None
    ) -> list[Service]:
        """What the server mounts: these methods under both names, and beside them in the first those of extensions."""
        own = self.methods()
        return [Service(NAME, own | dict(unary or {}), streaming or {}), Service(TORCHSERVE_NAME, own)]

    def methods(self) -> dict[str, Unary]:
        """Every RPC of the protocol."""
        return {
            "ModelInfer": self.infer,
            "ServerLive": answering(pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True)),
            "ServerReady": answering(
                pb.ServerReadyRequest, lambda _: pb.ServerReadyResponse(ready=self._service.ready())
            ),
            "ServerMetadata": answering(pb.ServerMetadataRequest, lambda _: self._about),
            "ModelReady": answering(pb.ModelReadyRequest, self._model_ready),
            "ModelMetadata": answering(pb.ModelMetadataRequest, self._model_metadata),
        }

    async def infer(self, message: bytes, context: Context) -> bytes:
        """One request, one answer. A client that goes away takes its request with it."""
        request, layout, given = self._reading.request(message, context)
        waiting = _Waiting()
        ticket = self._service.submit(request, waiting.done)
        try:
            outcome = await waiting.future
        except asyncio.CancelledError:
            ticket.cancel()
            raise
        if isinstance(outcome, MooringError):
            if waiting.streams:
                ticket.cancel()
            await refuse(context, outcome, Asked(request.model, request.version))
        try:
            outcome.id = given
            return protobuf.encode_response(outcome, layout)
        finally:
            release(outcome.outputs)

    def _model_ready(self, asked: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            return pb.ModelReadyResponse(
                ready=bool(asked.name) and self._service.ready(asked.name, asked.version)
            )
        except ModelNotFound:  # as Triton says it; over HTTP this is a 404
            return pb.ModelReadyResponse(ready=False)

    def _model_metadata(self, asked: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        found = self._service.metadata(asked.name, asked.version)
        return pb.ModelMetadataResponse(
            name=found.name,
            versions=found.versions,
            platform=found.platform,
            inputs=map(_tensor, found.inputs),
            outputs=map(_tensor, found.outputs),
        )


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
