"""Binds the addresses of listeners. A bound socket takes no connection before it listens: clients are refused until then."""

import contextlib
import errno
import socket
from collections.abc import Iterable, Sequence
from typing import Any

# The host that stands for every address of the machine, of IPv6 and of IPv4.
EVERY_FAMILY = "::"

Place = tuple[int, Any]
"""A family of addresses, and an address of it."""


def find_places(found: Iterable[tuple[Any, ...]]) -> list[Place]:
    """Return the places in an answer of ``getaddrinfo``, each once."""
    return list(dict.fromkeys((family, address) for family, *_, address in found))


def resolve_host(host: str, port: int) -> list[Place]:
    """Return the places that a host name stands for. May wait for a name server. Raises ``OSError``."""
    return find_places(
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE),
    )


def bind_sockets(host: str, places: Sequence[Place], *, reuse_port: bool = False) -> list[socket.socket]:
    """Return a bound socket for each of the ``places`` of ``host``; ``reuse_port`` lets other processes bind the same.

    Where the port is 0, the system chooses one for the first place, and the others get the same. A place is left out
    where this machine lacks its family of addresses, unless it is the only one. Raises ``OSError``.
    """
    sockets: list[socket.socket] = []
    lacking: OSError | None = None
    port = 0
    with contextlib.ExitStack() as stack:
        for family, address in places:
            where = (address[0], port, *address[2:]) if port and not address[1] else address
            try:
                sock = _bind(host, family, where, reuse_port=reuse_port)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                lacking = error
                continue
            sockets.append(stack.enter_context(sock))
            port = sock.getsockname()[1]
        if not sockets and lacking is not None:
            raise lacking
        stack.pop_all()
    return sockets


def _bind(host: str, family: int, address: Any, *, reuse_port: bool) -> socket.socket:
    """Bind one socket so that no other process can bind its address, although it does not listen yet.

    Two sockets with SO_REUSEADDR may be bound to one address on Linux for as long as neither listens. So the option is
    off until then; where connections of the last server are in TIME-WAIT it is on while the socket is bound.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # All addresses of IPv6 stand for those of IPv4 as well, as in other servers; any other is one address.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != EVERY_FAMILY)
        try:
            sock.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        sock.close()
        raise
    return sock


def prepare_to_listen(sockets: Iterable[socket.socket]) -> None:
    """Let the next server bind the address while connections to these sockets are in TIME-WAIT; call it before they listen."""
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
