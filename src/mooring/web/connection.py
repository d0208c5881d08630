"""One client's connection: bytes in, exchanges to the app, answers out in the order of the requests.

    PARSING ──▶ FILLING      the parser stops at a large body, which the socket then writes into its slot itself
       │  ◀──────┘
       └──────▶ DEAF         what follows is not answered: read and dropped

There is no task and no timer here. The server's sweep calls ``check_timeouts`` about once a second; everything else happens in
the callbacks of the transport, of the parser and of the exchanges.
"""

import asyncio
import enum
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import NoReturn, Protocol, cast

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidURLError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from mooring.core.buffers import LARGE, Buffer, Payload
from mooring.core.errors import BodyMemoryFull
from mooring.core.memory import Claim
from mooring.observability.logs import get_logger
from mooring.web import http1_format
from mooring.web.exchange import JOINED, Exchange, ResponseState, release_all
from mooring.web.heads import KnownHead, Refusal, check_head, learn, without_root
from mooring.web.listener import RECEIVE, SLOW, ClientConnection, ListenerContext, body_limit, register
from mooring.web.pace import Pace

log = get_logger(__name__)

App = Callable[[Exchange], None]
ErrorRenderer = Callable[[int, str, str, bytes, bytes | None], tuple[bytes, bytes]]
"""Words what the front refuses by itself: status, kind, message, target and origin, as far as that was read, to body
and head. The origin is None where the app has had the request."""
Failed = Callable[[Exchange, Exception], None]
AdmissionCheck = Callable[[Exchange], App | None]
"""Asked of a head whose body is still to come: who refuses the request without it; None where it is to be received."""

# A client that was refused may still be sending. Closing at once would make the kernel throw away the answer with what
# it sends; so it is read and dropped, for this many seconds of silence and in all.
LINGER_SILENCE, LINGER = 2.0, 30.0
# Seconds after which a client that sends no more is asked whether it is still there, and then its kernel's answer read.
# Not at once: most answers are ready by then, and nobody need be asked.
PROBE = 0.1
# Seconds that TLS has to tell an idle client that the server stops.
RETIRE = 0.1


class Mode(enum.IntEnum):
    """What is done with the next bytes."""

    PARSING = 0
    FILLING = 1
    DEAF = 2


class HttpContext(ListenerContext, Protocol):
    """What the HTTP connections of one listener share beside that."""

    app: App
    render_error: ErrorRenderer
    admission_check: AdmissionCheck | None
    secure: bool
    root: bytes
    valid_hosts: set[bytes]
    known_heads: dict[bytes, KnownHead]


class _Stop(Exception):
    """Ends the parser's run from inside one of its callbacks."""


class Connection(ClientConnection):
    """One client. All connections of a server receive into the same memory, one at a time, so an idle one is small."""

    __slots__ = (
        "_admitting",
        "_app",
        "_begun",
        "_between",
        "_choked",
        "_claim",
        "_collected",
        "_complete",
        "_continue_due",
        "_current",
        "_expected",
        "_filled",
        "_framing",
        "_half_closed",
        "_head_bytes",
        "_headers",
        "_held",
        "_host",
        "_incoming",
        "_into",
        "_known",
        "_last_head",
        "_later",
        "_lingering",
        "_lost",
        "_mode",
        "_pace",
        "_parser",
        "_plain_head",
        "_probed",
        "_reading",
        "_refused",
        "_rest",
        "_room",
        "_since",
        "_slot",
        "_successor",
        "_target",
        "_transport",
        "_unseen",
        "_unsent",
        "peer",
    )

    def __init__(self, host: HttpContext) -> None:
        self._host = host
        self._app = host.app
        self._into = self._room = host.receive_buffer
        self._mode = Mode.PARSING
        self._transport: asyncio.Transport
        self.peer = ""
        self._parser = HttpRequestParser(self)
        # Whether the next byte begins a request, and after how many it does so: as long as that can be told.
        self._between = True
        self._rest = 0
        self._begun: Exchange | None = None
        self._known: KnownHead | None = None
        self._last_head = b""
        # The request that is being received.
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0  # of a head that did not end in the chunk it began in
        self._complete = False  # whether a request ended in this chunk
        self._incoming: Exchange | None = None
        self._expected = 0  # bytes of its body; -1 when chunked
        self._collected: bytearray | None = None
        self._claim: Claim | None = None  # to the memory of that
        self._slot: Buffer | None = None
        self._pace: Pace | None = None
        self._filled = 0
        self._framing = 0  # bytes since the last byte of a chunked body
        self._plain_head = b""
        self._continue_due = False
        # The requests that are not answered: one whose turn it is, those after it, those the app has not seen.
        self._current: Exchange | None = None
        self._later: deque[Exchange] | None = None
        self._unseen: deque[Exchange] | None = None
        self._admitting = False
        # The sending side.
        self._choked = False
        self._held: list[Payload] = []
        self._unsent = 0
        # The connection's end.
        self._reading = True
        self._half_closed = False
        self._probed = False
        self._refused = False
        self._lingering = 0.0
        self._lost = False
        self._successor: ClientConnection | None = None
        self._since = host.now

    # Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.peer = register(self._host, self, self._transport)

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._into

    def buffer_updated(self, nbytes: int) -> None:
        if self._mode:
            self._receive_unparsed(nbytes)
            return
        if self._between:
            if self._recognize(nbytes):
                return
            if self._speaks_otherwise(nbytes):
                self._refuse(400, "invalid", "Invalid HTTP message.")
                self._take_stock(nbytes)
                return
        self._complete = False
        try:
            self._parser.feed_data(self._room[:nbytes])
        except (HttpParserError, HttpParserUpgrade) as error:
            self._stumble(error, self._room[:nbytes])
        waits = self._current is not None or self._incoming is not None or self._choked
        if not self._complete or waits or self._head_bytes:
            self._take_stock(nbytes)
        if self._rest or self._between:
            self._count_down(nbytes)

    def _recognize(self, nbytes: int) -> bool:
        """Take a request whose head is known, and whose body is here or large, without asking the parser.

        The parser, which is between two requests, does not notice. It costs a fifth of what a tiny request needs.
        """
        raw: bytearray = self._room.obj  # type: ignore[assignment]
        known = self._known
        if known is None or not raw.startswith(known.head):
            end = raw.find(http1_format.HEAD_END, 0, nbytes) + len(http1_format.HEAD_END)
            known = self._known = self._host.known_heads.get(self._room[:end].tobytes())
            if known is None:
                return False
        end = len(known.head)
        here = nbytes - end
        if here == known.size and here <= LARGE:
            body: Payload = self._room[end:nbytes].tobytes()
        elif here < known.size > LARGE and not self._is_refused_early(known):
            try:
                body = self._host.allocator.expect(known.size)
                body.received(here)
            except MemoryError:
                return False  # it is refused in the parser's way
            body.view[:here] = self._room[end:nbytes]
        else:
            return False
        keep = not self._host.draining
        exchange = Exchange(
            known.method, known.target, known.headers, known.fields, keep, self, body, known.head_cache
        )
        if isinstance(body, Buffer):
            self._incoming, self._slot = exchange, body
            self._expected, self._filled = known.size, here
            self._take_stock(nbytes)
            return True
        way = known.head_cache.handler
        if way is None or self._current is not None or self._choked or not keep:
            self._hand_over(exchange)
        else:
            self._current = exchange
            try:
                way(exchange)
            except Exception as error:
                cast("Failed", known.head_cache.on_error)(exchange, error)
        if self._choked or self._unseen or not self._reading:
            self._regulate()
        return True

    def _speaks_otherwise(self, nbytes: int) -> bool:
        """Whether the request line that a chunk begins with names another protocol, which the parser would let pass.

        A line that did not come in one piece is the parser's alone to look at.
        """
        raw: bytearray = self._room.obj  # type: ignore[assignment]
        end = raw.find(b"\r\n", 0, nbytes)
        if end < 0 or raw.startswith(http1_format.HTTP, end - 8):
            return False
        return http1_format.OTHER_PROTOCOL.search(raw, 0, end) is not None

    def _count_down(self, nbytes: int) -> None:
        """Keep track of where the next request begins: known while every request comes in chunks of its own."""
        if self._between:
            self._between = False
            begun, self._begun = self._begun, None
            if begun is None:
                return
            raw: bytearray = self._room.obj  # type: ignore[assignment]
            self._last_head = learn(begun, raw, self._last_head, self._host.known_heads)
            end = raw.find(http1_format.HEAD_END, 0, nbytes) + len(http1_format.HEAD_END)
            if self._expected < 0:  # chunked: only the parser knows where it ends
                return
            self._rest = end + self._expected
        self._rest -= nbytes
        if self._rest <= 0:
            self._between, self._rest = self._rest == 0 and not self._mode, 0

    def eof_received(self) -> bool:
        """Answers still go out to a client that only closed its sending side; a request cut in two is dropped."""
        self._half_closed = True
        if self._incoming is not None:
            self._drop_incoming()
        last = self._later[-1] if self._later else self._current
        if last is None or self._lingering or self._host.secure:
            return False
        self._mode = Mode.DEAF
        last.keep_alive = False
        self._probe_in_time(2)
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        self._lost = True
        self._mode = Mode.DEAF
        self._host.remove(self)
        release_all(self._held)
        self._held = []
        waiting = [self._incoming, self._current, *(self._later or ())]
        self._incoming = self._current = self._later = self._unseen = None
        for exchange in waiting:
            if exchange is not None:
                self._guard(exchange.abandon)
        del self._parser  # it refers to this connection: a cycle

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        if self._held:
            release_all(self._held)
            self._held = []
            self._transport.set_write_buffer_limits(high=SLOW, low=0)
        current = self._current
        if current is None:
            self._proceed()
        elif current.state is ResponseState.STREAMING and current.on_writable is not None:
            self._guard(current.on_writable)
        if self._unseen:
            self._admit()
        self._regulate()

    # Parser

    def on_url(self, url: bytes) -> None:
        self._target = self._target + url if self._target else url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value.rstrip()))

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, []
        target, self._target = self._target, b""
        fields = {http1_format.LOWER[name]: value for name, value in headers}
        parser, host = self._parser, self._host
        if host.root:
            target = without_root(target, host.root)
        exchange = self._incoming = Exchange(
            http1_format.METHODS[parser.get_method()],
            target,
            headers,
            fields,
            parser.should_keep_alive(),
            self,
        )
        if not exchange.keep_alive or b"connection" in fields or b"transfer-encoding" in fields:
            exchange.version = parser.get_http_version()
            if (
                b"upgrade" in fields
                and parser.should_upgrade()
                and not fields.keys().isdisjoint(http1_format.FRAMING)
            ):
                self._plain_head = http1_format.without_upgrade(
                    exchange.method, target, exchange.version, headers
                )
                self._incoming = None
                return
        if self._between and self._begun is None:
            self._begun = exchange
        if b"host" not in fields:  # the version is not known yet where nothing else asked for it
            exchange.version = parser.get_http_version()
        try:
            check_head(exchange, host.limits, host.valid_hosts, self._head_bytes)
        except Refusal as refusal:
            self._stop(refusal.status, refusal.kind, refusal.message)
        if host.draining:
            exchange.keep_alive = False
        self._expected = 0
        if b"content-length" in fields or b"transfer-encoding" in fields:
            self._expect_body(exchange)
        if b"expect" in fields and exchange.version == "1.1":
            self._meet_expectation(fields[b"expect"])

    def on_body(self, data: bytes) -> None:
        self._framing = 0
        incoming, slot = self._incoming, self._slot
        if incoming is None:
            return
        if slot is not None:
            end = self._filled + len(data)
            self._count(slot.received, len(data))
            slot.view[self._filled : end] = data
            self._filled = end
        elif len(data) == self._expected:
            incoming.body = data
        else:
            if self._collected is None:
                self._collected = bytearray()
            self._collect(self._collected, data)
            self._limit_body(len(self._collected), incoming.target)

    def on_message_complete(self) -> None:
        self._complete = True
        self._pace = None
        if self._headers:  # the trailers of a chunked body; nothing here has a use for them
            self._headers = []
        exchange = self._incoming
        if exchange is None:
            return
        if self._slot is not None:
            self._slot = None
        elif self._collected is not None:
            exchange.body, self._collected, self._claim = self._kept(self._collected), None, None
        self._incoming = None
        self._hand_over(exchange)

    # Receiving

    def _kept(self, collected: bytearray) -> Payload:
        """A body that came in pieces. Above ``LARGE`` it is copied to where a worker can read it."""
        if len(collected) <= LARGE:
            return bytes(collected)
        buffer = self._allocated(self._host.allocator.allocate, len(collected))
        buffer.view[:] = collected
        return buffer

    def _collect(self, collected: bytearray, data: bytes) -> None:
        if len(collected) + len(data) > LARGE:
            if self._claim is None:
                self._claim = self._host.allocator.claim()
                self._count(self._claim.grow, len(collected))
            self._count(self._claim.grow, len(data))
        collected += data

    def _allocated(self, allocate: Callable[[int], Buffer], size: int) -> Buffer:
        """Memory for a body; where there is none, the request is refused."""
        try:
            return allocate(size)
        except MemoryError as error:
            return self._stop(*_no_memory(error))

    def _count(self, count: Callable[[int], None], size: int) -> None:
        """Count what has come of a body; where there is no room for it, the request is refused."""
        try:
            count(size)
        except BodyMemoryFull as error:
            self._stop(*_no_memory(error))

    def _stumble(self, error: Exception, chunk: memoryview) -> None:
        """The parser stopped: at an upgrade, taken up or not, or because there is no sense in the bytes."""
        if self._successor is not None:
            del self._parser  # as when the connection is lost
            if isinstance(error, HttpParserUpgrade) and (rest := bytes(chunk[error.args[0] :])):
                self._successor.feed(rest)
            return
        while isinstance(error, HttpParserUpgrade) and not self._mode:
            chunk = chunk[error.args[0] :]
            try:
                if self._plain_head:
                    # The parser believes that no body follows. The same head without the upgrade tells a new one.
                    self._parser = HttpRequestParser(self)
                    head, self._plain_head = self._plain_head, b""
                    self._parser.feed_data(head)
                self._parser.feed_data(chunk)
            except (HttpParserError, HttpParserUpgrade) as next_error:
                error = next_error
            else:
                return
        if not self._mode and isinstance(error, HttpParserCallbackError):
            if not isinstance(error.__context__, MemoryError):
                log.error("request failed in the server's own code", exc_info=error)
                self._refuse(500, "internal", "Internal server error, see the server's log.")
                return
            self._refuse(*_no_memory(error.__context__))
        elif not self._mode:
            status = 414 if isinstance(error, HttpParserInvalidURLError) and self._long_target() else 400
            self._refuse(status, "invalid", "Invalid HTTP message.")

    def _long_target(self) -> bool:
        return len(self._target) > self._host.limits.max_url_bytes

    def _take_stock(self, size: int) -> None:
        """What a chunk left behind: a body to be continued, a head to be continued, or requests in flight."""
        if self._mode is not Mode.DEAF:
            if self._incoming is not None:
                self._head_bytes = 0
                self._since = self._host.now
                self._continue_body(size)
            elif not self._complete:
                self._continue_head(size)
            else:
                self._head_bytes = 0
        self._regulate()

    def _continue_head(self, size: int) -> None:
        if not self._head_bytes:
            self._since = self._host.now
        self._head_bytes += size
        if self._long_target():
            self._refuse(414, "too_long", "Request URL is too long.")
        elif self._head_bytes > self._host.limits.max_header_bytes:
            self._refuse(431, "too_large", "Request header is too large.")

    def _continue_body(self, size: int) -> None:
        if self._slot is not None:
            self._mode = Mode.FILLING
            self._into = self._slot.view[self._filled :]
        else:
            self._framing += size
            if self._framing > self._host.limits.max_header_bytes + RECEIVE:
                # Extensions or trailers without end.
                self._refuse(431, "too_large", "Request trailer is too large.")

    def _receive_unparsed(self, size: int) -> None:
        self._since = self._host.now
        if self._mode is Mode.DEAF:
            return
        self._filled += size
        slot, exchange = self._slot, self._incoming
        if slot is None or exchange is None:
            return
        try:
            slot.received(size)
        except BodyMemoryFull as error:
            self._refuse(*_no_memory(error))
            return
        if self._filled < len(slot):
            self._into = slot.view[self._filled :]
            return
        if not self._between:
            # The parser still believes to be in this body. What comes next is the next request, for a new one.
            self._parser = HttpRequestParser(self)
        self._mode, self._into = Mode.PARSING, self._room
        self._between, self._rest = True, 0
        self._slot = self._incoming = self._pace = None
        self._hand_over(exchange)
        self._regulate()

    def _expect_body(self, exchange: Exchange) -> None:
        self._framing = 0
        coding = exchange.fields.get(b"transfer-encoding")
        if coding is not None:
            if coding.lower() != b"chunked" or b"content-length" in exchange.fields:
                self._stop(400, "invalid", "Invalid HTTP message.")
            self._expected = -1
            self._admission_refusal(exchange)
            return
        length = exchange.fields[b"content-length"]
        if not length.isdigit():
            self._stop(400, "invalid", "Invalid HTTP message.")
        self._expected = int(length)
        self._limit_body(self._expected, exchange.target)
        if self._expected > LARGE:
            self._admission_refusal(exchange)
            self._filled = 0
            self._slot = exchange.body = self._allocated(self._host.allocator.expect, self._expected)

    def _meet_expectation(self, expectation: bytes) -> None:
        if expectation.lower() != b"100-continue":
            self._stop(417, "expectation", "Expectation is not supported.")
        exchange = cast("Exchange", self._incoming)
        if self._expected or b"transfer-encoding" in exchange.fields:
            if 0 < self._expected <= LARGE:  # the others were asked about already
                self._admission_refusal(exchange)
            if self._current is None and not self._later:
                self._transport.write(http1_format.CONTINUE)
            else:
                self._continue_due = True

    def _is_refused_early(self, known: KnownHead) -> bool:
        """Whether a request with this head would be refused; that is for the parser's way to do."""
        admission_check = self._host.admission_check
        if admission_check is None:
            return False
        exchange = Exchange(
            known.method, known.target, known.headers, known.fields, keep_alive=False, transport=self
        )
        return admission_check(exchange) is not None

    def _admission_refusal(self, exchange: Exchange) -> None:
        """Refuse now what would be refused whatever its body, rather than receive that first."""
        admission_check = self._host.admission_check
        refuse = None if admission_check is None else admission_check(exchange)
        if refuse is not None:
            self._incoming = None
            self._take_last(exchange)
            refuse(exchange)
            raise _Stop

    def _limit_body(self, size: int, target: bytes) -> None:
        limits = self._host.limits
        if size > limits.max_body_bytes and size > body_limit(limits, target):
            self._stop(413, "too_large", "Request body is too large.")

    def _drop_incoming(self) -> None:
        incoming, self._incoming = self._incoming, None
        self._slot = self._collected = self._claim = None
        self._into = self._room
        if incoming is not None:
            incoming.abandon()

    # Answering

    def write_whole(self, exchange: Exchange, answer: bytes) -> None:
        if self._current is exchange:
            self._transport.write(answer)
            self._since = self._host.now
            if exchange.keep_alive and not self._later and not self._continue_due and self._reading:
                self._current = None
            else:
                self._advance(exchange)
        else:
            self.write(exchange, [answer], last=True)

    def write(self, exchange: Exchange, pieces: list[Payload], *, last: bool) -> None:
        if self._current is not exchange:
            exchange.queued = (exchange.queued or []) + pieces
            return
        self._write(pieces)
        if last:
            self._since = self._host.now
            self._advance(exchange)

    def can_write(self, exchange: Exchange) -> bool:
        return not self._choked and self._current is exchange

    def abort(self, exchange: Exchange) -> None:
        exchange.keep_alive = False
        if self._current is not exchange:
            return
        if exchange.version == "1.0":
            # The end of the connection is the end of this answer: only a reset says that it is broken.
            self._reset()
        else:
            self._transport.close()

    def switch_protocol(
        self, exchange: Exchange, answer: bytes, successor: Callable[[ListenerContext], ClientConnection]
    ) -> bool:
        if self._current is not exchange or self._later or not self._parser.should_upgrade():
            return False
        self._successor = member = successor(self._host)
        self._transport.write(answer)
        self._current, self._mode, self._lost = None, Mode.DEAF, True
        self._transport.set_protocol(member)
        member.connection_made(self._transport)
        self._host.add(member)
        self._host.remove(self)
        return True

    def _hand_over(self, exchange: Exchange) -> None:
        if not exchange.keep_alive:
            self._mode = Mode.DEAF
        if self._current is None and not self._choked:
            self._current = exchange
            self._call(exchange)
            return
        self._continue_due = False
        if self._later is None or self._unseen is None:
            self._later, self._unseen = deque(), deque()
        self._later.append(exchange)
        self._unseen.append(exchange)
        self._admit()

    def _admit(self) -> None:
        """Give the app what it has not seen, while it has few enough. Not from within itself: it would nest."""
        if self._admitting or not self._unseen:
            return
        self._admitting = True
        while self._unseen and self._later is not None and not self._choked:
            seen = len(self._later) - len(self._unseen) + (self._current is not None)
            if seen >= self._host.limits.max_pipelined:
                break
            self._call(self._unseen.popleft())
        self._admitting = False

    def _call(self, exchange: Exchange) -> None:
        try:
            self._app(exchange)
        except Exception:
            log.exception("request failed in the server's own code")
            if exchange.state is ResponseState.PENDING:
                body, head = self._host.render_error(
                    500, "internal", "Internal server error.", exchange.target, None
                )
                exchange.respond(500, body, head, close=True)
            else:
                exchange.abort()

    def _advance(self, answered: Exchange) -> None:
        if not answered.keep_alive:
            self._leave()
            return
        self._current = None
        self._proceed()
        if self._unseen:
            self._admit()
        if not self._lost:
            self._regulate()

    def _proceed(self) -> None:
        """Send what was answered before its turn, up to the first request that is not answered."""
        while self._later:
            exchange = self._current = self._later.popleft()
            if exchange.queued:
                pieces, exchange.queued = exchange.queued, None
                self._write(pieces)
            if exchange.state < ResponseState.ANSWERED:
                if exchange.state is ResponseState.STREAMING and exchange.on_writable is not None:
                    self._guard(exchange.on_writable)
                return
            if not exchange.keep_alive:
                self._leave()
                return
            self._current = None
        if self._continue_due and self._incoming is not None:
            self._transport.write(http1_format.CONTINUE)
        self._continue_due = False

    def _write(self, pieces: list[Payload]) -> None:
        transport = self._transport
        if self._lost or transport.is_closing():
            release_all(pieces)
            return
        lent: list[Payload] = []
        views: list[bytes | memoryview] = []
        size = 0
        for piece in pieces:
            size += len(piece)
            if isinstance(piece, Buffer):
                lent.append(piece)
                views.append(piece.view)
            else:
                views.append(piece)
        if size <= JOINED:
            transport.write(b"".join(views))
            release_all(lent)
        elif lent:
            self._lend(views, lent)
        else:
            transport.writelines(views)

    def _lend(self, views: list[bytes | memoryview], lent: list[Payload]) -> None:
        """Write memory that belongs to somebody: it is released when the transport has nothing left of it."""
        self._transport.set_write_buffer_limits(high=0, low=0)
        self._transport.writelines(views)
        if self._choked:
            self._held += lent
        else:
            release_all(lent)
            if not self._lost and not self._transport.is_closing():
                self._transport.set_write_buffer_limits(high=SLOW, low=0)

    def _regulate(self) -> None:
        """Stop reading while a client does not read its answers or sends faster than it is answered.

        A large body is only received when all before it is answered, so a connection holds two of them at most.
        """
        large = self._current is not None and self._incoming is not None and self._large_incoming()
        wait = self._choked or large or bool(self._unseen)
        if wait is self._reading and not self._transport.is_closing():
            self._reading = not wait
            (self._transport.pause_reading if wait else self._transport.resume_reading)()

    def _large_incoming(self) -> bool:
        return max(self._expected, len(self._collected or b"")) > LARGE

    # The end

    def _stop(self, status: int, kind: str, message: str) -> NoReturn:
        self._refuse(status, kind, message)
        raise _Stop

    def _refuse(self, status: int, kind: str, message: str) -> None:
        """Answer in the app's place, after all that was asked before, and listen no more."""
        incoming = self._incoming
        method, target, origin = "GET", without_root(self._target, self._host.root), b""
        if incoming is not None:
            method, target, origin = incoming.method, incoming.target, incoming.header(b"origin") or b""
        self._drop_incoming()
        exchange = Exchange(method, b"", [], {}, keep_alive=False, transport=self)
        self._take_last(exchange)
        body, head = self._host.render_error(status, kind, message, target, origin)
        exchange.respond(status, body, head, close=True)

    def _take_last(self, exchange: Exchange) -> None:
        """Listen no more: this one, whose answer is at hand, is answered after all that was asked before."""
        exchange.keep_alive = False
        self._mode, self._refused = Mode.DEAF, True
        if self._current is None and not self._later:
            self._current = exchange
        else:
            self._later = self._later if self._later is not None else deque()
            self._later.append(exchange)

    def _leave(self) -> None:
        """The last answer is written. ``_current`` stays, so that no other is."""
        self._mode = Mode.DEAF
        unread = self._refused or self._incoming is not None or bool(self._later)
        self._drop_incoming()
        later, self._later, self._unseen = self._later, None, None
        for exchange in later or ():
            self._guard(exchange.abandon)
        secure = self._host.secure
        if not unread or self._half_closed or not (secure or self._transport.can_write_eof()):
            self._transport.close()
            return
        if not secure:  # TLS cannot say that it is the end and listen on: the answer itself says it
            self._transport.write_eof()
        self._lingering = self._since = self._host.now
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def _reset(self) -> None:
        linger_for_nothing = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger_for_nothing
        )
        self._transport.abort()

    def _guard(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            log.exception("a request's callback failed")

    def close(self) -> None:
        self._transport.abort()

    def drain(self) -> None:
        last = self._incoming or (self._later[-1] if self._later else self._current)
        if last is not None:
            last.keep_alive = False
        elif not self._head_bytes and not self._lingering:
            self._transport.close()
            if self._host.secure:
                # A client that leaves the connection idle does not read the farewell either, nor answer it.
                asyncio.get_running_loop().call_later(RETIRE, self._transport.abort)

    def check_timeouts(self, now: float) -> None:
        limits = self._host.limits
        unsent = self._transport.get_write_buffer_size()
        silence = now - self._since
        if unsent:
            if unsent != self._unsent:
                self._since = now
            elif silence > limits.write_timeout:
                self._transport.abort()
        elif self._lingering:
            if silence > LINGER_SILENCE or now - self._lingering > LINGER:
                over = self._transport.is_closing() or not self._host.secure
                (self._transport.abort if over else self._transport.close)()
        elif self._half_closed:
            self._probe()
        elif self._mode is Mode.DEAF or not self._reading or self._continue_due:
            self._since = now
            self._pace = None
        elif self._incoming is not None:
            fault = "Request body took too long." if silence > limits.body_timeout else self._slow(now)
            if fault:
                self._refuse(408, "timeout", fault)
        elif self._head_bytes:
            if silence > limits.header_timeout:
                self._refuse(408, "timeout", "Request header took too long.")
        elif self._current is None and silence > limits.idle_timeout:
            self._transport.close()
        self._unsent = unsent

    def _slow(self, now: float) -> str:
        """What is wrong with the pace of the body that is being received; empty where nothing is."""
        received = self._filled if self._slot is not None else len(self._collected or b"")
        if self._pace is None:
            self._pace = Pace(now, received)
        return self._pace.fault(now, received, self._host.limits)

    def _probe_in_time(self, times: int) -> None:
        """Probe so often, and from then on with every sweep."""
        asyncio.get_running_loop().call_later(PROBE, self._probe_now, times)

    def _probe_now(self, times: int) -> None:
        if not self._lost:
            self._probe()
            if times > 1:
                self._probe_in_time(times - 1)

    def _probe(self) -> None:
        """Find out whether a client that sends no more is still there.

        The end of its sending looks the same whether it waits for the answer or is gone. Only something sent tells:
        the kernel of a client that is gone answers with a reset. An interim response may be sent at any time and any
        number of times before the final one (RFC 9110, 15.2), but not to a client of HTTP/1.0.
        """
        current = self._current
        if current is None or current.state is not ResponseState.PENDING or current.version == "1.0":
            return
        if not self._probed:
            self._probed = True
            self._transport.write(http1_format.CONTINUE)
        elif self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()


def _no_memory(error: BaseException) -> tuple[int, str, str]:
    """How a request is refused that there is no memory for: status, kind and message."""
    if isinstance(error, BodyMemoryFull):
        return 503, "memory", error.message
    return 507, "memory", "there is no memory for the request's body"
