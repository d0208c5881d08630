"""One request and its response, as the protocols see them."""

import enum
from collections.abc import Callable
from typing import Protocol

import msgspec

from mooring.core.buffers import Buffer, Payload, view_of
from mooring.core.timing import RequestTiming
from mooring.web import http1_format
from mooring.web.listener import ClientConnection, ListenerContext

# Up to here head and body are joined and leave in one piece; above, joining costs more than a second vector.
JOINED = 16_384


class ResponseTransport(Protocol):
    """What an exchange writes its answer to. ``peer`` is the client's address, with its port."""

    peer: str

    def write(self, exchange: "Exchange", pieces: list[Payload], *, last: bool) -> None:
        """Write pieces of an answer when it is their turn; buffers among them are released afterwards."""
        ...

    def write_whole(self, exchange: "Exchange", answer: bytes) -> None:
        """Write a complete answer in one piece; as ``write`` with ``last``."""
        ...

    def can_write(self, exchange: "Exchange") -> bool:
        """Return whether more of this answer would leave now, and not wait for a slow client or for an earlier answer."""
        ...

    def abort(self, exchange: "Exchange") -> None:
        """End the connection without the end of this answer."""
        ...

    def switch_protocol(
        self, exchange: "Exchange", answer: bytes, successor: Callable[[ListenerContext], ClientConnection]
    ) -> bool:
        """Leave the connection to another protocol after this answer; False where that cannot be."""
        ...


class ResponseState(enum.IntEnum):
    """How far the answer is: one of ``TRANSITIONS``, and never back."""

    PENDING = 0
    STREAMING = 1
    ANSWERED = 2
    ABANDONED = 3  # the client went away first


class HeadCache(msgspec.Struct, eq=False):
    """What the app keeps for requests that have the very same head.

    ``way``, once it is found, answers such a request in place of the app; ``failed`` hears of it when that raises.
    """

    handler: "Callable[[Exchange], None] | None" = None
    on_error: "Callable[[Exchange, Exception], None] | None" = None
    prepared: bool = False


# Looked up per request: a look into the class costs 0.1 us (core/requests.py).
PENDING, STREAMING, ANSWERED, ABANDONED = ResponseState

TRANSITIONS: dict[ResponseState, frozenset[ResponseState]] = {
    PENDING: frozenset({STREAMING, ANSWERED, ABANDONED}),
    STREAMING: frozenset({ANSWERED, ABANDONED}),
    ANSWERED: frozenset(),
    ABANDONED: frozenset(),
}
_OK = http1_format.STATUS_LINES[200]


class Exchange(msgspec.Struct, eq=False):
    """One request and its response. Belongs to the connection; all of it happens on the loop's thread.

    ``headers`` are as the client sent them, in its spelling and order; ``fields`` the same by lower-case name, where
    the last of a name wins. ``body`` is complete; a ``Buffer`` is released when the answer is, unless somebody took
    it. ``head_cache`` is shared by all requests with this head, where it is one that is known. ``on_abandoned`` is called
    once if the client goes away before the answer is complete; from then on whatever is answered is dropped.
    ``on_writable`` is called when a streamed answer may go on after ``writable`` was false. ``timing`` is there where the
    client asks where the time goes.
    """

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    fields: dict[bytes, bytes]
    keep_alive: bool
    transport: ResponseTransport
    body: Payload = b""
    head_cache: HeadCache | None = None
    on_abandoned: Callable[[], None] | None = None
    on_writable: Callable[[], None] | None = None
    version: str = "1.1"
    state: ResponseState = PENDING
    queued: list[Payload] | None = None
    timing: RequestTiming | None = None
    _chunked: bool = True
    _silent: bool = False

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header, the last one where there are several. ``name`` is in lower case."""
        return self.fields.get(name)

    @property
    def peer(self) -> str:
        """The client's address with its port; empty on a unix socket."""
        return self.transport.peer

    @property
    def writable(self) -> bool:
        """Whether a producer should send more. False asks it to wait for ``on_writable``."""
        return self.state < ANSWERED and self.transport.can_write(self)

    def take_body(self) -> Payload:
        """Return the body, which the caller releases. The exchange's own is empty afterwards."""
        body, self.body = self.body, b""
        return body

    def respond(
        self, status: int, body: Payload, head: bytes = b"", *, reason: str = "", close: bool = False
    ) -> None:
        """Answer in one write. A ``Buffer`` is written without a copy and released afterwards.

        ``head`` is zero or more lines of ``header_lines``. Status line, content-length and connection are added.
        Raises ``RuntimeError`` if there was an answer already.
        """
        if self.state:
            self._too_late(body)
            return
        first = http1_format.status_line(status, reason) if reason else http1_format.STATUS_LINES[status]
        self.state = ANSWERED
        if close:
            self.keep_alive = False
        if type(self.body) is not bytes:
            self._drop_body(body)
        if isinstance(body, Buffer) or len(body) > JOINED or self.method == "HEAD" or status in {204, 304}:
            self._respond_at_length(status, first + head, body)
        else:
            end = (http1_format.KEPT if self.keep_alive else http1_format.CLOSED)[len(body)]
            self.transport.write_whole(self, b"".join((first, head, end, body)))

    def respond_ok(self, head: tuple[bytes, bytes, bytes], body: Payload) -> None:
        """Answer 200 as ``respond`` does. The head comes in three pieces, which are joined only once."""
        if self.state or type(body) is not bytes or len(body) > JOINED or self.method == "HEAD":
            self.respond(200, body, b"".join(head))
            return
        self.state = ANSWERED
        if type(self.body) is not bytes:
            self._drop_body(body)
        end = (http1_format.KEPT if self.keep_alive else http1_format.CLOSED)[len(body)]
        first, second, third = head
        self.transport.write_whole(self, b"".join((_OK, first, second, third, end, body)))

    def respond_in_pieces(
        self, status: int, pieces: list[Payload], head: bytes = b"", *, reason: str = ""
    ) -> None:
        """Answer as ``respond`` does with a body that lies in several places; large pieces are not copied."""
        if len(pieces) == 1:
            self.respond(status, pieces[0], head, reason=reason)
            return
        size = sum(map(len, pieces))
        if size <= JOINED or self.state or self.method == "HEAD" or http1_format.bodiless(status):
            body = b"".join(map(view_of, pieces))
            release_all(pieces)
            self.respond(status, body, head, reason=reason)
            return
        first = http1_format.status_line(status, reason) if reason else http1_format.STATUS_LINES[status]
        self.state = ANSWERED
        self._drop_body(b"")
        end = (http1_format.KEPT if self.keep_alive else http1_format.CLOSED)[size]
        self.transport.write(self, [first + head + end, *pieces], last=True)

    def start(self, status: int, head: bytes = b"", *, reason: str = "") -> None:
        """Begin a streamed answer: chunked, or to a client of HTTP/1.0 until the connection's end."""
        if self.state:
            self._too_late(b"")
            return
        first = http1_format.status_line(status, reason) if reason else http1_format.STATUS_LINES[status]
        self.state = STREAMING
        self._silent = self.method == "HEAD" or http1_format.bodiless(status)
        if self.version == "1.0":
            self._chunked, self.keep_alive = False, False
            end = http1_format.UNTIL_CLOSE
        elif http1_format.bodiless(status):
            end = b"connection: keep-alive\r\n\r\n" if self.keep_alive else http1_format.UNTIL_CLOSE
        else:
            end = http1_format.STREAM_KEPT if self.keep_alive else http1_format.STREAM_CLOSED
        self.transport.write(self, [first + head + end], last=False)

    def send(self, piece: Payload) -> None:
        """Send one chunk of a streamed answer. An empty piece is skipped, for an empty chunk would end the answer."""
        self._stream(piece, last=False)

    def finish(self, piece: Payload = b"") -> None:
        """End a streamed answer, with its last piece."""
        self._stream(piece, last=True)

    def abort(self) -> None:
        """Break the answer off so that the client can tell: the connection ends, and no zero chunk is sent."""
        if self.state < ANSWERED:
            self.state = ANSWERED
            self._drop_body(b"")
            self.transport.abort(self)

    def switch_protocol(self, head: bytes, successor: Callable[[ListenerContext], ClientConnection]) -> bool:
        """Answer 101 and leave the connection to another protocol; from within the app's call, or never.

        False where the request did not ask for one, or earlier ones wait for their answers; nothing was sent then.
        """
        answer = b"HTTP/1.1 101 Switching Protocols\r\n" + head + b"\r\n"
        if self.state or not self.transport.switch_protocol(self, answer, successor):
            return False
        self.state = ANSWERED
        return True

    def abandon(self) -> None:
        """Drop the answer: the client is gone. Only the connection calls this."""
        if self.queued:
            release_all(self.queued)
            self.queued = None
        if self.state < ANSWERED:
            self.state = ABANDONED
            self._drop_body(b"")
            callback, self.on_abandoned = self.on_abandoned, None
            if callback is not None:
                callback()

    def _respond_at_length(self, status: int, lines: bytes, body: Payload) -> None:
        if http1_format.bodiless(status):
            end = b"connection: keep-alive\r\n\r\n" if self.keep_alive else http1_format.UNTIL_CLOSE
        else:
            end = (http1_format.KEPT if self.keep_alive else http1_format.CLOSED)[len(body)]
        if self.method == "HEAD" or http1_format.bodiless(status):
            release_all([body])
            self.transport.write_whole(self, lines + end)
        else:
            self.transport.write(self, [lines + end, body], last=True)

    def _stream(self, piece: Payload, *, last: bool) -> None:
        if self.state is not STREAMING:
            self._too_late(piece)
            return
        pieces: list[Payload] = []
        if self._silent or not len(piece):
            release_all([piece])
        elif self._chunked:
            pieces = [b"%x\r\n" % len(piece), piece, b"\r\n"]
        else:
            pieces = [piece]
        if last:
            self.state = ANSWERED
            self._drop_body(b"")
            if self._chunked and not self._silent:
                pieces.append(http1_format.LAST_CHUNK)
        if pieces or last:
            self.transport.write(self, pieces, last=last)

    def _drop_body(self, answer: Payload) -> None:
        """Release the request's body, unless it is the answer as well and must first be written."""
        body, self.body = self.body, b""
        if isinstance(body, Buffer) and body is not answer:
            body.release()

    def _too_late(self, piece: Payload) -> None:
        release_all([piece])
        if self.state is not ABANDONED:
            raise RuntimeError(
                "this request has been answered already" if self.state else "no answer was started"
            )


def add_headers(exchange: Exchange, lines: bytes) -> None:
    """Add ``header_lines`` to an answer that has not begun, whoever writes it. Other requests pay nothing for this."""
    exchange.transport = HeaderInjector(exchange.transport, lines)


class HeaderInjector:
    """The ``ResponseTransport`` of one exchange that puts further header lines behind the status line of the answer."""

    def __init__(self, transport: ResponseTransport, lines: bytes) -> None:
        self._transport = transport
        self._lines = lines
        self.peer = transport.peer

    def write(self, exchange: Exchange, pieces: list[Payload], *, last: bool) -> None:
        if self._lines and pieces:
            pieces = [self._with_lines(pieces[0]), *pieces[1:]]
        self._transport.write(exchange, pieces, last=last)

    def write_whole(self, exchange: Exchange, answer: bytes) -> None:
        self._transport.write_whole(exchange, self._with_lines(answer))

    def can_write(self, exchange: Exchange) -> bool:
        return self._transport.can_write(exchange)

    def abort(self, exchange: Exchange) -> None:
        self._transport.abort(exchange)

    def switch_protocol(
        self, exchange: Exchange, answer: bytes, successor: Callable[[ListenerContext], ClientConnection]
    ) -> bool:
        return self._transport.switch_protocol(exchange, answer, successor)

    def _with_lines(self, head: Payload) -> bytes:
        first, end, rest = bytes(head).partition(b"\r\n")  # a head is bytes, never a lent buffer
        lines, self._lines = self._lines, b""
        return first + end + lines + rest


def release_all(pieces: list[Payload]) -> None:
    """Give back every buffer among the pieces."""
    for piece in pieces:
        if isinstance(piece, Buffer):
            piece.release()
