"""``pb_utils.MetricFamily`` and its metrics, which the server shows at its metrics address."""

import enum
import threading
from collections.abc import Mapping, Sequence

from mooring.backends.triton_python.errors import TritonModelException
from mooring.backends.triton_python.host import HOST
from mooring.core.service import MetricValue


class Kind(enum.Enum):
    """How the values of a metric add up."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric:
    """One series of a family. Values of several workers are added up, but for a gauge, which has the last one."""

    def __init__(
        self, family: "MetricFamily", labels: Mapping[str, str], buckets: Sequence[float] = ()
    ) -> None:
        self._family = family
        self._labels = {str(name): str(value) for name, value in labels.items()}
        self._bounds = tuple(map(float, buckets))
        if list(self._bounds) != sorted(set(self._bounds)):
            raise TritonModelException(
                f"the buckets of a histogram must be in ascending order, not {buckets}"
            )
        self._value = 0.0
        self._lock = threading.Lock()

    def increment(self, value: float) -> None:
        """Add to a counter or a gauge. Raises ``TritonModelException`` for a histogram, and for a counter that would fall."""
        kind = self._family.kind
        if kind is Kind.HISTOGRAM or (kind is Kind.COUNTER and value < 0):
            raise TritonModelException(f"a {kind.value} cannot be incremented by {value}")
        with self._lock:
            self._value += value
            self._record(self._value if kind is Kind.GAUGE else value)

    def set(self, value: float) -> None:
        """Set a gauge. Raises ``TritonModelException`` for any other kind."""
        self._require(Kind.GAUGE, "set")
        with self._lock:
            self._value = float(value)
            self._record(value)

    def observe(self, value: float) -> None:
        """Count a value in a histogram. Raises ``TritonModelException`` for any other kind."""
        self._require(Kind.HISTOGRAM, "observed")
        self._record(value)

    def value(self) -> float:
        """The value as this worker knows it. Raises ``TritonModelException`` for a histogram, which has none."""
        if self._family.kind is Kind.HISTOGRAM:
            raise TritonModelException("a histogram has no single value")
        return self._value

    def _require(self, kind: Kind, done: str) -> None:
        if self._family.kind is not kind:
            raise TritonModelException(f"a {self._family.kind.value} cannot be {done}")

    def _record(self, value: float) -> None:
        family = self._family
        HOST.record(
            MetricValue(
                family.name,
                float(value),
                "",
                family.kind.value,
                self._labels,
                family.description,
                bounds=self._bounds,
            )
        )


class MetricFamily:
    """A metric by its name; its series differ by their labels."""

    MetricKind = Kind
    COUNTER = Kind.COUNTER
    GAUGE = Kind.GAUGE
    HISTOGRAM = Kind.HISTOGRAM

    def __init__(self, name: str, description: str, kind: Kind) -> None:
        self.name = name
        self.description = description
        self.kind = Kind(kind)

    def Metric(  # noqa: N802 - Triton's name
        self, labels: Mapping[str, str] | None = None, buckets: Sequence[float] | None = None
    ) -> Metric:
        """Make the series with these labels. ``buckets`` are the upper bounds of a histogram's buckets; the default is the server's."""
        return Metric(self, labels or {}, buckets or ())
