"""What the server counts, cheaply; what it looks like to Prometheus is worked out only when somebody asks.

A request costs a few list additions here, and no lock: everything is written on the event loop's thread.
"""

import operator
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from mooring.observability.histogram import Histogram, add_histogram, number
from mooring.observability.host import SYSTEM, HostMetrics
from mooring.observability.metrics_log import MetricsLog
from mooring.observability.recorded import RecordedMetrics
from mooring.observability.records import Record
from mooring.observability.statistics import DURATIONS, Counts, ModelStatistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

DEFAULT_VERSION = "default"
"""What TorchServe's counters call the version of a request whose URL named none."""

_BY_MODEL = (
    "ts_inference_requests_total",
    "ts_inference_latency_microseconds",
    "ts_queue_latency_microseconds",
)
_OTHERS = {"Requests2XX", "Requests4XX", "Requests5XX", "QueueTime", "WorkerThreadTime", "WorkerLoadTime"}
_TORCHSERVES = frozenset((*_BY_MODEL, *_OTHERS, *SYSTEM))
_OURS = ("mooring_", "process_", "amdinfer_", "exposer_")


class ResponseCounter:
    """HTTP responses by the first digit of their status. Whoever writes a response adds one to ``classes``."""

    __slots__ = ("classes",)

    def __init__(self) -> None:
        self.classes = [0] * 10

    def count(self, status: int) -> None:
        """A response of this status is on its way."""
        self.classes[status // 100] += 1


class Counted(msgspec.Struct, array_like=True):
    """What one process has counted in some time: by model and version, responses by class, and AMD's requests by method."""

    models: list[tuple[str, str, list[Any]]]
    responses: list[int]
    ingress: dict[str, int]

    def __bool__(self) -> bool:
        return bool(self.models or any(self.responses) or any(self.ingress.values()))


class Metrics:
    """Everything the server counts, and what its models record. Further collectors join through ``registry``.

    ``mode`` is TorchServe's metrics_mode: ``prometheus`` tells everything to who asks, ``log`` writes it to the log,
    ``legacy`` tells TorchServe's three counters by model and writes the rest. Without ``system`` nothing is said of
    the machine. With a ``folder`` what is written goes to files there and not to the log.
    """

    def __init__(
        self,
        mode: Literal["prometheus", "log", "legacy"] = "prometheus",
        *,
        system: bool = True,
        folder: Path | None = None,
    ) -> None:
        self.mode = mode
        self.responses = ResponseCounter()
        # Requests over REST by method, as AMD's server counts them; without its dialect nobody does.
        self.ingress = {"GET": 0, "POST": 0}
        self.registry = CollectorRegistry(auto_describe=False)
        self.told = Histogram(DURATIONS)  # how long it took to say all this, every time
        self.told_bytes = 0
        self._models: dict[tuple[str, str], ModelStatistics] = {}
        self.served = _Served(self._models, self.responses)
        self.host = HostMetrics(self._last_way, system=system)
        self._recorded = RecordedMetrics(_reserved)
        self.log = MetricsLog(self._torchserves, folder) if mode != "prometheus" else None
        for collector in (self.served, self.host, _Process(), self._recorded):
            self.registry.register(collector)

    def record(self, model: str, records: Iterable[Record]) -> None:
        """Take what a model's own code recorded in one of its workers."""
        if self.log is None:
            self._recorded.record(model, records)
        else:
            self.log.record(records)

    def take(self) -> Counted:
        """What was counted since the last time, for the ``add`` of another process; it is not counted here any more."""
        models = [
            (name, version, counted)
            for (name, version), one in self._models.items()
            if (counted := one.take())
        ]
        responses = self.responses.classes[:]
        self.responses.classes[:] = [0] * len(responses)
        ingress = self.ingress.copy()
        self.ingress.update(dict.fromkeys(ingress, 0))
        return Counted(models, responses, ingress)

    def add(self, counted: Counted) -> None:
        """Count what another process took."""
        for name, version, one in counted.models:
            self.model(name, version).add(one)
        classes = self.responses.classes
        classes[:] = map(operator.add, classes, counted.responses)
        for method, count in counted.ingress.items():
            self.ingress[method] += count

    def _torchserves(self) -> Iterator[Metric]:
        yield from self.served.by_class()
        yield from self.served.by_url()
        yield from self.host.collect()

    def _last_way(self) -> tuple[float, float] | None:
        """Of the model that was called last."""
        last = max(self._models.values(), key=lambda model: model.last, default=None)
        return (last.last_queue, last.last_way) if last is not None and last.last else None

    def model(self, name: str, version: str) -> ModelStatistics:
        """The statistics of a version, the same object every time: a version loaded again goes on counting."""
        statistics = self._models.get((name, version))
        if statistics is None:
            statistics = self._models[name, version] = ModelStatistics(name, version)
        return statistics

    def models(self) -> Collection[ModelStatistics]:
        """Every version that has been loaded."""
        return self._models.values()

    def text(self, names: Collection[str] | None = None) -> bytes:
        """Prometheus' text format 0.0.4. ``names`` keeps the samples, and the families, so called; None keeps all."""
        if self.mode != "prometheus":
            # TorchServe answers 200 with nothing in log mode, and a scraper takes that for a target that is up.
            told = set(_BY_MODEL) if self.mode == "legacy" else set()
            names = told.intersection(names) if names is not None else told
        began = time.perf_counter()
        lines: list[str] = []
        for family in self.registry.collect():
            lines.extend(_lines(family, names))
        text = "".join(lines).encode()
        self.told.observe(time.perf_counter() - began)
        self.told_bytes += len(text)
        return text


def _lines(family: Metric, names: Collection[str] | None) -> Iterator[str]:
    # Written here and not by generate_latest, which appends _total to the name of every counter: TorchServe's
    # Requests2XX and ts_queue_latency_microseconds are counters without it.
    kept = [s for s in family.samples if names is None or s.name in names or family.name in names]
    if not kept:
        return
    # A Counter of prometheus_client's own leaves the suffix out of its family's name, but not out of its samples'.
    plain = family.type != "counter" or any(sample.name == family.name for sample in family.samples)
    name = family.name if plain else f"{family.name}_total"
    yield f"# HELP {name} {family.documentation}\n# TYPE {name} {family.type}\n"
    for sample in kept:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
        yield (
            f"{sample.name}{{{labels}}} {number(sample.value)}\n"
            if labels
            else (f"{sample.name} {number(sample.value)}\n")
        )


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


_Value = Callable[[Counts], Histogram]

States = Callable[[], Iterable[tuple[str, str, str]]]
"""The name, version and state of every version that is there."""

_HISTOGRAMS: tuple[tuple[str, str, _Value], ...] = (
    ("mooring_request_duration_seconds", "From arrival of a request to its answer", lambda s: s.durations),
    ("mooring_queue_duration_seconds", "Time a request waited for a worker", lambda s: s.queues),
    ("mooring_inference_duration_seconds", "Time a worker took for a batch", lambda s: s.inferences),
    ("mooring_batch_rows", "Rows in a batch sent to a worker", lambda s: s.batches),
)


class _Served(Collector):
    """Requests and responses, under TorchServe's names and our own."""

    def __init__(self, models: Mapping[tuple[str, str], ModelStatistics], responses: ResponseCounter) -> None:
        self._models = models
        self._responses = responses
        self._host = socket.gethostname()
        self.states: States = lambda: ()

    def collect(self) -> Iterable[Metric]:
        """Every family anew."""
        yield from self.by_class()
        yield from self.by_url()
        models = list(self._models.values())
        yield _outcomes(models)
        yield from _workers(models)
        yield self._state()
        yield _sequences(models)
        for name, text, histogram_of in _HISTOGRAMS:
            family = Metric(name, text, "histogram")
            for statistics in models:
                add_histogram(family, _labels(statistics), histogram_of(statistics.counts))
            yield family

    def _state(self) -> Metric:
        family = Metric("mooring_model_state", "1 for the state that a version is in", "gauge")
        for model, version, state in self.states():
            labels = {"model_name": model, "model_version": version, "state": state}
            family.add_sample(family.name, labels, 1)
        return family

    def by_class(self) -> Iterator[Metric]:
        """HTTP responses by the first digit of their status."""
        for first in (2, 4, 5):
            name = f"Requests{first}XX"
            family = Metric(name, "Torchserve prometheus counter metric with unit: Count", "counter")
            family.add_sample(name, {"Level": "Host", "Hostname": self._host}, self._responses.classes[first])
            yield family

    def by_url(self) -> Iterator[Metric]:
        """TorchServe's three by model, and by version where the URL named one."""
        models = list(self._models.values())
        counters: tuple[tuple[str, str, Callable[[Counts], Sequence[float]], float], ...] = (
            ("ts_inference_requests_total", "Count", lambda s: s.requests, 1.0),
            ("ts_inference_latency_microseconds", "Microseconds", lambda s: s.latency, 1e6),
            ("ts_queue_latency_microseconds", "Microseconds", lambda s: s.queue, 1e6),
        )
        for name, unit, values_of, scale in counters:
            family = Metric(name, f"Torchserve prometheus counter metric with unit: {unit}", "counter")
            for model, version, value in _by_version(models, values_of):
                labels = {"model_name": model, "model_version": version, "hostname": self._host}
                family.add_sample(name, labels, value * scale)
            yield family


def _by_version(
    models: Sequence[ModelStatistics], values_of: Callable[[Counts], Sequence[float]]
) -> Iterator[tuple[str, str, float]]:
    defaulted: dict[str, float] = {}  # over all versions that have been the default one
    for statistics in models:
        counts = statistics.counts
        named, unnamed = values_of(counts)
        if counts.requests[0]:
            yield statistics.name, statistics.version, named
        if counts.requests[1]:
            defaulted[statistics.name] = defaulted.get(statistics.name, 0.0) + unnamed
    for name, value in defaulted.items():
        yield name, DEFAULT_VERSION, value


def _labels(statistics: ModelStatistics) -> dict[str, str]:
    return {"model_name": statistics.name, "model_version": statistics.version}


def _outcomes(models: Sequence[ModelStatistics]) -> Metric:
    family = Metric("mooring_requests_total", "Requests by whether the model answered them", "counter")
    for statistics in models:
        for outcome, count in zip(("failed", "answered"), statistics.counts.outcomes, strict=True):
            family.add_sample("mooring_requests_total", {**_labels(statistics), "outcome": outcome}, count)
    return family


def _workers(models: Sequence[ModelStatistics]) -> Iterator[Metric]:
    for index, name, text in (
        (0, "mooring_worker_failures_total", "Workers that died, or could not load the model"),
        (1, "mooring_workers_recycled_total", "Workers that made way for fresh ones, losing nothing"),
    ):
        family = Metric(name, text, "counter")
        for statistics in models:
            family.add_sample(name, _labels(statistics), statistics.workers[index])
        yield family


def _sequences(models: Sequence[ModelStatistics]) -> Metric:
    family = Metric("mooring_sequences", "Sequences that are open, of models that keep state", "gauge")
    for statistics in models:
        if statistics.sequences is not None:
            family.add_sample("mooring_sequences", _labels(statistics), statistics.sequences)
    return family


def _reserved(name: str) -> bool:
    return name in _TORCHSERVES or name.startswith(_OURS)


class _Process(Collector):
    """The server process itself, under the names every Prometheus client library gives them."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._started = time.time()

    def collect(self) -> Iterable[Metric]:
        """Read from the operating system now."""
        times = self._process.cpu_times()
        memory = self._process.memory_info()
        values = (
            (
                "process_cpu_seconds_total",
                "User and system CPU time spent",
                "counter",
                times.user + times.system,
            ),
            ("process_resident_memory_bytes", "Resident memory size", "gauge", float(memory.rss)),
            ("process_start_time_seconds", "Start of the server since the epoch", "gauge", self._started),
        )
        for name, text, kind, value in values:
            family = Metric(name, text, kind)
            family.add_sample(name, {}, value)
            yield family
