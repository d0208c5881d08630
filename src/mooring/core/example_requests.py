"""A request that fits a model, made of what the model declares: for the greeting, and other places that show how to ask it."""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from mooring.core.example_values import example_value
from mooring.core.service import ModelMetadata
from mooring.core.tensors import TensorSpec

# Elements of an example; what takes more is asked with a file.
_MOST_ELEMENTS = 64
# Characters of the JSON of an example.
_MOST_CHARACTERS = 400
# The size of an open dimension after the first, which is that of a batch.
_OPEN = 3


class ExampleRequest(msgspec.Struct, frozen=True):
    """A request over HTTP: with a ``body`` of JSON, with a ``file`` to send, or a GET that shows what the model takes.

    ``file`` is a placeholder; ``note`` says what it stands for. ``metadata_path`` is where v2 says what the model takes.
    """

    path: str
    metadata_path: str
    body: str = ""
    file: str = ""
    note: str = ""


def example_request(metadata: ModelMetadata, *, file: str = "", note: str = "") -> ExampleRequest:
    """Return a request that the model can answer. ``file`` is what it reads where that is not JSON, as a handler does.

    >>> example_request(ModelMetadata("m", inputs=[TensorSpec("x", "FP32", [-1, 2])]))
    ExampleRequest(path='/predictions/m', metadata_path='/v2/models/m', body='{"x": [[1.0, 1.0]]}', file='', note='')
    """
    path, described = f"/predictions/{quote(metadata.name)}", f"/v2/models/{quote(metadata.name)}"
    if file:
        return ExampleRequest(path, described, file=file, note=note)
    if metadata.values is not None:
        schema = metadata.values.request
        if str(schema.get("contentMediaType", "")).startswith("image/"):
            return ExampleRequest(path, described, file="IMAGE.png")
        body = _example_json(schema)
        if body and len(body) <= _MOST_CHARACTERS:
            return ExampleRequest(path, described, body)
    elif (values := example_tensors(metadata.inputs)) is not None:
        body = json.dumps(values)
        if len(body) <= _MOST_CHARACTERS:
            return ExampleRequest(path, described, body)
    return ExampleRequest(described, described)


def _example_json(schema: dict[str, Any]) -> str:
    """Return JSON that fits a schema; empty where none is found."""
    try:
        return json.dumps(example_value(schema), ensure_ascii=False)
    except ValueError:
        return ""


def example_v2_body(inputs: Sequence[TensorSpec]) -> dict[str, Any] | None:
    """Return a body of the Open Inference Protocol with an example of each input; None where there is none.

    >>> example_v2_body([TensorSpec("x", "FP32", [-1, 2])])
    {'inputs': [{'name': 'x', 'datatype': 'FP32', 'shape': [1, 2], 'data': [[1.0, 1.0]]}]}
    """
    values = example_tensors(inputs)
    if values is None:
        return None
    tensors = []
    for each in inputs:
        if each.name in values:
            data = values[each.name]
            shape = shape_of_lists(data)
            tensors.append(
                {
                    "name": each.name,
                    "datatype": each.datatype,
                    "shape": shape,
                    "data": data if shape else [data],
                }
            )
    return {"inputs": tensors}


def example_v1_body(inputs: Sequence[TensorSpec]) -> dict[str, Any] | None:
    """Return a body of KServe v1 with one instance; None where the inputs have no dimension of instances, or no example.

    >>> example_v1_body([TensorSpec("x", "FP32", [-1, 2])])
    {'instances': [[1.0, 1.0]]}
    """
    values = example_tensors(inputs)
    if values is None or any(each.shape[:1] != [-1] for each in inputs if each.name in values):
        return None
    rows = {name: value[0] for name, value in values.items()}
    return {"instances": [next(iter(rows.values())) if len(inputs) == 1 else rows]}


def shape_of_lists(value: Any) -> list[int]:
    """Return the shape of nested lists that are even.

    >>> shape_of_lists([[1, 2, 3], [4, 5, 6]]), shape_of_lists(1)
    ([2, 3], [])
    """
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def example_tensors(inputs: Sequence[TensorSpec]) -> dict[str, Any] | None:
    """Return the inputs that a request must have, by name; None where they are not known, or too large to be typed."""
    found: dict[str, Any] = {}
    for each in inputs:
        if each.optional:
            continue
        shape = [size if size >= 0 else 1 if not place else _OPEN for place, size in enumerate(each.shape)]
        element = _example_element(each.datatype)
        count = 1
        for size in shape:
            count *= size
        if each.unknown_rank or element is None or count > _MOST_ELEMENTS:
            return None
        value: Any = element
        for size in reversed(shape):
            value = [value] * size
        found[each.name] = value
    return found or None


def _example_element(datatype: str) -> object:
    """Return an element of a datatype; None for one that is not known."""
    if datatype == "BOOL":
        return True
    if datatype == "BYTES":
        return "text"
    if datatype.startswith(("INT", "UINT")):
        return 1
    return 1.0 if datatype.startswith(("FP", "BF")) else None
