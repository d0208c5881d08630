"""WebSockets (RFC 6455): the handshake, and one client's connection after it. The frames themselves are wsproto's.

OPEN ──▶ CLOSING     our close is sent: wait a while for the client's, deliver nothing more
  └────────┴──▶ the transport's end
"""

import asyncio
import base64
import binascii
from collections.abc import Callable
from typing import Protocol, cast

from wsproto.connection import Connection as Framing
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, generate_accept_token

from mooring.core.buffers import LARGE
from mooring.core.errors import BodyMemoryFull
from mooring.core.memory import Claim
from mooring.web.exchange import Exchange
from mooring.web.http1_format import header_lines
from mooring.web.listener import SLOW, ClientConnection, ListenerContext

GOING_AWAY, UNSUPPORTED_DATA, TOO_BIG, INTERNAL, TRY_AGAIN = 1001, 1003, 1009, 1011, 1013
"""The close codes that a server chooses (RFC 6455, 7.4.1, and IANA's registry)."""

# Seconds that a client has to answer our close.
_LINGER = 5.0


class HandshakeRefused(Exception):
    """The request is no valid handshake. ``head`` holds header lines that the refusal must carry."""

    def __init__(self, status: int, message: str, head: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.head = head


class Conversation(Protocol):
    """What a server says over one WebSocket; made with the socket that it writes to."""

    def on_message(self, message: bytes) -> None:
        """Take a whole message. Text is valid UTF-8."""
        ...

    def drain(self) -> None:
        """Send what is still to be sent, then close: the server stops."""
        ...

    def on_closed(self) -> None:
        """Clean up: the connection has ended. This is called once, whichever side ended it."""
        ...


def upgrade(
    exchange: Exchange, make_conversation: Callable[["WebSocket"], Conversation], head: bytes = b""
) -> None:
    """Accept the handshake, only from within the app's call; ``head`` are further header lines of the answer.

    Raises ``HandshakeRefused``; the exchange is then still to be answered.
    """
    token = generate_accept_token(_key(exchange)).decode()
    lines = header_lines(
        [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", token)]
    )
    if not exchange.switch_protocol(lines + head, lambda context: WebSocket(context, make_conversation)):
        raise HandshakeRefused(400, "a websocket handshake must wait for the answers before it")


def _key(exchange: Exchange) -> bytes:
    """Return the client's key, if all of RFC 6455, 4.2.1 holds. Raises ``HandshakeRefused``."""
    if "websocket" not in _tokens(exchange, b"upgrade") or "upgrade" not in _tokens(exchange, b"connection"):
        raise HandshakeRefused(
            426, "this path speaks websocket only", header_lines([("upgrade", "websocket")])
        )
    if exchange.method != "GET" or exchange.version != "1.1":
        raise HandshakeRefused(400, "a websocket handshake is a GET of HTTP/1.1")
    if exchange.header(b"sec-websocket-version") != b"13":
        lines = header_lines([("upgrade", "websocket"), ("sec-websocket-version", "13")])
        raise HandshakeRefused(426, "only version 13 of the websocket protocol is spoken", lines)
    key = exchange.header(b"sec-websocket-key") or b""
    try:
        sound = len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        sound = False
    if not sound:
        raise HandshakeRefused(400, "the sec-websocket-key is not 16 bytes in base64")
    return key


def _tokens(exchange: Exchange, name: bytes) -> list[str]:
    value = (exchange.header(name) or b"").decode("latin-1")
    return [token.strip().lower() for token in value.split(",")]


class WebSocket(ClientConnection):
    """One client's connection, message by message.

    Messages above the listener's largest body are refused. While the client does not read, or ``hold`` says so,
    nothing is read from it either. A silent client is asked for a sign of life before it is given up.
    """

    __slots__ = (
        "_claim",
        "_closing",
        "_context",
        "_conversation",
        "_framing",
        "_held",
        "_message",
        "_over",
        "_pinged",
        "_reading",
        "_since",
        "_slow",
        "_transport",
        "_unsent",
    )  # fmt: skip

    def __init__(
        self, context: ListenerContext, make_conversation: Callable[["WebSocket"], Conversation]
    ) -> None:
        self._context = context
        self._framing = Framing(ConnectionType.SERVER)
        self._message = bytearray()  # what came of a message in several frames
        self._claim: Claim | None = None  # to the memory of that
        self._transport: asyncio.Transport
        self._held = self._slow = False
        self._reading = True
        self._over = False  # nothing is delivered any more
        self._closing = 0.0  # since when
        self._pinged = False
        self._unsent = 0
        self._since = context.now
        self._conversation = make_conversation(self)

    # For the conversation

    def send(self, message: bytes) -> None:
        """Send a message: as text if it is UTF-8, which RFC 6455 demands of text, and as binary otherwise."""
        if self._framing.state is not ConnectionState.OPEN:
            return
        try:
            event: TextMessage | BytesMessage = TextMessage(data=message.decode())
        except UnicodeDecodeError:
            event = BytesMessage(data=bytearray(message))
        self._write(event)

    def end(self, code: int, reason: str = "") -> None:
        """Send a close frame, and deliver nothing more. A reason that is too long for the frame is cut."""
        self._over = True
        if self._framing.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            self._write(CloseConnection(code=code, reason=reason))
        if self._framing.state is ConnectionState.CLOSED:
            self._transport.close()
        elif not self._closing:
            self._closing = self._context.now
            self._regulate()

    def hold(self, held: bool) -> None:
        """Stop or resume reading. On resume, messages that were received are delivered at once."""
        if held is not self._held:
            self._held = held
            self._regulate()
            if not held:
                # Later, not here: the conversation may be in the middle of a message.
                asyncio.get_running_loop().call_soon(self._deliver)

    # Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=SLOW, low=0)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._context.receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._context.traffic.received += nbytes
        self.feed(bytes(self._context.receive_buffer[:nbytes]))

    def feed(self, data: bytes) -> None:
        self._since, self._pinged = self._context.now, False
        if self._framing.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            self._framing.receive_data(data)
            self._deliver()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._context.remove(self)
        self._conversation.on_closed()

    def pause_writing(self) -> None:
        self._slow = True
        self._regulate()

    def resume_writing(self) -> None:
        self._slow = False
        self._regulate()

    # Listener

    def close(self) -> None:
        self._transport.abort()

    def drain(self) -> None:
        self._conversation.drain()

    def check_timeouts(self, now: float) -> None:
        limits = self._context.limits
        unsent = self._transport.get_write_buffer_size()
        silence = now - self._since
        if unsent:
            if unsent != self._unsent:
                self._since = now
            elif silence > limits.write_timeout:
                self._transport.abort()
        elif self._closing:
            if now - self._closing > _LINGER:
                self._transport.abort()
        elif not self._reading:
            self._since = now
        elif silence > 2 * limits.idle_timeout:
            self._transport.abort()
        elif silence > limits.idle_timeout and not self._pinged:
            self._pinged = True
            self._write(Ping())
        self._unsent = unsent

    # Frames

    def _deliver(self) -> None:
        """Deliver everything that was received, until the connection is over or held."""
        if self._held or self._transport.is_closing():
            return
        for event in self._framing.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                self._collect(event)
            elif isinstance(event, Ping):
                if not self._over:
                    self._write(event.response())
            elif isinstance(event, CloseConnection):
                self._close_with(event)
                return
            if self._held:
                return

    def _collect(self, event: TextMessage | BytesMessage) -> None:
        if self._over:
            return
        data = event.data
        self._message += data.encode() if isinstance(data, str) else data
        if len(self._message) > self._context.limits.max_body_bytes:
            self._message.clear()
            self.end(TOO_BIG, f"a message has at most {self._context.limits.max_body_bytes} bytes")
        elif event.message_finished:
            message = bytes(self._message)
            self._message.clear()
            self._claim = None
            self._conversation.on_message(message)
        elif len(self._message) > LARGE:
            self._count()

    def _count(self) -> None:
        """Count what has come of a message, as all bodies are counted; where there is no room for it, close."""
        if self._claim is None:
            self._claim = self._context.allocator.claim()
        try:
            self._claim.grow(len(self._message) - self._claim.size)
        except BodyMemoryFull as error:
            self._message.clear()
            self._claim = None
            self.end(TRY_AGAIN, error.message)

    def _close_with(self, event: CloseConnection) -> None:
        """Close for the client's close frame, for its answer to ours, or for a breach of the protocol (RFC 6455, 7.1.7)."""
        self._over = True
        if self._framing.state is ConnectionState.OPEN:
            self._write(event)
        elif self._framing.state is ConnectionState.REMOTE_CLOSING:
            self._write(event.response())
        self._transport.close()

    def _write(self, event: Event) -> None:
        if not self._transport.is_closing():
            try:
                data = self._framing.send(event)
                self._transport.write(data)
                self._context.traffic.sent += len(data)
            except LocalProtocolError:  # the client has closed meanwhile: nobody would read it
                self._transport.close()

    def _regulate(self) -> None:
        # A client that was sent a close is read to the end: its own close is in there somewhere.
        reading = bool(self._closing) or not (self._held or self._slow)
        if reading is not self._reading and not self._transport.is_closing():
            self._reading = reading
            (self._transport.resume_reading if reading else self._transport.pause_reading)()
