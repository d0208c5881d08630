"""Build the answer to a request, in its own form, from what a tensor model returned. Pure rules."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mooring.backends.samples import Arrays, Sample
from mooring.codecs.bodies import NO_CLASSES, Classes, encode_classes, encode_outputs, encode_rows
from mooring.codecs.raw import make_tensor
from mooring.codecs.tensor_json import cast_array
from mooring.core.errors import InvalidInput, InvalidOutput
from mooring.core.requests import BODY, TENSORS, InferenceRequest, InferenceResponse, ResponseHead
from mooring.core.tensors import Array, Tensor, TensorSpec, datatype_of

_JSON = "application/json"

_NUMBERS = frozenset(map(np.dtype, "?bBhHiIlLqQefd"))

SampleOutputs = Sequence[tuple[Sample, list[Arrays]]]
"""Every sample of a request with what the model gave for it: one set of outputs, or several where it streams."""


def to_output_arrays(returned: Any, declared: Mapping[str, TensorSpec]) -> Arrays:
    """Return the arrays that a model returned by name, converted to the declared datatypes.

    Raises ``InvalidOutput``.
    """
    # The exact type first: asking an abstract class costs as much as all the rest.
    if type(returned) is not dict and not isinstance(returned, Mapping):
        raise InvalidOutput(
            f"the model returned a {type(returned).__name__}; it must return a dict of arrays by name"
        )
    if not returned:
        raise InvalidOutput("the model returned no outputs")
    outputs = {str(name): _as_array(str(name), value) for name, value in returned.items()}
    for name, spec in declared.items():
        if name not in outputs:
            raise InvalidOutput(
                f"output '{name}' is missing; the model returned {', '.join(map(repr, outputs))}"
            )
        if datatype_of(outputs[name]) != spec.datatype:
            outputs[name] = cast_output(outputs[name], name, spec.datatype)
    return outputs


def _as_array(name: str, value: Any) -> Array:
    try:
        array: Array = np.asarray(value)
        if array.dtype in _NUMBERS:
            return array
        if array.dtype.kind in "SU":
            # numpy's own text types drop NULs at the end.
            array = np.array(value, object)
        if array.dtype.kind == "O" and not all(isinstance(element, str | bytes) for element in array.flat):
            raise InvalidOutput(
                f"output '{name}' holds Python objects; return numbers, booleans, str or bytes"
            )
        if array.dtype.kind not in "biufO" or array.dtype.itemsize > 8:
            datatype_of(array)  # raises for what no datatype holds
    except (ValueError, TypeError, RuntimeError, InvalidInput) as error:
        raise InvalidOutput(f"output '{name}' is not an array: {error}") from None
    return array


def cast_output(array: Array, name: str, datatype: str) -> Array:
    """Return an output with the datatype that its declaration says. Raises ``InvalidOutput`` for what it does not hold."""
    try:
        return cast_array(array, name, datatype)
    except InvalidInput as error:
        text = error.message.replace("input", "output", 1)
        raise InvalidOutput(f"{text}, as the model's configuration declares it") from None


def json_body_response(text: bytes) -> InferenceResponse:
    """Return a response whose body is this JSON document, for TorchServe's inference API."""
    return InferenceResponse([Tensor("body", "BYTES", [1], [text])], head=ResponseHead(content_type=_JSON))


def build_response(
    request: InferenceRequest,
    results: SampleOutputs,
    *,
    rows: bool,
    labels_of: Callable[[str], Mapping[str, Any]],
    declared: Mapping[str, TensorSpec],
    aliases: Mapping[str, str],
    classes: Classes = NO_CLASSES,
    null: bool = False,
) -> InferenceResponse:
    """Build the response to one request. Raises ``InvalidInput`` for a requested output that the model did not return.

    ``rows`` says that the samples are KServe v1 instances, so the answer is their predictions. JSON that is no tensor
    names scores by class where the model has names for them (``classes``). ``null`` replaces NaN and Infinity in JSON
    written here.
    """
    if rows:
        elements = [
            element
            for sample, outputs in results
            for element in _encode_predictions(sample, outputs, classes, null)
        ]
        if request.form is BODY:
            return json_body_response(b'{"predictions":[' + b",".join(elements) + b"]}")
        return InferenceResponse([Tensor("predictions", "BYTES", [len(elements)], elements)])
    sample, pieces = results[0]
    outputs = pieces[-1]
    if sample.batch_added:
        outputs = {name: _of_one_row(sample, name, array) for name, array in outputs.items()}
    if request.form is TENSORS:
        return InferenceResponse([*_select_outputs(request, outputs, declared, aliases)])
    if len(outputs) == 1:
        ((name, scores),) = outputs.items()
        labels = labels_of(name)
        if labels and scores.ndim and scores.size and scores.dtype.kind == "f":
            class_texts = encode_classes(scores, labels)
            return json_body_response(
                class_texts[0]
                if sample.batch_added or len(class_texts) == 1
                else b"[" + b",".join(class_texts) + b"]"
            )
    return json_body_response(encode_outputs(outputs, classes, null=null))


def _encode_predictions(sample: Sample, pieces: list[Arrays], classes: Classes, null: bool) -> list[bytes]:
    """Return the JSON of each row; of a model that streams, the list of a row's pieces."""
    count = sample.rows or 1
    columns = []
    for outputs in pieces:
        if sample.rows:
            columns.append(encode_rows(outputs, count, classes, null=null))
        else:
            single = {name: _of_one_row(sample, name, each)[None] for name, each in outputs.items()}
            columns.append(encode_rows(single, 1, classes, null=null))
    if len(columns) == 1:
        return columns[0]
    return [b"[" + b",".join(column[row] for column in columns) + b"]" for row in range(count)]


def _of_one_row(sample: Sample, name: str, array: Array) -> Array:
    """Return the output without the batch dimension that was added to the sample, where it has that dimension."""
    batched = (
        sample.batch_added and array.ndim and array.shape[0] == 1 and name not in sample.unbatched_outputs
    )
    return array[0, ...] if batched else array


def _select_outputs(
    request: InferenceRequest,
    outputs: Arrays,
    declared: Mapping[str, TensorSpec],
    aliases: Mapping[str, str],
) -> list[Tensor]:
    """Return the requested outputs as tensors, in the request's order and under its names; all outputs where it names none.

    A model of Triton's Python backend may leave out outputs that it declares.
    """
    names = [output.name for output in request.outputs] if request.outputs else list(outputs)
    for name in names:
        if name not in outputs and aliases.get(name) in outputs:
            outputs = {**outputs, name: outputs[aliases[name]]}
        if name not in outputs and name not in declared:
            raise InvalidInput(f"unexpected inference output '{name}' for model '{request.model}'")
    return [
        make_tensor(name, outputs[name], declared[name].datatype if name in declared else "")
        for name in names
        if name in outputs
    ]
