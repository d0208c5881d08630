"""What a listener and its connections know of each other: limits, context, connection."""

import asyncio
from typing import Protocol

import msgspec

from mooring.core.buffers import Allocator
from mooring.observability.traffic import Traffic

# Bytes asked of the socket at a time. Not above LARGE: a body that gets a slot then never ends in the chunk it began in.
RECEIVE = 65_536
# Unsent bytes above which a client counts as slow.
SLOW = 65_536


class Limits(msgspec.Struct, frozen=True):
    """What one client may cost. Sizes in bytes, times in seconds.

    ``body_timeout`` and ``write_timeout`` count from the last byte that moved; ``header_timeout`` from the first byte
    of a request; ``idle_timeout`` from the last answer or the connection's start. They are looked at about
    once a second, so they may take a second longer. ``max_pipelined`` requests of one connection are in the
    app's hands at a time. ``larger_bodies`` has other limits, above ``max_body_bytes``, for targets that begin so.
    A body must bring ``min_body_rate`` bytes a second in every ``body_window``, and all of it within
    ``body_time_limit``; 0 is no such limit.
    """

    max_header_bytes: int = 65_536
    max_header_count: int = 100
    max_url_bytes: int = 8_190
    max_body_bytes: int = 6_553_500
    larger_bodies: tuple[tuple[bytes, int], ...] = ()
    header_timeout: float = 30.0
    body_timeout: float = 60.0
    min_body_rate: int = 500
    body_window: float = 30.0
    body_time_limit: float = 3600.0
    idle_timeout: float = 75.0
    write_timeout: float = 60.0
    max_pipelined: int = 16


def body_limit(limits: Limits, target: bytes) -> int:
    """Return how many bytes the body of a request for ``target`` may have."""
    for prefix, limit in limits.larger_bodies:
        if target.startswith(prefix):
            return limit
    return limits.max_body_bytes


class ListenerContext(Protocol):
    """What the connections of one listener share, whatever the protocol. ``now`` is the clock, in seconds, moved by sweeps."""

    allocator: Allocator
    limits: Limits
    receive_buffer: memoryview
    traffic: Traffic

    @property
    def now(self) -> float: ...

    @property
    def draining(self) -> bool: ...

    def add(self, connection: "ClientConnection") -> None: ...

    def remove(self, connection: "ClientConnection") -> None: ...


class ClientConnection(asyncio.BufferedProtocol):
    """A client's connection as its listener sees it, whatever the protocol."""

    __slots__ = ()

    def feed(self, data: bytes) -> None:
        """Read bytes that came behind the request which asked for this protocol."""
        raise NotImplementedError

    def close(self) -> None:
        """Close now; what was not sent is lost."""
        raise NotImplementedError

    def drain(self) -> None:
        """Answer what runs, then close; close at once if nothing runs. The server stops."""
        raise NotImplementedError

    def check_timeouts(self, now: float) -> None:
        """Close, or refuse a request, if something has taken too long at ``now``."""
        raise NotImplementedError


def register(
    context: ListenerContext,
    connection: ClientConnection,
    transport: asyncio.Transport,
    *,
    has_request: bool = False,
) -> str:
    """Count a new connection, and return the client's address with its port; empty on a unix socket.

    ``has_request`` says that a request has come already, which is answered even where the listener takes nothing new.
    """
    # low=0: that writing may go on means that everything has left, and memory that was lent can be given back.
    transport.set_write_buffer_limits(high=SLOW, low=0)
    name = transport.get_extra_info("peername")
    context.add(connection)
    if context.draining and not has_request:  # accepted just before the listener was closed
        transport.close()
    if not isinstance(name, tuple):
        return ""
    host = str(name[0]).removeprefix("::ffff:")  # of IPv4, over both families
    return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"
