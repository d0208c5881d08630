"""The metrics that models' own code records, as the server keeps them: over all workers, and over every reload."""

import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.registry import Collector

from mooring.observability.histogram import Histogram, add_histogram
from mooring.observability.logs import get_logger
from mooring.observability.records import COUNTER, HISTOGRAM, Record

log = get_logger(__name__)

# What Prometheus takes, https://prometheus.io/docs/concepts/data_model/. A name with a colon is for its own rules,
# but it takes it.
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")

# A dimension that takes another value for every request would fill the server's memory, and Prometheus'.
MOST_SERIES = 1000
MOST_METRICS = 1000
_LONGEST = 1024

# Three to a decade: nobody says what a model's own numbers are, and these are as good for milliseconds as for tokens.
BOUNDS = tuple(
    float(f"{first}e{exponent}") for exponent in range(-3, 6) for first in ("1", "2.5", "5")
)  # fmt: skip

# As TorchServe writes out the units that handlers give.
UNITS = {
    "ms": "Milliseconds", "s": "Seconds", "percent": "Percent", "count": "Count", "B": "Bytes", "KB": "Kilobytes",
    "MB": "Megabytes", "GB": "Gigabytes", "": "unit",
}  # fmt: skip

_SUFFIXES: Mapping[str, tuple[str, ...]] = {HISTOGRAM: ("", "_bucket", "_count", "_sum")}


class _Family:
    """One metric: its kind, and its series by their labels."""

    __slots__ = ("full", "kind", "series", "unit")

    def __init__(self, kind: str, unit: str) -> None:
        self.kind = kind
        self.unit = unit
        self.full = False
        self.series: dict[tuple[tuple[str, str], ...], float | Histogram] = {}


class RecordedMetrics(Collector):
    """Takes records and shows them to Prometheus. ``reserved`` says which names are the server's own."""

    def __init__(self, reserved: Callable[[str], bool] = lambda _name: False) -> None:
        self._reserved = reserved
        self._host = socket.gethostname()
        self._families: dict[str, _Family] = {}
        self._samples: dict[str, str] = {}  # the name of every sample -> of the metric that it belongs to
        self._refused: set[str] = set()

    def record(self, model: str, records: Iterable[Record]) -> None:
        """Take what a worker sent. What Prometheus could not read is left out, and said once for every metric."""
        for record in records:
            family = self._families.get(record.name) or self._begin(model, record)
            if family is None:
                continue
            if family.kind != record.kind:
                self._refuse(model, record.name, f"it is a {family.kind} already, and not a {record.kind}")
                continue
            self._add(model, family, record)

    def _begin(self, model: str, record: Record) -> _Family | None:
        fault = self._fault(record)
        if fault:
            self._refuse(model, record.name, fault)
            return None
        family = self._families[record.name] = _Family(record.kind, record.unit)
        self._samples.update(dict.fromkeys(_sample_names(record), record.name))
        return family

    def _fault(self, record: Record) -> str:
        if not _NAME.fullmatch(record.name) or len(record.name) > _LONGEST:
            return "Prometheus does not take such a name"
        if any(name in self._samples or self._reserved(name) for name in _sample_names(record)):
            return "another metric is called so"
        return f"there are {MOST_METRICS} metrics already" if len(self._families) >= MOST_METRICS else ""

    def _add(self, model: str, family: _Family, record: Record) -> None:
        key = tuple(sorted({**record.dimensions, "Hostname": self._host}.items()))
        known = family.series.get(key)
        if known is None:
            fault = _label_fault(record)
            if fault:
                self._refuse(model, record.name, fault)
                return
            if len(family.series) >= MOST_SERIES:
                self._overflow(model, family, record)
                return
            known = family.series[key] = Histogram(BOUNDS) if family.kind == HISTOGRAM else 0.0
        if isinstance(known, Histogram):
            for value in record.values:
                known.observe(value)
        elif family.kind == COUNTER:
            family.series[key] = known + sum(record.values)
        else:
            family.series[key] = record.values[-1]

    def _overflow(self, model: str, family: _Family, record: Record) -> None:
        if not family.full:
            family.full = True
            log.warning(
                "metric has too many dimension values, further ones are left out",
                metric=record.name,
                model=model,
                most=MOST_SERIES,
                dimensions=",".join(record.dimensions),
            )

    def _refuse(self, model: str, name: str, reason: str) -> None:
        if name not in self._refused and len(self._refused) < MOST_METRICS:
            self._refused.add(name)
            log.warning("metric refused", metric=name[:_LONGEST], model=model, reason=reason)

    def collect(self) -> Iterator[Metric]:
        """Every metric anew."""
        for name, family in self._families.items():
            unit = UNITS.get(family.unit, family.unit)
            shown = Metric(
                name, f"Torchserve prometheus {family.kind} metric with unit: {_line(unit)}", family.kind
            )
            for key, value in list(family.series.items()):
                if isinstance(value, Histogram):
                    add_histogram(shown, dict(key), value)
                else:
                    shown.add_sample(name, dict(key), value)
            yield shown


def _sample_names(record: Record) -> list[str]:
    return [record.name + suffix for suffix in _SUFFIXES.get(record.kind, ("",))]


def _label_fault(record: Record) -> str:
    for name, value in record.dimensions.items():
        if not _LABEL.fullmatch(name) or (name == "le" and record.kind == HISTOGRAM):
            return f"Prometheus does not take a dimension called '{name[:_LONGEST]}'"
        if len(value) > _LONGEST:
            return f"a value of its dimension '{name}' has {len(value)} characters"
    return ""


def _line(text: str) -> str:
    return " ".join(text.split())
