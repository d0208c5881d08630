"""A listener for HTTP/1.1, and what the other layers need of HTTP.

They import it from here.
"""

import ssl
from collections.abc import Callable

from mooring.core.buffers import Allocator
from mooring.observability.call_log import CallLog
from mooring.observability.traffic import Traffic
from mooring.web.connection import Connection
from mooring.web.exchange import Exchange, HeadCache, ResponseState, add_headers
from mooring.web.http1_format import REQUEST_ID, header_lines
from mooring.web.http_context import AdmissionCheck, App, ErrorRenderer
from mooring.web.known_heads import KnownHead
from mooring.web.listener import Limits, body_limit
from mooring.web.migration import MigratableConnection
from mooring.web.server import Listener
from mooring.web.server_timing import time_exchange

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
    "time_exchange",
]


class HttpServer(Listener):
    """A listener whose connections speak HTTP/1.1.

    ``app`` is called with every complete request, on the loop's thread; ``render_error`` makes the answer to what is
    refused before. ``admission_check`` is called with the head of a request that has a large body or waits for
    100 Continue, and may have it refused there. With ``tls`` the listener speaks TLS; ``plain`` is then the app of
    clients that come without. Paths that begin with ``root`` lose it before the app sees them. ``calls`` logs every
    request.
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
        calls: CallLog | None = None,
        reuse_port: bool = False,
        migratable: bool = False,
        traffic: Traffic | None = None,
    ) -> None:
        super().__init__(limits, tls=tls, reuse_port=reuse_port, migratable=migratable, traffic=traffic)
        self.app = app
        self.allocator = allocator
        self.render_error = render_error
        self.admission_check = admission_check
        self.root = root
        self.calls = calls
        self.valid_hosts: set[bytes] = set()
        self.known_heads: dict[bytes, KnownHead] = {}
        self._plain_context = PlainContext(self, plain or app)

    def new_connection(self) -> Connection:
        return MigratableConnection(self) if self.migratable else Connection(self)

    def new_plain_connection(self) -> Connection:
        return Connection(self._plain_context)


class PlainContext:
    """The context of clients that come without TLS to a listener with it: the same but for the app, which refuses them."""

    secure = False
    admission_check: AdmissionCheck | None = None  # the app refuses them all

    def __init__(self, server: HttpServer, app: App) -> None:
        self.app = app
        self.limits = server.limits
        self.allocator = server.allocator
        self.render_error = server.render_error
        self.receive_buffer = server.receive_buffer
        self.traffic = server.traffic
        self.root = server.root
        self.calls = server.calls
        self.valid_hosts = server.valid_hosts
        self.known_heads = server.known_heads
        self.add = server.add
        self.remove = server.remove
        self._server = server

    @property
    def draining(self) -> bool:
        """Whether the listener takes nothing new."""
        return self._server.draining

    @property
    def now(self) -> float:
        """The listener's clock."""
        return self._server.now
