"""Connections over HTTP that are kept and used again, at most so many at a time."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import httpx

# Seconds after which a connection that nobody uses is closed, at the end of another call.
_MAX_IDLE = 5.0


def _transport_options(verify: Any, most: int) -> dict[str, Any]:
    # Not from the environment: a proxy that is set there is for the web, not for the server next door.
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    return {"verify": verify, "trust_env": False, "limits": limits}


class AsyncHTTPPool(httpx.AsyncHTTPTransport):
    """The connections of one event loop."""

    def __init__(self, verify: Any, most: int) -> None:
        super().__init__(**_transport_options(verify, most))


class HTTPPool(httpx.BaseTransport):
    """The connections of any number of threads. Each is lent to one thread at a time, with a pool of httpcore's to itself.

    A pool of httpcore's that threads share looks for idle connections to close while other threads begin to use them: on
    a busy machine with 32 threads one of 19,200 calls found its socket closed.
    """

    def __init__(self, verify: Any, most: int) -> None:
        self._verify = verify
        self._places = threading.Semaphore(most)
        self._lock = threading.Lock()
        # The ones used last are at the end, with the time when they became idle.
        self._idle: deque[tuple[float, httpx.HTTPTransport]] = deque()
        self._closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over a connection that nobody uses. Raises ``PoolTimeout`` where none becomes free in time."""
        timeout = request.extensions.get("timeout", {}).get("pool")
        if not self._places.acquire(timeout=timeout):
            raise httpx.PoolTimeout("all connections are in use", request=request)
        connection = self._take()
        try:
            response = connection.handle_request(request)
        except BaseException:
            self._give_back(connection)
            raise
        response.stream = _LentStream(response.stream, lambda: self._give_back(connection))
        return response

    def close(self) -> None:
        """Close the connections that nobody uses; each of the others is closed when its answer has been read."""
        self._closed = True
        self._close_idle(before=math.inf)

    def _take(self) -> httpx.HTTPTransport:
        with self._lock:
            if self._idle:
                return self._idle.pop()[1]
        return httpx.HTTPTransport(**_transport_options(self._verify, 1))

    def _give_back(self, connection: httpx.HTTPTransport) -> None:
        now = monotonic()
        with self._lock:
            self._idle.append((now, connection))
        self._places.release()
        self._close_idle(before=math.inf if self._closed else now - _MAX_IDLE)

    def _close_idle(self, *, before: float) -> None:
        expired = []
        with self._lock:
            while self._idle and self._idle[0][0] < before:
                expired.append(self._idle.popleft()[1])
        for connection in expired:
            connection.close()


class _LentStream(httpx.SyncByteStream):
    """The body of an answer, whose connection is given back once, at its end."""

    def __init__(self, stream: Any, give_back: Callable[[], None]) -> None:
        self._stream = stream
        self._give_back: Callable[[], None] | None = give_back

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            try:
                self._stream.close()
            finally:
                give_back()
