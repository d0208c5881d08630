"""How the console answers: JSON in UTF-8 whose type no browser may guess, errors as ``{"error": "text"}``."""

import json
from typing import Any

import orjson

from mooring.console.headers import FOR_DATA
from mooring.protocols.responses import JSON, Responses
from mooring.web.http1 import Exchange, header_lines

_HEAD = header_lines([("content-type", JSON)]) + FOR_DATA


def encode(document: object) -> bytes:
    r"""Return a document as JSON. Numbers that JSON has not (NaN, infinity) are null.

    >>> encode({"reason": "half a pair: \ud800", "maximum": 2**64, "mean": float("nan")})
    b'{"reason": "half a pair: \\ud800", "maximum": 18446744073709551616, "mean": null}'
    """
    try:
        return orjson.dumps(document, default=str, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        # orjson refuses lone surrogates, which a model's error may hold, and integers beyond 64 bits, which a schema may.
        plain = json.loads(json.dumps(document, default=str), parse_constant=lambda _name: None)
        return json.dumps(plain).encode()


def send_document(responses: Responses, exchange: Exchange, document: dict[str, Any]) -> None:
    """Answer 200 with a document."""
    send_json(responses, exchange, encode(document))


def send_json(responses: Responses, exchange: Exchange, body: bytes) -> None:
    """Answer 200 with JSON."""
    responses.counter.count(200)
    exchange.respond(200, body, make_head(responses, exchange, _HEAD))


def send_error(responses: Responses, exchange: Exchange, status: int, text: str) -> None:
    """Answer with an error."""
    responses.counter.count(status)
    exchange.respond(status, encode({"error": text}), make_head(responses, exchange, _HEAD))


def make_head(responses: Responses, exchange: Exchange, lines: bytes) -> bytes:
    """Return the header lines of an answer: the request's id, then these."""
    return b"x-request-id: " + responses.read_request_id(exchange).encode() + b"\r\n" + lines
