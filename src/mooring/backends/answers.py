"""What a tensor model returned, as the answer each form of request expects. Pure rules."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mooring.backends.samples import Arrays, Sample
from mooring.codecs.bodies import NO_CLASSES, Classes, encode_classes, encode_outputs, encode_rows
from mooring.codecs.tensor_json import cast_array
from mooring.core.errors import InvalidInput, InvalidOutput
from mooring.core.requests import BODY, TENSORS, InferenceRequest, InferenceResponse, ResponseHead
from mooring.core.tensors import Array, Tensor, TensorSpec, datatype_of

_JSON = "application/json"

_NUMBERS = frozenset(map(np.dtype, "?bBhHiIlLqQefd"))

Results = Sequence[tuple[Sample, list[Arrays]]]
"""Every sample of a request with what the model gave for it: one set of outputs, or several where it streams."""


def settle(returned: Any, declared: Mapping[str, TensorSpec]) -> Arrays:
    """The arrays in what a model returned, in the types it declares. Raises ``InvalidOutput``."""
    # The exact type first: asking an abstract class costs as much as all the rest.
    if type(returned) is not dict and not isinstance(returned, Mapping):
        raise InvalidOutput(
            f"the model returned a {type(returned).__name__}; it must return a dict of arrays by name"
        )
    if not returned:
        raise InvalidOutput("the model returned no outputs")
    outputs = {str(name): _array(str(name), value) for name, value in returned.items()}
    for name, spec in declared.items():
        if name not in outputs:
            raise InvalidOutput(
                f"output '{name}' is missing; the model returned {', '.join(map(repr, outputs))}"
            )
        if datatype_of(outputs[name]) != spec.datatype:
            outputs[name] = _as_declared(outputs[name], spec)
    return outputs


def _array(name: str, value: Any) -> Array:
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
        raise InvalidOutput(f"output '{name}' is no array: {error}") from None
    return array


def _as_declared(array: Array, spec: TensorSpec) -> Array:
    try:
        return cast_array(array, spec.name, spec.datatype)
    except InvalidInput as error:
        text = error.message.replace("input", "output", 1)
        raise InvalidOutput(f"{text}, as the model's configuration declares it") from None


def tensor_of(name: str, array: Array, datatype: str = "") -> Tensor:
    """The array as a tensor; float32 becomes BF16 where that is declared."""
    if datatype != "BF16":
        return Tensor.of(name, array)
    tensor = Tensor.of(name, bfloat16_bits(array))
    tensor.datatype = "BF16"
    return tensor


def bfloat16_bits(array: Array) -> Array:
    """The two bytes of every element, as uint16."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
    return np.where(np.isnan(array), np.uint32(0x7FC0), rounded).astype("<u2")


def body_of(text: bytes) -> InferenceResponse:
    """The answer to a TorchServe body: a JSON document."""
    return InferenceResponse([Tensor("body", "BYTES", [1], [text])], head=ResponseHead(content_type=_JSON))


def answer(
    request: InferenceRequest,
    results: Results,
    *,
    rows: bool,
    labels_of: Callable[[str], Mapping[str, Any]],
    declared: Mapping[str, TensorSpec],
    aliases: Mapping[str, str],
    classes: Classes = NO_CLASSES,
    null: bool = False,
) -> InferenceResponse:
    """The response to one request. ``rows``: its samples are KServe v1 instances. Raises ``InvalidInput``.

    What is JSON but no tensor says scores by their class where the model has names for them, the ``classes``.
    ``null`` stands for NaN and Infinity where the answer is JSON that is written here.
    """
    if rows:
        elements = [
            element for sample, outputs in results for element in _predictions(sample, outputs, classes, null)
        ]
        if request.form is BODY:
            return body_of(b'{"predictions":[' + b",".join(elements) + b"]}")
        return InferenceResponse([Tensor("predictions", "BYTES", [len(elements)], elements)])
    sample, pieces = results[0]
    outputs = pieces[-1]
    if sample.lifted:
        outputs = {name: _of_one_row(sample, name, array) for name, array in outputs.items()}
    if request.form is TENSORS:
        return InferenceResponse([*_requested(request, outputs, declared, aliases)])
    if len(outputs) == 1:
        ((name, scores),) = outputs.items()
        labels = labels_of(name)
        if labels and scores.ndim and scores.size and scores.dtype.kind == "f":
            found = encode_classes(scores, labels)
            return body_of(found[0] if sample.lifted or len(found) == 1 else b"[" + b",".join(found) + b"]")
    return body_of(encode_outputs(outputs, classes, null=null))


def _predictions(sample: Sample, pieces: list[Arrays], classes: Classes, null: bool) -> list[bytes]:
    """The JSON of each row; of a model that streams, the list of a row's pieces."""
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
    """The output without the dimension that was added to the sample; the whole output where it has no such dimension."""
    batched = sample.lifted and array.ndim and array.shape[0] == 1 and name not in sample.whole
    return array[0, ...] if batched else array


def _requested(
    request: InferenceRequest,
    outputs: Arrays,
    declared: Mapping[str, TensorSpec],
    aliases: Mapping[str, str],
) -> list[Tensor]:
    """The outputs the caller asked for, in its order and by the names it has for them; all where it named none."""
    names = [output.name for output in request.outputs] if request.outputs else list(outputs)
    for name in names:
        if name not in outputs and aliases.get(name) in outputs:
            outputs = {**outputs, name: outputs[aliases[name]]}
        if name not in outputs:
            raise InvalidInput(f"unexpected inference output '{name}' for model '{request.model}'")
    return [
        tensor_of(name, outputs[name], declared[name].datatype if name in declared else "") for name in names
    ]
