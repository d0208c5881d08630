"""The Open Inference Protocol over HTTP as a client speaks it: what to send, and what an answer means. No sockets."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from mooring.client.retries import read_retry_after
from mooring.client.timing import ASKING
from mooring.codecs.packed import with_plain_data
from mooring.codecs.tensor_json import decode_utf8_texts
from mooring.codecs.v2_json import ALL_BINARY, JSON_ONLY, decode_response, encode_request
from mooring.core import errors
from mooring.core.buffers import view_of
from mooring.core.errors import MooringError
from mooring.core.requests import InferenceRequest, InferenceResponse, RequestedOutput
from mooring.core.tensors import Parameter, RequestValue

JSON_SIZE = "inference-header-content-length"

# A client cannot tell more than the status says: 503 is a full queue where the server says when to come again.
_KINDS: Mapping[int, type[MooringError]] = {
    404: errors.ModelNotFound,
    405: errors.Unsupported,
    408: errors.DeadlineExceeded,
    409: errors.ModelExists,
    429: errors.QueueFull,
    499: errors.RequestCancelled,
    501: errors.Unsupported,
    503: errors.ModelNotReady,
    504: errors.DeadlineExceeded,
    507: errors.OutOfResources,
}


class Call(msgspec.Struct):
    """A request as HTTP has it."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = {}


def model_path(model: str, version: str = "", rest: str = "") -> str:
    """Return the path of a model, or of one of its versions. A name's slashes stay, as all clients of the protocol have it."""
    versions = f"/versions/{quote(version, safe='')}" if version else ""
    return f"/v2/models/{quote(model)}{versions}{rest}"


def infer_call(request: InferenceRequest, *, binary: bool, timed: bool = False) -> Call:
    """Build an inference request; with ``binary`` its tensors travel in binary, both ways.

    With ``timed`` it asks where its time goes.
    """
    if not binary:
        _check_texts(request, "give the client binary=True, or ask over gRPC")
    whole = _request_binary_outputs(request) if binary else request
    pieces, json_size = encode_request(whole, ALL_BINARY if binary else JSON_ONLY)
    headers = {"content-type": "application/octet-stream" if json_size else "application/json"}
    if json_size:
        headers[JSON_SIZE] = str(json_size)
    if timed:
        headers |= [ASKING]
    body = b"".join(map(view_of, pieces))
    return Call("POST", model_path(request.model, request.version, "/infer"), body, headers)


def stream_call(request: InferenceRequest) -> Call:
    """Build an inference request whose answer comes in pieces, as server-sent events."""
    _check_texts(request, "ask over gRPC")
    pieces, _ = encode_request(request, JSON_ONLY)
    path = model_path(request.model, request.version, "/generate_stream")
    return Call("POST", path, b"".join(map(view_of, pieces)), {"content-type": "application/json"})


def _check_texts(request: InferenceRequest, way_out: str) -> None:
    """Raise ``InvalidInput`` where bytes are no text, which JSON holds alone: in base64 a model would take them for another text."""
    for tensor in request.inputs:
        if tensor.datatype == "BYTES" and tensor.data is not None:
            elements = [*map(bytes, with_plain_data(tensor).data)]
            if decode_utf8_texts(elements) is None:
                raise errors.InvalidInput(
                    f"input '{tensor.name}' holds bytes that are not UTF-8, and JSON cannot say them: {way_out}"
                )


def _request_binary_outputs(request: InferenceRequest) -> InferenceRequest:
    if request.outputs:
        # Set on every output: other servers do not look at the request's own parameter then.
        outputs = [
            RequestedOutput(each.name, {**(each.parameters or {}), "binary_data": True})
            for each in request.outputs
        ]
        return msgspec.structs.replace(request, outputs=outputs)
    parameters: dict[str, RequestValue] = {**(request.parameters or {}), "binary_data_output": True}
    return msgspec.structs.replace(request, parameters=parameters)


def answer_of(headers: Mapping[str, str], body: bytes) -> InferenceResponse:
    """Decode the answer to an inference. Raises ``InvalidOutput``."""
    size = headers.get(JSON_SIZE)
    if size is not None and not size.isdecimal():
        raise errors.InvalidOutput(f"the server's answer cannot be read: its {JSON_SIZE} is '{size}'")
    return decode_response(body, None if size is None else int(size))


def load_body(
    config: Mapping[str, Any] | None,
    files: Mapping[str, bytes] | None,
    parameters: Mapping[str, Parameter] | None,
) -> bytes:
    """Build the body of a request to load a model; files are encoded in base64."""
    values = dict(load_parameters(config, parameters))
    values.update({f"file:{name}": base64.b64encode(data).decode() for name, data in (files or {}).items()})
    return msgspec.json.encode({"parameters": values}) if values else b"{}"


def load_parameters(
    config: Mapping[str, Any] | None, parameters: Mapping[str, Parameter] | None
) -> Iterator[tuple[str, Parameter]]:
    """Yield the parameters of a request to load a model, except its files."""
    yield from (parameters or {}).items()
    if config is not None:
        yield "config", msgspec.json.encode(config).decode()


def error_of(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    model: str = "",
    version: str = "",
    inference: bool = False,
) -> MooringError:
    """Build the error that a status other than 200 means, of an ``inference`` or of another call."""
    kind = _KINDS.get(status, errors.InvalidInput if status < 500 else errors.ModelFailed)
    if inference and status == 409:  # chosen by the model, or its sequence is lost: as ABORTED over gRPC
        kind = errors.ModelFailed
    if status == 503 and "retry-after" in headers:
        kind = errors.QueueFull
    text = f"the server answered {status}"
    if headers.get("content-type", "").startswith("text/html"):
        text += " with a page, as proxies do"
    else:
        text = _error_text(body) or text
    error = kind(text, model=model, version=version, code=status)
    if status in (429, 503):  # whoever refuses with these has not run the model
        error.repeat_after = read_retry_after(headers)
    return error


def _error_text(body: bytes) -> str:
    """Return the reason in an error's body: ``error``, or ``message`` as TorchServe has it, or whatever there is."""
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body[:500].decode(errors="replace").strip()
    if isinstance(document, dict):
        return str(document.get("error") or document.get("message") or document)
    return str(document)


def event_of(line: str, *, model: str, version: str) -> InferenceResponse | None:
    """Decode the piece of an answer in a line of a stream of events; None where the line holds none. Raises ``MooringError``."""
    if not line.startswith("data:"):
        return None
    data = line[5:].strip().encode()
    try:
        document = msgspec.json.decode(data)
    except msgspec.DecodeError:
        document = None  # NaN and Infinity are no JSON, and tensors may hold them
    if isinstance(document, dict) and "error" in document and "outputs" not in document:
        raise errors.ModelFailed(str(document["error"]), model=model, version=version)
    return decode_response(data)
