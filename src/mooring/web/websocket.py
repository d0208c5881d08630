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
    """No WebSocket comes of this request. ``head`` are header lines that the refusal must carry."""

    def __init__(self, status: int, message: str, head: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.head = head


class Conversation(Protocol):
    """Who speaks with the client; made with the socket it writes to."""

    def on_message(self, message: bytes) -> None:
        """A whole message came. Text is valid UTF-8."""
        ...

    def drain(self) -> None:
        """The server stops: say what is still to be said, then close."""
        ...

    def on_closed(self) -> None:
        """The connection has ended; called once, whoever ended it."""
        ...


def upgrade(exchange: Exchange, speak: Callable[["WebSocket"], Conversation], head: bytes = b"") -> None:
    """Take the handshake up. Only from within the app's call; ``head`` are further header lines of the answer.

    Raises ``HandshakeRefused``; the exchange is then still to be answered.
    """
    token = generate_accept_token(_key(exchange)).decode()
    lines = header_lines(
        [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", token)]
    )
    if not exchange.switch_protocol(lines + head, lambda host: WebSocket(host, speak)):
        raise HandshakeRefused(400, "a websocket handshake must wait for the answers before it")


def _key(exchange: Exchange) -> bytes:
    """The client's key, if all of RFC 6455, 4.2.1 holds."""
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
        "_claim", "_closing", "_conversation", "_framing", "_held", "_host", "_message", "_over", "_pinged", "_reading",
        "_since", "_slow", "_transport", "_unsent",
    )  # fmt: skip

    def __init__(self, host: ListenerContext, speak: Callable[["WebSocket"], Conversation]) -> None:
        self._host = host
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
        self._since = host.now
        self._conversation = speak(self)

    # For the conversation

    def send(self, message: bytes) -> None:
        """A message: text where it is UTF-8, as RFC 6455 demands of text, and binary otherwise."""
        if self._framing.state is not ConnectionState.OPEN:
            return
        try:
            event: TextMessage | BytesMessage = TextMessage(data=message.decode())
        except UnicodeDecodeError:
            event = BytesMessage(data=bytearray(message))
        self._write(event)

    def end(self, code: int, reason: str = "") -> None:
        """Close, and deliver nothing more. What a close frame cannot hold of the reason is cut off."""
        self._over = True
        if self._framing.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            self._write(CloseConnection(code=code, reason=reason))
        if self._framing.state is ConnectionState.CLOSED:
            self._transport.close()
        elif not self._closing:
            self._closing = self._host.now
            self._regulate()

    def hold(self, held: bool) -> None:
        """Whether to leave what the client sends where it is. Not held any more, what was received goes on at once."""
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
        return self._host.receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.feed(bytes(self._host.receive_buffer[:nbytes]))

    def feed(self, data: bytes) -> None:
        self._since, self._pinged = self._host.now, False
        if self._framing.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            self._framing.receive_data(data)
            self._deliver()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._host.remove(self)
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
        limits = self._host.limits
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
        """Everything that was received, until it is over or held up."""
        if self._held or self._transport.is_closing():
            return
        for event in self._framing.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                self._collect(event)
            elif isinstance(event, Ping):
                if not self._over:
                    self._write(event.response())
            elif isinstance(event, CloseConnection):
                self._agree(event)
                return
            if self._held:
                return

    def _collect(self, event: TextMessage | BytesMessage) -> None:
        if self._over:
            return
        data = event.data
        self._message += data.encode() if isinstance(data, str) else data
        if len(self._message) > self._host.limits.max_body_bytes:
            self._message.clear()
            self.end(TOO_BIG, f"a message has at most {self._host.limits.max_body_bytes} bytes")
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
            self._claim = self._host.allocator.claim()
        try:
            self._claim.grow(len(self._message) - self._claim.size)
        except BodyMemoryFull as error:
            self._message.clear()
            self._claim = None
            self.end(TRY_AGAIN, error.message)

    def _agree(self, event: CloseConnection) -> None:
        """The client's close, its answer to ours, or the end of all sense in its bytes (RFC 6455, 7.1.7)."""
        self._over = True
        if self._framing.state is ConnectionState.OPEN:
            self._write(event)
        elif self._framing.state is ConnectionState.REMOTE_CLOSING:
            self._write(event.response())
        self._transport.close()

    def _write(self, event: Event) -> None:
        if not self._transport.is_closing():
            try:
                self._transport.write(self._framing.send(event))
            except LocalProtocolError:  # the client has closed meanwhile: nobody would read it
                self._transport.close()

    def _regulate(self) -> None:
        # A client that was sent a close is read to the end: its own close is in there somewhere.
        reading = bool(self._closing) or not (self._held or self._slow)
        if reading is not self._reading and not self._transport.is_closing():
            self._reading = reading
            (self._transport.resume_reading if reading else self._transport.pause_reading)()
