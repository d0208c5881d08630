"""Turn requests into a handler's rows, and the handler's results into answers.

| form                  | rows                                        | answer                                     |
|-----------------------|---------------------------------------------|--------------------------------------------|
| BODY                  | one dict, field -> decoded value            | the bytes of the response body             |
| BODY in an envelope   | what the envelope finds in the body         | the body the envelope makes of all results |
| INSTANCES             | every instance is one                       | the JSON of every result                   |
| TENSORS               | one dict per element, or one per request; a | tensors typed from the results             |
|                       | lone input is ``data``, too                 |                                            |
"""

import abc
import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from mooring.backends.handler import json_text
from mooring.backends.handler.envelopes import (
    EnvelopeRequest,
    RowEnvelope,
    check_output_names,
    without_base64,
)
from mooring.codecs.instances import find_instances
from mooring.codecs.nonfinite import BY_PROTOCOL
from mooring.codecs.open_inference import decode_v2_inputs
from mooring.codecs.packed import pack_predictions, unpack_tensor
from mooring.codecs.requested_outputs import NO_LABELS, encode_outputs
from mooring.core.buffers import Payload, view_of
from mooring.core.errors import InvalidInput, InvalidOutput
from mooring.core.requests import InferenceRequest, InferenceResponse, Operation, ResponseHead
from mooring.core.tensors import Tensor, restore_names

_log = logging.getLogger(__name__)

_JSON = "application/json"
_JSON_HEAD = ResponseHead(content_type=_JSON)  # shared by answers, which are sent as they are
_UNSUPPORTED = "Unsupported model output data type."


class RowForm(abc.ABC):
    """One way of carrying data, in both directions.

    ``joint`` says that a handler is called with one request at a time and may return any number of results.
    """

    joint = False

    @abc.abstractmethod
    def to_rows(self, request: InferenceRequest) -> list[Any]:
        """Return the handler's rows for this request. Raises ``InvalidInput``."""

    @abc.abstractmethod
    def to_response(
        self, request: InferenceRequest, results: Sequence[Any], head: ResponseHead | None
    ) -> InferenceResponse:
        """Build the response from one result per row. Raises ``InvalidOutput``."""

    def to_piece(
        self, request: InferenceRequest, result: Any, head: ResponseHead | None
    ) -> InferenceResponse:
        """Build the response from the intermediate result of one row."""
        return self.to_response(request, [result], head)


class BodyForm(RowForm):
    """TorchServe's own: one row per request."""

    def __init__(self, *, decode: bool) -> None:
        self._decode = decode

    def to_rows(self, request: InferenceRequest) -> list[Any]:
        return [self.to_row(request)]

    def to_row(self, request: InferenceRequest) -> dict[str, Any]:
        """Return the value of each field by its name; of two fields of one name the last one wins."""
        decode = self._decode
        for tensor in request.inputs:
            if tensor.packed:
                unpack_tensor(tensor)
        return {tensor.name: decode_field(tensor, tensor.data[0], decode) for tensor in request.inputs}

    def to_response(
        self, request: InferenceRequest, results: Sequence[Any], head: ResponseHead | None
    ) -> InferenceResponse:
        return body_answer(results[0], head)


class EnvelopeForm(RowForm):
    """A body in an envelope, which unpacks its rows."""

    def __init__(self, body: BodyForm, envelope: RowEnvelope, version: str) -> None:
        self._body = body
        self._version = version
        self._envelope = envelope
        self.joint = envelope.joint

    def to_rows(self, request: InferenceRequest) -> list[Any]:
        return self._envelope.split_rows(self._body.to_row(request))

    def to_response(
        self, request: InferenceRequest, results: Sequence[Any], head: ResponseHead | None
    ) -> InferenceResponse:
        envelope_request = EnvelopeRequest(
            request.operation is Operation.EXPLAIN, request.id, request.model, self._version
        )
        # Only a joint envelope looks at the body again, for the names in it.
        row = self._body.to_row(request) if self.joint else {}
        return body_answer(self._envelope.join_results(results, row, envelope_request), head)

    def to_piece(
        self, request: InferenceRequest, result: Any, head: ResponseHead | None
    ) -> InferenceResponse:
        return body_answer(result, head)


class InstancesForm(RowForm):
    """KServe v1: each instance's value is a row. ``opens_base64`` is TorchServe's json envelope around it."""

    def __init__(self, *, opens_base64: bool = False) -> None:
        self._opens_base64 = opens_base64

    def to_rows(self, request: InferenceRequest) -> list[Any]:
        rows = self._read_instances(request)
        return [without_base64(row) for row in rows] if self._opens_base64 else rows

    def _read_instances(self, request: InferenceRequest) -> list[Any]:
        if request.body is not None:
            return _instances_of(request.body.data)
        (tensor,) = request.inputs
        if tensor.packed:
            return _load_rows(tensor.data)
        try:
            return [json_text.load_json(element) for element in tensor.data]
        except ValueError as error:
            raise InvalidInput(f"an instance is not JSON: {error}") from None

    def to_response(
        self, request: InferenceRequest, results: Sequence[Any], head: ResponseHead | None
    ) -> InferenceResponse:
        elements = [_encode_compact(result) for result in results]
        outputs = [Tensor("predictions", "BYTES", [len(elements)], elements)]
        pack_predictions(outputs)
        return InferenceResponse([*outputs], head=head)


class TensorsForm(RowForm):
    """The Open Inference Protocol: BYTES tensors of one length are a row per element, all else is one row."""

    def __init__(self, json_nan: str = BY_PROTOCOL) -> None:
        self._json_nan = json_nan

    def to_rows(self, request: InferenceRequest) -> list[Any]:
        decode_v2_inputs(request)
        tensors = request.inputs
        check_inputs(tensors)
        restore_names(tensors)
        if not _one_row_per_element(tensors):
            return _with_data([{tensor.name: _tensor_value(tensor) for tensor in tensors}])
        names = [tensor.name for tensor in tensors]
        columns = [[decode_field(tensor, element, True) for element in tensor.data] for tensor in tensors]
        return _with_data([dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)])

    def to_response(
        self, request: InferenceRequest, results: Sequence[Any], head: ResponseHead | None
    ) -> InferenceResponse:
        name = _output_name(request)
        stacked = list(results) if _one_row_per_element(request.inputs) else results[0]
        response = InferenceResponse([tensor_of(name, stacked)], head=head)
        return encode_outputs(request, response, NO_LABELS, self._json_nan)


def check_inputs(tensors: Sequence[Tensor]) -> None:
    """Raise ``InvalidInput`` where there are no inputs: a handler is called for the inputs of a request."""
    if not tensors:
        raise InvalidInput('the request needs "inputs", a list of at least one tensor')


class InputsForm(RowForm):
    """The Open Inference Protocol under TorchServe's kservev2 envelope: the handler gets the list of inputs itself."""

    joint = True

    def __init__(self, json_nan: str = BY_PROTOCOL) -> None:
        self._json_nan = json_nan

    def to_rows(self, request: InferenceRequest) -> list[Any]:
        decode_v2_inputs(request)
        check_inputs(request.inputs)
        return [
            {
                "name": tensor.name,
                "shape": tensor.shape,
                "datatype": tensor.datatype,
                "data": _text_or_value(tensor),
            }
            for tensor in request.inputs
        ]

    def to_response(
        self, request: InferenceRequest, results: Sequence[Any], head: ResponseHead | None
    ) -> InferenceResponse:
        names = [tensor.name for tensor in request.inputs]
        check_output_names(len(names), len(results))
        outputs = [tensor_of(name, result) for name, result in zip(names, results, strict=False)]
        head = head or ResponseHead()
        head.with_id = True
        return encode_outputs(request, InferenceResponse([*outputs], head=head), NO_LABELS, self._json_nan)


def body_answer(item: Any, head: ResponseHead | None) -> InferenceResponse:
    """Return the response whose body is one result (docs/contracts/torchserve.md, section 1.2).

    Raises ``InvalidOutput``.
    """
    kind = type(item)
    if kind is bytes:
        body = item
    elif kind is dict and head is None:
        body, head = _encode_indented(item), _JSON_HEAD
    elif isinstance(item, str):
        body = _encode_text(item)
    elif isinstance(item, (bytes, bytearray)):
        body = bytes(item)
    elif _is_torch_tensor(item):
        body = _serialize_tensor(item)
    else:
        body = _encode_indented(item)
        if head is None:
            head = ResponseHead(content_type=_JSON)
        elif not head.content_type:
            head.content_type = _JSON
    return InferenceResponse([Tensor("body", "BYTES", [1], [body])], head=head)


def as_results(returned: Any, rows: int | None) -> list[Any]:
    """Return the handler's result as a list with one item per row; ``rows`` None allows any number.

    Raises ``InvalidOutput``.
    """
    if not isinstance(returned, list):
        raise InvalidOutput(
            "Invalid model predict output", detail=f"the handler returned {type(returned).__name__}"
        )
    if rows is not None and len(returned) != rows:
        raise InvalidOutput(
            "number of batch response mismatched",
            detail=f"the handler returned {len(returned)} items for {rows} rows",
        )
    return returned


def decode_field(tensor: Tensor, payload: Payload, decode: bool) -> Any:
    """Decode the value of a field by its content type (2.1): JSON and text are decoded, everything else is a bytearray.

    A form field that is no file is never decoded, whatever type its client gave it.
    """
    parameters = tensor.parameters
    if decode and parameters:
        content_type = parameters.get("content_type")
        if content_type and isinstance(content_type, str) and parameters.get("file", True):
            if content_type == _JSON or content_type.partition(";")[0].rstrip() == _JSON:
                try:
                    return json_text.load_json(payload)
                except ValueError:
                    _log.warning(
                        "field '%s' says it is JSON and is not; the handler gets its bytes", tensor.name
                    )
            elif content_type.startswith("text"):
                try:
                    return bytes(payload).decode()
                except UnicodeDecodeError:
                    _log.warning(
                        "field '%s' says it is text and is not UTF-8; the handler gets its bytes", tensor.name
                    )
    # Handlers expect a bytearray they may change, and the request's own memory is not theirs: one copy.
    return bytearray(payload if isinstance(payload, bytes) else payload.view)


def tensor_of(name: str, value: Any) -> Tensor:
    """Return a value as a tensor: regularly nested numbers become numeric, everything else BYTES.

    Raises ``InvalidOutput`` for what is neither.
    """
    if _is_torch_tensor(value):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        return Tensor.of(name, np.atleast_1d(value))
    if isinstance(value, (str, bytes, bytearray, dict)) or value is None:
        value = [value]
    try:
        array = np.atleast_1d(
            np.asarray([_unwrap_tensor(element) for element in value] if isinstance(value, list) else value)
        )
    except ValueError:  # ragged
        array = np.empty(0, dtype=object)
    if array.dtype.kind in "biuf":
        return Tensor.of(name, array)
    if not isinstance(value, list | tuple):
        value = [value]
    elements = [_encode_element(element) for element in value]
    return Tensor(name, "BYTES", [len(elements)], elements)


def _with_data(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows; where they have one field, handlers find it as ``data``, too, as most of TorchServe's read that."""
    for row in rows:
        if len(row) == 1 and "body" not in row:
            (row["data"],) = row.values()
    return rows


def _instances_of(payload: Payload) -> list[Any]:
    try:
        body = json_text.load_json(payload)
    except ValueError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    return list(find_instances(body))


def _load_rows(payload: Payload) -> list[Any]:
    """The predictions of the model before this one in a chain."""
    rows: list[Any] = json_text.load_json(payload)
    return rows


def _one_row_per_element(tensors: Sequence[Tensor]) -> bool:
    return all(tensor.datatype == "BYTES" for tensor in tensors) and (
        len({tuple(tensor.shape) for tensor in tensors}) == 1 and len(tensors[0].shape) == 1
    )


def _tensor_value(tensor: Tensor) -> Any:
    if tensor.datatype == "BYTES" and tensor.shape in ([], [1]):
        return decode_field(tensor, tensor.data[0], True)
    return tensor.array().tolist()


def _text_or_value(tensor: Tensor) -> Any:
    """Return the value of an input under the kservev2 envelope: of BYTES the first text, as TorchServe reads it from JSON."""
    if tensor.datatype == "BYTES" and tensor.data and len(tensor.data) == 1 and not tensor.parameters:
        try:
            return bytes(view_of(tensor.data[0])).decode()
        except UnicodeDecodeError:
            pass
    return _tensor_value(tensor)


def _output_name(request: InferenceRequest) -> str:
    # TorchServe's kservev2 envelope names an output after its input; a caller who asks by name knows better.
    if request.outputs and len(request.outputs) == 1:
        return request.outputs[0].name
    return request.inputs[0].name if request.inputs else "output"


def _unwrap_tensor(value: Any) -> Any:
    return value.tolist() if _is_torch_tensor(value) else value


def _encode_element(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    return _encode_text(value) if isinstance(value, str) else _encode_compact(value)


def _encode_text(text: str) -> bytes:
    try:
        return str(text).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise InvalidOutput(_UNSUPPORTED, detail=str(error)) from None


def _encode_compact(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray)):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise InvalidOutput(_UNSUPPORTED) from None
    elif _is_torch_tensor(value):
        value = value.tolist()
    try:
        return json_text.dump_compact(value)
    except (TypeError, ValueError) as error:
        raise InvalidOutput(_UNSUPPORTED, detail=str(error)) from None


def _encode_indented(item: Any) -> bytes:
    try:
        return json_text.dump_indented(item)
    except (TypeError, ValueError) as error:
        raise InvalidOutput(_UNSUPPORTED, detail=str(error)) from None


def _is_torch_tensor(item: Any) -> bool:
    # A handler that returns a tensor has imported torch; one that has not must not pay for it.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(item, torch.Tensor)


def _serialize_tensor(tensor: Any) -> bytes:
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return buffer.getvalue()
