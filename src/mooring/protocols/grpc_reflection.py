"""Server reflection, by which grpcurl and its like learn what can be called.

By hand, since the library's would look in the process-wide pool of descriptors, where ours are not.
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
from mooring.web.grpc.calls import StreamingCall
from mooring.web.grpc.status import Status

# Whoever imports these fills the pool.
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
        """Under its name and the older one, which most tools still try."""
        return [
            Service(
                name,
                {},
                {"ServerReflectionInfo": StreamingMethod(Access.INFERENCE, self.answer)},
                self._reader.stop,
            )
            for name in _NAMES
        ]

    async def answer(self, call: StreamingCall) -> None:
        """An answer to every question, until the client has no more."""
        while (message := await self._reader.read_bytes(call)) is not None:
            asked = parse_message(reflection_pb2.ServerReflectionRequest, message)
            answer = self._answered(asked)
            answer.valid_host = asked.host
            answer.original_request.CopyFrom(asked)
            await call.write_message(answer.SerializeToString())

    def _answered(
        self, asked: reflection_pb2.ServerReflectionRequest
    ) -> reflection_pb2.ServerReflectionResponse:
        question = asked.WhichOneof("message_request")
        answer = reflection_pb2.ServerReflectionResponse()
        if question == "list_services":
            for name in self._names:
                answer.list_services_response.service.add(name=name)
            return answer
        try:
            if question == "file_by_filename":
                found = POOL.FindFileByName(asked.file_by_filename)
            elif question == "file_containing_symbol":
                found = POOL.FindFileContainingSymbol(asked.file_containing_symbol)
            else:
                return _refused(Status.UNIMPLEMENTED, "proto3 has no extensions to ask for")
        except KeyError:
            return _refused(Status.NOT_FOUND, "nothing here is called so")
        answer.file_descriptor_response.file_descriptor_proto.extend(_with_imports(found))
        return answer


def _with_imports(file: FileDescriptor) -> list[bytes]:
    """A file, and the files that it needs."""
    return [each.serialized_pb for each in (file, *file.dependencies)]


def _refused(status: Status, text: str) -> reflection_pb2.ServerReflectionResponse:
    answer = reflection_pb2.ServerReflectionResponse()
    answer.error_response.error_code = status
    answer.error_response.error_message = text
    return answer
