"""What every response has in common: an id, TorchServe's headers, a count by class, and JSON in TorchServe's format."""

import json
import os
from collections.abc import Callable, Mapping
from functools import partial

import orjson

from mooring.codecs.nonfinite import BY_PROTOCOL, NULL, asks_for_null
from mooring.core.buffers import Payload
from mooring.observability.metrics import ResponseCounter
from mooring.protocols import status as statuses
from mooring.protocols.status import HIDDEN, FaultWords, Refusal
from mooring.web.http1 import REQUEST_ID, Exchange, header_lines

JSON = "application/json"

# TorchServe's headers, to the letter: no cache may keep a model's answer.
FIXED = (
    ("Pragma", "no-cache"),
    ("Cache-Control", "no-cache; no-store, must-revalidate, private"),
    ("Expires", "Thu, 01 Jan 1970 00:00:00 UTC"),
)
# The last three digits of the ids of one batch.
_ID_ENDS = tuple(f"{number:03x}" for number in range(512))
_ID = b"x-request-id: "
_CALLER_ID = b"x-request-id"
_MAX_TAILS = 64


def to_pretty_json(document: object) -> bytes:
    """Encode JSON as TorchServe's frontend does: indented by two spaces, ``": "``, a line break at the end."""
    try:
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:
        # orjson refuses lone surrogates (a handler's text may hold one) and integers beyond 64 bits.
        return json.dumps(document, indent=2).encode() + b"\n"


def encode_json(document: object, target: bytes) -> bytes:
    """Encode JSON in the format of the protocol that a request target belongs to: v2's is on one line."""
    if not statuses.speaks_v2(target):
        return to_pretty_json(document)
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:  # as there; a folder of the repository may have a name that is no UTF-8
        return json.dumps(document, separators=(",", ":")).encode()


class RequestIds:
    """Version 4 UUIDs, made in batches of 512 that share 27 random digits and differ in the last three.

    One system call for random bytes serves a whole batch, and making an id is one concatenation.
    """

    __slots__ = ("_ready",)

    def __init__(self) -> None:
        self._ready: list[str] = []

    def new_id(self) -> str:
        """Return an id that was never returned before."""
        if not self._ready:
            self._refill()
        return self._ready.pop()

    def _refill(self) -> None:
        digits = os.urandom(14).hex()
        # The digits of the version ("4") and the variant ("a") are fixed: 108 bits are random.
        start = f"{digits[:8]}-{digits[8:12]}-4{digits[12:15]}-a{digits[15:18]}-{digits[18:27]}"
        self._ready = [start + end for end in _ID_ENDS]


class Responses:
    """Writes the responses of one listener.

    How this works: a response's header lines are ``x-request-id``, the id, and a tail that depends on the content
    type alone, so tails are cached. The methods ``send_*`` count the response by its class and write it to the
    exchange.

    ``cors`` are headers of every response. Handlers may not set them, nor those in ``reserved_headers``.
    ``header_lines_for`` returns the CORS lines for an origin; they go into refusals that no app writes.
    ``json_nan`` is the setting of that name. ``faults`` is how faults of models' own code are told.
    """

    def __init__(
        self,
        counter: ResponseCounter,
        *,
        cors: Mapping[str, str] | None = None,
        reserved_headers: frozenset[str] = frozenset(),
        header_lines_for: Callable[[bytes], bytes] = lambda _origin: b"",
        json_nan: str = BY_PROTOCOL,
        faults: FaultWords = HIDDEN,
    ) -> None:
        self.counter = counter
        self.faults = faults
        self._writes_null = json_nan == NULL
        self._lines_for = header_lines_for
        self._new_id = RequestIds().new_id
        self.reserved_headers = reserved_headers | {name.lower() for name in cors or ()}
        self._common = header_lines([*FIXED, *(cors or {}).items()])
        self._tails: dict[str, bytes] = {"": b"\r\n" + self._common}

    def send_answer(self, exchange: Exchange, request_id: str, content_type: str, body: Payload) -> None:
        """Answer 200 with a model's answer that sets no headers of its own."""
        tail = self._tails.get(content_type) or self._make_tail(content_type)
        self.counter.classes[2] += 1
        exchange.respond_ok((_ID, request_id.encode(), tail), body)

    def build_head(self, request_id: str, content_type: str = "") -> bytes:
        """Return the header lines of a response. Raises ``ValueError`` for a content type that no header can hold."""
        return _ID + request_id.encode() + (self._tails.get(content_type) or self._make_tail(content_type))

    def read_request_id(self, exchange: Exchange) -> str:
        """Return the client's own id from the header x-request-id if it is a valid one, else a new id."""
        caller_id = exchange.fields.get(_CALLER_ID)
        return self._new_id() if caller_id is None else self._caller_id(caller_id)

    def request_id_source(self, exchange: Exchange) -> Callable[[], str]:
        """Return a function that returns the id of each request with this head."""
        caller_id = exchange.fields.get(_CALLER_ID)
        return self._new_id if caller_id is None else partial(self._caller_id, caller_id)

    def _caller_id(self, caller_id: bytes) -> str:
        return caller_id.decode() if REQUEST_ID.fullmatch(caller_id) else self._new_id()

    def writes_null(self, exchange: Exchange) -> bool:
        """Return whether NaN and infinities in the v2 answer to this request are null, not NaN and Infinity tokens."""
        return self._writes_null or asks_for_null(exchange.fields.get(b"accept"))

    def _make_tail(self, content_type: str) -> bytes:
        tail = b"\r\n" + header_lines([("content-type", content_type)]) + self._common
        if len(self._tails) < _MAX_TAILS:  # a handler may invent a new content type for every answer
            self._tails[content_type] = tail
        return tail

    def send_json(
        self, exchange: Exchange, document: object, *, request_id: str = "", status: int = 200
    ) -> None:
        """Answer with a JSON document."""
        self.counter.count(status)
        exchange.respond(
            status,
            encode_json(document, exchange.target),
            self.build_head(request_id or self.read_request_id(exchange), JSON),
        )

    def send_body(
        self, exchange: Exchange, body: Payload, content_type: str, *, request_id: str = ""
    ) -> None:
        """Answer 200 with these bytes."""
        self.counter.count(200)
        exchange.respond(
            200, body, self.build_head(request_id or self.read_request_id(exchange), content_type)
        )

    def send_refusal(self, exchange: Exchange, refusal: Refusal, *, request_id: str = "") -> None:
        """Answer with an error, whose body names the request. The connection stays open: the request was read to its end."""
        self.counter.count(refusal.status)
        request_id = request_id or self.read_request_id(exchange)
        head = self.build_head(request_id, JSON) + refusal.head
        if statuses.speaks_console(exchange.target):
            head += b"x-content-type-options: nosniff\r\n"
        exchange.respond(
            refusal.status,
            encode_json(refusal.document_for(exchange.target, request_id), exchange.target),
            head,
            reason=refusal.reason,
        )

    def send_fault(self, exchange: Exchange, error: Exception, *, request_id: str = "") -> None:
        """Answer 500 for an exception that the caller has logged; abort the response if it has begun."""
        if exchange.state:
            exchange.abort()
        else:
            self.send_refusal(exchange, statuses.fault_refusal(error), request_id=request_id)

    def format_refusal(
        self, status: int, kind: str, message: str, target: bytes = b"", origin: bytes | None = None
    ) -> tuple[bytes, bytes]:
        """Return body and header lines of an error that ``HttpServer`` answers itself, in the target's protocol.

        ``origin`` is the request's Origin header; None where the CORS lines for it have been added already.
        """
        refusal = statuses.transport_refusal(status, message)
        self.counter.count(status)
        request_id = self._new_id()
        head = self.build_head(request_id, JSON) + refusal.head
        if origin is not None:
            head += self._lines_for(origin)
        return encode_json(refusal.document_for(target, request_id), target), head
