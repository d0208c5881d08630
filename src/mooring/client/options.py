"""What the arguments of a client may be: pure rules. All raise ``InvalidInput``, which names the argument."""

import re
from collections.abc import Mapping
from typing import Any

from mooring.core.errors import InvalidInput

# Longer times are as good as for ever, and more than timers of the operating system take.
_LONGEST = 365 * 86400.0
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e]*")


def read_seconds(name: str, value: Any) -> float:
    """Return a time in seconds, which is above 0; infinity is a year.

    >>> read_seconds("timeout", 3)
    3.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InvalidInput(f"{name} must be a number of seconds above 0, not {value!r}")
    return float(min(value, _LONGEST))


def read_count(name: str, value: Any, least: int) -> int:
    """Return a whole number from ``least`` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInput(f"{name} must be a whole number from {least} on, not {value!r}")
    return value


def read_headers(headers: Mapping[str, str] | None, token: str) -> dict[str, str]:
    """Return what goes with every call. No value is in the text of an error: it may be a secret."""
    if not _is_field_value(token):
        raise InvalidInput("token holds what no header can: a line break, or a letter that is not ASCII")
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _FIELD_NAME.fullmatch(name):
            raise InvalidInput(f"headers: {name!r} is no name of a header")
        if not _is_field_value(value):
            raise InvalidInput(
                f"headers: the value of {name!r} must be a string of ASCII without line breaks"
            )
    return dict(headers or {}) | ({"authorization": f"Bearer {token}"} if token else {})


def _is_field_value(value: Any) -> bool:
    return isinstance(value, str) and _FIELD_VALUE.fullmatch(value) is not None
