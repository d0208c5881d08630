"""Bodies in the form that TorchServe's handlers read: one tensor, or one for each field of a form.

Forms are urlencoded or multipart bodies.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import parse_qsl

from mooring.codecs.content_types import JSON_IN_FORM, is_json_in_form
from mooring.core.buffers import Buffer, Payload, Share
from mooring.core.errors import InvalidInput
from mooring.core.tensors import ESCAPED, PLAIN, Parameter, Tensor
from mooring.web.http1 import Exchange
from mooring.web.multipart import MULTIPART, URLENCODED, Field, parse_form

_MAX_TYPES = 64
_MULTIPART = MULTIPART.encode() + b";"


class InputReader:
    """Reads the inputs of requests out of their bodies."""

    def __init__(self) -> None:
        # Content type as sent -> the parameters of a tensor. Requests share them, so they are not to be changed.
        self._parameters: dict[bytes | None, Mapping[str, Parameter]] = {}

    def read_inputs(self, exchange: Exchange) -> list[Tensor]:
        """Return the inputs of a request, and take over its body. Raises ``InvalidInput`` for a malformed form."""
        content_type = exchange.header(b"content-type")
        parameters = self._parameters.get(content_type)
        if parameters is None:
            if content_type is not None and is_form(content_type):
                return form_fields(exchange.take_body(), content_type)
            parameters = self._remember_type(content_type)
        return [Tensor("body", "BYTES", [1], [exchange.take_body()], parameters)]

    def _remember_type(self, content_type: bytes | None) -> Mapping[str, Parameter]:
        parameters = body_parameters(content_type)
        if len(self._parameters) < _MAX_TYPES:  # clients may invent them
            self._parameters[content_type] = parameters
        return parameters


def body_parameters(content_type: bytes | None) -> Mapping[str, Parameter]:
    """Return the parameters of the tensor for a plain body."""
    return {"content_type": bare_type(content_type or b"")}


def is_form(content_type: bytes) -> bool:
    """Return whether a body of this type has fields."""
    return content_type.startswith(_MULTIPART) or bare_type(content_type).lower() in {URLENCODED, MULTIPART}


def bare_type(content_type: bytes) -> str:
    """Return a content type without its parameters, in the case that it was sent in."""
    return content_type.partition(b";")[0].strip().decode("latin-1")


def query_fields(query: bytes) -> list[Tensor]:
    """Return the parameters of a query as tensors; of equal names the last one."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return [_text_tensor(name, value.encode()) for name, value in dict(pairs).items()]


def form_fields(body: Payload, content_type: bytes) -> list[Tensor]:
    """Return the fields of a form as tensors, of equal names the last one. A form may have no fields.

    Takes over the body. Raises ``InvalidInput``.
    """
    try:
        if is_json_in_form(body.view if isinstance(body, Buffer) else body, content_type.decode("latin-1")):
            raise InvalidInput(JSON_IN_FORM)
        fields = parse_form(body.view if isinstance(body, Buffer) else body, content_type.decode("latin-1"))
    except InvalidInput:
        if isinstance(body, Buffer):
            body.release()
        raise
    last = {field.name: field for field in fields}.values()
    if not isinstance(body, Buffer):
        return [_field_tensor(field, bytes(field.payload)) for field in last]
    share = Share(body)
    tensors = [_field_tensor(field, _field_payload(share, field)) for field in last]
    share.release()
    return tensors


def merge_fields(first: Iterable[Tensor], second: Iterable[Tensor]) -> list[Tensor]:
    """Return the fields of both; of equal names the one of the second."""
    return list(
        ({tensor.name: tensor for tensor in first} | {tensor.name: tensor for tensor in second}).values()
    )


def text_field(fields: Iterable[Tensor], name: str) -> str:
    """Return the value of a field as text; empty if there is no such field."""
    value = next((tensor.data[0] for tensor in fields if tensor.name == name), b"")
    return bytes(value).decode("utf-8", "replace")


def _field_tensor(field: Field, value: Payload) -> Tensor:
    if field.filename is None:
        tensor = _text_tensor(field.name, value)
        tensor.packed = ESCAPED if field.escaped else PLAIN
        return tensor  # TorchServe drops the content type of a field that is no file
    return Tensor(field.name, "BYTES", [1], [value], _file_parameters(field.content_type or ""))


@lru_cache(_MAX_TYPES)
def _file_parameters(content_type: str) -> Mapping[str, Parameter]:
    """Return the parameters of the tensor for a file. Requests share them, so they are not to be changed."""
    return {"content_type": bare_type(content_type.encode()), "file": True}


def _text_tensor(name: str, value: Payload) -> Tensor:
    return Tensor(name, "BYTES", [1], [value], {"content_type": ""})


def _field_payload(share: Share, field: Field) -> Payload:
    """Return a field's value as a part of the body, or as bytes where the parser had to decode it."""
    payload = field.payload
    return bytes(payload) if field.start is None else share.part(field.start, field.start + len(payload))
