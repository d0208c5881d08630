"""The Open Inference Protocol over gRPC as a client speaks it: what a status means, and the pieces of a stream."""

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from mooring.client.address import Address
from mooring.client.faults import connection_error, foreign_service
from mooring.client.retries import read_pushback
from mooring.codecs.protobuf import decode_response
from mooring.codecs.protobuf_wire import Malformed, read_fields
from mooring.core import errors
from mooring.core.errors import MooringError
from mooring.core.requests import InferenceResponse

SERVICE = "/inference.GRPCInferenceService/"

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
    "errors resolving",
    "handshake",
)
_NOT_THERE = ("is not offered here", "method not found")
# What every server of the protocol has. Others are extensions, and a server without them is one all the same.
_STANDARD = ("ModelInfer", "ModelMetadata", "ModelReady", "ServerLive", "ServerReady", "ServerMetadata")


def channel_options(connect_timeout: float) -> list[tuple[str, int]]:
    """Return the options of a channel: messages as large as tensors are, and a server that comes back is found soon."""
    milliseconds = max(int(connect_timeout * 1000), 1)
    return [
        ("grpc.max_receive_message_length", -1),  # the default of 4 MiB each way is less than one large image
        ("grpc.max_send_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", 50),
        (
            "grpc.max_reconnect_backoff_ms",
            100,
        ),  # less than the two repetitions of a call take at the least, 150 ms
        ("grpc.min_reconnect_backoff_ms", milliseconds),  # how long one attempt to connect may take
        ("grpc.use_local_subchannel_pool", 1),  # or all channels of the process share these
        # A proxy of the environment is for the web, not for the server next door.
        ("grpc.enable_http_proxy", 0),
    ]


def error_of(error: Any, address: Address, rpc: str, *, model: str = "", version: str = "") -> MooringError:
    """Build the error that the failure of an RPC means."""
    code, text = error.code(), error.details() or error.code().name.lower()
    kind, lower = _KINDS.get(code, errors.ModelFailed), text.lower()
    if code is grpc.StatusCode.UNAVAILABLE and any(word in lower for word in _BROKEN):
        return connection_error(address, text)
    if (
        code is grpc.StatusCode.UNIMPLEMENTED
        and any(word in lower for word in _NOT_THERE)
        and rpc in _STANDARD
    ):
        return foreign_service(address, text)
    named = kind(text, model=model, version=version)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        named.repeat_after = read_pushback(error.trailing_metadata())
        if named.repeat_after is None and code is grpc.StatusCode.UNAVAILABLE:
            named.repeat_after = 0.0
    return named


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
