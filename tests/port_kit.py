"""Ports for the servers that tests start."""

import os
import secrets
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
_GIVEN: set[int] = (
    set()
)  # to tests of this process: two questions for one server must not have the same answer


def free_row(count: int) -> int:
    """The first of so many ports in a row that nobody listens on now."""
    while True:
        (first,) = free_ports(1)
        with suppress(OSError), ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, and that the kernel gives to nobody by itself.

    A port of the kernel's own range may be taken between this answer and its use: by a connection of a client, or by
    a server that listens on port 0. Each process of pytest-xdist has ports of its own, for the same reason.
    """
    ephemeral = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (ephemeral - _LOWEST) // processes
    found: list[int] = []
    if len(_GIVEN) > size // 2:
        _GIVEN.clear()
    while len(found) < count:
        port = _LOWEST + process * size + secrets.randbelow(size)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in _GIVEN:
                _GIVEN.add(port)
                found.append(port)
    return found
