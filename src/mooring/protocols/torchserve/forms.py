"""Bodies as the rows of a TorchServe handler have them: one tensor, or of a form (urlencoded, multipart) one per field."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import parse_qsl

from mooring.core.buffers import Buffer, Payload, Share
from mooring.core.errors import InvalidInput
from mooring.core.tensors import ESCAPED, PLAIN, Parameter, Tensor
from mooring.web.http1 import Exchange
from mooring.web.multipart import MULTIPART, URLENCODED, Field, parse_form

_TYPES_KEPT = 64
_MULTIPART = MULTIPART.encode() + b";"


class Inputs:
    """The inputs of requests, out of their bodies."""

    def __init__(self) -> None:
        # Content type as sent -> what a tensor's parameters say of it. Shared by requests: nobody changes them.
        self._parameters: dict[bytes | None, Mapping[str, Parameter]] = {}

    def of(self, exchange: Exchange) -> list[Tensor]:
        """What a request brings; takes its body. Raises ``InvalidInput`` for a form that is none."""
        content_type = exchange.header(b"content-type")
        parameters = self._parameters.get(content_type)
        if parameters is None:
            if content_type is not None and is_form(content_type):
                return form_fields(exchange.take_body(), content_type)
            parameters = self._learn(content_type)
        return [Tensor("body", "BYTES", [1], [exchange.take_body()], parameters)]

    def _learn(self, content_type: bytes | None) -> Mapping[str, Parameter]:
        parameters = parameters_of(content_type)
        if len(self._parameters) < _TYPES_KEPT:  # clients may make them up
            self._parameters[content_type] = parameters
        return parameters


def parameters_of(content_type: bytes | None) -> Mapping[str, Parameter]:
    """What the tensor of a plain body says of it."""
    return {"content_type": bare_type(content_type or b"")}


def is_form(content_type: bytes) -> bool:
    """Whether a body of this type has fields."""
    return content_type.startswith(_MULTIPART) or bare_type(content_type).lower() in {URLENCODED, MULTIPART}


def bare_type(content_type: bytes) -> str:
    """A content type without its parameters, spelled as it was sent."""
    return content_type.partition(b";")[0].strip().decode("latin-1")


def query_fields(query: bytes) -> list[Tensor]:
    """The parameters of a query as fields; of equal names the last one."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return [_tensor(name, value.encode()) for name, value in dict(pairs).items()]


def form_fields(body: Payload, content_type: bytes) -> list[Tensor]:
    """The fields of a form, of equal names the last one; none makes an empty row.

    Takes the body over. Raises ``InvalidInput``.
    """
    try:
        fields = parse_form(body.view if isinstance(body, Buffer) else body, content_type.decode("latin-1"))
    except InvalidInput:
        if isinstance(body, Buffer):
            body.release()
        raise
    last = {field.name: field for field in fields}.values()
    if not isinstance(body, Buffer):
        return [_of_field(field, bytes(field.payload)) for field in last]
    share = Share(body)
    tensors = [_of_field(field, _part(share, field)) for field in last]
    share.release()
    return tensors


def merged(first: Iterable[Tensor], second: Iterable[Tensor]) -> list[Tensor]:
    """The fields of both, those of the second in place of equal names in the first."""
    return list(
        ({tensor.name: tensor for tensor in first} | {tensor.name: tensor for tensor in second}).values()
    )


def text_field(fields: Iterable[Tensor], name: str) -> str:
    """The value of a field as text; empty when there is none."""
    value = next((tensor.data[0] for tensor in fields if tensor.name == name), b"")
    return bytes(value).decode("utf-8", "replace")


def _of_field(field: Field, value: Payload) -> Tensor:
    if field.filename is None:
        tensor = _tensor(field.name, value)
        tensor.packed = ESCAPED if field.escaped else PLAIN
        return tensor  # TorchServe loses the content type of a field that is no file
    return Tensor(field.name, "BYTES", [1], [value], _of_file(field.content_type or ""))


@lru_cache(_TYPES_KEPT)
def _of_file(content_type: str) -> Mapping[str, Parameter]:
    """Return the parameters of a file's tensor. Requests share them, so they are a ``Mapping`` to everybody."""
    return {"content_type": bare_type(content_type.encode()), "file": True}


def _tensor(name: str, value: Payload) -> Tensor:
    return Tensor(name, "BYTES", [1], [value], {"content_type": ""})


def _part(share: Share, field: Field) -> Payload:
    """A value where it lies in the body; what the parser had to unfold is its own."""
    payload = field.payload
    return bytes(payload) if field.start is None else share.part(field.start, field.start + len(payload))
