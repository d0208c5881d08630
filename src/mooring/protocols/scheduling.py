"""What clients say of a request's place in the queue and of how long they wait for it.

In the schedule policy extension's parameters, or in a header that means the same under every protocol over HTTP.
"""

import time

import msgspec

from mooring.core.errors import InvalidInput
from mooring.core.tensors import RequestValue
from mooring.web.http1 import Exchange

# What the server reads; all other parameters are the model's.
_OURS = frozenset({"priority", "timeout", "binary_data_output"})
_MOST = 2**63
TIMEOUT_HEADER = _HEADER = b"x-request-timeout-ms"
_MOST_DIGITS = 12


def read_deadline(exchange: Exchange) -> float | None:
    """When the caller stops waiting, on the monotonic clock, if the header says it.

    The time counts from now, which is when the whole request is there. Raises ``InvalidInput`` naming the header.
    """
    stated = exchange.fields.get(_HEADER)
    if stated is None:
        return None
    if not stated.isdigit() or len(stated) > _MOST_DIGITS or not int(stated):
        raise InvalidInput(
            "header x-request-timeout-ms must be a whole number of milliseconds from 1, "
            f"not '{stated.decode('latin-1')}'"
        )
    return time.monotonic() + int(stated) / 1000


class Schedule(msgspec.Struct, frozen=True):
    """``priority`` and ``deadline`` as ``InferenceRequest`` has them, and the parameters that are left for the model."""

    priority: int = 0
    deadline: float | None = None
    parameters: dict[str, RequestValue] | None = None


_PLAIN = Schedule()


def read_schedule(parameters: dict[str, RequestValue] | None, deadline: float | None = None) -> Schedule:
    """Read ``priority`` (1 is the highest, 0 the default) and ``timeout`` (microseconds, 0 for none).

    ``deadline`` is what was said elsewhere; the sooner of both holds. Raises ``InvalidInput``.
    """
    if not parameters:
        return _PLAIN if deadline is None else Schedule(0, deadline)
    if _OURS.isdisjoint(parameters):
        return Schedule(0, deadline, parameters)
    if len(parameters) == 1 and "binary_data_output" in parameters:  # what most who send binary tensors say
        return _PLAIN if deadline is None else Schedule(0, deadline)
    priority, timeout = _number(parameters, "priority"), _number(parameters, "timeout")
    left = {name: value for name, value in parameters.items() if name not in _OURS}
    if timeout:
        own = time.monotonic() + timeout / 1e6
        deadline = own if deadline is None else min(own, deadline)
    return Schedule(priority, deadline, left or None)


def _number(parameters: dict[str, RequestValue], name: str) -> int:
    value = parameters.get(name, 0)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)  # what clients send whose parameters are all texts
    if type(value) is not int or not 0 <= value < _MOST:
        raise InvalidInput(f"parameter '{name}' of the request must be a whole number from 0, not {value!r}")
    return value
