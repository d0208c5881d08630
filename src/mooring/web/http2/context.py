"""What the HTTP/2 connections of one listener share: limits, and what is served on their streams."""

from typing import Any, Protocol

import msgspec

from mooring.web.http2.hpack import Field
from mooring.web.http2.streams import Stream, StreamConnection
from mooring.web.listener import ListenerContext


class Http2Limits(msgspec.Struct, frozen=True):
    """What one HTTP/2 client may cost, beside ``Limits``. Sizes in bytes, times in seconds.

    ``stream_window`` is how much unread content may lie here per stream, ``connection_window`` for all of them.
    ``frame_budget`` is how many frames that ask for nothing a client may send between two sweeps; a stream that it resets,
    or makes the server reset, counts as four. A client that exceeds it gets no new streams, and is cut off the second
    time or when its streams are over. A client that is silent for ``keepalive`` seconds gets a PING and has
    ``keepalive_timeout`` to answer it. After ``max_age`` a connection takes no new streams, and ``max_age_grace`` later
    it ends.
    """

    max_streams: int = 1024
    stream_window: int = 1 << 20
    connection_window: int = 1 << 26
    max_frame_bytes: int = 1 << 20
    frame_budget: int = 10_000
    keepalive: float = 300.0
    keepalive_timeout: float = 20.0
    max_age: float = float("inf")
    max_age_grace: float = float("inf")


class Http2Context(ListenerContext, Protocol):
    """A listener, as its HTTP/2 connections see it."""

    http2: Http2Limits

    def parse_head(self, fields: list[Field]) -> Any:
        """Make of a header block what ``start_stream`` needs; kept for as long as the same block comes again."""
        ...

    def trailers_error(self, head: Any) -> str:
        """Return why a header block cannot be a request's trailers; empty where it can."""
        ...

    def start_stream(self, connection: StreamConnection, number: int, head: Any) -> Stream | None:
        """Return a new stream, which may have been answered already; None for a malformed request (RFC 9113, 8.1.1)."""
        ...
