"""Moves connections of HTTP/1.1 from one process to another between two requests.

A connection that is to leave stops reading, and its requests are answered. Then this process holds nothing of it, and
its descriptor goes to the other one. What the client sent meanwhile lies in the kernel, and is read there.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import cast

from mooring.web.connection import Connection, ConnectionState
from mooring.web.http_context import HttpContext
from mooring.web.listener import ClientConnection, register

# Seconds that a connection has to come to an end of what was asked. It does not see its client go away meanwhile.
_PAUSE = 0.1
# Sockets that are taken up before the loop has a look at everything else.
_TURN = 64
# Seconds until a process that has no descriptor to spare looks for what comes again.
_AGAIN = 0.1


class MigratableConnection(Connection):
    """A connection that may go on in another process.

    How this works. ``start_migration`` pauses reading. As soon as every request is answered and nothing of another one
    was read (``at_rest``, ``empty``), the descriptor is sent, and this end is closed without a word to the client.
    """

    __slots__ = ("_destination",)

    def __init__(self, context: HttpContext) -> None:
        super().__init__(context)
        self._destination: Callable[[int], bool] | None = None

    @property
    def active(self) -> bool:
        """Whether something is asked, or was in the last second."""
        return self._queue.current is not None or self._context.now - self.since <= 1.0

    def start_migration(self, send: Callable[[int], bool]) -> bool:
        """Leave when all that was asked is answered, and read no more; False where it cannot, or not now.

        ``send`` gets the descriptor then and returns whether it went; if not, or if anything of the connection lies
        here at that moment, it stays. Until ``cancel_migration`` is called that moment may yet come.
        """
        if self._destination is not None or not self._can_leave() or self._context.draining:
            return False
        self._destination = send
        self._queue.set_reading(False)
        if self._queue.current is None:
            asyncio.get_running_loop().call_soon(self._go)
        return True

    def cancel_migration(self) -> None:
        """Read on, if it has not left."""
        if self._destination is not None:
            self._destination = None
            self._regulate()

    def _can_leave(self) -> bool:
        """Whether no part of a request has been read that is not the app's by now."""
        return (
            self._state is ConnectionState.OPEN
            and self._reader.at_rest()
            and not self._queue.unseen
            and not self._transport.is_closing()
        )

    def _go(self) -> None:
        send, self._destination = self._destination, None
        if send is None or self._state is ConnectionState.LOST:
            return
        transport = self._transport
        kept = not self._queue.empty() or transport.get_write_buffer_size()
        if kept or not self._can_leave() or not send(transport.get_extra_info("socket").fileno()):
            self._regulate()
        else:
            transport.abort()  # which closes this process's descriptor, and tells the client nothing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class
        has_request = self._context.draining and _has_request(self._transport)
        peer = register(self._context, self, self._transport, has_request=has_request)
        self._queue.open(self._transport, peer)

    def drain(self) -> None:
        self.cancel_migration()
        # What came while it was to leave has not been read: that is answered, and then it ends.
        if self._queue.current is not None or not _has_request(self._transport):
            super().drain()

    def on_answered(self) -> None:
        super().on_answered()
        if self._destination is not None and self._queue.current is None:
            # What was just written leaves at the end of this turn of the loop.
            asyncio.get_running_loop().call_soon(self._go)

    def _regulate(self) -> None:
        if self._destination is None:
            super()._regulate()


class SocketChannel:
    """One end of a pair of stream sockets that passes other sockets to another process, each with a mark from 0 to 255.

    ``on_socket`` is called with the mark and the socket of each that comes. The end of the other process is no news
    here: it has a link to it as well.
    """

    def __init__(self, sock: socket.socket, on_socket: Callable[[int, socket.socket], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_socket = on_socket
        self._departing: list[MigratableConnection] = []
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._receive)

    def send(self, mark: int, descriptor: int) -> bool:
        """Send a descriptor, which stays open here; False where the channel has no room at the moment."""
        try:
            socket.send_fds(self._sock, [bytes([mark])], [descriptor])
        except OSError:
            return False
        return True

    def migrate(self, connections: Iterable[ClientConnection], share: float, mark: int) -> None:
        """Start the migration of this share of the active connections; at 1.0 of all of them, idle or not.

        Each leaves as soon as it can, within ``_PAUSE`` seconds, or stays.
        """
        candidates = [each for each in connections if isinstance(each, MigratableConnection)]
        if share < 1.0:
            candidates = [each for each in candidates if each.active]
            wanted = min(round(share * len(candidates)), len(candidates) - 1)
        else:
            wanted = len(candidates)

        def send(descriptor: int) -> bool:
            return self.send(mark, descriptor)

        self.cancel()
        for each in candidates:
            if len(self._departing) >= wanted:
                break
            if each.start_migration(send):
                self._departing.append(each)
        self._loop.call_later(_PAUSE, _cancel_all, self._departing)

    def cancel(self) -> None:
        """Keep the connections that have not left yet."""
        _cancel_all(self._departing)
        self._departing = []

    def receive_all(self) -> None:
        """Receive every socket that lies in the channel now."""
        while self._sock.fileno() >= 0 and self._receive_one():
            pass

    def close(self) -> None:
        """Send and receive nothing any more."""
        self.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _receive(self) -> None:
        for _ in range(_TURN):
            if not self._receive_one():
                return

    def _receive_one(self) -> bool:
        if not self._has_spare_descriptor():  # the kernel would close what it cannot hand over
            self._loop.remove_reader(self._sock)
            self._loop.call_later(_AGAIN, self._listen_again)
            return False
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self._sock, 1, 1, getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            )
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._sock)
            return False
        for descriptor in descriptors:
            self._on_socket(data[0], socket.socket(fileno=descriptor))
        return True

    def _has_spare_descriptor(self) -> bool:
        try:
            os.close(os.dup(self._sock.fileno()))
        except OSError:
            return False
        return True

    def _listen_again(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self._receive)


def _cancel_all(departing: list[MigratableConnection]) -> None:
    for each in departing:
        each.cancel_migration()


def _has_request(transport: asyncio.Transport) -> bool:
    """Whether a request, or the beginning of one, has come already."""
    sock = transport.get_extra_info("socket")
    with suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as own:
        return bool(own.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    return False
