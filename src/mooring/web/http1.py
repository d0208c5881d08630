"""The HTTP/1.1 front: a listener whose connections speak it.

What the other layers need of HTTP is imported from here.
"""

import ssl
from collections.abc import Callable

from mooring.core.buffers import Allocator
from mooring.web.connection import App, Connection, OnError, Screen
from mooring.web.exchange import Exchange, Memory, Stage, add_headers
from mooring.web.heads import KnownHead
from mooring.web.http1_format import REQUEST_ID, header_lines
from mooring.web.listener import Limits, most_bytes
from mooring.web.migration import MovableConnection
from mooring.web.server import Listener

# The modules behind this one are its own business; this is what the protocols know.
__all__ = [
    "REQUEST_ID",
    "App",
    "Exchange",
    "HttpServer",
    "Limits",
    "Memory",
    "OnError",
    "Screen",
    "Stage",
    "add_headers",
    "header_lines",
    "most_bytes",
]


class HttpServer(Listener):
    """One listener. ``app`` gets every complete request, on the loop; ``refuse`` words what never gets there.

    ``screen`` is asked at the head of a request with a large body, or that waits for leave to send it, and may have it
    refused there. With ``tls`` it speaks TLS, in the context that ``tls`` gives for each new connection; ``plain`` is
    then the app of those who ask without. Paths that begin with ``root`` lose it before anybody sees them.
    """

    def __init__(
        self,
        app: App,
        *,
        limits: Limits,
        allocator: Allocator,
        refuse: OnError,
        screen: Screen | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        plain: App | None = None,
        root: bytes = b"",
    ) -> None:
        super().__init__(limits, tls=tls)
        self.app = app
        self.allocator = allocator
        self.refuse = refuse
        self.screen = screen
        self.root = root
        self.hosts: set[bytes] = set()
        self.heads: dict[bytes, KnownHead] = {}
        self._outside = Outside(self, plain or app)

    def member(self) -> Connection:
        return MovableConnection(self) if self.movable else Connection(self)

    def outsider(self) -> Connection:
        return Connection(self._outside)


class Outside:
    """A listener as those find it who come without the TLS it speaks: the same but for the app, which refuses them."""

    secure = False
    screen: Screen | None = None  # the app refuses them all

    def __init__(self, server: HttpServer, app: App) -> None:
        self.app = app
        self.limits = server.limits
        self.allocator = server.allocator
        self.refuse = server.refuse
        self.room = server.room
        self.root = server.root
        self.hosts = server.hosts
        self.heads = server.heads
        self.joined = server.joined
        self.left = server.left
        self._server = server

    @property
    def draining(self) -> bool:
        """As the listener's."""
        return self._server.draining

    @property
    def now(self) -> float:
        """As the listener's."""
        return self._server.now
