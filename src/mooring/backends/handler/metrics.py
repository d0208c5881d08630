"""Metrics of a handler's own, recorded through the worker's reply (docs/contracts/torchserve.md, section 3)."""

import enum
import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mooring.backends.handler.metric_errors import MetricsCacheKeyError, MetricsCacheValueError
from mooring.core.service import MetricValue
from mooring.observability.records import UNITS

_log = logging.getLogger(__name__)

RecordMetric = Callable[[MetricValue], None]
"""``Reply.record_metric``."""

# A handler may count things while it loads, before anybody listens; what it then has is kept for the first batch.
_KEPT_BEFORE_FIRST_BATCH = 1000
_SAMPLE_INTERVAL = 1.0


class MetricTypes(enum.Enum):
    """How the values of a metric add up."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


# What TorchServe's own metrics.yaml declares of models.
_DECLARED_BY_TORCHSERVE = frozenset({"HandlerTime", "PredictionTime"})

_GAUGE = MetricTypes.GAUGE  # looked up for every call of a handler (core/requests.py says what that costs)


class Dimension:
    """A name and a value that tell one series of a metric from another."""

    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        self.value = value

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, Any]:
        return {"Name": self.name, "Value": self.value}


class Metric:
    """One measured value with its dimensions. Its text is that of a line in TorchServe's log."""

    def __init__(
        self,
        name: str,
        value: float,
        unit: str = "",
        dimensions: Iterable[Dimension] = (),
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        self.name = name
        self.metric_name = name
        self.value = value
        self.unit = UNITS.get(unit or "", unit)
        self.dimensions = list(dimensions)
        self.request_id = request_id
        self.metric_method = metric_method

    def update(self, value: float) -> None:
        """A counter adds up, anything else takes the new value."""
        self.value = self.value + value if self.metric_method == "counter" else value

    def __str__(self) -> str:
        dimensions = ",".join(map(str, self.dimensions))
        tail = f",{self.request_id}" if self.request_id else ""
        return (
            f"{self.name}.{self.unit}:{self.value}|#{dimensions}"
            f"|#hostname:{socket.gethostname()},{int(time.time())}{tail}"
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "MetricName": self.name,
            "Value": self.value,
            "Unit": self.unit,
            "Dimensions": self.dimensions,
            "Timestamp": int(time.time()),
            "HostName": socket.gethostname(),
            "RequestId": self.request_id,
        }


class CachingMetric:
    """A metric declared once and fed often: its unit, type and the names of its dimensions are fixed."""

    def __init__(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
        store: "MetricsStore | None" = None,
    ) -> None:
        self.metric_name = metric_name
        self.unit = unit
        self.dimension_names = list(dimension_names)
        self.metric_type = MetricTypes(metric_type)
        self.store = store

    def add_or_update(self, value: float, dimension_values: Sequence[Any] = (), request_id: str = "") -> None:
        """Record a value. What does not fit the declaration is logged and left out, as in TorchServe."""
        values = list(dimension_values or ())
        if len(values) != len(self.dimension_names):
            _log.error(
                "metric '%s' not recorded: its dimensions are %s, got the values %s",
                self.metric_name,
                self.dimension_names,
                values,
            )
        elif self.store is not None:
            dimensions = dict(zip(self.dimension_names, map(str, values), strict=True))
            self.store.record_value(
                self.metric_name, value, self.unit, self.metric_type, dimensions, request_id or ""
            )

    def update(self, value: float, request_id: str = "", dimensions: Iterable[Dimension] = ()) -> None:
        """Record a value under these dimensions, which replace the declared ones from now on."""
        dimensions = list(dimensions)
        self.dimension_names = [str(dimension.name) for dimension in dimensions]
        self.add_or_update(value, [dimension.value for dimension in dimensions], request_id)


class MetricsStore:
    """The object that handlers know as ``context.metrics``.

    With ``as_lines`` every value is reported by itself with its request, in TorchServe's units.
    """

    def __init__(
        self, request_ids: dict[int, str] | None = None, model_name: str = "", *, as_lines: bool = False
    ) -> None:
        self.as_lines = as_lines
        self.model_name = model_name
        self.request_ids = request_ids
        self.listener: RecordMetric | None = None
        self.cache: dict[MetricTypes, dict[str, CachingMetric]] = {kind: {} for kind in MetricTypes}
        self._in_files: dict[str, CachingMetric] = {}
        self._next_sample: dict[str, float] = {}
        self._waiting: list[tuple[str, float, str, MetricTypes, dict[str, str], str]] = []

    def set_listener(self, listener: RecordMetric) -> None:
        """Send every metric to ``listener`` from now on, first those that were recorded before there was one."""
        self.listener = listener
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for metric in waiting:
                self.record_value(*metric)

    def record_value(
        self,
        name: str,
        value: float,
        unit: str,
        metric_type: MetricTypes,
        dimensions: dict[str, str],
        request_id: str = "",
    ) -> None:
        """Record a value under exactly these dimensions, for the requests with this id.

        Raises ``ValueError`` or ``TypeError`` for what is no number.
        """
        value = float(value)  # handlers pass numpy's and torch's numbers too
        kind = metric_type.value
        if self.listener is not None:
            if not self.as_lines:
                metric = MetricValue(name, value, unit, kind, dimensions)
            else:
                unit = self._line_unit(name, unit)
                metric = MetricValue(name, value, unit, kind, dimensions, request_id=request_id)
            self.listener(metric)
        elif len(self._waiting) < _KEPT_BEFORE_FIRST_BATCH:
            self._waiting.append((name, value, unit, metric_type, dimensions, request_id))

    def _line_unit(self, name: str, unit: str) -> str:
        """Return a unit as TorchServe's lines have it: that of a metrics.yaml as it stands there, others by their names."""
        declared = self._in_files.get(name)
        if declared is not None:
            return declared.unit
        return unit if name in _DECLARED_BY_TORCHSERVE else UNITS.get(unit or "", unit)

    def record_time(self, name: str, started: float) -> None:
        """Record the milliseconds since ``started`` (of ``time.perf_counter``), but of a gauge at most once a second.

        It keeps its last value only, and to send one with every answer would cost more than a small model does. Where
        metrics are lines there is one for each call.
        """
        now = time.perf_counter()
        if self.as_lines or now >= self._next_sample.get(name, 0.0) or self._adds_up(name):
            self._next_sample[name] = now + _SAMPLE_INTERVAL
            milliseconds = round((now - started) * 1000, 2)
            labels = {"ModelName": self.model_name, "Level": "Model"}
            self._record_under(labels, name, milliseconds, "ms", _GAUGE, None)

    def _adds_up(self, name: str) -> bool:
        declared = self._in_files.get(name)
        return declared is not None and declared.metric_type is not _GAUGE

    def add_declared(self, metric: CachingMetric) -> None:
        """Add a metric that a file declares. Its unit and type then replace those of the handler's calls."""
        metric.store = self
        self.cache[metric.metric_type][metric.metric_name] = metric
        self._in_files[metric.metric_name] = metric

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Iterable[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Record a value under the model's name, its level and the handler's own dimensions."""
        labels = {str(dimension.name): str(dimension.value) for dimension in dimensions or ()}
        labels.setdefault("ModelName", self.model_name)
        labels.setdefault("Level", "Model")
        self._record_under(labels, name, value, unit, MetricTypes(metric_type), idx)

    def _record_under(
        self,
        labels: dict[str, str],
        name: str,
        value: float,
        unit: str,
        metric_type: MetricTypes,
        idx: int | None,
    ) -> None:
        declared = self._in_files.get(name)
        if declared is not None:
            unit, metric_type = declared.unit, declared.metric_type
        elif name not in (known := self.cache[metric_type]):
            known[name] = CachingMetric(name, unit, list(labels), metric_type, self)
        request_id = self._find_request_id(idx) if self.as_lines and "ModelName" in labels else ""
        self.record_value(name, value, unit, metric_type, labels, request_id)

    def _find_request_id(self, idx: int | None) -> str:
        """Return the id of a row's request, or of all requests of the call where no row is named."""
        ids = self.request_ids
        if not isinstance(ids, dict):
            return ids or ""
        if idx is not None and idx in ids:
            return str(ids[idx])
        return ",".join(map(str, dict.fromkeys(ids.values())))

    def add_counter(
        self, name: str, value: float, idx: int | None = None, dimensions: Iterable[Dimension] | None = None
    ) -> None:
        self.add_metric(name, value, "count", idx, dimensions)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Iterable[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Raises ``ValueError`` for a unit of anything but time."""
        _check_unit(unit, ("ms", "s"))
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Iterable[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Raises ``ValueError`` for a unit of anything but size."""
        _check_unit(unit, ("MB", "kB", "GB", "B", "KB"))
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Iterable[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        self.add_metric(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: Any, dimensions: Iterable[Dimension] | None = None) -> None:
        """Count an error, under ``Level:Error`` and the handler's own dimensions.

        A ``value`` that is a text goes to the log, since a metric has room for numbers only.
        """
        if isinstance(value, str):
            _log.error("%s: %s", name, value)
            value = 1
        labels = {str(dimension.name): str(dimension.value) for dimension in dimensions or ()}
        labels.setdefault("Level", "Error")
        self._record_under(labels, name, value, "", MetricTypes.COUNTER, None)

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Declare a metric; a second declaration of the same name and type replaces the first."""
        metric = CachingMetric(metric_name, unit, dimension_names, metric_type, self)
        self.cache[metric.metric_type][metric_name] = metric
        return metric

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> CachingMetric:
        """Return a metric that was declared, or recorded before. Raises ``MetricsCacheKeyError`` for one nobody named."""
        metric = self.cache[MetricTypes(metric_type)].get(metric_name)
        if metric is None:
            raise MetricsCacheKeyError(
                f"no {MetricTypes(metric_type).value} called '{metric_name}' was declared or recorded"
            )
        return metric

    def cache_keys(self) -> list[str]:
        """Return the type and name of every metric that was declared or recorded, as ``counter:Rows``."""
        return [f"{kind.value}:{name}" for kind, metrics in self.cache.items() for name in metrics]


def _check_unit(unit: str, units: Sequence[str]) -> None:
    if unit not in units:
        raise MetricsCacheValueError(f"unknown unit '{unit}'; known are {', '.join(units)}")
