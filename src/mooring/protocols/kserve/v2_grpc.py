"""The Open Inference Protocol over gRPC: ``inference.GRPCInferenceService``, and the same under TorchServe's name.

The extensions come from their own modules and AMD's methods from its protocol; ``services`` puts them together.
"""

from collections.abc import Mapping, Sequence

from mooring.codecs.proto import inference_pb2 as pb
from mooring.core.errors import ModelNotFound
from mooring.core.tensors import TensorSpec
from mooring.protocols.grpc_messages import sync_handler
from mooring.protocols.grpc_server import Service, StreamingMethod, UnaryMethod
from mooring.protocols.kserve.grpc_infer import Inference
from mooring.tokens import Access

NAME = "inference.GRPCInferenceService"
TORCHSERVE_NAME = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"


class KServeV2Grpc:
    """The methods of the protocol itself. ``extensions`` is what ServerMetadata lists."""

    def __init__(
        self,
        inference: Inference,
        *,
        version: str,
        extensions: Sequence[str] = (),
    ) -> None:
        self._inference = inference
        self._service = inference.service
        self._dialect = inference.dialect
        self._about = pb.ServerMetadataResponse(
            name=inference.dialect.server, version=version, extensions=extensions
        )

    def services(self, extensions: Mapping[str, UnaryMethod] | None = None) -> list[Service]:
        """Return the services to mount: these methods under both names, and with the first those of extensions."""
        own, inference = self.methods(), self._inference
        streaming: dict[str, StreamingMethod] = {
            "ModelStreamInfer": StreamingMethod(Access.INFERENCE, inference.stream)
        }
        return [
            Service(NAME, dict(extensions or {}) | own, streaming, inference.leave, inference.dialect),
            # TorchServe's clients read typed contents, where they send those.
            Service(
                TORCHSERVE_NAME,
                own | {"ModelInfer": UnaryMethod(Access.INFERENCE, inference.with_typed_outputs().infer)},
                dialect=inference.dialect,
            ),
        ]

    def methods(self) -> dict[str, UnaryMethod]:
        """Return every RPC of the protocol."""
        return {
            "ModelInfer": UnaryMethod(Access.INFERENCE, self._inference.infer),
            "ServerLive": UnaryMethod(
                Access.OPEN, sync_handler(pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True))
            ),
            "ServerReady": UnaryMethod(
                Access.OPEN,
                sync_handler(
                    pb.ServerReadyRequest, lambda _: pb.ServerReadyResponse(ready=self._service.ready())
                ),
            ),
            "ServerMetadata": UnaryMethod(
                Access.INFERENCE, sync_handler(pb.ServerMetadataRequest, lambda _: self._about)
            ),
            "ModelReady": UnaryMethod(Access.OPEN, sync_handler(pb.ModelReadyRequest, self._model_ready)),
            "ModelMetadata": UnaryMethod(
                Access.INFERENCE, sync_handler(pb.ModelMetadataRequest, self._model_metadata)
            ),
        }

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            return pb.ModelReadyResponse(
                ready=bool(request.name) and self._service.ready(request.name, request.version)
            )
        except ModelNotFound:
            if self._dialect.unknown_not_found:
                raise
            # As Triton answers; over HTTP this is a 404.
            return pb.ModelReadyResponse(ready=False)

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        metadata = self._service.metadata(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=metadata.name,
            versions=metadata.versions,
            platform=self._dialect.platform or metadata.platform,
            inputs=map(_tensor_metadata, metadata.inputs),
            outputs=map(_tensor_metadata, metadata.outputs),
        )


def _tensor_metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name,
        datatype=spec.datatype,
        shape=spec.shape,
        optional=spec.optional,
        unknown_rank=spec.unknown_rank,
        labels=spec.labels,
        content_type=spec.content_type,
    )
