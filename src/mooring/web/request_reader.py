"""What one client sends, read as requests: bytes in, exchanges out. There is no transport and no clock in here.

PARSING ──▶ FILLING      the parser stops at a large body, which the socket then writes into its buffer itself
│  ◀──────┘
└──────▶ DISCARDING   what follows is not answered: read and dropped
"""

import enum

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidURLError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from mooring.core.buffers import LARGE
from mooring.observability.logs import get_logger
from mooring.web import http1_format
from mooring.web.exchange import Exchange
from mooring.web.heads import Refusal, check_head, without_root
from mooring.web.http_context import HttpContext
from mooring.web.incoming_body import IncomingBody, no_memory
from mooring.web.known_heads import HeadRecognizer, KnownHead
from mooring.web.listener import RECEIVE, ClientConnection, body_limit
from mooring.web.response_queue import ResponseQueue

log = get_logger(__name__)


class ReaderState(enum.IntEnum):
    """What is done with the next bytes."""

    PARSING = 0
    FILLING = 1
    DISCARDING = 2


# Looked up per request: a look into the class costs 0.1 us (core/requests.py).
PARSING, FILLING, DISCARDING = ReaderState

TRANSITIONS: dict[ReaderState, frozenset[ReaderState]] = {
    PARSING: frozenset({FILLING, DISCARDING}),
    FILLING: frozenset({PARSING, DISCARDING}),
    # A client that was told that its connection ends is never read again.
    DISCARDING: frozenset({DISCARDING}),
}


class _AlreadyRefused(Exception):
    """Ends the parser's run: the app has refused the request at its head."""


class RequestReader:
    """Reads the requests of one client and puts them into its ``ResponseQueue``.

    How this works. The transport writes into ``buffer``, and ``parse`` or ``fill`` is told how many bytes. There are three ways
    from bytes to an exchange:

    1. *A known head.* Clients repeat themselves: where a chunk begins with a request whose head has the bytes of a head
       that was parsed before, what the parser made of it then is used again (``HeadRecognizer``), and the parser never
       sees the request. This saves a fifth of what a tiny request needs.
    2. *The parser.* Every other chunk goes to llhttp, whose callbacks (``on_...``) collect the request.
    3. *A large body.* ``buffer`` becomes the memory of the body itself: nothing is copied, and nothing parsed until it
       is complete.

    Whatever is wrong with a request is raised as a ``Refusal``, within the parser's callbacks too. It is answered after
    all requests before it, and the client is not read any more. ``since`` is when the last bytes came that count for
    the time-outs.
    """

    __slots__ = (
        "_body", "_complete", "_context", "_expected", "_head_bytes", "_headers", "_inside", "_parser", "_plain_head",
        "_queue", "_recognizer", "_refused", "_successor", "_target", "buffer", "incoming", "since", "state",
    )  # fmt: skip

    def __init__(self, context: HttpContext, queue: ResponseQueue) -> None:
        self._context = context
        self._queue = queue
        self.state = PARSING
        self.buffer = context.receive_buffer
        self.since = context.now
        self._parser = HttpRequestParser(self)
        self._inside = False  # whether the parser has begun a request and not ended it
        self._recognizer = HeadRecognizer(context.known_heads)
        # The request that is being received.
        self.incoming: Exchange | None = None
        self._body = IncomingBody(context.allocator)
        self._expected = 0  # bytes of its body; -1 when chunked
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0  # of a head that did not end in the chunk it began in
        self._plain_head = b""  # the same head without the upgrade that is not taken up
        self._complete = False  # whether a request ended in this chunk
        self._refused = False
        self._successor: ClientConnection | None = None

    # What the connection asks

    @property
    def receiving_large(self) -> bool:
        """Whether a large body is on its way."""
        return self.incoming is not None and max(self._expected, self._body.received) > LARGE

    @property
    def receiving(self) -> bool:
        """Whether the beginning of a request has come, and not all of it."""
        return self.incoming is not None or self._head_bytes > 0

    @property
    def unread(self) -> bool:
        """Whether the client may still be sending what nobody reads."""
        return self._refused or self.incoming is not None

    def at_rest(self) -> bool:
        """Whether all bytes that came have become requests: another reader could go on from here."""
        return not (self.state or self.receiving or self._inside)

    def overdue(self, now: float, silence: float) -> str:
        """Return what takes too long about the request that is being received; empty where nothing does."""
        limits = self._context.limits
        if self.incoming is None:
            return "Request header took too long." if silence > limits.header_timeout else ""
        if silence > limits.body_timeout:
            return "Request body took too long."
        return self._body.pace_fault(now, limits)

    def reset_pace(self) -> None:
        """Begin anew with the speed of the body: the client was kept waiting."""
        self._body.reset_pace()

    # What the connection tells

    def discard(self) -> None:
        """Drop what is being received, and everything that comes from now on."""
        self._enter(DISCARDING)
        self.drop_incoming()

    def refuse(self, refusal: Refusal) -> None:
        """Answer in the app's place, after all that was asked before, and read no more."""
        incoming, context = self.incoming, self._context
        method, target, origin = "GET", without_root(self._target, context.root), b""
        if incoming is not None:
            method, target, origin = incoming.method, incoming.target, incoming.header(b"origin") or b""
        self.drop_incoming()
        exchange = Exchange(method, target, [], {}, keep_alive=False, transport=self._queue)
        self._take_last(exchange)
        body, head = context.render_error(refusal.status, refusal.kind, refusal.message, target, origin)
        exchange.respond(refusal.status, body, head, close=True)

    def wants_upgrade(self) -> bool:
        """Whether the request that just came asks for another protocol."""
        return bool(self._parser.should_upgrade())

    def hand_over(self, successor: ClientConnection) -> None:
        """Give what follows the request that just came to another protocol's connection."""
        self._enter(DISCARDING)
        self._successor = successor

    def close(self) -> None:
        """Forget everything: the connection is lost."""
        self._enter(DISCARDING)
        self.drop_incoming()
        if self._successor is None:
            del self._parser  # it refers to this reader: a cycle

    # Bytes

    def parse(self, nbytes: int) -> None:
        """Read so many bytes, which were written to ``buffer``, while ``state`` is PARSING."""
        recognizer = self._recognizer
        if recognizer.at_start:
            # A tiny request needs no more than this. It is written in one place because calls would cost it 1 % of its time.
            buffer, known = self.buffer, recognizer.last
            if known is None or not buffer.obj.startswith(known.head):  # type: ignore[attr-defined]
                known = recognizer.find(buffer, nbytes)
            if known is not None:
                end = len(known.head)
                if nbytes - end == known.size:
                    keep = not self._context.draining
                    exchange = Exchange(
                        known.method, known.target, known.headers, known.fields, keep, self._queue,
                        buffer[end:nbytes].tobytes(), known.head_cache,
                    )  # fmt: skip
                    if keep:
                        self._queue.submit_known(exchange, known.head_cache)
                    else:
                        self._submit(exchange)
                    return
                if 0 <= nbytes - end < known.size > LARGE and self._take_known_large(known, end, nbytes):
                    return
            if self._speaks_other_protocol(nbytes):
                self.refuse(_invalid())
                return
        self._complete = False
        stop: Exception | None = None
        try:
            self._parser.feed_data(self.buffer[:nbytes])
        except (HttpParserError, HttpParserUpgrade) as error:
            stop = error
        if stop is not None:
            # Not in the block above: there, what the parser raises next would have this error for its context, and the
            # parser puts there what a callback has raised.
            self._on_parser_stop(stop, self.buffer[:nbytes])
            stop = None  # its traceback holds this frame, and with it what has come of the body
        if not self._complete or self.incoming is not None or self._head_bytes:
            self._take_stock(nbytes)
        if recognizer.at_start or recognizer.remaining:
            recognizer.advance(self._context.receive_buffer, nbytes, self._expected)

    def _take_known_large(self, known: KnownHead, start: int, end: int) -> bool:
        """Begin a request with a known head and a large body, and return whether there is memory for it."""
        if self._is_refused_early(known):
            return False
        try:
            body = self._context.allocator.expect(known.size)
            body.received(end - start)
        except MemoryError:
            return False  # it is refused in the parser's way
        body.view[: end - start] = self.buffer[start:end]
        keep = not self._context.draining
        self.incoming = Exchange(
            known.method, known.target, known.headers, known.fields, keep, self._queue, body, known.head_cache
        )
        self._expected = known.size
        self._body.adopt(body, end - start)
        self._take_stock(end)
        return True

    def _speaks_other_protocol(self, nbytes: int) -> bool:
        """Whether the request line that a chunk begins with names another protocol, which the parser would let pass.

        A line that did not come in one piece is the parser's alone to look at.
        """
        raw: bytearray = self.buffer.obj  # type: ignore[assignment]
        end = raw.find(b"\r\n", 0, nbytes)
        if end < 0 or raw.startswith(http1_format.HTTP, end - 8):
            return False
        return http1_format.OTHER_PROTOCOL.search(raw, 0, end) is not None

    def _take_stock(self, size: int) -> None:
        """Look at what a chunk left behind: a body to be continued, a head to be continued, or nothing."""
        if self.state is DISCARDING:
            return
        if self.incoming is not None:
            self._head_bytes = 0
            self.since = self._context.now
            self._continue_body(size)
        elif not self._complete:
            self._continue_head(size)
        else:
            self._head_bytes = 0

    def _continue_head(self, size: int) -> None:
        if not self._head_bytes:
            self.since = self._context.now
        self._head_bytes += size
        if self._long_target():
            self.refuse(Refusal(414, "too_long", "Request URL is too long."))
        elif self._head_bytes > self._context.limits.max_header_bytes:
            self.refuse(Refusal(431, "too_large", "Request header is too large."))

    def _continue_body(self, size: int) -> None:
        body = self._body
        if body.buffer is not None:
            self._enter(FILLING)
            self.buffer = body.buffer.view[body.filled :]
        elif body.count_framing(size) > self._context.limits.max_header_bytes + RECEIVE:
            # Extensions or trailers without end.
            self.refuse(Refusal(431, "too_large", "Request trailer is too large."))

    def fill(self, size: int) -> None:
        """Go on with a large body, of which so many bytes came where they belong, while ``state`` is FILLING."""
        self.since = self._context.now
        body, exchange = self._body, self.incoming
        if body.buffer is None or exchange is None:
            return
        try:
            body.count(size)
        except Refusal as refusal:
            self.refuse(refusal)
            return
        if body.filled < self._expected:
            self.buffer = body.buffer.view[body.filled :]
            return
        if not self._recognizer.at_start:
            # The parser still believes to be in this body. What comes next is the next request, for a new one.
            self._parser, self._inside = HttpRequestParser(self), False
        self._enter(PARSING)
        self.buffer = self._context.receive_buffer
        self._recognizer.restart()
        self.incoming = None
        body.take()
        self._submit(exchange)

    def _long_target(self) -> bool:
        return len(self._target) > self._context.limits.max_url_bytes

    # Parser

    def on_message_begin(self) -> None:
        self._inside = True

    def on_url(self, url: bytes) -> None:
        self._target = self._target + url if self._target else url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value.rstrip()))

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, []
        target, self._target = self._target, b""
        fields = {http1_format.LOWER[name]: value for name, value in headers}
        parser, context = self._parser, self._context
        if context.root:
            target = without_root(target, context.root)
        exchange = self.incoming = Exchange(
            http1_format.METHODS[parser.get_method()],
            target,
            headers,
            fields,
            parser.should_keep_alive(),
            self._queue,
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
                self.incoming = None
                return
        self._recognizer.note(exchange)
        if b"host" not in fields:  # the version is not known yet where nothing else asked for it
            exchange.version = parser.get_http_version()
        check_head(exchange, context.limits, context.valid_hosts, self._head_bytes)
        if context.draining:
            exchange.keep_alive = False
        self._expected = 0
        if b"content-length" in fields or b"transfer-encoding" in fields:
            self._expect_body(exchange)
        if b"expect" in fields and exchange.version == "1.1":
            self._meet_expectation(exchange)

    def on_body(self, data: bytes) -> None:
        incoming, body = self.incoming, self._body
        if incoming is None:
            return
        if len(data) == self._expected and body.buffer is None:
            incoming.body = data
        else:
            self._check_size(body.add(data), incoming.target)

    def on_message_complete(self) -> None:
        self._complete, self._inside = True, False
        if self._headers:  # the trailers of a chunked body; nothing here has a use for them
            self._headers = []
        exchange = self.incoming
        if exchange is None:
            return
        if self._expected:
            collected = self._body.take()
            if collected is not None:
                exchange.body = collected
        self.incoming = None
        self._submit(exchange)

    def _expect_body(self, exchange: Exchange) -> None:
        self._body.reset_framing()
        coding = exchange.fields.get(b"transfer-encoding")
        if coding is not None:
            if coding.lower() != b"chunked" or b"content-length" in exchange.fields:
                raise _invalid()
            self._expected = -1
            self._check_admission(exchange)
            return
        length = exchange.fields[b"content-length"]
        if not length.isdigit():
            raise _invalid()
        size = int(length)
        self._expected = size
        self._check_size(size, exchange.target)
        if size > LARGE:
            self._check_admission(exchange)
            exchange.body = self._body.allocate(size)

    def _meet_expectation(self, exchange: Exchange) -> None:
        """Let the client send its body, which it holds back until it is asked for it (RFC 9110, 10.1.1)."""
        if exchange.fields[b"expect"].lower() != b"100-continue":
            raise Refusal(417, "expectation", "Expectation is not supported.")
        if self._expected or b"transfer-encoding" in exchange.fields:
            if 0 < self._expected <= LARGE:  # the others were asked about already
                self._check_admission(exchange)
            self._queue.send_continue()

    def _is_refused_early(self, known: KnownHead) -> bool:
        """Whether a request with this head would be refused; that is for the parser's way to do."""
        check = self._context.admission_check
        if check is None:
            return False
        exchange = Exchange(
            known.method, known.target, known.headers, known.fields, keep_alive=False, transport=self._queue
        )
        return check(exchange) is not None

    def _check_admission(self, exchange: Exchange) -> None:
        """Refuse now what would be refused whatever its body, rather than receive that first."""
        check = self._context.admission_check
        refuse = None if check is None else check(exchange)
        if refuse is not None:
            self.incoming = None
            self._take_last(exchange)
            refuse(exchange)
            raise _AlreadyRefused

    def _check_size(self, size: int, target: bytes) -> None:
        limits = self._context.limits
        if size > limits.max_body_bytes and size > body_limit(limits, target):
            raise Refusal(413, "too_large", "Request body is too large.")

    def _on_parser_stop(self, error: Exception, chunk: memoryview) -> None:
        """The parser stopped: at an upgrade, taken up or not, because a callback raised, or as the bytes make no sense."""
        if self._successor is not None:
            del self._parser  # as when the connection is lost
            if isinstance(error, HttpParserUpgrade) and (rest := bytes(chunk[error.args[0] :])):
                self._successor.feed(rest)
            return
        while isinstance(error, HttpParserUpgrade) and not self.state:
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
        if not self.state:
            refusal = self._refusal_of(error)
            del error  # as in ``parse``
            self.refuse(refusal)

    def _refusal_of(self, error: Exception) -> Refusal:
        if not isinstance(error, HttpParserCallbackError):
            too_long = isinstance(error, HttpParserInvalidURLError) and self._long_target()
            return _invalid(414 if too_long else 400)
        cause = error.__context__
        if isinstance(cause, Refusal):
            return cause
        if isinstance(cause, MemoryError):
            return no_memory(cause)
        log.error("request failed in the server's own code", exc_info=error)
        return Refusal(500, "internal", "Internal server error, see the server's log.")

    # To the queue

    def _submit(self, exchange: Exchange) -> None:
        if not exchange.keep_alive:
            self._enter(DISCARDING)
        self._queue.submit(exchange)

    def _take_last(self, exchange: Exchange) -> None:
        """Read no more: this one, whose answer is at hand, is answered after all that was asked before."""
        self._enter(DISCARDING)
        self._refused = True
        self._queue.submit_last(exchange)

    def drop_incoming(self) -> None:
        incoming, self.incoming = self.incoming, None
        self._body.drop()
        self.buffer = self._context.receive_buffer
        self._queue.cancel_continue()
        if incoming is not None:
            incoming.abandon()

    def _enter(self, state: ReaderState) -> None:
        assert state in TRANSITIONS[self.state], (self.state, state)
        self.state = state


def _invalid(status: int = 400) -> Refusal:
    return Refusal(status, "invalid", "Invalid HTTP message.")
