"""What the server counts, cheaply; what it looks like to Prometheus is worked out only when somebody asks.

A request costs a few list additions here, and no lock: everything is written on the event loop's thread.
"""

import operator
import socket
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from mooring.observability.histogram import Histogram, add_histogram, number
from mooring.observability.host import SYSTEM, HostMetrics
from mooring.observability.metrics_log import MetricsLog
from mooring.observability.recorded import RecordedMetrics
from mooring.observability.records import Record

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds. From a tiny echo to TorchServe's default response time-out of 120 s.
DURATIONS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0,
)  # fmt: skip
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

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


class ModelStatistics:
    """One version of a model. The engine keeps it beside the version, so that no name is looked up per request."""

    __slots__ = (
        "by_size", "durations", "inferences", "last", "last_queue", "last_way", "latency", "name", "outcomes",
        "queue", "queues", "requests", "sequences", "spent", "version", "workers",
    )  # fmt: skip

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.outcomes = [0, 0]  # failed, answered
        self.spent = [0.0, 0.0]  # seconds from arrival to answer, of each kind
        self.workers = [0, 0]  # that failed, that were recycled
        self.sequences: int | None = None  # that are open; None of a model that keeps no state
        self.by_size: dict[int, list[float]] = {}  # rows of a batch -> how many of them, and their seconds
        self.last = 0.0  # when the model was called last, in seconds since the epoch
        self.last_queue = 0.0  # how long the last request waited for a worker
        self.last_way = 0.0  # and its worker's message, there and back, beyond the time of the model
        # TorchServe's three, apart for requests whose URL named a version [0] and those whose URL did not [1].
        self.requests = [0, 0]
        self.latency = [0.0, 0.0]
        self.queue = [0.0, 0.0]
        self.durations = Histogram(DURATIONS)
        self.queues = Histogram(DURATIONS)
        self.inferences = Histogram(DURATIONS)

    def observe(self, latency: float, queue: float, ok: bool, defaulted: bool = False) -> None:
        """A request is over. Times are in seconds; ``defaulted`` says that its URL named no version."""
        self.outcomes[ok] += 1
        self.spent[ok] += latency
        self.requests[defaulted] += 1
        self.latency[defaulted] += latency
        self.queue[defaulted] += queue
        self.last_queue = queue
        durations = self.durations  # Histogram.observe by hand, twice: a call costs more than what it does
        durations.counts[bisect_left(DURATIONS, latency)] += 1
        durations.total += latency
        queues = self.queues
        queues.counts[bisect_left(DURATIONS, queue)] += 1
        queues.total += queue

    def observe_batches(self, batches: Iterable[tuple[int, float]]) -> None:
        """A worker has called the model, each time for so many rows and seconds.

        Of a model that takes one request at a time there are as many as requests.
        """
        self.last = time.time()
        inferences, by_size = self.inferences, self.by_size
        counts = inferences.counts
        for rows, seconds in batches:
            counts[bisect_left(DURATIONS, seconds)] += 1
            inferences.total += seconds
            of_size = by_size.get(rows)
            if of_size is None:
                of_size = by_size[rows] = [0, 0.0]
            of_size[0] += 1
            of_size[1] += seconds

    @property
    def batches(self) -> Histogram:
        """The rows of every call."""
        sizes = Histogram(ROWS)
        for rows, (count, _) in self.by_size.items():
            sizes.observe(rows, int(count))
        return sizes

    def take(self) -> list[Any]:
        """Everything counted since the last time, for ``add`` in another process; nothing is left of it here."""
        if not any(self.requests) and not self.by_size:
            return []
        histograms = [(h.counts, h.total) for h in self._histograms()]
        counted = [
            self.outcomes,
            self.spent,
            self.requests,
            self.latency,
            self.queue,
            self.by_size,
            histograms,
        ]
        latest = [self.last, self.last_queue, self.last_way]
        self.__init__(self.name, self.version)  # type: ignore[misc]
        return [*counted, latest]

    def add(self, counted: Sequence[Any]) -> None:
        """Count what another process has counted."""
        *sums, by_size, histograms, latest = counted
        totals: tuple[list[Any], ...] = (self.outcomes, self.spent, self.requests, self.latency, self.queue)
        for total, more in zip(totals, sums, strict=True):
            total[:] = map(operator.add, total, more)
        for rows, (count, seconds) in by_size.items():
            of_size = self.by_size.setdefault(rows, [0, 0.0])
            of_size[0] += count
            of_size[1] += seconds
        for histogram, (counts, seconds) in zip(self._histograms(), histograms, strict=True):
            histogram.counts[:] = map(operator.add, histogram.counts, counts)
            histogram.total += seconds
        if latest[0] > self.last:
            self.last, self.last_queue, self.last_way = latest

    def _histograms(self) -> tuple[Histogram, ...]:
        return self.durations, self.queues, self.inferences, self.batches


class ResponseCounter:
    """HTTP responses by the first digit of their status. Whoever writes a response adds one to ``classes``."""

    __slots__ = ("classes",)

    def __init__(self) -> None:
        self.classes = [0] * 10

    def count(self, status: int) -> None:
        """A response of this status is on its way."""
        self.classes[status // 100] += 1


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

    def take(self) -> tuple[list[tuple[str, str, list[Any]]], list[int]]:
        """What was counted since the last time, by model and version, and the responses by class."""
        taken = [
            (name, version, counted)
            for (name, version), one in self._models.items()
            if (counted := one.take())
        ]
        responses = self.responses.classes[:]
        self.responses.classes[:] = [0] * len(responses)
        return taken, responses

    def add(self, models: Iterable[tuple[str, str, list[Any]]], responses: Sequence[int]) -> None:
        """Count what another process took."""
        for name, version, counted in models:
            self.model(name, version).add(counted)
        classes = self.responses.classes
        classes[:] = map(operator.add, classes, responses)

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


_Value = Callable[[ModelStatistics], Histogram]

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
                add_histogram(family, _labels(statistics), histogram_of(statistics))
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
        counters: tuple[tuple[str, str, Callable[[ModelStatistics], Sequence[float]], float], ...] = (
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
    models: Sequence[ModelStatistics], values_of: Callable[[ModelStatistics], Sequence[float]]
) -> Iterator[tuple[str, str, float]]:
    defaulted: dict[str, float] = {}  # over all versions that have been the default one
    for statistics in models:
        named, unnamed = values_of(statistics)
        if statistics.requests[0]:
            yield statistics.name, statistics.version, named
        if statistics.requests[1]:
            defaulted[statistics.name] = defaulted.get(statistics.name, 0.0) + unnamed
    for name, value in defaulted.items():
        yield name, DEFAULT_VERSION, value


def _labels(statistics: ModelStatistics) -> dict[str, str]:
    return {"model_name": statistics.name, "model_version": statistics.version}


def _outcomes(models: Sequence[ModelStatistics]) -> Metric:
    family = Metric("mooring_requests_total", "Requests by whether the model answered them", "counter")
    for statistics in models:
        for outcome, count in zip(("failed", "answered"), statistics.outcomes, strict=True):
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
