"""How late the event loop is: what runs there without a break keeps every connection waiting."""

import asyncio
import time

from mooring.observability.histogram import Histogram

# Seconds. A timer of the loop is a millisecond late by itself.
LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Seconds between two looks.
_EVERY = 0.25


class LoopLag:
    """Measures, four times a second, how much later than it should a timer goes off; ``histogram`` gets the seconds."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._timer = self._start_timer()

    def _start_timer(self) -> asyncio.TimerHandle:
        # Not the loop's own time: uvloop's is that of the beginning of its turn.
        self._due = time.monotonic() + _EVERY
        return self._loop.call_later(_EVERY, self._measure)

    def _measure(self) -> None:
        self._histogram.observe(max(time.monotonic() - self._due, 0.0))
        self._timer = self._start_timer()

    def stop(self) -> None:
        """Measure no more."""
        self._timer.cancel()
