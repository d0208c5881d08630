"""The HTTP/1.1 front: a listener whose connections speak it.

What the other layers need of HTTP is imported from here.
"""

import ssl
from collections.abc import Callable

from mooring.core.buffers import Allocator
from mooring.web.connection import Connection
from mooring.web.exchange import Exchange, HeadCache, ResponseState, add_headers
from mooring.web.http1_format import REQUEST_ID, header_lines
from mooring.web.http_context import AdmissionCheck, App, ErrorRenderer
from mooring.web.known_heads import KnownHead
from mooring.web.listener import Limits, body_limit
from mooring.web.migration import MigratableConnection
from mooring.web.server import Listener

# The modules behind this one are its own business; this is what the protocols know.
__all__ = [
    "REQUEST_ID",
    "AdmissionCheck",
    "App",
    "ErrorRenderer",
    "Exchange",
    "HeadCache",
    "HttpServer",
    "Limits",
    "ResponseState",
    "add_headers",
    "body_limit",
    "header_lines",
]


class HttpServer(Listener):
    """One listener. ``app`` gets every complete request, on the loop; ``refuse`` words what never gets there.

    ``admission_check`` is asked at the head of a request with a large body, or that waits for leave to send it, and may have it
    refused there. With ``tls`` it speaks TLS, in the context that ``tls`` gives for each new connection; ``plain`` is
    then the app of those who ask without. Paths that begin with ``root`` lose it before anybody sees them.
    """

    def __init__(
        self,
        app: App,
        *,
        limits: Limits,
        allocator: Allocator,
        render_error: ErrorRenderer,
        admission_check: AdmissionCheck | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        plain: App | None = None,
        root: bytes = b"",
    ) -> None:
        super().__init__(limits, tls=tls)
        self.app = app
        self.allocator = allocator
        self.render_error = render_error
        self.admission_check = admission_check
        self.root = root
        self.valid_hosts: set[bytes] = set()
        self.known_heads: dict[bytes, KnownHead] = {}
        self._plain_context = PlainContext(self, plain or app)

    def new_connection(self) -> Connection:
        return MigratableConnection(self) if self.migratable else Connection(self)

    def new_plain_connection(self) -> Connection:
        return Connection(self._plain_context)


class PlainContext:
    """A listener as those find it who come without the TLS it speaks: the same but for the app, which refuses them."""

    secure = False
    admission_check: AdmissionCheck | None = None  # the app refuses them all

    def __init__(self, server: HttpServer, app: App) -> None:
        self.app = app
        self.limits = server.limits
        self.allocator = server.allocator
        self.render_error = server.render_error
        self.receive_buffer = server.receive_buffer
        self.root = server.root
        self.valid_hosts = server.valid_hosts
        self.known_heads = server.known_heads
        self.add = server.add
        self.remove = server.remove
        self._server = server

    @property
    def draining(self) -> bool:
        """As the listener's."""
        return self._server.draining

    @property
    def now(self) -> float:
        """As the listener's."""
        return self._server.now
