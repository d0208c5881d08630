"""The priority and the deadline of a request, as clients give them.

They come as parameters (Triton's schedule policy extension) or, for the deadline, as a header in every protocol over
HTTP.
"""

import time

import msgspec

from mooring.core.errors import InvalidInput
from mooring.core.tensors import RequestValue
from mooring.web.http1 import Exchange

# Parameters that the server reads; all others go to the model.
_SERVER_PARAMETERS = frozenset({"priority", "timeout", "binary_data_output"})
_MAX_VALUE = 2**63
TIMEOUT_HEADER = _HEADER = b"x-request-timeout-ms"
_MAX_DIGITS = 12


def read_deadline(exchange: Exchange) -> float | None:
    """Return the deadline in the header x-request-timeout-ms, on the monotonic clock; None without the header.

    The time counts from now, when the whole request is there. Raises ``InvalidInput``, which names the header.
    """
    stated = exchange.fields.get(_HEADER)
    if stated is None:
        return None
    if not stated.isdigit() or len(stated) > _MAX_DIGITS or not int(stated):
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


_DEFAULT = Schedule()


def read_schedule(parameters: dict[str, RequestValue] | None, deadline: float | None = None) -> Schedule:
    """Read ``priority`` (1 is the highest, 0 the default) and ``timeout`` (microseconds, 0 for none).

    ``deadline`` is the one of the header or the gRPC call; the earlier of both holds. Raises ``InvalidInput``.
    """
    if not parameters:
        return _DEFAULT if deadline is None else Schedule(0, deadline)
    if _SERVER_PARAMETERS.isdisjoint(parameters):
        return Schedule(0, deadline, parameters)
    if len(parameters) == 1 and "binary_data_output" in parameters:  # the usual case with binary tensors
        return _DEFAULT if deadline is None else Schedule(0, deadline)
    priority, timeout = _read_number(parameters, "priority"), _read_number(parameters, "timeout")
    left = {name: value for name, value in parameters.items() if name not in _SERVER_PARAMETERS}
    if timeout:
        own = time.monotonic() + timeout / 1e6
        deadline = own if deadline is None else min(own, deadline)
    return Schedule(priority, deadline, left or None)


def _read_number(parameters: dict[str, RequestValue], name: str) -> int:
    value = parameters.get(name, 0)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)  # some clients can send parameters only as strings
    if type(value) is not int or not 0 <= value < _MAX_VALUE:
        raise InvalidInput(f"parameter '{name}' of the request must be a whole number from 0, not {value!r}")
    return value
