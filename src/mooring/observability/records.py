"""Values that a model's own code records, gathered in the worker and sent to the server with the answers.

A counter is sent as its increase since the last message, a gauge as its last value, a histogram as all its values.
"""

import logging
import math
import re
import threading
from typing import NamedTuple

from mooring.core.service import MetricValue

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

_log = logging.getLogger(__name__)

# As TorchServe writes out the units that handlers give.
UNITS = {
    "ms": "Milliseconds", "s": "Seconds", "percent": "Percent", "count": "Count", "B": "Bytes", "kB": "Kilobytes",
    "KB": "Kilobytes", "MB": "Megabytes", "GB": "Gigabytes", "": "unit",
}  # fmt: skip

# Values in one message at most. A handler that records more before it answers sends them in a message of their own.
MAX_WAITING_VALUES = 1000


class Record(NamedTuple):
    """One series of a metric, and its new values: a single one, with its request's id, where each is reported by itself.

    Only those of Triton's models have a ``description``, and ``bounds`` for a histogram.
    """

    name: str
    unit: str
    kind: str
    dimensions: dict[str, str]
    values: list[float]
    description: str = ""
    request_id: str | None = None
    bounds: tuple[float, ...] = ()


PRINTED = "[METRICS]"
"""What a line begins with that is a metric, as TorchServe reads them from what handlers print."""

_PRINTED_METRIC = re.compile(
    r"\s*(?P<name>[\w\s]+)\.(?P<unit>[\w\s]+):(?P<value>[0-9.e+-]+)\|#(?P<dimensions>[^|]*)"
    r"(?:\|#type:(?P<kind>\w+))?\|#hostname:[^,]+,[^,]+(?:,(?P<request>.*))?"
)


def read_printed_metric(line: str) -> Record | None:
    """Return the metric that a line is, in the form of ``ts.metrics.metric.Metric``; None for another line.

    One that names no type is a gauge.

    >>> read_printed_metric("[METRICS]Took.ms:2.5|#Level:Model|#hostname:h,1700000000,id").values
    [2.5]
    """
    match = _PRINTED_METRIC.fullmatch(line.removeprefix(PRINTED))
    kind = (match["kind"] or GAUGE).lower() if match is not None else ""
    if match is None or kind not in (COUNTER, GAUGE, HISTOGRAM):
        return None
    try:
        value = float(match["value"])
    except ValueError:
        return None
    pairs = (each.partition(":") for each in match["dimensions"].split(",") if ":" in each)
    dimensions = {name: text for name, _, text in pairs}
    if kind == COUNTER and value < 0:
        return None
    return Record(match["name"], match["unit"], kind, dimensions, [value], request_id=match["request"])


class Recorder:
    """Gathers the recorded values of a worker, from any of its threads."""

    __slots__ = ("_lock", "_series", "_warned", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self._series: dict[tuple[object, ...], Record] = {}
        self._warned: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def record_value(self, metric: MetricValue) -> bool:
        """Keep a value until ``take_records``; return True when so many wait that they should be sent now.

        A value that is not finite, or would decrease a counter, is dropped and logged once. Raises ``ValueError`` for
        an unknown kind.
        """
        if metric.kind not in (COUNTER, GAUGE, HISTOGRAM):
            raise ValueError(f"unknown kind of metric '{metric.kind}'")
        if not math.isfinite(metric.value):
            self._warn_refused(metric.name, "it is not a finite number")
        elif metric.kind == COUNTER and metric.value < 0:
            self._warn_refused(metric.name, "a counter cannot go down")
        else:
            with self._lock:
                self._store_value(metric)
        return self.waiting >= MAX_WAITING_VALUES

    def _store_value(self, metric: MetricValue) -> None:
        name, value, unit, kind, dimensions, description, request_id, bounds = metric
        key = (name, kind, *dimensions.items()) if request_id is None else (len(self._series),)
        series = self._series.get(key)
        if series is None:
            self._series[key] = Record(
                _to_text(name),
                _to_text(unit),
                kind,
                {_to_text(label): _to_text(text) for label, text in dimensions.items()},
                [float(value)],
                _to_text(description),
                None if request_id is None else _to_text(request_id),
                bounds,
            )
        elif kind == HISTOGRAM:
            series.values.append(value)
        else:
            series.values[0] = value if kind == GAUGE else series.values[0] + value
            return
        self.waiting += 1

    def take_records(self) -> list[Record] | None:
        """Return the records since the last call; None if there are none."""
        if not self.waiting:
            return None
        with self._lock:
            records, self._series, self.waiting = self._series, {}, 0
        return list(records.values())

    def _warn_refused(self, name: str, reason: str) -> None:
        if (name, reason) not in self._warned and len(self._warned) < MAX_WAITING_VALUES:
            self._warned.add((name, reason))
            _log.warning("a value of the metric %r is left out: %s", name, reason)


def _to_text(value: object) -> str:
    """Return a valid UTF-8 text: handlers pass None for a unit, and lone surrogates from clients as dimensions."""
    return str("" if value is None else value).encode("utf-8", "replace").decode()
