"""Accepts connections for TLS; clients that come without it get a connection that tells them so.

The servers of the event loop are not used: they cannot tell plain HTTP from a broken handshake, keep the certificate
that they were started with, and log every failed handshake.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Sequence

from mooring.observability.logs import get_logger

log = get_logger(__name__)

# Seconds from a connection to the end of its handshake.
HANDSHAKE = 15.0
# Seconds for the last 64 KB, which are the kernel's to send, and for the client's word that it has seen the end.
FAREWELL = 10.0
_RECORD = b"\x16"  # a handshake's first byte; no method of HTTP begins so
_AT_ONCE = 128
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

ConnectionFactory = Callable[[], asyncio.BufferedProtocol]
OptionalConnectionFactory = Callable[[], asyncio.BufferedProtocol | None]


class TlsListener:
    """Accepts on ``sockets``, which listen already. ``secured`` makes the protocol object of a client with TLS, ``plain`` of one without.

    If ``plain`` returns None, the socket of such a client is closed.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        context: Callable[[], ssl.SSLContext],
        secured: ConnectionFactory,
        plain: OptionalConnectionFactory,
    ) -> None:
        self.sockets = sockets
        self._context = context
        self._secured = secured
        self._plain = plain
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._open = True
        for each in sockets:
            each.setblocking(False)
            self._listen(each)

    @property
    def handshaking(self) -> bool:
        """Whether clients that were accepted are not through with their handshake."""
        return bool(self._handshakes)

    def stop_accepting(self) -> None:
        """Accept no more; a handshake that has begun goes on."""
        if self._open:
            self._open = False
            for each in self.sockets:
                self._loop.remove_reader(each)
                each.close()

    def close(self) -> None:
        """Accept no more; handshakes that are not complete are broken off."""
        self.stop_accepting()
        for task in self._handshakes:
            task.cancel()

    def _listen(self, listening: socket.socket) -> None:
        if self._open:
            self._loop.add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                # The client is still there, and would be reported at once again: others must end first.
                log.warning("cannot accept connections", reason=error.strerror)
                self._loop.remove_reader(listening)
                self._loop.call_later(1.0, self._listen, listening)
                return
            client.setblocking(False)
            task = self._loop.create_task(self._serve(client))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _serve(self, client: socket.socket) -> None:
        """Serve one client. A handshake that fails is the client's affair: it is logged at the level of debug."""
        try:
            async with asyncio.timeout(HANDSHAKE):
                first = await self._first_byte(client)
                if first == _RECORD:
                    await self._loop.connect_accepted_socket(
                        self._secured,
                        client,
                        ssl=self._context(),
                        ssl_handshake_timeout=HANDSHAKE,
                        ssl_shutdown_timeout=FAREWELL,
                    )
                elif first and (plain := self._plain()) is not None:
                    await self._loop.connect_accepted_socket(lambda: plain, client)
                else:
                    client.close()
        except (OSError, TimeoutError) as error:
            log.debug("handshake failed", reason=str(error) or type(error).__name__)

    async def _first_byte(self, client: socket.socket) -> bytes:
        """Return the byte that the client begins with, which stays unread; empty if it sends none."""
        readable = self._loop.create_future()
        self._loop.add_reader(client, _set, readable)
        try:
            await readable
            return client.recv(1, socket.MSG_PEEK)
        except BaseException:
            client.close()
            raise
        finally:
            self._loop.remove_reader(client)


def _set(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
