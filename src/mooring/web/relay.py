"""Relays requests to another server on a unix socket and its answers back, over connections that are kept open.

An answer of known length goes back when it is complete, one that comes in pieces piece by piece.
"""

import asyncio
from collections.abc import Callable

import httptools

from mooring.core.buffers import view_of
from mooring.web import http1_format
from mooring.web.exchange import PENDING, Exchange, release_all

# What concerns only one of the two connections (RFC 9110, 7.6.1), and what is written anew. Leave to send the body was
# given already: an interim answer would be taken for the answer.
_HOP = frozenset(
    {
        b"connection", b"content-length", b"expect", b"keep-alive", b"te", b"trailer",  # codespell:ignore
        b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
_KEPT = 16
_RECEIVE = 65_536


class _HeadSent(Exception):
    """The client asked for the head of an answer in pieces, and has it."""


class Relay:
    """An app that relays to the server on the socket at ``path``. ``on_error`` answers if that server does not."""

    def __init__(self, path: str, on_error: Callable[[Exchange, Exception], None]) -> None:
        self._path = path
        self._on_error = on_error
        self._idle: list[_Connection] = []
        self._running: set[asyncio.Task[None]] = set()

    def __call__(self, exchange: Exchange) -> None:
        """Have the request answered by the other server."""
        exchange.timing = None  # the answer comes with the other server's
        task = asyncio.get_running_loop().create_task(self._ask(exchange))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

        def leave() -> None:
            task.cancel()

        exchange.on_abandoned = leave

    async def idle(self) -> None:
        """Return when no request is on its way."""
        while self._running:
            await asyncio.wait(self._running)

    def close(self) -> None:
        """Close the connections; requests on their way are dropped."""
        for task in self._running:
            task.cancel()
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _ask(self, exchange: Exchange) -> None:
        connection: _Connection | None = None
        try:
            connection = await self._connection()
            kept = await connection.ask(exchange)
        except _HeadSent:
            if connection is not None:
                connection.close()
        except Exception as error:  # the protocol edge: whatever it was, the client must not wait for ever
            if connection is not None:
                connection.close()
            self._on_error(exchange, error)
        except asyncio.CancelledError:  # the client is gone
            if connection is not None:
                connection.close()
            raise
        else:
            if kept and len(self._idle) < _KEPT:
                self._idle.append(connection)
            else:
                connection.close()

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return _Connection(*await asyncio.open_unix_connection(self._path))


class _Connection:
    """One connection to the other server, and its parser's callbacks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._in_pieces = False
        self._complete = False

    @property
    def usable(self) -> bool:
        """Whether it can take another request."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        """Close it now."""
        self._writer.close()

    async def ask(self, exchange: Exchange) -> bool:
        """Answer the exchange as the other server does, and return whether the connection can be used again.

        Raises ``OSError`` where there is no whole answer.
        """
        body = exchange.take_body()
        self._headers, self._body, self._in_pieces, self._complete = [], [], False, False
        parser = httptools.HttpResponseParser(self)
        try:
            self._writer.writelines([_head(exchange, len(body)), view_of(body)])
            while not self._complete:
                data = await self._reader.read(_RECEIVE)
                if not data:
                    raise ConnectionResetError("the answer broke off")
                parser.feed_data(data)
                if self._in_pieces:
                    await self._pass_pieces(exchange, parser)
        finally:
            if not self._complete:
                self._writer.transport.abort()  # what it still has to send lies in the body
            release_all([body])
        if not self._in_pieces:
            exchange.respond(parser.get_status_code(), b"".join(self._body), self._head())
        return bool(parser.should_keep_alive())

    async def _pass_pieces(self, exchange: Exchange, parser: httptools.HttpResponseParser) -> None:
        """Pass on what has come of the body, and wait while the client does not take it.

        Whoever reads nothing here lets the other server wait as well. Raises ``_HeadSent`` where the client wants no
        more than the head.
        """
        if exchange.state is PENDING:
            exchange.start(parser.get_status_code(), self._head())
            if exchange.method == "HEAD":
                exchange.finish()
                raise _HeadSent
        if self._body:
            exchange.send(b"".join(self._body))
            self._body.clear()
        if self._complete:
            exchange.finish()
        elif not exchange.writable:
            writable = asyncio.Event()
            exchange.on_writable = writable.set
            await writable.wait()

    def _head(self) -> bytes:
        return http1_format.header_lines(
            [pair for pair in self._headers if pair[0].lower().encode() not in _HOP]
        )

    # What the parser tells.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep one line of the head."""
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """Note whether the answer comes in pieces."""
        self._in_pieces = any(name.lower() == "transfer-encoding" for name, _ in self._headers)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Note that the answer is complete."""
        self._complete = True


def _head(exchange: Exchange, size: int) -> bytes:
    # The answer to HEAD says how long a body is that does not come; the exchange knows by itself not to send it.
    method = "GET" if exchange.method == "HEAD" else exchange.method
    lines = [b"%s %s HTTP/1.1" % (method.encode(), exchange.target)]
    lines += [name + b": " + value for name, value in exchange.headers if name.lower() not in _HOP]
    lines += [b"content-length: %d" % size, b"", b""]
    return b"\r\n".join(lines)
