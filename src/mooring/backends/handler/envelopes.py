"""TorchServe's request envelopes: the rows inside a body, and the body around the results (section 5).

Every envelope batches: it sees one request at a time, and the rows of many go to the handler together.
"""

import abc
import base64
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mooring.backends.handler import json_text
from mooring.core.errors import InvalidInput
from mooring.core.requests import InferenceRequest, Operation
from mooring.core.tensors import datatype_of

RowOf = Callable[[InferenceRequest], dict[str, Any]]


class BaseEnvelope(abc.ABC):
    """What is in a body, and what is made of the results.

    ``joint`` envelopes give a handler one request at a time and take any number of results.
    """

    joint = False

    def __init__(self, handle_fn: Callable[[Any, Any], Any] | None = None) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    @abc.abstractmethod
    def split(self, row: dict[str, Any]) -> list[Any]:
        """The handler's rows out of one request's fields. Raises ``InvalidInput``."""

    @abc.abstractmethod
    def join(self, results: Sequence[Any], request: InferenceRequest, row_of: RowOf) -> Any:
        """One request's answer out of the results of its rows."""


class BodyEnvelope(BaseEnvelope):
    """The handler gets the body itself in place of a dict."""

    def split(self, row: dict[str, Any]) -> list[Any]:
        return [_body(row)]

    def join(self, results: Sequence[Any], request: InferenceRequest, row_of: RowOf) -> Any:
        return results[0]


class JSONEnvelope(BaseEnvelope):
    """``{"instances": [...]}`` in, ``{"predictions": [...]}`` out, with base64 undone on the way."""

    def split(self, row: dict[str, Any]) -> list[Any]:
        return [_without_base64(instance) for instance in _instances(row)]

    def join(self, results: Sequence[Any], request: InferenceRequest, row_of: RowOf) -> Any:
        # TorchServe writes this one on a single line, and names explanations predictions too.
        return json.dumps({"predictions": list(results)})


class KServeEnvelope(BaseEnvelope):
    """``{"instances": [...]}`` in, ``{"predictions": [...]}`` or ``{"explanations": [...]}`` out."""

    def split(self, row: dict[str, Any]) -> list[Any]:
        return _instances(row)

    def join(self, results: Sequence[Any], request: InferenceRequest, row_of: RowOf) -> Any:
        key = "explanations" if request.operation is Operation.EXPLAIN else "predictions"
        return {key: list(results)}


class KServev2Envelope(BaseEnvelope):
    """The JSON of the Open Inference Protocol: the handler gets the list of inputs, output i is named as input i."""

    joint = True

    def split(self, row: dict[str, Any]) -> list[Any]:
        inputs = _object(row).get("inputs")
        if not isinstance(inputs, list):
            raise InvalidInput("the body has no list 'inputs'")
        return [_reshaped(tensor) for tensor in inputs]

    def join(self, results: Sequence[Any], request: InferenceRequest, row_of: RowOf) -> Any:
        body = _object(row_of(request))
        names = [tensor.get("name", "") for tensor in body["inputs"]]
        outputs = [_output(name, result) for name, result in zip(names, results, strict=False)]
        return {
            "id": body.get("id") or request.id,
            "model_name": request.model,
            "model_version": request.version,
            "outputs": outputs,
        }


def _body(row: dict[str, Any]) -> Any:
    return row.get("data") or row.get("body")


def _object(row: dict[str, Any]) -> dict[str, Any]:
    body = _body(row)
    if isinstance(body, (bytes, bytearray, str)):
        try:
            body = json_text.load(body.encode() if isinstance(body, str) else bytes(body))
        except ValueError as error:
            raise InvalidInput(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidInput("the body is no JSON object")
    return body


def _instances(row: dict[str, Any]) -> list[Any]:
    instances = _object(row).get("instances")
    if not isinstance(instances, list):
        raise InvalidInput("the body has no list 'instances'")
    return instances


def _without_base64(instance: Any) -> Any:
    """``{"b64": text}`` is bytes, as an instance or as one of its columns."""
    if not isinstance(instance, dict):
        return instance
    if set(instance) == {"b64"}:
        return _decoded(instance["b64"])
    return {
        name: _decoded(value["b64"]) if isinstance(value, dict) and set(value) == {"b64"} else value
        for name, value in instance.items()
    }


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"'b64' is not base64: {error}") from None


def _reshaped(tensor: Any) -> dict[str, Any]:
    """An input as the handler sees it: its data nested as its shape says."""
    if not isinstance(tensor, dict) or "data" not in tensor:
        raise InvalidInput("an input is no object with 'data'")
    data = tensor["data"]
    if tensor.get("datatype") == "BYTES":
        return {**tensor, "data": data[0] if isinstance(data, list) and data else data}
    try:
        return {**tensor, "data": np.array(data).reshape(tensor.get("shape", [-1])).tolist()}
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"input '{tensor.get('name', '')}': {error}") from None


def _output(name: str, result: Any) -> dict[str, Any]:
    array = np.atleast_1d(np.asarray(result))
    flat = array.ravel().tolist()
    return {"name": name, "datatype": datatype_of(array), "data": flat, "shape": [len(flat)]}


ENVELOPES: dict[str, type[BaseEnvelope]] = {
    "body": BodyEnvelope,
    "json": JSONEnvelope,
    "kserve": KServeEnvelope,
    "kservev2": KServev2Envelope,
}
