"""The schedule policy extension: what a request's parameters say of its place in the queue."""

import time

import msgspec

from mooring.core.errors import InvalidInput
from mooring.core.tensors import Parameter

# What the server reads; all other parameters are the model's.
_OURS = frozenset({"priority", "timeout", "binary_data_output"})
_MOST = 2**63


class Schedule(msgspec.Struct, frozen=True):
    """``priority`` and ``deadline`` as ``InferenceRequest`` has them, and the parameters that are left for the model."""

    priority: int = 0
    deadline: float | None = None
    parameters: dict[str, Parameter] | None = None


_PLAIN = Schedule()


def scheduled(parameters: dict[str, Parameter] | None) -> Schedule:
    """Read ``priority`` (1 is the highest, 0 the default) and ``timeout`` (microseconds, 0 for none).

    Raises ``InvalidInput``.
    """
    if not parameters:
        return _PLAIN
    if _OURS.isdisjoint(parameters):
        return Schedule(parameters=parameters)
    priority, timeout = _number(parameters, "priority"), _number(parameters, "timeout")
    left = {name: value for name, value in parameters.items() if name not in _OURS}
    return Schedule(priority, time.monotonic() + timeout / 1e6 if timeout else None, left or None)


def _number(parameters: dict[str, Parameter], name: str) -> int:
    value = parameters.get(name, 0)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)  # what clients send whose parameters are all texts
    if type(value) is not int or not 0 <= value < _MOST:
        raise InvalidInput(f"parameter '{name}' of the request must be a whole number from 0, not {value!r}")
    return value
