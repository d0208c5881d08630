"""A listener, its connections and the clock they share, whatever is spoken on them."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Collection
from pathlib import Path

from mooring.web.listener import RECEIVE, ClientConnection, Limits
from mooring.web.tls_listener import EVERY_FAMILY, TlsListener, bind_sockets
from mooring.web.tls_transport import TlsTransport

_BACKLOG = 1024


class Listener:
    """Accepts connections on one address and closes them at the end; subclasses say what is spoken on them.

    With ``tls`` it speaks TLS, in the context that ``tls`` returns for each new connection. If ``shared``, other
    processes listen on the same address, and the kernel spreads connections over them (SO_REUSEPORT). If
    ``migratable``, connections may move from and to other processes, and the listener need not listen itself.

    How this works. The event loop accepts, and ``new_connection`` makes the protocol object of a client. That registers
    itself with ``add`` and leaves with ``remove``. Connections have no timers: about once a second ``_sweep`` moves the
    clock ``now`` on and has each connection check its time-outs.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        tls: Callable[[], ssl.SSLContext] | None = None,
        shared: bool = False,
        migratable: bool = False,
    ) -> None:
        self.limits = limits
        self.secure = tls is not None
        self.draining = False
        self.now = 0.0
        self.port = 0
        self.shared = shared
        self.migratable = migratable
        self._path: Path | None = None
        # One for all connections: between get_buffer and buffer_updated the loop does nothing else.
        self.receive_buffer = memoryview(bytearray(RECEIVE))
        self._tls = tls
        self._listener: asyncio.Server | TlsListener | None = None
        self._connections: set[ClientConnection] = set()
        self._empty = asyncio.Event()
        self._adopting: set[asyncio.Task[None]] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None
        shortest = min(limits.header_timeout, limits.body_timeout, limits.idle_timeout, limits.write_timeout)
        self._interval = max(0.01, min(1.0, shortest / 4))

    @property
    def connections(self) -> Collection[ClientConnection]:
        """The connections that are there now."""
        return self._connections

    @property
    def listening(self) -> socket.socket:
        """The socket that it listens on; the first where there are several."""
        assert self._listener is not None
        return self._listener.sockets[0]

    def new_connection(self) -> ClientConnection:
        """Make a connection that has no transport yet."""
        raise NotImplementedError

    def new_plain_connection(self) -> ClientConnection | None:
        """Make the same for a client that comes without TLS to a listener with it; None closes its socket."""
        return None

    async def start(self, host: str, port: int) -> None:
        """Listen on an address. With port 0 the system chooses one; ``port`` says which.

        Raises ``OSError`` that names the address.
        """
        try:
            await self._listen(host, port)
        except OSError as error:
            # asyncio's own text names the address too, and the reason after it.
            number = error.errno or 0
            reason = os.strerror(number) if number > 0 else error.strerror or str(error)
            where = f"[{host}]" if ":" in host else host
            raise OSError(f"cannot listen on {where}:{port}: {reason}") from None
        assert self._listener is not None
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _listen(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        if self._tls is not None:
            sockets = await bind_sockets(host, port, _BACKLOG, shared=self.shared)
            self._begin(
                TlsListener(
                    sockets, self._tls, lambda: TlsTransport(self.new_connection()), self.new_plain_connection
                )
            )
        elif host == EVERY_FAMILY:
            (sock,) = await bind_sockets(host, port, _BACKLOG, shared=self.shared)
            self._begin(await loop.create_server(self.new_connection, sock=sock, backlog=_BACKLOG))
        else:
            self._begin(
                await loop.create_server(
                    self.new_connection, host, port, backlog=_BACKLOG, reuse_port=self.shared
                )
            )

    async def start_unix(self, path: str) -> None:
        """Listen on a unix socket, which is made anew; always without TLS."""
        loop = asyncio.get_running_loop()
        self._path = Path(path)
        self._begin(await loop.create_unix_server(self.new_connection, path, backlog=_BACKLOG))

    def start_without_socket(self) -> None:
        """Look after connections that other processes hand over, and listen nowhere."""
        self._sweep()

    async def listen_on(self, sock: socket.socket) -> None:
        """Accept on a socket that another process listens on, too; the listener owns it from now on."""
        if self.draining or self._listener is not None:
            sock.close()
            return
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self.new_connection, sock=sock, backlog=_BACKLOG)

    def stop_accepting(self) -> None:
        """Take no new connections until ``listen_on`` is called again."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connection that another process accepted; the listener owns its socket from now on."""
        task = asyncio.get_running_loop().create_task(self._adopt(sock))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def wait_adopted(self) -> None:
        """Return when every connection that was adopted has its transport."""
        while self._adopting:
            await asyncio.wait(self._adopting)

    async def _adopt(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self.new_connection, sock)
        except OSError:  # its client has gone meanwhile
            sock.close()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 — what is cut off here are the clients, not the caller
        """Stop accepting, answer what runs, close idle connections at once; after ``timeout`` seconds close all."""
        self._stop_listening()
        for connection in tuple(self._connections):
            connection.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wait_empty(), timeout)
        await self.close()

    async def close(self) -> None:
        """Stop accepting and end every connection now."""
        self._stop_listening()
        for connection in tuple(self._connections):
            connection.close()
        await self._wait_empty()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()

    def add(self, connection: ClientConnection) -> None:
        """Count a connection; it calls this itself when it has its transport."""
        self._connections.add(connection)

    def remove(self, connection: ClientConnection) -> None:
        """Forget a connection; it calls this itself when its transport is gone."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def _begin(self, listener: asyncio.Server | TlsListener) -> None:
        self._listener = listener
        self._sweep()

    def _stop_listening(self) -> None:
        self.draining = True
        if self._listener is not None:
            self._listener.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _wait_empty(self) -> None:
        while self._connections:
            self._empty.clear()
            await self._empty.wait()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        self._sweep_timer = loop.call_later(self._interval, self._sweep)
        for connection in tuple(self._connections):
            connection.check_timeouts(self.now)
