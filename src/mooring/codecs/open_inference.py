"""The body of an Open Inference Protocol request that the server has not decoded, because it is large.

The worker decodes it, or a codec process. This code never runs on the server's event loop.
"""

from collections.abc import Mapping

from mooring.codecs.generate import GENERATE_FORM, INFER_FORM, decode_generate
from mooring.codecs.packed import unpack_tensors
from mooring.codecs.protobuf_tensors import ContentsLayout
from mooring.codecs.v2_json import decode_request, refuse_regions, select_outputs
from mooring.core.buffers import LARGE, Payload
from mooring.core.errors import InvalidInput
from mooring.core.requests import BodyKind, InferenceRequest, JsonWriter, RequestedOutput, UndecodedBody
from mooring.core.tensors import RequestValue

# Parameters for the server, which has not seen the body: the model does not get them.
_SERVERS = frozenset({"binary_data_output", "priority", "timeout"})
_BINARY = "binary_data"


def decode_v2_inputs(request: InferenceRequest) -> None:
    """Decode the body, if it is not, and unpack every input. Raises ``InvalidInput``."""
    decode_v2_body(request)
    unpack_tensors(request.inputs)


def decode_v2_body(request: InferenceRequest) -> None:
    """Replace an undecoded body by its id, inputs, parameters and outputs; inputs may be packed. Raises ``InvalidInput``.

    Each of ``outputs`` then has the parameter ``binary_data``, and ``json_writer`` says what becomes of all others.
    """
    undecoded = request.body
    if undecoded is None:
        return
    if undecoded.kind is BodyKind.GENERATE:
        _decode_generate(request, undecoded)
        return
    body = decode_request(undecoded.data, undecoded.json_size, _refuse_region, lenient=undecoded.lenient)
    if undecoded.no_regions:
        refuse_regions(body.outputs)
    parameters = body.parameters or {}
    selection = select_outputs(body.outputs, parameters)
    request.id = body.id or request.id
    bare = request.layout == ContentsLayout.BARE
    request.outputs = [
        RequestedOutput(
            output.name, {**(output.parameters or {}), _BINARY: bare or selection.named[output.name]}
        )
        for output in body.outputs or ()
    ] or None
    request.json_writer = JsonWriter.NOBODY if selection.others or bare else JsonWriter.WORKER
    request.parameters = _without_servers_own(parameters)
    request.inputs, request.body = body.inputs, None


def _decode_generate(request: InferenceRequest, body: UndecodedBody) -> None:
    """Decode a body of the generate extension; ``path`` then names its form."""
    decoded = decode_generate(body.data, lambda: body.declared or ())
    request.id = decoded.id or request.id
    request.path = INFER_FORM if decoded.v2 else GENERATE_FORM
    request.inputs, request.outputs, request.json_writer = decoded.inputs, decoded.outputs, JsonWriter.SERVER
    request.parameters = _without_servers_own(decoded.parameters or {})
    request.body = None


def _without_servers_own(parameters: Mapping[str, RequestValue]) -> dict[str, RequestValue] | None:
    """Return the parameters that are the model's; None where all of them, or none, are the server's."""
    return {name: value for name, value in parameters.items() if name not in _SERVERS} or None


def _refuse_region(region: str, offset: int, size: int) -> Payload:
    raise InvalidInput(
        f"the JSON is above {LARGE} bytes, and then no input may lie in shared memory, as the {size} bytes at {offset} "
        f"of region '{region}'; send large inputs in binary"
    )
