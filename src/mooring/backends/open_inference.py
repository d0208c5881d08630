"""What a request of the Open Inference Protocol leaves to the worker.

Its JSON body where that is large; and of its answer the classes in place of the numbers, and the JSON text of large
outputs: both would cost the server's one thread more than it has.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from mooring.codecs.classification import classify
from mooring.codecs.generate import GENERATE_FORM, INFER_FORM, declared_for, decode_generate, tell_form
from mooring.codecs.nonfinite import BY_PROTOCOL, writes_null
from mooring.codecs.packed import FEW, pack, pack_rows, unpack_all
from mooring.codecs.protobuf_tensors import Layout
from mooring.codecs.v2_json import (
    REGION,
    check_regionless,
    decode_request,
    json_size_of,
    json_text,
    wanted_of,
)
from mooring.core.buffers import LARGE, Payload
from mooring.core.errors import InvalidInput
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, RequestedOutput
from mooring.core.tensors import Parameter, RequestValue, Tensor, TensorSpec

# Bytes of numbers above which their JSON is written here: a few thousand cost the server's thread 0.1 ms.
_MUCH = 16_384
# What a body says to the server, which has not seen it.
_SERVERS = frozenset({"binary_data_output", "priority", "timeout"})
_BINARY = "binary_data"


def open_inputs(request: InferenceRequest) -> None:
    """As ``open_body``, and give every input plain data. Raises ``InvalidInput``."""
    open_body(request)
    unpack_all(request.inputs)


def open_body(request: InferenceRequest) -> None:
    """Put what an undecoded body says in its place; its inputs may be packed. Raises ``InvalidInput``.

    Then ``outputs`` is no longer None, and says of every output it names whether it is wanted in binary.
    """
    if not request.inputs:
        return
    first = request.inputs[0]
    if not first.json:
        return
    declared = declared_for(first)
    if declared is not None:
        _open_generate(request, first.data[0], declared)
        return
    body = decode_request(first.data[0], json_size_of(first), _no_regions)
    check_regionless(first, body.outputs)
    given = body.parameters or {}
    wanted = wanted_of(body.outputs, given)
    request.id = body.id or request.id
    bare = request.layout == Layout.BARE
    request.outputs = [
        RequestedOutput(
            output.name, {**(output.parameters or {}), _BINARY: bare or wanted.named[output.name]}
        )
        for output in body.outputs or []
    ]
    request.json_outputs = not (wanted.others or bare)
    request.parameters = _models_own(given)
    request.inputs = body.inputs


def _open_generate(request: InferenceRequest, body: Payload, declared: list[TensorSpec]) -> None:
    """The same for the body of the generate extension; ``path`` says then what it was."""
    found = decode_generate(body, lambda: declared)
    request.id = found.id or request.id
    request.path = INFER_FORM if found.v2 else GENERATE_FORM
    request.inputs, request.outputs, request.json_outputs = found.inputs, found.outputs, True
    request.parameters = _models_own(found.parameters or {})


def _models_own(given: Mapping[str, RequestValue]) -> dict[str, RequestValue] | None:
    """The parameters that are not the server's."""
    return {name: value for name, value in given.items() if name not in _SERVERS} or None


def _no_regions(region: str, offset: int, size: int) -> Payload:
    raise InvalidInput(
        f"the JSON is above {LARGE} bytes, and then no input may lie in shared memory, as the {size} bytes at {offset} "
        f"of region '{region}'; send large inputs in binary"
    )


class LabelSource(Protocol):
    """What is known of a model's outputs where their classes are asked for."""

    def labels_of(self, output: str) -> Mapping[str, Any]:
        """The name of each class, by its index."""
        ...

    def has_batch(self, output: str, rank: int) -> bool:
        """Whether the first dimension is the batch, and every row has classes of its own."""
        ...


class NoLabels(LabelSource):
    """Of a model that says nothing: every dimension before the last ones is a batch's."""

    def labels_of(self, output: str) -> Mapping[str, Any]:
        return {}

    def has_batch(self, output: str, rank: int) -> bool:
        return rank > 1


NO_LABELS = NoLabels()


def present(
    request: InferenceRequest,
    response: InferenceResponse,
    source: LabelSource,
    json_nan: str = BY_PROTOCOL,
) -> InferenceResponse:
    """The answer as the request wants to see its outputs, those of many elements packed. ``json_nan`` is the setting.

    Raises ``InvalidInput``.
    """
    if request.form is not Form.TENSORS:
        if request.form is Form.INSTANCES:
            pack_rows(response.outputs)
        return response
    response.id = request.id
    if request.path:
        tell_form(response, request.path)
    asked = {output.name: output.parameters for output in request.outputs or () if output.parameters}
    if asked or request.json_outputs:
        response.outputs = [
            _presented(request, tensor, asked.get(tensor.name) or {}, source, json_nan)
            for tensor in response.outputs
        ]
    pack(response.outputs, request.layout)
    return response


def _presented(
    request: InferenceRequest,
    tensor: Tensor,
    asked: Mapping[str, Parameter],
    source: LabelSource,
    json_nan: str,
) -> Tensor:
    if "classification" in asked:
        array, name = tensor.array(), tensor.name
        found = classify(
            array,
            asked["classification"],
            source.labels_of(name),
            name,
            batched=source.has_batch(name, array.ndim),
        )
        tensor = Tensor.of(name, found)
    if not asked.keys().isdisjoint(REGION):
        place = {name: asked[name] for name in REGION if name in asked}
        if REGION[0] not in place:
            raise InvalidInput(f"output '{tensor.name}' needs shared_memory_region")
        tensor.parameters = {**(tensor.parameters or {}), **place}
    elif _as_json(request, tensor, asked):
        null = writes_null(json_nan, asked=request.null_for_nan)
        tensor.data, tensor.json = json_text(tensor, null=null), True
    return tensor


def _as_json(request: InferenceRequest, tensor: Tensor, asked: Mapping[str, Parameter]) -> bool:
    if _BINARY in asked:
        return not asked[_BINARY]
    if not request.json_outputs:
        return False
    if request.outputs is not None and not request.outputs:
        return True  # the body was opened here, so nobody else knows that this is wanted as JSON
    if isinstance(tensor.data, list):
        return len(tensor.data) > FEW or sum(map(len, tensor.data)) > LARGE
    return len(tensor.data) > _MUCH
