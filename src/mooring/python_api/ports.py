"""The port that ``mooring.serve`` takes where the caller names none."""

from collections.abc import Callable, Mapping
from typing import Any

from mooring.config.settings import DEFAULTS, Address
from mooring.config.sources.loading import PREFIX
from mooring.config.sources.ports import LISTENERS

# Any of these says where the server listens.
_PLACES = ("inference_address", "port", "config")
_MOST = 1000


def names_a_place(settings: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Whether keyword arguments or variables say already where the server listens."""
    return any(
        settings.get(name) is not None or environment.get(f"{PREFIX}{name.upper()}") for name in _PLACES
    )


def choose_port(is_free: Callable[[str, int], bool], first: int = 0) -> int | None:
    """Return the first free port from 8080 up, or from ``first``; None where all default addresses are free.

    >>> choose_port(lambda _host, _port: True)
    >>> choose_port(lambda _host, port: port != 8080)
    8081
    """
    addresses: list[Address] = [getattr(DEFAULTS, name) for name in LISTENERS]
    if not first and all(is_free(each.host, each.port) for each in addresses):
        return None
    place = addresses[0]
    begin = first or place.port
    for port in range(begin, begin + _MOST):
        if is_free(place.host, port):
            return port
    return 0
