"""A transport over the event loop's TLS transport, with the back-pressure that large answers and slow clients need.

The loop's transport encrypts whatever it gets at once, however slow the client is, and holds a second copy that nobody
sees. Once closed it drops what is unsent after a few seconds. Here, bytes wait until it has room for them: a connection
sees what is unsent, as without TLS, and ``close`` means after the last byte.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

from mooring.web.listener import SLOW, ClientConnection

# Bytes encrypted at a time. The event loop has other clients to look after.
_SLICE = 65_536

_Bytes = bytes | bytearray | memoryview


class TlsTransport(asyncio.BufferedProtocol, asyncio.Transport):
    """The protocol of the loop's TLS transport, and the transport of ``connection``."""

    def __init__(self, connection: ClientConnection) -> None:
        super().__init__()
        self._inner: asyncio.Transport
        self._waiting: deque[memoryview] = deque()
        self._size = 0  # bytes of these
        self._high, self._low = SLOW, 0
        self._full = False  # the transport has what it takes
        self._choked = False  # the connection was told to pause writing
        self._closing = False
        self._serve(connection)

    def _serve(self, connection: ClientConnection) -> None:
        self._connection = connection
        # In place of methods that would only call them: these are called for every chunk.
        self.get_buffer = connection.get_buffer  # type: ignore[method-assign]
        self.buffer_updated = connection.buffer_updated  # type: ignore[method-assign]

    # To the TLS transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner = cast("asyncio.Transport", transport)
        self._inner.set_write_buffer_limits(high=1, low=0)
        self._connection.connection_made(self)

    def eof_received(self) -> bool | None:
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._send()

    # To the connection

    def write(self, data: _Bytes) -> None:
        """Send this after what was written before; memory that is lent stays in use until nothing is unsent."""
        if self._waiting or self._full or len(data) > _SLICE:
            self._keep(data)
            self._send()
        else:
            self._inner.write(data)
            self._regulate()

    def writelines(self, list_of_data: Iterable[_Bytes]) -> None:
        """Send these in their order."""
        for data in list_of_data:
            self._keep(data)
        self._send()

    def close(self) -> None:
        """End the connection once all is sent."""
        if not self._closing:
            self._closing = True
            self._send()

    def abort(self) -> None:
        """End the connection now."""
        self._forget()
        self._inner.abort()

    def is_closing(self) -> bool:
        """Return whether nothing more can be written."""
        return self._closing or self._inner.is_closing()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait, without those that the kernel or the TLS transport is about to send."""
        return self._size + self._inner.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do what ``asyncio.Transport`` says."""
        self._high, self._low = high or 0, low or 0
        self._regulate()

    def can_write_eof(self) -> bool:
        """Return False: TLS has no half-closed connections."""
        return False

    def pause_reading(self) -> None:
        """Do what ``asyncio.Transport`` says."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Do what ``asyncio.Transport`` says."""
        self._inner.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Do what ``asyncio.Transport`` says."""
        return self._inner.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Serve another connection object from now on."""
        self._serve(cast("ClientConnection", protocol))
        self._inner.set_protocol(self)

    def _keep(self, data: _Bytes) -> None:
        if len(data) and not self._inner.is_closing():
            self._waiting.append(memoryview(data).cast("B"))
            self._size += len(data)

    def _send(self) -> None:
        waiting = self._waiting
        while waiting and not self._full:
            piece = waiting.popleft()
            if len(piece) > _SLICE:
                waiting.appendleft(piece[_SLICE:])
                piece = piece[:_SLICE]
            self._size -= len(piece)
            self._inner.write(piece)
        if self._closing and not waiting and not self._full:
            self._inner.close()
        self._regulate()

    def _regulate(self) -> None:
        unsent = self.get_write_buffer_size()
        if unsent > self._high and not self._choked:
            self._choked = True
            self._connection.pause_writing()
        elif unsent <= self._low and self._choked:
            self._choked = False
            self._connection.resume_writing()

    def _forget(self) -> None:
        self._waiting.clear()
        self._size = 0
