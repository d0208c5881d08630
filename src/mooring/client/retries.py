"""Which failed calls are made again, and when: pure rules, with no clock and no socket.

A call is repeated only where no model has run for it: nothing was sent because nobody listened, or the server answered
that it cannot take the request now (503 over HTTP; UNAVAILABLE, or RESOURCE_EXHAUSTED with a time to come again, over
gRPC). A connection that breaks, a time-out and every other status may mean that the model has run, and are never repeated.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from mooring.core.errors import MooringError, ServerUnreachable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds


class RetryPolicy(msgspec.Struct, frozen=True):
    """At most ``retries`` repetitions of a call, further and further apart.

    >>> [RetryPolicy(3).pause(0.0, done, left=60.0, chance=1.0) for done in range(4)]
    [0.1, 0.2, 0.4, None]
    """

    retries: int

    def pause(self, after: float | None, done: int, *, left: float, chance: float) -> float | None:
        """Return the seconds to wait before the next try, None where there is none.

        ``after`` are the seconds that the server asks for, None where the call may not be repeated. ``done`` counts the
        repetitions so far, ``left`` are the seconds until the caller stops waiting. ``chance``, from 0 to 1, keeps many
        clients from coming back at once.
        """
        if after is None or done >= self.retries:
            return None
        back_off = min(_FIRST_PAUSE * 2**done, _LONGEST_PAUSE)
        pause = back_off * (0.5 + chance / 2) if after <= 0 else after + back_off * chance
        return pause if pause < left else None


def repeat_after(error: MooringError, *, inference: bool = True) -> float | None:
    """Return the seconds after which a failed call may be repeated, None where it may not.

    Only an inference is repeated after a refusal: a server also refuses loads with 503 that it will never allow.
    """
    return error.repeat_after if inference or isinstance(error, ServerUnreachable) else None


def read_retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float:
    """Return the seconds of a Retry-After header, which may hold seconds or a date; 0.0 where there is none to read."""
    text = headers.get("retry-after", "")
    try:
        return _seconds(float(text))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return _seconds((date - (now or datetime.now(UTC))).total_seconds())


def read_pushback(trailers: Any) -> float | None:
    """Return the seconds of gRPC's grpc-retry-pushback-ms among the trailers of a call, None where there are none."""
    for name, value in trailers or ():
        if name == "grpc-retry-pushback-ms":
            try:
                return _seconds(int(value) / 1000)
            except ValueError:
                return None
    return None


def _seconds(number: float) -> float:
    return max(number, 0.0) if math.isfinite(number) else 0.0
