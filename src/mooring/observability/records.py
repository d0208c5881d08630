"""What a model's own code recorded, on its way from a worker to the server: gathered there, sent with the answers.

A counter travels as what was added to it since, a gauge as its last value, a histogram as every value.
"""

import logging
import math
import threading
from typing import NamedTuple

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

_log = logging.getLogger(__name__)

# Values that one message may carry. A handler that records more before it answers sends them by themselves.
MOST_WAITING = 1000


class Record(NamedTuple):
    """One series of a metric, and what became of it."""

    name: str
    unit: str
    kind: str
    dimensions: dict[str, str]
    values: list[float]


class Recorder:
    """Gathers what is recorded in a worker, from any of its threads."""

    __slots__ = ("_lock", "_refused", "_series", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self._series: dict[tuple[object, ...], Record] = {}
        self._refused: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def record(self, name: str, value: float, unit: str, kind: str, dimensions: dict[str, str]) -> bool:
        """Keep a value until ``take``; True when so much waits that it should be sent now.

        What is no finite number, or would take a counter down, is left out and said once. Raises ``ValueError`` for
        an unknown kind.
        """
        if kind not in (COUNTER, GAUGE, HISTOGRAM):
            raise ValueError(f"unknown kind of metric '{kind}'")
        if not math.isfinite(value):
            self._refuse(name, "it is not a finite number")
        elif kind == COUNTER and value < 0:
            self._refuse(name, "a counter cannot go down")
        else:
            with self._lock:
                self._keep(name, value, unit, kind, dimensions)
        return self.waiting >= MOST_WAITING

    def _keep(self, name: str, value: float, unit: str, kind: str, dimensions: dict[str, str]) -> None:
        key = (name, kind, *dimensions.items())
        known = self._series.get(key)
        if known is None:
            texts = {_text(label): _text(text) for label, text in dimensions.items()}
            self._series[key] = Record(_text(name), _text(unit), kind, texts, [float(value)])
        elif kind == HISTOGRAM:
            known.values.append(value)
        else:
            known.values[0] = value if kind == GAUGE else known.values[0] + value
            return
        self.waiting += 1

    def take(self) -> list[Record] | None:
        """What has been recorded since the last call; None for nothing."""
        if not self.waiting:
            return None
        with self._lock:
            taken, self._series, self.waiting = self._series, {}, 0
        return list(taken.values())

    def _refuse(self, name: str, reason: str) -> None:
        if (name, reason) not in self._refused and len(self._refused) < MOST_WAITING:
            self._refused.add((name, reason))
            _log.warning("a value of the metric %r is left out: %s", name, reason)


def _text(given: object) -> str:
    """What can be sent: handlers pass None for a unit, and clients' halves of surrogate pairs as dimensions."""
    return str("" if given is None else given).encode("utf-8", "replace").decode()
