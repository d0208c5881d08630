"""The outputs of a model in the form that an Open Inference Protocol request asks for.

Classes in place of numbers, and the JSON text of large outputs. A worker does this: it would cost the server's event
loop too much.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from mooring.codecs.classification import classify
from mooring.codecs.generate import mark_body_form
from mooring.codecs.nonfinite import BY_PROTOCOL, writes_null
from mooring.codecs.packed import MAX_UNPACKED, pack_outputs, pack_predictions
from mooring.codecs.v2_json import REGION, encode_json_output
from mooring.core.buffers import LARGE
from mooring.core.errors import InvalidInput
from mooring.core.requests import INSTANCES, TENSORS, InferenceRequest, InferenceResponse, JsonWriter
from mooring.core.tensors import Output, Parameter, Tensor

# Numbers above this many bytes are written as JSON here: a few thousand of them cost the server's loop 0.1 ms.
_MAX_LOOP_JSON = 16_384
_BINARY = "binary_data"


class LabelSource(Protocol):
    """What a model declares of its outputs, for the classification extension."""

    def labels_of(self, output: str) -> Mapping[str, Any]:
        """The name of each class, by its index."""
        ...

    def has_batch(self, output: str, rank: int) -> bool:
        """Whether the first dimension is the batch, and every row has classes of its own."""
        ...


class NoLabels(LabelSource):
    """A model without labels. The first dimension of an output with two or more is the batch."""

    def labels_of(self, output: str) -> Mapping[str, Any]:
        return {}

    def has_batch(self, output: str, rank: int) -> bool:
        return rank > 1


NO_LABELS = NoLabels()


def encode_outputs(
    request: InferenceRequest,
    response: InferenceResponse,
    source: LabelSource,
    json_nan: str = BY_PROTOCOL,
) -> InferenceResponse:
    """Give ``response`` the form that the request asks for, its large outputs packed, and return it.

    ``json_nan`` is the setting of this name. Raises ``InvalidInput`` for a classification or region that cannot be.
    """
    if request.form is not TENSORS:
        if request.form is INSTANCES:
            pack_predictions(response.tensors)
        return response
    response.id = request.id
    if request.path:
        mark_body_form(response, request.path)
    asked = {output.name: output.parameters for output in request.outputs or () if output.parameters}
    if asked or request.json_writer:
        response.outputs = [
            _encode_output(request, tensor, asked.get(tensor.name) or {}, source, json_nan)
            for tensor in response.tensors
        ]
    pack_outputs(response.outputs, request.layout)
    return response


def _encode_output(
    request: InferenceRequest,
    tensor: Tensor,
    asked: Mapping[str, Parameter],
    source: LabelSource,
    json_nan: str,
) -> Output:
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
    elif _is_json_here(request, tensor, asked):
        null = writes_null(json_nan, asked=request.null_for_nan)
        return encode_json_output(tensor, null=null)
    return tensor


def _is_json_here(request: InferenceRequest, tensor: Tensor, asked: Mapping[str, Parameter]) -> bool:
    if _BINARY in asked:
        return not asked[_BINARY]
    if request.json_writer is not JsonWriter.SERVER:
        return request.json_writer is JsonWriter.WORKER
    if isinstance(tensor.data, list):
        return len(tensor.data) > MAX_UNPACKED or sum(map(len, tensor.data)) > LARGE
    return len(tensor.data) > _MAX_LOOP_JSON
