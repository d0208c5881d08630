"""A large JSON body that a codec process has decoded, on its way back to the process that has its request."""

import msgspec

from mooring.codecs.open_inference import decode_v2_body
from mooring.codecs.packed import pack_outputs
from mooring.core.requests import InferenceRequest, InferenceResponse, JsonWriter, RequestedOutput
from mooring.core.tensors import RequestValue, Tensor


class DecodedBody(msgspec.Struct, array_like=True):
    """All that a body says beside its tensors, as ``decode_v2_body`` leaves it in a request."""

    id: str
    outputs: list[RequestedOutput] | None
    parameters: dict[str, RequestValue] | None
    json_writer: JsonWriter
    path: str


def encode_decoded(request: InferenceRequest) -> InferenceResponse:
    """Decode the body of a request; the response has a ``DecodedBody`` and then its tensors, packed.

    Raises ``InvalidInput``.
    """
    decode_v2_body(request)
    pack_outputs(request.inputs)
    body = DecodedBody(request.id, request.outputs, request.parameters, request.json_writer, request.path)
    return InferenceResponse([Tensor("body", "BYTES", [1], [msgspec.msgpack.encode(body)]), *request.inputs])


def apply_decoded(request: InferenceRequest, response: InferenceResponse) -> None:
    """Put a decoded body into the request that it belongs to. The caller releases the memory of the undecoded one."""
    body = msgspec.msgpack.decode(bytes(response.outputs[0].data[0]), type=DecodedBody)
    request.id, request.outputs, request.parameters = body.id, body.outputs, body.parameters
    request.json_writer, request.path = body.json_writer, body.path
    request.inputs, request.body = response.tensors[1:], None
