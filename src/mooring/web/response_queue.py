"""The answers to one client's requests, in the order of the requests: whose turn it is, and what was lent to the transport."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

from mooring.core.buffers import Buffer, Payload
from mooring.observability.logs import get_logger
from mooring.web import http1_format
from mooring.web.exchange import ANSWERED, JOINED, PENDING, STREAMING, Exchange, HeadCache, release_all
from mooring.web.http_context import HttpContext
from mooring.web.listener import SLOW, ClientConnection, ListenerContext

log = get_logger(__name__)


class QueueOwner(Protocol):
    """The connection, as far as the queue needs it."""

    def on_answered(self) -> None:
        """An answer is complete, and so is what waited behind it as far as it goes."""
        ...

    def on_last_answer(self) -> None:
        """The last answer of this connection is complete."""
        ...

    def switch_protocol(
        self, answer: bytes, successor: Callable[[ListenerContext], ClientConnection]
    ) -> bool:
        """Write the answer and leave the transport to another protocol; False where the client did not ask for one."""
        ...


class ResponseQueue:
    """Gives requests to the app and writes what it answers; the ``ResponseTransport`` of all exchanges of a connection.

    How this works. ``current`` is the request whose answer is written now, ``_later`` those that came after it. The app
    may have several at a time, ``max_pipelined`` at most, and answers them in any order: what belongs to a later one is
    kept in ``Exchange.queued`` until its turn. ``unseen`` is the tail of ``_later`` that the app has not got yet.

    Most connections never have two requests at a time. Then there is no deque at all, and an answer goes from
    ``write_whole`` straight to the transport.

    Back-pressure. ``choked`` is True while the transport holds more than the client has read; nothing is given to the
    app then, and streamed answers wait. Buffers that the transport has not sent are ``_lent``, and released when it has
    nothing left. ``since`` is when an answer was last completed, on the clock of the context.
    """

    __slots__ = (
        "_admitting", "_app", "_closed", "_context", "_continue_due", "_later", "_lent", "_owner", "_traffic",
        "_transport",
        "choked", "current", "peer", "reading", "since", "unseen",
    )  # fmt: skip

    def __init__(self, context: HttpContext, owner: QueueOwner) -> None:
        self._context = context
        self._traffic = context.traffic
        self._app = context.app
        self._owner = owner
        self._transport: asyncio.Transport
        self.peer = ""
        self.since = context.now
        # The requests that are not answered: one whose turn it is, those after it, those the app has not seen.
        self.current: Exchange | None = None
        self._later: deque[Exchange] | None = None
        self.unseen: deque[Exchange] | None = None
        self._admitting = False
        self._continue_due = False
        # Back-pressure, both ways.
        self.choked = False
        self.reading = True
        self._lent: list[Payload] = []
        self._closed = False

    # For the connection

    @property
    def last(self) -> Exchange | None:
        """The request that came last, of those that are not answered."""
        return self._later[-1] if self._later else self.current

    @property
    def holds_continue(self) -> bool:
        """Whether a client waits for leave to send its body, which it gets after the answers before it."""
        return self._continue_due

    def empty(self) -> bool:
        """Whether every request is answered, and every answer with the transport."""
        return self.current is None and not self._later and not self.choked

    def open(self, transport: asyncio.Transport, peer: str) -> None:
        """Write to this transport from now on, to the client with this address."""
        self._transport = transport
        self.peer = peer

    def pause_writing(self) -> None:
        """The transport holds more than enough."""
        self.choked = True

    def resume_writing(self) -> None:
        """The transport has nothing left."""
        self.choked = False
        if self._lent:
            release_all(self._lent)
            self._lent = []
            self._transport.set_write_buffer_limits(high=SLOW, low=0)
        current = self.current
        if current is None:
            self._proceed()
        elif current.state is STREAMING and current.on_writable is not None:
            _guard(current.on_writable)
        if self.unseen:
            self._admit()

    def set_reading(self, reading: bool) -> None:
        """Have the transport read, or leave what the client sends in the kernel."""
        if reading is not self.reading and not self._transport.is_closing():
            self.reading = reading
            (self._transport.resume_reading if reading else self._transport.pause_reading)()

    def abandon_later(self) -> bool:
        """Answer none of the requests behind the current one, and return whether there were any.

        The current one is answered and stays, so that no other is.
        """
        later, self._later, self.unseen = self._later, None, None
        for exchange in later or ():
            _guard(exchange.abandon)
        return bool(later)

    def detach(self) -> None:
        """Write nothing more: the transport is another protocol's."""
        self.current = None
        self._closed = True
        del self._owner

    def close(self) -> None:
        """The connection is lost: release what was lent, and tell the app of everything that it has not answered."""
        self._closed = True
        del self._owner  # it refers to this queue: a cycle
        release_all(self._lent)
        self._lent = []
        waiting = [self.current, *(self._later or ())]
        self.current = self._later = self.unseen = None
        for exchange in waiting:
            if exchange is not None:
                _guard(exchange.abandon)

    # For the reader

    def submit_known(self, exchange: Exchange, cache: HeadCache) -> None:
        """As ``submit``, for a head that the app has prepared a handler for."""
        handler = cache.handler
        if handler is None or self.current is not None or self.choked:
            self.submit(exchange)
            return
        self.current = exchange
        try:
            handler(exchange)
        except Exception as error:  # the protocol edge: a fault of ours is this request's 500, and no other's
            assert cache.on_error is not None
            cache.on_error(exchange, error)

    def submit(self, exchange: Exchange) -> None:
        """Give a request to the app, now or when it has room for it."""
        if self.current is None and not self.choked:
            self.current = exchange
            self._call(exchange)
            return
        self._continue_due = False
        if self._later is None or self.unseen is None:
            self._later, self.unseen = deque(), deque()
        self._later.append(exchange)
        self.unseen.append(exchange)
        self._admit()

    def submit_last(self, exchange: Exchange) -> None:
        """Take a request that the app does not get: its answer is at hand, and leaves after all that was asked before."""
        exchange.keep_alive = False
        if self.current is None and not self._later:
            self.current = exchange
        else:
            self._later = self._later if self._later is not None else deque()
            self._later.append(exchange)

    def send_continue(self) -> None:
        """Ask the client for the body that it holds back, as soon as all requests before are answered."""
        if self.current is None and not self._later:
            self._write_continue()
        else:
            self._continue_due = True

    def _write_continue(self) -> None:
        self._transport.write(http1_format.CONTINUE)
        self._traffic.sent += len(http1_format.CONTINUE)

    def cancel_continue(self) -> None:
        """Do not ask for that body any more."""
        self._continue_due = False

    # For exchanges

    def write_whole(self, exchange: Exchange, answer: bytes) -> None:
        if self.current is exchange:
            self._transport.write(answer)
            self._traffic.sent += len(answer)
            self.since = self._context.now
            if exchange.keep_alive and not self._later and not self._continue_due and self.reading:
                self.current = None
            else:
                self._advance(exchange)
        else:
            self.write(exchange, [answer], last=True)

    def write(self, exchange: Exchange, pieces: list[Payload], *, last: bool) -> None:
        if self.current is not exchange:
            exchange.queued = (exchange.queued or []) + pieces
            return
        self._send(pieces)
        if last:
            self.since = self._context.now
            self._advance(exchange)

    def can_write(self, exchange: Exchange) -> bool:
        return not self.choked and self.current is exchange

    def abort(self, exchange: Exchange) -> None:
        exchange.keep_alive = False
        if self.current is not exchange:
            return
        if exchange.version == "1.0":
            # The end of the connection is the end of this answer: only a reset says that it is broken.
            reset(self._transport)
        else:
            self._transport.close()

    def switch_protocol(
        self, exchange: Exchange, answer: bytes, successor: Callable[[ListenerContext], ClientConnection]
    ) -> bool:
        if self.current is not exchange or self._later:
            return False
        return self._owner.switch_protocol(answer, successor)

    # Turns

    def _admit(self) -> None:
        """Give the app what it has not seen, while it has few enough. Not from within itself: it would nest."""
        if self._admitting or not self.unseen:
            return
        self._admitting = True
        while self.unseen and self._later is not None and not self.choked:
            seen = len(self._later) - len(self.unseen) + (self.current is not None)
            if seen >= self._context.limits.max_pipelined:
                break
            self._call(self.unseen.popleft())
        self._admitting = False

    def _call(self, exchange: Exchange) -> None:
        try:
            self._app(exchange)
        except Exception:  # the protocol edge: the client must not wait for ever
            log.exception("request failed in the server's own code")
            if exchange.state is PENDING:
                body, head = self._context.render_error(
                    500, "internal", "Internal server error.", exchange.target, None
                )
                exchange.respond(500, body, head, close=True)
            else:
                exchange.abort()

    def _advance(self, answered: Exchange) -> None:
        if not answered.keep_alive:
            self._owner.on_last_answer()
            return
        self.current = None
        self._proceed()
        if self.unseen:
            self._admit()
        if not self._closed:
            self._owner.on_answered()

    def _proceed(self) -> None:
        """Send what was answered before its turn, up to the first request that is not answered."""
        while self._later:
            exchange = self.current = self._later.popleft()
            if exchange.queued:
                pieces, exchange.queued = exchange.queued, None
                self._send(pieces)
            if exchange.state < ANSWERED:
                if exchange.state is STREAMING and exchange.on_writable is not None:
                    _guard(exchange.on_writable)
                return
            if not exchange.keep_alive:
                self._owner.on_last_answer()
                return
            self.current = None
        if self._continue_due:
            self._continue_due = False
            self._write_continue()

    # Bytes

    def _send(self, pieces: list[Payload]) -> None:
        transport = self._transport
        if self._closed or transport.is_closing():
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
        self._traffic.sent += size
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
        if self.choked:
            self._lent += lent
        else:
            release_all(lent)
            if not self._closed and not self._transport.is_closing():
                self._transport.set_write_buffer_limits(high=SLOW, low=0)


def reset(transport: asyncio.Transport) -> None:
    """End a connection so that its client sees an error, not an end."""
    linger_for_nothing = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_nothing)
    transport.abort()


def _guard(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:  # the app's own callback: the connection's other requests go on
        log.exception("a request's callback failed")
