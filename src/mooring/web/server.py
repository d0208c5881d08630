"""A listener, its connections and the clock they share, whatever is spoken on them."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from mooring.observability.logs import get_logger
from mooring.observability.traffic import Traffic
from mooring.web.binding import bind_sockets, find_places, prepare_to_listen
from mooring.web.listener import RECEIVE, ClientConnection, Limits
from mooring.web.tls_listener import TlsListener
from mooring.web.tls_transport import TlsTransport

log = get_logger(__name__)

_BACKLOG = 1024


class Listener:
    """Accepts connections on one address and closes them at the end; subclasses say what is spoken on them.

    With ``tls`` it speaks TLS, in the context that ``tls`` returns for each new connection. With ``reuse_port`` other
    processes may bind the same address, and the kernel spreads connections over them (SO_REUSEPORT). If ``migratable``,
    connections may move from and to other processes. What they receive and send is counted in ``traffic``.

    How this works. The event loop accepts, and ``new_connection`` makes the protocol object of a client. That registers
    itself with ``add`` and leaves with ``remove``. Connections have no timers: about once a second ``_sweep`` moves the
    clock ``now`` on and has each connection check its time-outs.

    Several processes may listen on the same sockets. The first one starts its listener and passes on what
    ``share_sockets`` returns; the listener of another process gets each by ``add_socket``. From then on
    ``set_accepting`` says, in either process, whether new connections are taken or left to the other processes.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        tls: Callable[[], ssl.SSLContext] | None = None,
        reuse_port: bool = False,
        migratable: bool = False,
        traffic: Traffic | None = None,
    ) -> None:
        self.limits = limits
        self.traffic = traffic or Traffic()
        self.secure = tls is not None
        self.draining = False
        self.now = 0.0
        self.port = 0
        self.reuse_port = reuse_port
        self.migratable = migratable
        self._path: Path | None = None
        # One for all connections: between get_buffer and buffer_updated the loop does nothing else.
        self.receive_buffer = memoryview(bytearray(RECEIVE))
        self._tls = tls
        self._servers: list[asyncio.Server | TlsListener] = []
        # What is listened on together with other processes, whether or not connections are taken at the moment.
        self._shared_sockets: list[socket.socket] = []
        self._accepting = True
        self._adjusting: asyncio.Task[None] | None = None
        # Listeners that take no more connections, and have some in a handshake.
        self._handshaking: list[TlsListener] = []
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
            await self._listen(await self._bind(host, port))
        except OSError as error:
            number = error.errno or 0
            reason = os.strerror(number) if number > 0 else error.strerror or str(error)
            where = f"[{host}]" if ":" in host else host
            raise OSError(f"cannot listen on {where}:{port}: {reason}") from None

    async def start_on(self, sockets: Sequence[socket.socket]) -> None:
        """Listen on sockets that are bound; they are this listener's now. Raises ``OSError``."""
        await self._listen(sockets)

    async def _bind(self, host: str, port: int) -> list[socket.socket]:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return bind_sockets(host, find_places(found), reuse_port=self.reuse_port)

    async def _listen(self, sockets: Sequence[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        prepare_to_listen(sockets)
        self.port = sockets[0].getsockname()[1]
        if self._tls is not None:
            for each in sockets:
                each.listen(_BACKLOG)
            self._servers.append(self._tls_listener(sockets, self._tls))
        else:
            for each in sockets:
                self._servers.append(
                    await loop.create_server(self.new_connection, sock=each, backlog=_BACKLOG)
                )
        self._sweep()

    async def start_unix(self, path: str) -> None:
        """Listen on a unix socket, which is made anew; always without TLS."""
        loop = asyncio.get_running_loop()
        self._path = Path(path)
        self._servers.append(await loop.create_unix_server(self.new_connection, path, backlog=_BACKLOG))
        self._sweep()

    def start_without_socket(self) -> None:
        """Look after connections that other processes hand over, and listen nowhere until ``set_accepting``."""
        self._accepting = False
        self._sweep()

    def share_sockets(self) -> Sequence[socket.socket]:
        """What it listens on, for other processes to listen on as well; the sockets stay this listener's."""
        if not self._shared_sockets:
            own = [each for server in self._servers for each in server.sockets]
            self._shared_sockets = [socket.socket(fileno=os.dup(each.fileno())) for each in own]
        return self._shared_sockets

    def add_socket(self, sock: socket.socket) -> None:
        """Listen on a socket that another process listens on, too; it is this listener's now."""
        if self.draining:
            sock.close()
            return
        self._shared_sockets.append(sock)
        self._adjust()

    def set_accepting(self, accepting: bool) -> None:
        """Take new connections from shared sockets, or leave them to the other processes."""
        if accepting != self._accepting:
            self._accepting = accepting
            self._adjust()

    async def adjusted(self) -> None:
        """Return when connections are taken from all shared sockets, or from none, as it was said last."""
        while self._adjusting is not None:
            await asyncio.wait([self._adjusting])

    def _adjust(self) -> None:
        if self._adjusting is None:
            self._adjusting = asyncio.get_running_loop().create_task(self._open_and_close())
            self._adjusting.add_done_callback(self._log_fault)

    async def _open_and_close(self) -> None:
        """Listen on each shared socket, or on none. What is wanted may change meanwhile."""
        try:
            while not self.draining:
                listening = sum(len(server.sockets) for server in self._servers)
                wanted = len(self._shared_sockets) if self._accepting else 0
                if listening == wanted:
                    return
                if listening > wanted:
                    self._stop_accepting()
                else:
                    await self._open(self._shared_sockets[listening])
        finally:
            self._adjusting = None

    async def _open(self, shared: socket.socket) -> None:
        sock = socket.socket(fileno=os.dup(shared.fileno()))
        server: asyncio.Server | TlsListener
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:
            server = await loop.create_unix_server(self.new_connection, sock=sock, backlog=_BACKLOG)
        elif self._tls is not None:
            server = self._tls_listener([sock], self._tls)
        else:
            server = await loop.create_server(self.new_connection, sock=sock, backlog=_BACKLOG)
        if self.draining:
            server.close()
        else:
            self._servers.append(server)

    def _log_fault(self, adjusting: asyncio.Task[None]) -> None:
        if not adjusting.cancelled() and (error := adjusting.exception()) is not None:
            log.error("cannot listen on a shared socket", exc_info=error)

    def _tls_listener(
        self, sockets: Sequence[socket.socket], tls: Callable[[], ssl.SSLContext]
    ) -> TlsListener:
        return TlsListener(
            sockets, tls, lambda: TlsTransport(self.new_connection()), self.new_plain_connection
        )

    def _stop_accepting(self) -> None:
        servers, self._servers = self._servers, []
        self._handshaking = [each for each in self._handshaking if each.handshaking]
        for server in servers:
            if isinstance(server, TlsListener):
                server.stop_accepting()
                self._handshaking.append(server)
            else:
                server.close()

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

    def _stop_listening(self) -> None:
        self.draining = True
        for server in (*self._servers, *self._handshaking):
            server.close()
        for sock in self._shared_sockets:
            sock.close()
        self._shared_sockets = []
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
