"""The Open Inference Protocol over gRPC as a client speaks it: what a status means, and the pieces of a stream."""

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from mooring.codecs.protobuf import decode_response
from mooring.codecs.protobuf_wire import Malformed, read_fields
from mooring.core import errors
from mooring.core.errors import MooringError
from mooring.core.requests import InferenceResponse

SERVICE = "/inference.GRPCInferenceService/"
# As large as tensors are: the default of 4 MiB each way is less than one large image.
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

_KINDS: Mapping[Any, type[MooringError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidInput,
    grpc.StatusCode.UNAUTHENTICATED: errors.InvalidInput,
    grpc.StatusCode.PERMISSION_DENIED: errors.InvalidInput,
    grpc.StatusCode.NOT_FOUND: errors.ModelNotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.ModelExists,
    grpc.StatusCode.UNAVAILABLE: errors.ModelNotReady,
    grpc.StatusCode.FAILED_PRECONDITION: errors.ModelLoadFailed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.QueueFull,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.RequestCancelled,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
}
# The library says UNAVAILABLE itself where there is nobody to say it, and only its words tell.
_BROKEN = (
    "failed to connect",
    "connections to all backends failing",
    "socket closed",
    "connection reset",
    "broken pipe",
    "goaway",
    "recvmsg",
    "sendmsg",
    "dns resolution",
    "name resolution",
    "handshake",
)


def error_of(error: Any, *, model: str = "", version: str = "") -> MooringError:
    """Build the error that an RPC's failure means."""
    kind, text = _KINDS.get(error.code(), errors.ModelFailed), error.details() or error.code().name.lower()
    if kind is errors.ModelNotReady and any(word in text.lower() for word in _BROKEN):
        return errors.ServerUnreachable(f"the server cannot be reached: {text}")
    return kind(text, model=model, version=version)


def document_of(message: Message) -> dict[str, Any]:
    """Return a message as the JSON that REST answers in its place."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def piece_of(message: bytes, *, model: str, version: str) -> InferenceResponse:
    """Decode one message of a stream of answers. Raises ``ModelFailed`` for one with an error."""
    text, answer = b"", b""
    try:
        for tag, start, end in read_fields(message, 0, len(message)):
            if tag == 0x0A:
                text = message[start:end]
            elif tag == 0x12:
                answer = message[start:end]
    except Malformed as error:
        raise errors.InvalidOutput(f"the server's answer cannot be read: {error}") from None
    if text:
        raise errors.ModelFailed(text.decode(errors="replace"), model=model, version=version)
    return decode_response(answer)
