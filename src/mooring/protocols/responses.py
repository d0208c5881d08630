"""What every response has in common: TorchServe's headers, a count by class, and JSON as TorchServe prints it."""

import json
import os
from collections.abc import Callable, Mapping
from functools import partial

import orjson

from mooring.codecs.nonfinite import BY_PROTOCOL, NULL, asks_for_null
from mooring.core.buffers import Payload
from mooring.observability.metrics import ResponseCounter
from mooring.protocols import status as statuses
from mooring.protocols.status import Refusal
from mooring.web.http1 import REQUEST_ID, Exchange, header_lines

JSON = "application/json"

# TorchServe's, to the letter: no answer of a model may be kept by a cache.
FIXED = (
    ("Pragma", "no-cache"),
    ("Cache-Control", "no-cache; no-store, must-revalidate, private"),
    ("Expires", "Thu, 01 Jan 1970 00:00:00 UTC"),
)
# The last digits of the ids that are made together.
_ENDS = tuple(f"{number:03x}" for number in range(512))
_ID = b"x-request-id: "
_GIVEN_ID = b"x-request-id"
_TYPES_KEPT = 64


def pretty(document: object) -> bytes:
    """JSON as TorchServe's front prints it: two spaces, ``": "``, a line break at the end."""
    try:
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:
        # Half a surrogate pair in a text that a handler chose, or an integer beyond 64 bits: json escapes them.
        return json.dumps(document, indent=2).encode() + b"\n"


def written(document: object, target: bytes) -> bytes:
    """JSON as the target's protocol has it: v2's is on one line."""
    return orjson.dumps(document) if statuses.speaks_v2(target) else pretty(document)


class RequestIds:
    """UUIDs of version 4, made in batches: those of one have 27 random digits in common and differ in the last three.

    So one system call serves hundreds of requests, and an id is one concatenation.
    """

    __slots__ = ("_ready",)

    def __init__(self) -> None:
        self._ready: list[str] = []

    def new(self) -> str:
        """An id nobody has had."""
        if not self._ready:
            self._refill()
        return self._ready.pop()

    def _refill(self) -> None:
        digits = os.urandom(14).hex()
        # Of the version's and the variant's digit ("4", "a") none is taken: 108 bits are random.
        start = f"{digits[:8]}-{digits[8:12]}-4{digits[12:15]}-a{digits[15:18]}-{digits[18:27]}"
        self._ready = [start + end for end in _ENDS]


class Responses:
    """Writes the responses of one listener.

    ``cors`` are header lines that every response carries, if any; what is ``reserved`` is nobody else's to set.
    ``lines_for`` an origin are those of a refusal to its page, which no app adds them to. ``json_nan`` is the setting.
    """

    def __init__(
        self,
        counter: ResponseCounter,
        *,
        cors: Mapping[str, str] | None = None,
        reserved: frozenset[str] = frozenset(),
        lines_for: Callable[[bytes], bytes] = lambda _origin: b"",
        json_nan: str = BY_PROTOCOL,
    ) -> None:
        self.counter = counter
        self._writes_null = json_nan == NULL
        self._lines_for = lines_for
        self._new_id = RequestIds().new
        self.reserved = reserved | {name.lower() for name in cors or ()}
        self._common = header_lines([*FIXED, *(cors or {}).items()])
        self._tails: dict[str, bytes] = {"": b"\r\n" + self._common}

    def send_answer(self, exchange: Exchange, request_id: str, content_type: str, body: Payload) -> None:
        """200 with what a model answered."""
        tail = self._tails.get(content_type) or self._tail(content_type)
        self.counter.classes[2] += 1
        exchange.respond_ok((_ID, request_id.encode(), tail), body)

    def build_head(self, request_id: str, content_type: str = "") -> bytes:
        """The header lines of a response. Raises ``ValueError`` for a content type that no header can hold."""
        return _ID + request_id.encode() + (self._tails.get(content_type) or self._tail(content_type))

    def read_request_id(self, exchange: Exchange) -> str:
        """The id of a request: its caller's own, where its header x-request-id holds one that can be, or a new one."""
        given = exchange.fields.get(_GIVEN_ID)
        return self._new_id() if given is None else self._kept_id(given)

    def request_id_source(self, exchange: Exchange) -> Callable[[], str]:
        """Gives the ids of all requests with this head."""
        given = exchange.fields.get(_GIVEN_ID)
        return self._new_id if given is None else partial(self._kept_id, given)

    def _kept_id(self, given: bytes) -> str:
        return given.decode() if REQUEST_ID.fullmatch(given) else self._new_id()

    def writes_null(self, exchange: Exchange) -> bool:
        """Whether the numbers of v2 that JSON has none for are null in the answer to this, and not tokens."""
        return self._writes_null or asks_for_null(exchange.fields.get(b"accept"))

    def _tail(self, content_type: str) -> bytes:
        tail = b"\r\n" + header_lines([("content-type", content_type)]) + self._common
        if len(self._tails) < _TYPES_KEPT:  # handlers may make them up
            self._tails[content_type] = tail
        return tail

    def send_json(
        self, exchange: Exchange, document: object, *, request_id: str = "", status: int = 200
    ) -> None:
        """A JSON document."""
        self.counter.count(status)
        exchange.respond(
            status,
            written(document, exchange.target),
            self.build_head(request_id or self.read_request_id(exchange), JSON),
        )

    def send_body(
        self, exchange: Exchange, body: Payload, content_type: str, *, request_id: str = ""
    ) -> None:
        """200 with a body made already."""
        self.counter.count(200)
        exchange.respond(
            200, body, self.build_head(request_id or self.read_request_id(exchange), content_type)
        )

    def send_refusal(self, exchange: Exchange, refusal: Refusal, *, request_id: str = "") -> None:
        """An error. The connection stays open: the request was read to its end, so the next one can follow."""
        self.counter.count(refusal.status)
        head = self.build_head(request_id or self.read_request_id(exchange), JSON) + refusal.head
        exchange.respond(
            refusal.status,
            written(refusal.document_for(exchange.target), exchange.target),
            head,
            reason=refusal.reason,
        )

    def send_fault(self, exchange: Exchange, error: Exception, *, request_id: str = "") -> None:
        """A fault of ours, logged by the caller: a 500, or the connection's end where an answer has begun."""
        if exchange.state:
            exchange.abort()
        else:
            self.send_refusal(exchange, statuses.fault(error), request_id=request_id)

    def refuse_message(
        self, status: int, kind: str, message: str, target: bytes = b"", origin: bytes | None = None
    ) -> tuple[bytes, bytes]:
        """How the target's protocol words what the front refuses by itself: body and head, for ``HttpServer``.

        ``origin`` is None where its page has been told already.
        """
        refusal = statuses.front(status, message)
        self.counter.count(status)
        head = self.build_head(self._new_id(), JSON) + refusal.head
        if origin is not None:
            head += self._lines_for(origin)
        return written(refusal.document_for(target), target), head
