"""The metrics that models' own code records, summed over all workers and kept over reloads."""

import functools
import re
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from mooring.observability.exposition import (
    Family,
    Page,
    fill,
    format_labels,
    format_number,
    histogram_template,
    histogram_values,
)
from mooring.observability.histogram import Histogram
from mooring.observability.logs import get_logger
from mooring.observability.records import COUNTER, GAUGE, HISTOGRAM, UNITS, Record

log = get_logger(__name__)

# Valid names, see https://prometheus.io/docs/concepts/data_model/. Colons are meant for recording rules, but allowed.
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")

# Limits on cardinality: a dimension with a new value per request would fill the server's memory, and Prometheus'.
MAX_SERIES = 1000
MAX_METRICS = 1000
_MAX_CHARACTERS = 1024
# Series that are written without a look whether something else is to be done.
_SERIES_AT_A_TIME = 20

# Three to a decade: the scale of a model's own values is unknown, and these fit milliseconds as well as tokens.
BOUNDS = tuple(
    float(f"{first}e{exponent}") for exponent in range(-3, 6) for first in ("1", "2.5", "5")
)  # fmt: skip

_SUFFIXES: Mapping[str, tuple[str, ...]] = {HISTOGRAM: ("", "_bucket", "_count", "_sum")}


class _Series:
    """The values with one combination of dimensions: a sum, the last one, or a histogram, and the model of the last one."""

    __slots__ = ("labels", "model", "value")

    def __init__(self, labels: str, value: float | Histogram) -> None:
        self.labels = labels
        self.model = ""
        self.value = value


class _Family:
    """One metric: its kind, and its series by their labels."""

    __slots__ = ("description", "full", "kind", "series", "unit")

    def __init__(self, kind: str, unit: str, description: str = "") -> None:
        self.kind = kind
        self.unit = unit
        self.description = description
        self.full = False
        self.series: dict[tuple[tuple[str, str], ...], _Series] = {}

    def drop_unloaded(self, loaded: Collection[str] | None) -> None:
        """Forget the series of models that are not among the ``loaded`` ones; None for all."""
        if loaded is None:
            return
        for key in [key for key, series in self.series.items() if series.model not in loaded]:
            del self.series[key]


class RecordedMetrics:
    """Keeps records for Prometheus. ``is_reserved`` returns whether a name is one of the server's own metrics.

    Gauges of a model go away with it. Its counters and histograms stay, as those of the server do, until their metric has
    as many series as it may: then those of models that are not loaded make room.
    """

    def __init__(self, is_reserved: Callable[[str], bool] = lambda _name: False) -> None:
        self._is_reserved = is_reserved
        self._loaded: Callable[[], Collection[str] | None] = lambda: None
        self._host = socket.gethostname()
        self._families: dict[str, _Family] = {}
        self._samples: dict[str, str] = {}  # the name of every sample -> of the metric that it belongs to
        self._refused: set[str] = set()

    def read_loaded(self, loaded: Callable[[], Collection[str]]) -> None:
        """Ask ``loaded`` for the names of the models that are loaded. Without this all are."""
        self._loaded = loaded

    def record_values(self, model: str, records: Iterable[Record]) -> None:
        """Add records of a worker. Values that Prometheus cannot read are dropped, with one warning per metric."""
        for record in records:
            family = self._families.get(record.name) or self._add_family(model, record)
            if family is None:
                continue
            if family.kind != record.kind:
                self._warn_refused(
                    model, record.name, f"it is a {family.kind} already, and not a {record.kind}"
                )
                continue
            self._add_values(model, family, record)

    def _add_family(self, model: str, record: Record) -> _Family | None:
        reason = self._find_fault(record)
        if reason:
            self._warn_refused(model, record.name, reason)
            return None
        family = self._families[record.name] = _Family(record.kind, record.unit, record.description)
        self._samples.update(dict.fromkeys(_sample_names(record), record.name))
        return family

    def _find_fault(self, record: Record) -> str:
        if not _NAME.fullmatch(record.name) or len(record.name) > _MAX_CHARACTERS:
            return "Prometheus does not take such a name"
        if any(name in self._samples or self._is_reserved(name) for name in _sample_names(record)):
            return "another metric is called so"
        if len(self._families) >= MAX_METRICS:
            self._drop_unloaded()
        return f"there are {MAX_METRICS} metrics already" if len(self._families) >= MAX_METRICS else ""

    def _add_values(self, model: str, family: _Family, record: Record) -> None:
        own = {} if family.description else {"Hostname": self._host}
        key = tuple(sorted({**record.dimensions, **own}.items()))
        series = family.series.get(key)
        if series is None:
            reason = _find_label_fault(record)
            if reason:
                self._warn_refused(model, record.name, reason)
                return
            # Where it is full already, the next scrape looks whether there is room.
            if len(family.series) >= MAX_SERIES and not family.full:
                family.drop_unloaded(self._loaded())
            if len(family.series) >= MAX_SERIES:
                self._warn_full(model, family, record)
                return
            first = Histogram(record.bounds or BOUNDS) if family.kind == HISTOGRAM else 0.0
            series = family.series[key] = _Series(format_labels(dict(key)), first)
        series.model = model
        if isinstance(series.value, Histogram):
            for value in record.values:
                series.value.observe(value)
        elif family.kind == COUNTER:
            series.value += sum(record.values)
        else:
            series.value = record.values[-1]

    def _warn_full(self, model: str, family: _Family, record: Record) -> None:
        if not family.full:
            family.full = True
            log.warning(
                "metric has too many dimension values, further ones are left out",
                metric=record.name,
                model=model,
                most=MAX_SERIES,
                dimensions=",".join(record.dimensions),
            )

    def _warn_refused(self, model: str, name: str, reason: str) -> None:
        if name not in self._refused and len(self._refused) < MAX_METRICS:
            self._refused.add(name)
            log.warning("metric refused", metric=name[:_MAX_CHARACTERS], model=model, reason=reason)

    def _drop_unloaded(self) -> None:
        """Make room: forget metrics that only models had which are not loaded any more."""
        loaded = self._loaded()
        for name, family in list(self._families.items()):
            family.drop_unloaded(loaded)
            if not family.series:
                del self._families[name]
                self._samples = {sample: of for sample, of in self._samples.items() if of != name}

    def write(self, page: Page) -> Iterator[None]:
        """Add all metrics with their values of now; yields after every few series."""
        loaded = self._loaded()
        for name, family in list(self._families.items()):
            described = Family(name, _help_of(family), family.kind)
            if family.kind == GAUGE or family.full:
                family.drop_unloaded(loaded)
                family.full = len(family.series) >= MAX_SERIES
            if not page.wants(described):
                continue
            lines: list[str] = []
            for number, series in enumerate(list(family.series.values())):
                lines.append(_series_text(name, series))
                if number % _SERIES_AT_A_TIME == 0:
                    yield
            page.add(described, lines)


def _series_text(name: str, series: _Series) -> str:
    value = series.value
    if isinstance(value, Histogram):
        return fill(_template(name, tuple(value.bounds)), series.labels, histogram_values(value))
    place = f"{{{series.labels}}}" if series.labels else ""
    return f"{name}{place} {format_number(value)}\n"


@functools.lru_cache(maxsize=MAX_METRICS)
def _template(name: str, bounds: tuple[float, ...]) -> str:
    return histogram_template(name, bounds)


def _help_of(family: _Family) -> str:
    if family.description:
        return _join_lines(family.description)
    unit = UNITS.get(family.unit, family.unit)
    return f"Torchserve prometheus {family.kind} metric with unit: {_join_lines(unit)}"


def _sample_names(record: Record) -> list[str]:
    return [record.name + suffix for suffix in _SUFFIXES.get(record.kind, ("",))]


def _find_label_fault(record: Record) -> str:
    for name, value in record.dimensions.items():
        if not _LABEL.fullmatch(name) or (name == "le" and record.kind == HISTOGRAM):
            return f"Prometheus does not take a dimension called '{name[:_MAX_CHARACTERS]}'"
        if len(value) > _MAX_CHARACTERS:
            return f"a value of its dimension '{name}' has {len(value)} characters"
    return ""


def _join_lines(text: str) -> str:
    return " ".join(text.split())
