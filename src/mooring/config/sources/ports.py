"""The addresses of a server whose user names one host or one port: pure rules, and the look at which ports are free.

``mooring serve --port 9000`` serves inference at 9000, and management, metrics, gRPC and the management over gRPC at the
next free ports. An address that has a setting of its own stays as it is, but for the port of the inference address:
there the later source wins, as everywhere (a flag over the file) (decision 55).
"""

import errno
import socket
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mooring.config.settings import DEFAULTS, Address, ConfigError

INFERENCE = "inference_address"
# In the order in which they take ports.
LISTENERS = (INFERENCE, "management_address", "metrics_address", "grpc_address", "grpc_management_address")
_SERVES_INFERENCE = (INFERENCE, "grpc_address")
_LAST_PORT = 65_535


def apply_base(chosen: dict[str, Any], later: Mapping[str, Any]) -> None:
    """Add the settings of a later source to those ``chosen`` so far: its host and port count in an earlier address, too."""
    address: Address | None = chosen.get(INFERENCE)
    if (
        address is not None
        and INFERENCE not in later
        and (later.get("host") or later.get("port") is not None)
    ):
        chosen.pop(INFERENCE)
        if not address.path:
            host, port = later.get("host") or address.host, later.get("port")
            chosen[INFERENCE] = msgspec.structs.replace(
                address, host=host, port=address.port if port is None else port
            )
    chosen.update(later)


def place_listeners(chosen: Mapping[str, Any], is_free: Callable[[str, int], bool]) -> dict[str, Address]:
    """Return the addresses that follow from ``host`` and ``port`` in these settings: all that have none of their own.

    ``is_free`` says whether nobody listens at a host and a port. It is not asked about the inference port: if that is
    taken, the server must not serve elsewhere. Raises ``ConfigError`` where there are too few ports.

    >>> found = place_listeners({"port": 9000, "metrics_address": Address("127.0.0.1", 9001)}, lambda _, port: True)
    >>> {name: address.port for name, address in found.items()}
    {'inference_address': 9000, 'management_address': 9002, 'grpc_address': 9003, 'grpc_management_address': 9004}
    """
    host: str = chosen.get("host", "")
    base: int | None = chosen.get("port")
    if not host and base is None:
        return {}
    placed: dict[str, Address] = {}
    taken = {chosen[name].port for name in LISTENERS if name in chosen}
    port = base or 0
    for name in LISTENERS:
        if name in chosen:
            continue
        default: Address = getattr(DEFAULTS, name)
        place = host if host and name in _SERVES_INFERENCE else default.host
        if base:
            while name != INFERENCE and port <= _LAST_PORT and (port in taken or not is_free(place, port)):
                port += 1
            if port > _LAST_PORT:
                raise ConfigError(
                    f"port = {base}: no port is free from there to {_LAST_PORT} for {name}; give a lower one"
                )
        placed[name] = Address(place, default.port if base is None else port)
        port += 1 if base else 0
    return placed


def can_listen(host: str, port: int) -> bool:
    """Whether nobody else listens there now. What else may be wrong with a host is the listener's to report."""
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return True
    for family, kind, protocol, _, address in places:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server has it
                probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
    return True
