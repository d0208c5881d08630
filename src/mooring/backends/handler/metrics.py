"""Metrics of a handler's own, recorded through the worker's reply (docs/contracts/torchserve.md, section 3)."""

import enum
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_log = logging.getLogger(__name__)

Record = Callable[[str, float, str, str, dict[str, str]], None]
"""Name, value, unit, kind, dimensions: ``Reply.metric``."""

# A handler may count things while it loads, before anybody listens; what it then has is kept for the first batch.
_KEPT_BEFORE_FIRST_BATCH = 1000
_SAMPLE_INTERVAL = 1.0


class MetricTypes(enum.Enum):
    """How the values of a metric add up."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


_GAUGE = MetricTypes.GAUGE  # looked up for every call of a handler (core/requests.py says what that costs)


class Dimension:
    """A name and a value that tell one series of a metric from another."""

    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        self.value = value

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"


class Metric:
    """One measured value with its dimensions."""

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
        self.unit = unit
        self.dimensions = list(dimensions)
        self.request_id = request_id
        self.metric_method = metric_method

    def update(self, value: float) -> None:
        """A counter adds up, anything else takes the new value."""
        self.value = self.value + value if self.metric_method == "counter" else value


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
        """Record a value. Raises ``ValueError`` unless there is one dimension value for every name."""
        if len(dimension_values) != len(self.dimension_names):
            raise ValueError(
                f"metric '{self.metric_name}' has dimensions {self.dimension_names}, got {list(dimension_values)}"
            )
        if self.store is not None:
            dimensions = dict(zip(self.dimension_names, map(str, dimension_values), strict=True))
            self.store.record_value(self.metric_name, value, self.unit, self.metric_type, dimensions)

    update = add_or_update


class MetricsStore:
    """The object that handlers know as ``context.metrics``."""

    def __init__(self, request_ids: dict[int, str] | None = None, model_name: str = "") -> None:
        self.model_name = model_name
        self.request_ids = request_ids
        self.listener: Record | None = None
        self._declared: dict[tuple[str, MetricTypes], CachingMetric] = {}
        self._in_files: dict[str, CachingMetric] = {}
        self._next_sample: dict[str, float] = {}
        self._waiting: list[tuple[str, float, str, str, dict[str, str]]] = []

    def set_listener(self, listener: Record) -> None:
        """Send every metric to ``listener`` from now on, first those that were recorded before there was one."""
        self.listener = listener
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for metric in waiting:
                listener(*metric)

    def record_value(
        self, name: str, value: float, unit: str, metric_type: MetricTypes, dimensions: dict[str, str]
    ) -> None:
        """Record a value under exactly these dimensions.

        Raises ``ValueError`` or ``TypeError`` for what is no number.
        """
        value = float(value)  # handlers pass numpy's and torch's numbers too
        if self.listener is not None:
            self.listener(name, value, unit, metric_type.value, dimensions)
        elif len(self._waiting) < _KEPT_BEFORE_FIRST_BATCH:
            self._waiting.append((name, value, unit, metric_type.value, dimensions))

    def record_time(self, name: str, started: float) -> None:
        """Record the milliseconds since ``started`` (of ``time.perf_counter``), but of a gauge at most once a second.

        It keeps its last value only, and to send one with every answer would cost more than a small model does.
        """
        now = time.perf_counter()
        if now >= self._next_sample.get(name, 0.0) or self._adds_up(name):
            self._next_sample[name] = now + _SAMPLE_INTERVAL
            self.add_time(name, round((now - started) * 1000, 2))

    def _adds_up(self, name: str) -> bool:
        declared = self._in_files.get(name)
        return declared is not None and declared.metric_type is not _GAUGE

    def add_declared(self, metric: CachingMetric) -> None:
        """Add a metric that a file declares. Its unit and type then replace those of the handler's calls."""
        metric.store = self
        self._declared[metric.metric_name, metric.metric_type] = metric
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
        labels["ModelName"] = self.model_name
        labels["Level"] = "Model"
        declared = self._in_files.get(name)
        if declared is not None:
            unit, metric_type = declared.unit, declared.metric_type
        self.record_value(name, value, unit, MetricTypes(metric_type), labels)

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
        _check_unit(unit, ("B", "KB", "MB", "GB"))
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
        """Count an error; a ``value`` that is a text goes to the log, since a metric has room for numbers only."""
        if isinstance(value, str):
            _log.error("%s: %s", name, value)
            value = 1
        self.add_metric(name, value, "", None, dimensions)

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Declare a metric; a second declaration of the same name and type replaces the first."""
        metric = CachingMetric(metric_name, unit, dimension_names, metric_type, self)
        self._declared[metric_name, metric.metric_type] = metric
        return metric

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> CachingMetric:
        """A declared metric. Raises ``KeyError`` for one nobody declared."""
        return self._declared[metric_name, MetricTypes(metric_type)]


def _check_unit(unit: str, units: Sequence[str]) -> None:
    if unit not in units:
        raise ValueError(f"unknown unit '{unit}'; known are {', '.join(units)}")
