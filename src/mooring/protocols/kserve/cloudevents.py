"""CloudEvents 1.0 around a v1 call: the event's data is the request, and the answer is an event in the same mode.

Binary mode has the attributes in headers (``ce-id``) and the data as the body; structured mode has all in one JSON
object of the type ``application/cloudevents+json``.
"""

import base64
import binascii
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec
import orjson

from mooring.core.buffers import Buffer, Payload, view_of
from mooring.core.errors import InvalidInput
from mooring.core.validation import explain_decoding
from mooring.web.http1 import Exchange, header_lines

CONTENT_TYPE = "application/cloudevents+json"
_TYPE = "io.kserve.inference.response"
_REQUIRED = ("id", "source", "type")


class _Envelope(msgspec.Struct):
    # All that is looked at; other attributes are the sender's own.
    specversion: str = ""
    id: str = ""
    source: str = ""
    type: str = ""
    data: msgspec.Raw = msgspec.Raw()
    data_base64: str | None = None


_envelope = msgspec.json.Decoder(_Envelope)


_BATCH = b"application/cloudevents-batch"


def refuse_batch(exchange: Exchange) -> None:
    """Raise ``InvalidInput`` for several events in one body, which are answered one by one or not at all."""
    if exchange.fields.get(b"content-type", b"").strip().lower().startswith(_BATCH):
        raise InvalidInput(
            "a batch of CloudEvents (application/cloudevents-batch+json) is not served; send each event by itself, "
            "as application/cloudevents+json or with ce- headers"
        )


def is_event(exchange: Exchange) -> bool:
    """Whether a request is an event in either mode."""
    fields = exchange.fields
    return b"ce-specversion" in fields or fields.get(b"content-type", b"").startswith(
        b"application/cloudevents+json"
    )


def is_structured(exchange: Exchange) -> bool:
    """Whether the attributes of an event are in its body."""
    return b"ce-specversion" not in exchange.fields


def data_of(exchange: Exchange) -> Payload:
    """Return the data of an event, for the caller to release. Raises ``InvalidInput`` for an event that lacks something."""
    if is_structured(exchange):
        return _unwrap_event(exchange.take_body())
    attributes = {
        name: exchange.fields.get(f"ce-{name}".encode(), b"").decode("latin-1") for name in _REQUIRED
    }
    _check_attributes(exchange.fields[b"ce-specversion"].decode("latin-1"), attributes)
    return exchange.take_body()


def _unwrap_event(body: Payload) -> Payload:
    try:
        envelope = _envelope.decode(view_of(body))
        data = bytes(envelope.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body is not a CloudEvent in JSON: {explain_decoding(error)}") from None
    finally:
        if isinstance(body, Buffer):
            body.release()
    _check_attributes(envelope.specversion, {name: getattr(envelope, name) for name in _REQUIRED})
    if envelope.data_base64 is None:
        return data
    try:
        return base64.b64decode(envelope.data_base64, validate=True)
    except binascii.Error as error:
        raise InvalidInput(f"data_base64 of the CloudEvent is not base64: {error}") from None


def _check_attributes(version: str, attributes: dict[str, str]) -> None:
    # 0.3 has the same attributes, and KServe's senders still use it.
    if version not in {"1.0", "0.3"}:
        raise InvalidInput(f"the CloudEvent has the specversion '{version}'; 1.0 is understood")
    missing = [name for name, value in attributes.items() if not value]
    if missing:
        raise InvalidInput(f"the CloudEvent has no {' and no '.join(missing)}")


def answer_lines(model: str, request_id: str) -> bytes:
    """Return the attributes of an answer in binary mode, as header lines."""
    return header_lines(
        [(f"ce-{name}", value) for name, value in _make_attributes(model, request_id).items()]
    )


def wrap(data: bytes, model: str, request_id: str) -> bytes:
    """Wrap an answer as an event in structured mode; ``data`` is JSON."""
    event: dict[str, Any] = {**_make_attributes(model, request_id), "datacontenttype": "application/json"}
    return orjson.dumps({**event, "data": orjson.Fragment(data)})


def _make_attributes(model: str, request_id: str) -> dict[str, str]:
    return {
        "specversion": "1.0",
        "id": request_id,
        "source": f"io.kserve.inference.{quote(model, safe='')}",
        "type": _TYPE,
        "time": datetime.now(UTC).isoformat(),
    }
