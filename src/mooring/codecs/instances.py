"""The instances in a body of KServe's v1 protocol, under either of the names that its servers take.

{"instances": [...]}              the rows, one prediction each
{"inputs": [...]}                 the same, as KServe's own server takes it
{"inputs": {"x": [...], ...}}     TensorFlow Serving's columns: a list for each input, all of one length
"""

import json
from typing import Any

import msgspec
import numpy as np

from mooring.core.errors import InvalidInput
from mooring.core.tensors import Array

_MISSING = 'Expected "instances" to be a list'
_V2_KEYS = frozenset({"name", "datatype", "shape"})


class _Document(msgspec.Struct):
    # Raw: what a client wrote as a number reaches the model as it was written, however many digits it has.
    instances: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    inputs: list[msgspec.Raw] | dict[str, list[msgspec.Raw]] | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(_Document)


def split_instances(body: bytes) -> list[bytes]:
    """The JSON of every instance in a v1 body. Raises ``InvalidInput``."""
    try:
        body.decode()  # the decoder passes over texts without a look at their encoding
        document = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # NaN, Infinity, halves of surrogate pairs and byte order marks are no JSON, but Python's clients send them.
        return _split_loosely(body)
    instances = document.instances
    if instances is msgspec.UNSET:
        return _split_inputs(document.inputs)
    return [bytes(raw) for raw in instances]


def _split_inputs(inputs: Any) -> list[bytes]:
    if inputs is msgspec.UNSET:
        raise InvalidInput(_MISSING)
    if isinstance(inputs, list):
        if inputs and bytes(inputs[0])[:1] == b"{":
            _refuse_tensor(json.loads(bytes(inputs[0])))
        return [bytes(raw) for raw in inputs]
    return [msgspec.json.encode(row) for row in _transpose_columns(inputs)]


def _split_loosely(body: bytes) -> list[bytes]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"Unrecognized request format: {error}") from None
    return [json.dumps(instance).encode() for instance in find_instances(document)]


def find_instances(document: Any) -> list[Any] | Array:
    """The instances in a v1 body that is decoded already. Raises ``InvalidInput``."""
    found = document if isinstance(document, dict) else {}
    if "instances" in found or "inputs" not in found:
        instances = found.get("instances")
        if not isinstance(instances, list | np.ndarray):
            raise InvalidInput(_MISSING)
        return instances
    inputs = found["inputs"]
    if isinstance(inputs, dict):
        return _transpose_columns(inputs)
    if not isinstance(inputs, list | np.ndarray):
        raise InvalidInput(
            'Expected "inputs" to be a list of instances, or an object with a list for each input'
        )
    if len(inputs):
        _refuse_tensor(inputs[0])
    return inputs


def _transpose_columns(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """One object for each row of TensorFlow Serving's columns."""
    for name, column in columns.items():
        if not isinstance(column, list | np.ndarray):
            raise InvalidInput(
                f'"inputs" is an object, and then it holds columns: "{name}" must be a list with an element for each row'
            )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        told = ", ".join(f'"{name}" {length}' for name, length in lengths.items()) or "none"
        raise InvalidInput(f'the columns of "inputs" must have one length, and have: {told}')
    (length,) = set(lengths.values())
    lists = {
        name: column.tolist() if isinstance(column, np.ndarray) else column
        for name, column in columns.items()
    }
    return [{name: column[row] for name, column in lists.items()} for row in range(length)]


def _refuse_tensor(first: Any) -> None:
    if isinstance(first, dict) and first.keys() >= _V2_KEYS:
        raise InvalidInput(
            '"inputs" holds tensors of the Open Inference Protocol; send them to /v2/models/MODEL/infer, '
            'or a list of instances as "instances"'
        )
