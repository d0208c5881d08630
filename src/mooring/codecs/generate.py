"""The bodies of the generate extension: any JSON object whose keys are inputs, or an infer request of v2."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from mooring.codecs.raw import make_tensor
from mooring.codecs.tensor_json import decode_to_python, to_array
from mooring.codecs.v2_json import decode_request
from mooring.core.buffers import Payload, view_of
from mooring.core.errors import InvalidInput
from mooring.core.requests import InferenceResponse, RequestedOutput
from mooring.core.tensors import RequestValue, Tensor, TensorSpec

_RESERVED_KEYS = frozenset({"id", "parameters", "inputs", "outputs", "model_name", "model_version"})
_BINARY = "binary_data"
_JSON = "application/json"


# The parameter of a response that tells the server, which has not decoded the body, what form it had.
_FORM = "body_form"
INFER_FORM, GENERATE_FORM = "infer", "generate"


class GenerateBody(msgspec.Struct):
    """The decoded body of a generate request; ``id`` is empty where it has none. ``v2``: it is an infer request."""

    v2: bool
    id: str
    inputs: list[Tensor]
    parameters: dict[str, RequestValue] | None
    outputs: list[RequestedOutput] | None = None


def mark_body_form(response: InferenceResponse, form: str) -> None:
    """Record in a response which form the body of its request had."""
    response.parameters = {**(response.parameters or {}), _FORM: form}


def pop_body_form(response: InferenceResponse) -> str:
    """Take what ``mark_body_form`` recorded out of the response; empty where it recorded nothing."""
    parameters = response.parameters
    return str(parameters.pop(_FORM, "")) if parameters else ""


def decode_generate(body: Payload, declared: Callable[[], Sequence[TensorSpec]]) -> GenerateBody:
    """Decode a body; ``declared`` returns the inputs that its model declares. The caller keeps the body.

    Raises ``InvalidInput``, or what ``declared`` raises.
    """
    document = decode_object(body)
    _check_keys(body, document)
    if isinstance(document.get("inputs"), list):
        request = decode_request(bytes(view_of(body)))
        outputs = None if request.outputs is None else [_without_binary(output) for output in request.outputs]
        return GenerateBody(True, request.id, request.inputs, request.parameters, outputs)
    request_id = document.get("id", "")
    if type(request_id) not in {str, int}:
        raise InvalidInput('"id" must be a string')
    inputs, parameters = _sort_keys(document, declared())
    return GenerateBody(False, str(request_id), inputs, parameters)


def _check_keys(body: Payload, document: Mapping[str, Any]) -> None:
    """Raise ``InvalidInput`` for a key that the object of a body has twice: one of its values would be dropped."""
    text = bytes(view_of(body))
    if all(text.count(f'"{key}"'.encode()) < 2 for key in document):
        return  # as good as always, and cheap however large the body is

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise InvalidInput(f"the key '{twice}' is sent twice")
        return found

    with suppress(ValueError, RecursionError):  # it has been decoded; this decoder may take less
        json.loads(text, object_pairs_hook=check)


def _without_binary(output: RequestedOutput) -> RequestedOutput:
    """Return the same output, not in binary: generate answers in JSON."""
    parameters = {name: value for name, value in (output.parameters or {}).items() if name != _BINARY}
    return RequestedOutput(output.name, parameters or None)


def decode_object(body: Payload) -> dict[str, Any]:
    """Decode the JSON object in a body; an empty body is an empty object. Raises ``InvalidInput``."""
    if not len(body):
        return {}
    document = decode_to_python(view_of(body))
    if document is None:
        return {}
    if type(document) is not dict:
        raise InvalidInput("the body must be a JSON object")
    return document


def _sort_keys(
    document: dict[str, Any], declared: Sequence[TensorSpec]
) -> tuple[list[Tensor], dict[str, RequestValue] | None]:
    """Return the tensors and the parameters of a request. Every key is an input of a model that declares none.

    Only the worker knows whether such a model can be called without inputs.
    """
    specs = {spec.name: spec for spec in declared}
    inputs: list[Tensor] = []
    parameters: dict[str, Any] = {}
    for name, value in document.items():
        if name in specs or (not specs and name not in _RESERVED_KEYS):
            inputs.append(_make_input(name, value, specs.get(name)))
        elif name not in _RESERVED_KEYS:
            parameters[name] = value
    more = document.get("parameters")
    if more is not None and type(more) is not dict:
        raise InvalidInput('"parameters" must be an object')
    parameters |= more or {}
    parameters = {name: value for name, value in parameters.items() if value is not None}
    missing = [name for name, spec in specs.items() if name not in document and not spec.optional]
    if missing:
        raise InvalidInput(f"input '{missing[0]}' is missing; send it as a key of the object")
    return inputs, parameters or None


def _make_input(name: str, value: Any, spec: TensorSpec | None) -> Tensor:
    """Return a scalar or a list as the tensor of an input; its shape is filled up with ones, from the left.

    An input whose elements are JSON text takes any value.
    """
    if spec is not None and spec.content_type == _JSON:
        text = json.dumps(value, ensure_ascii=False).encode()
        return Tensor(name, "BYTES", [1] * len(spec.shape), [text], {"content_type": _JSON})
    array = to_array(value, name, "" if spec is None else spec.datatype)
    if array.ndim > 1:
        raise InvalidInput(f"input '{name}' must be a single value or a flat list of values")
    rank = max(array.ndim, 1) if spec is None or spec.unknown_rank else len(spec.shape)
    if rank < array.ndim:
        if array.size != 1:
            raise InvalidInput(f"input '{name}' must be a single value")
        array = array.reshape(())
    array = array.reshape([1] * (rank - array.ndim) + list(array.shape))
    return make_tensor(name, array, "" if spec is None else spec.datatype)
