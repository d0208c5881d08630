"""gRPC server reflection, by which grpcurl and its like learn what can be called.

Written by hand, since the library looks in the process-wide pool of descriptors, where ours are not.
"""

from collections.abc import Sequence

from google.protobuf.descriptor import FileDescriptor

from mooring.codecs.proto import (
    health_pb2,
    inference_pb2,
    open_inference_pb2,
    reflection_pb2,
    reflection_v1alpha_pb2,
    torchserve_inference_pb2,
    torchserve_management_pb2,
)
from mooring.codecs.proto.pool import POOL
from mooring.protocols.grpc_messages import StoppableReader, parse_message
from mooring.protocols.grpc_server import Service, StreamingMethod
from mooring.tokens import Access
from mooring.web.grpc.rpc import StreamingRpc
from mooring.web.grpc.status import Status

# Importing these fills the pool.
DESCRIBED = (
    health_pb2,
    inference_pb2,
    open_inference_pb2,
    reflection_pb2,
    reflection_v1alpha_pb2,
    torchserve_inference_pb2,
    torchserve_management_pb2,
)
_NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class Reflection:
    """Describes the services that are mounted."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._names = sorted({*(service.name for service in services), *_NAMES})
        self._reader = StoppableReader()

    def services(self) -> list[Service]:
        """Return the service under its name and under the older one, which most tools still try."""
        return [
            Service(
                name,
                {},
                {"ServerReflectionInfo": StreamingMethod(Access.INFERENCE, self.answer)},
                self._reader.stop,
            )
            for name in _NAMES
        ]

    async def answer(self, call: StreamingRpc) -> None:
        """Answer every question, until the client has no more."""
        while (message := await self._reader.read_bytes(call)) is not None:
            request = parse_message(reflection_pb2.ServerReflectionRequest, message)
            answer = self._describe(request)
            answer.valid_host = request.host
            answer.original_request.CopyFrom(request)
            await call.write_message(answer.SerializeToString())

    def _describe(
        self, request: reflection_pb2.ServerReflectionRequest
    ) -> reflection_pb2.ServerReflectionResponse:
        kind = request.WhichOneof("message_request")
        answer = reflection_pb2.ServerReflectionResponse()
        if kind == "list_services":
            for name in self._names:
                answer.list_services_response.service.add(name=name)
            return answer
        try:
            if kind == "file_by_filename":
                file = POOL.FindFileByName(request.file_by_filename)
            elif kind == "file_containing_symbol":
                file = POOL.FindFileContainingSymbol(request.file_containing_symbol)
            else:
                return _error_response(Status.UNIMPLEMENTED, "proto3 has no extensions to ask for")
        except KeyError:
            return _error_response(Status.NOT_FOUND, "nothing here is called so")
        answer.file_descriptor_response.file_descriptor_proto.extend(_with_imports(file))
        return answer


def _with_imports(file: FileDescriptor) -> list[bytes]:
    """A file and the files that it imports, serialized."""
    return [each.serialized_pb for each in (file, *file.dependencies)]


def _error_response(status: Status, text: str) -> reflection_pb2.ServerReflectionResponse:
    answer = reflection_pb2.ServerReflectionResponse()
    answer.error_response.error_code = status
    answer.error_response.error_message = text
    return answer
