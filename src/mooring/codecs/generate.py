"""The bodies of the generate extension: any JSON object whose keys are inputs, or an infer request of v2."""

from collections.abc import Callable, Sequence
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


# What a body was, for the server that has not read it; among the parameters of a response.
_FORM = "body_form"
INFER_FORM, GENERATE_FORM = "infer", "generate"


class GenerateBody(msgspec.Struct):
    """What the body of a generate request says; ``id`` empty means it has none. ``v2``: it is an infer request."""

    v2: bool
    id: str
    inputs: list[Tensor]
    parameters: dict[str, RequestValue] | None
    outputs: list[RequestedOutput] | None = None


def mark_body_form(response: InferenceResponse, form: str) -> None:
    """Say in a response what the body of its request was."""
    response.parameters = {**(response.parameters or {}), _FORM: form}


def pop_body_form(response: InferenceResponse) -> str:
    """What ``mark_body_form`` has said; the response does not say it any more."""
    parameters = response.parameters
    return str(parameters.pop(_FORM, "")) if parameters else ""


def decode_generate(body: Payload, declared: Callable[[], Sequence[TensorSpec]]) -> GenerateBody:
    """The request in a body; ``declared`` gives the inputs that its model declares. The body stays the caller's.

    Raises ``InvalidInput``, or what ``declared`` raises.
    """
    document = decode_object(body)
    if isinstance(document.get("inputs"), list):
        found = decode_request(bytes(view_of(body)))
        outputs = None if found.outputs is None else [_without_binary(output) for output in found.outputs]
        return GenerateBody(True, found.id, found.inputs, found.parameters, outputs)
    given = document.get("id", "")
    if type(given) not in {str, int}:
        raise InvalidInput('"id" must be a string')
    inputs, parameters = _sort_keys(document, declared())
    return GenerateBody(False, str(given), inputs, parameters)


def _without_binary(output: RequestedOutput) -> RequestedOutput:
    """The same output, not in binary: what generate answers is JSON."""
    kept = {name: value for name, value in (output.parameters or {}).items() if name != _BINARY}
    return RequestedOutput(output.name, kept or None)


def decode_object(body: Payload) -> dict[str, Any]:
    """The JSON object in a body; an empty one where there is no body. Raises ``InvalidInput``."""
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
    """The tensors and the parameters of a request. Of a model that declares no inputs every key is one.

    Whether it may be asked without any, only its worker knows.
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
    """A scalar or a list as the tensor of an input: its shape is filled up with ones, from the left."""
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
