"""TorchServe's request envelopes: they unpack rows from a body and pack results into one (docs/contracts/torchserve.md, 5).

Every envelope batches: it sees one request at a time, and the rows of many go to the handler together.
"""

import abc
import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mooring.backends.handler import json_text
from mooring.core.errors import InvalidInput, InvalidOutput
from mooring.core.tensors import datatype_of


class EnvelopeRequest(NamedTuple):
    """The facts about a request that an envelope needs beside its fields."""

    explain: bool
    id: str
    model: str
    version: str


class BaseEnvelope(abc.ABC):
    """TorchServe's interface of an envelope, for those that users write: it wraps the function of a handler."""

    context: Any = None

    def __init__(self, handle_fn: Callable[[Any, Any], Any] | None = None) -> None:
        self._handle_fn = handle_fn

    def handle(self, data: Any, context: Any) -> Any:
        """The answers to a batch by the wrapped function; without ``data`` (to initialize it) that is only called."""
        assert self._handle_fn is not None
        self.context = context
        if not data:
            return self._handle_fn(data, context)
        return self.format_output(self._handle_fn(self.parse_input(data), context))

    @abc.abstractmethod
    def parse_input(self, data: Any) -> Any:
        """The rows that the function gets, out of the rows of a batch."""

    @abc.abstractmethod
    def format_output(self, data: Any) -> Any:
        """The answers to a batch, out of what the function returned."""


class RowEnvelope(BaseEnvelope):
    """An envelope that unpacks each request by itself. The server calls its two rules; by hand it is called as any other.

    ``joint`` envelopes give a handler one request at a time and take any number of results.
    """

    joint = False
    _batch: Sequence[dict[str, Any]] = ()
    _counts: Sequence[int] = ()

    @abc.abstractmethod
    def split_rows(self, row: dict[str, Any]) -> list[Any]:
        """Return the handler's rows out of one request's fields. Raises ``InvalidInput``."""

    @abc.abstractmethod
    def join_results(self, results: Sequence[Any], row: dict[str, Any], request: EnvelopeRequest) -> Any:
        """One request's answer out of the results of its rows, and its fields as they came."""

    def handle(self, data: Any, context: Any) -> Any:
        if not self.joint or not data:
            return super().handle(data, context)
        answers = []
        for row in data:
            answers += super().handle([row], context)
        return answers

    def parse_input(self, data: Sequence[dict[str, Any]]) -> list[Any]:
        parts = [self.split_rows(row) for row in data]
        self._batch, self._counts = data, [len(part) for part in parts]
        return [each for part in parts for each in part]

    def format_output(self, data: Any) -> list[Any]:
        flat = iter(data)
        return [
            self.join_results(
                list(flat) if self.joint else [next(flat) for _ in range(count)],
                row,
                self._request_facts(index),
            )
            for index, (row, count) in enumerate(zip(self._batch, self._counts, strict=True))
        ]

    def _request_facts(self, index: int) -> EnvelopeRequest:
        """Return what the context says of a request. The contexts of users' own tests have only some of the attributes."""
        context = self.context
        manifest_model = (getattr(context, "manifest", None) or {}).get("model", {})
        find_id = getattr(context, "get_request_id", None)
        return EnvelopeRequest(
            context.get_request_header(0, "explain") == "True",
            (find_id(index) if find_id else None) or "",
            getattr(context, "model_name", None) or manifest_model.get("modelName", ""),
            str(manifest_model.get("modelVersion", "")),
        )


class BodyEnvelope(RowEnvelope):
    """The handler gets the body itself in place of a dict."""

    def split_rows(self, row: dict[str, Any]) -> list[Any]:
        return [_body_of(row)]

    def join_results(self, results: Sequence[Any], row: dict[str, Any], request: EnvelopeRequest) -> Any:
        return results[0]


class JSONEnvelope(RowEnvelope):
    """``{"instances": [...]}`` in, ``{"predictions": [...]}`` out, with base64 undone on the way."""

    def split_rows(self, row: dict[str, Any]) -> list[Any]:
        return [without_base64(instance) for instance in _instances_of(row)]

    def join_results(self, results: Sequence[Any], row: dict[str, Any], request: EnvelopeRequest) -> Any:
        # TorchServe writes this one on a single line, and names explanations predictions too.
        return json.dumps({"predictions": list(results)})


class KServeEnvelope(RowEnvelope):
    """``{"instances": [...]}`` in, ``{"predictions": [...]}`` or ``{"explanations": [...]}`` out."""

    def split_rows(self, row: dict[str, Any]) -> list[Any]:
        return _instances_of(row)

    def join_results(self, results: Sequence[Any], row: dict[str, Any], request: EnvelopeRequest) -> Any:
        key = "explanations" if request.explain else "predictions"
        return {key: list(results)}


class KServev2Envelope(RowEnvelope):
    """The JSON of the Open Inference Protocol: the handler gets the list of inputs, output i is named as input i."""

    joint = True

    def split_rows(self, row: dict[str, Any]) -> list[Any]:
        inputs = _json_object(row).get("inputs")
        if not isinstance(inputs, list):
            raise InvalidInput("the body has no list 'inputs'")
        return [_reshape_input(tensor) for tensor in inputs]

    def join_results(self, results: Sequence[Any], row: dict[str, Any], request: EnvelopeRequest) -> Any:
        body = _json_object(row)
        names = [tensor.get("name", "") for tensor in body["inputs"]]
        check_output_names(len(names), len(results))
        outputs = [_output_of(name, result) for name, result in zip(names, results, strict=False)]
        return {
            "id": body.get("id") or request.id,
            "model_name": request.model,
            "model_version": request.version,
            "outputs": outputs,
        }


def check_output_names(inputs: int, outputs: int) -> None:
    """Raise ``InvalidOutput`` when there are more outputs than inputs whose names they could have."""
    if outputs > inputs:
        raise InvalidOutput(
            "number of batch response mismatched",
            detail=f"{outputs} outputs take their names from {inputs} inputs",
        )


def _body_of(row: dict[str, Any]) -> Any:
    return row.get("data") or row.get("body")


def _json_object(row: dict[str, Any]) -> dict[str, Any]:
    body = _body_of(row)
    if isinstance(body, (bytes, bytearray, str)):
        try:
            body = json_text.load_json(body.encode() if isinstance(body, str) else bytes(body))
        except ValueError as error:
            raise InvalidInput(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidInput("the body is not a JSON object")
    return body


def _instances_of(row: dict[str, Any]) -> list[Any]:
    instances = _json_object(row).get("instances")
    if not isinstance(instances, list):
        raise InvalidInput("the body has no list 'instances'")
    return instances


def without_base64(instance: Any) -> Any:
    """Return an instance in which ``{"b64": text}`` is bytes: the instance itself, or one of its columns."""
    if not isinstance(instance, dict):
        return instance
    if set(instance) == {"b64"}:
        return _decode_base64(instance["b64"])
    return {
        name: _decode_base64(value["b64"]) if isinstance(value, dict) and set(value) == {"b64"} else value
        for name, value in instance.items()
    }


def _decode_base64(text: Any) -> bytes:
    try:
        return base64.b64decode(text)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"'b64' is not base64: {error}") from None


def _reshape_input(tensor: Any) -> dict[str, Any]:
    """An input as the handler sees it: its data nested as its shape says."""
    if not isinstance(tensor, dict) or "data" not in tensor:
        raise InvalidInput("an input is not an object with 'data'")
    data = tensor["data"]
    if tensor.get("datatype") == "BYTES":
        return {**tensor, "data": data[0] if isinstance(data, list) and data else data}
    try:
        return {**tensor, "data": np.array(data).reshape(tensor.get("shape", [-1])).tolist()}
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"input '{tensor.get('name', '')}': {error}") from None


def _output_of(name: str, result: Any) -> dict[str, Any]:
    try:
        array = np.atleast_1d(np.asarray(result))
        datatype = datatype_of(array)
    except (ValueError, InvalidInput) as error:
        raise InvalidOutput("Unsupported model output data type.", detail=str(error)) from None
    flat = array.ravel().tolist()
    return {"name": name, "datatype": datatype, "data": flat, "shape": [len(flat)]}


ENVELOPES: dict[str, type[RowEnvelope]] = {
    "body": BodyEnvelope,
    "json": JSONEnvelope,
    "kserve": KServeEnvelope,
    "kservev2": KServev2Envelope,
}
