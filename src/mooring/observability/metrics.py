"""The server's metrics. Counting is cheap; the text for Prometheus is made only at a scrape.

A request costs a few list operations here and no lock: all counts are changed on the event loop's thread.
"""

import operator
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
import psutil
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from mooring.observability.call_log import CallLog
from mooring.observability.histogram import Histogram, add_histogram, format_number
from mooring.observability.host import SYSTEM, HostMetrics
from mooring.observability.log_output.line_writer import LineWriter
from mooring.observability.metrics_log import MetricsLog
from mooring.observability.observed_statistics import ObservedStatistics
from mooring.observability.recorded_metrics import RecordedMetrics
from mooring.observability.records import Record
from mooring.observability.statistics import DEFAULT_VERSION, DURATIONS, Counts, ModelStatistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MetricsMode = Literal["prometheus", "log", "legacy", "both"]

_BY_MODEL = (
    "ts_inference_requests_total",
    "ts_inference_latency_microseconds",
    "ts_queue_latency_microseconds",
)
_HOST_NAMES = {"Requests2XX", "Requests4XX", "Requests5XX", "QueueTime", "WorkerThreadTime", "WorkerLoadTime"}
_TORCHSERVE_NAMES = frozenset((*_BY_MODEL, *_HOST_NAMES, *SYSTEM))
_OWN_PREFIXES = ("mooring_", "process_", "amdinfer_", "exposer_", "nv_inference_", "nv_cache_", "nv_cpu_")


class ResponseCounter:
    """HTTP responses by the first digit of their status. The writer of a response adds one to ``classes``."""

    __slots__ = ("classes",)

    def __init__(self) -> None:
        self.classes = [0] * 10

    def count(self, status: int) -> None:
        """Count a response with this status."""
        self.classes[status // 100] += 1


class CountsDelta(msgspec.Struct, array_like=True):
    """The counts of one process since the last report: per version, responses by class, AMD's requests by method."""

    models: list[tuple[str, str, list[Any]]]
    responses: list[int]
    ingress: dict[str, int]

    def __bool__(self) -> bool:
        return bool(self.models or any(self.responses) or any(self.ingress.values()))


class Metrics:
    """All metrics of the server and of its models. Further collectors are added to ``registry``.

    How this works: the engine counts requests in a ``ModelStatistics`` per version, and responses are counted by
    class. At a scrape the collectors of the registry make families of these counts, which are formatted here. A
    frontend process counts by itself and sends the difference (``take_counts``) to the first process
    (``add_counts``), which alone is scraped.

    ``mode`` is TorchServe's metrics_mode: ``prometheus`` serves all metrics, ``log`` writes them as lines, ``legacy``
    serves TorchServe's three counters by model and writes the rest; ``both`` serves and writes all. ``system`` False
    leaves out the machine. ``writer`` writes the lines, and those of the access log where there is one; without it there
    are none. ``calls`` is for the listeners, and None where calls are not logged.
    """

    def __init__(
        self,
        mode: MetricsMode = "prometheus",
        *,
        system: bool = True,
        writer: LineWriter | None = None,
        access_log: bool = False,
    ) -> None:
        self.mode = mode
        self.responses = ResponseCounter()
        # Requests over REST by method, as AMD's server counts them; counted in AMD's dialect only.
        self.ingress = {"GET": 0, "POST": 0}
        self.registry = CollectorRegistry(auto_describe=False)
        self.scrapes = Histogram(DURATIONS)  # seconds that each scrape took
        self.scraped_bytes = 0
        self._models: dict[tuple[str, str], ModelStatistics] = {}
        self.requests = RequestMetrics(self._models, self.responses)
        self.host = HostMetrics(self._last_overhead, system=system)
        self._recorded = RecordedMetrics(_is_reserved)
        self.log: MetricsLog | None = None
        self.calls: CallLog | None = None
        if writer is not None:
            if mode != "prometheus":
                self.log = MetricsLog(writer, self.host.machine_families, by_model=mode != "legacy")
            if access_log or self.log is not None:
                self.calls = CallLog(writer, access=access_log, metrics=self.log)
        for collector in (self.requests, self.host, _Process(), self._recorded):
            self.registry.register(collector)

    def record_values(self, model: str, records: Sequence[Record]) -> None:
        """Add values that a model's own code recorded in a worker."""
        if self.mode in ("prometheus", "both"):
            self._recorded.record_values(model, records)
        if self.log is not None:
            self.log.record_values(records)

    def take_counts(self) -> CountsDelta:
        """Return and reset the counts since the last call, for the ``add_counts`` of another process."""
        models = [
            (name, version, counted)
            for (name, version), one in self._models.items()
            if (counted := one.take_counts())
        ]
        responses = self.responses.classes[:]
        self.responses.classes[:] = [0] * len(responses)
        ingress = self.ingress.copy()
        self.ingress.update(dict.fromkeys(ingress, 0))
        return CountsDelta(models, responses, ingress)

    def add_counts(self, counted: CountsDelta) -> None:
        """Add the counts of another process."""
        for name, version, one in counted.models:
            self.statistics_for(name, version).add_counts(one)
        classes = self.responses.classes
        classes[:] = map(operator.add, classes, counted.responses)
        for method, count in counted.ingress.items():
            self.ingress[method] += count

    def _last_overhead(self) -> tuple[float, float] | None:
        """Return the queue time and the overhead, in seconds, of the model that was called last."""
        last = max(self._models.values(), key=lambda model: model.last, default=None)
        return (last.last_queue, last.last_overhead) if last is not None and last.last else None

    def statistics_for(self, name: str, version: str) -> ModelStatistics:
        """Return the statistics of a version: always the same object, so that a reload does not reset the counters."""
        statistics = self._models.get((name, version))
        if statistics is None:
            statistics = self._models[name, version] = self._new_statistics(name, version)
        return statistics

    def _new_statistics(self, name: str, version: str) -> ModelStatistics:
        if self.calls is None:
            return ModelStatistics(name, version)
        return ObservedStatistics(name, version, self.calls, self.log, self.host.load_times)

    def all_statistics(self) -> Collection[ModelStatistics]:
        """Return the statistics of every version that was ever loaded."""
        return self._models.values()

    def render_text(self, names: Collection[str] | None = None) -> bytes:
        """Return Prometheus' text format 0.0.4, with the samples and families in ``names``; None for all."""
        if self.mode in ("log", "legacy"):
            # TorchServe answers 200 with an empty body in log mode; a scraper counts the target as up.
            served = set(_BY_MODEL) if self.mode == "legacy" else set()
            names = served.intersection(names) if names is not None else served
        began = time.perf_counter()
        lines: list[str] = []
        for family in self.registry.collect():
            lines.extend(_format_family(family, names))
        text = "".join(lines).encode()
        self.scrapes.observe(time.perf_counter() - began)
        self.scraped_bytes += len(text)
        return text


def _format_family(family: Metric, names: Collection[str] | None) -> Iterator[str]:
    # Not by prometheus_client's generate_latest, which appends _total to the name of every counter: TorchServe's
    # Requests2XX and ts_queue_latency_microseconds are counters without it.
    samples = [s for s in family.samples if names is None or s.name in names or family.name in names]
    if not samples:
        return
    # The family of a prometheus_client Counter has no suffix in its name; its samples have.
    plain = family.type != "counter" or any(sample.name == family.name for sample in family.samples)
    name = family.name if plain else f"{family.name}_total"
    yield f"# HELP {name} {family.documentation}\n# TYPE {name} {family.type}\n"
    for sample in samples:
        labels = ",".join(f'{name}="{_escape_label(value)}"' for name, value in sample.labels.items())
        yield (
            f"{sample.name}{{{labels}}} {format_number(sample.value)}\n"
            if labels
            else (f"{sample.name} {format_number(sample.value)}\n")
        )


def _escape_label(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


_Value = Callable[[Counts], Histogram]

States = Callable[[], Iterable[tuple[str, str, str]]]
"""Returns the name, version and state of every version."""

_HISTOGRAMS: tuple[tuple[str, str, _Value], ...] = (
    ("mooring_request_duration_seconds", "From arrival of a request to its answer", lambda s: s.durations),
    ("mooring_queue_duration_seconds", "Time a request waited for a worker", lambda s: s.queues),
    ("mooring_inference_duration_seconds", "Time a worker took for a batch", lambda s: s.inferences),
    ("mooring_batch_rows", "Rows in a batch sent to a worker", lambda s: s.batches),
)


class RequestMetrics(Collector):
    """Collects requests and responses, under TorchServe's names and the server's own."""

    def __init__(self, models: Mapping[tuple[str, str], ModelStatistics], responses: ResponseCounter) -> None:
        self._models = models
        self._responses = responses
        self._host = socket.gethostname()
        self._states: States = lambda: ()

    def read_states(self, source: States) -> None:
        """Ask ``source`` at every scrape for the state of every version."""
        self._states = source

    def collect(self) -> Iterable[Metric]:
        """Return all families with the counts of now."""
        yield from self.by_class()
        yield from self.by_url()
        models = list(self._models.values())
        yield _outcome_family(models)
        yield _cache_family(models)
        yield from _worker_families(models)
        yield self._state_family()
        yield _sequence_family(models)
        for name, text, histogram_of in _HISTOGRAMS:
            family = Metric(name, text, "histogram")
            for statistics in models:
                add_histogram(family, _version_labels(statistics), histogram_of(statistics.counts))
            yield family

    def _state_family(self) -> Metric:
        family = Metric("mooring_model_state", "1 for the state that a version is in", "gauge")
        for model, version, state in self._states():
            labels = {"model_name": model, "model_version": version, "state": state}
            family.add_sample(family.name, labels, 1)
        return family

    def by_class(self) -> Iterator[Metric]:
        """Return TorchServe's counters of HTTP responses by the first digit of their status."""
        for first in (2, 4, 5):
            name = f"Requests{first}XX"
            family = Metric(name, "Torchserve prometheus counter metric with unit: Count", "counter")
            family.add_sample(name, {"Level": "Host", "Hostname": self._host}, self._responses.classes[first])
            yield family

    def by_url(self) -> Iterator[Metric]:
        """Return TorchServe's three counters by model, and by version where the URL named one."""
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


def _version_labels(statistics: ModelStatistics) -> dict[str, str]:
    return {"model_name": statistics.name, "model_version": statistics.version}


def _outcome_family(models: Sequence[ModelStatistics]) -> Metric:
    family = Metric("mooring_requests_total", "Requests by whether the model answered them", "counter")
    for statistics in models:
        for outcome, count in zip(("failed", "answered"), statistics.counts.outcomes, strict=True):
            family.add_sample(
                "mooring_requests_total", {**_version_labels(statistics), "outcome": outcome}, count
            )
    return family


def _cache_family(models: Sequence[ModelStatistics]) -> Metric:
    name = "mooring_response_cache_requests_total"
    family = Metric(name, "Requests to models with a response cache by whether it had the answer", "counter")
    for statistics in models:
        counts = statistics.counts.cache
        for outcome, count in zip(("miss", "hit"), counts, strict=True) if any(counts) else ():
            family.add_sample(name, {**_version_labels(statistics), "outcome": outcome}, count)
    return family


def _worker_families(models: Sequence[ModelStatistics]) -> Iterator[Metric]:
    for index, name, text in (
        (0, "mooring_worker_failures_total", "Workers that died, or could not load the model"),
        (1, "mooring_workers_recycled_total", "Workers that made way for fresh ones, losing nothing"),
    ):
        family = Metric(name, text, "counter")
        for statistics in models:
            family.add_sample(name, _version_labels(statistics), statistics.workers[index])
        yield family


def _sequence_family(models: Sequence[ModelStatistics]) -> Metric:
    family = Metric("mooring_sequences", "Sequences that are open, of models that keep state", "gauge")
    for statistics in models:
        if statistics.sequences is not None:
            family.add_sample("mooring_sequences", _version_labels(statistics), statistics.sequences)
    return family


def _is_reserved(name: str) -> bool:
    return name in _TORCHSERVE_NAMES or name.startswith(_OWN_PREFIXES)


class _Process(Collector):
    """Collects the server process's own metrics, under the names of Prometheus' client libraries."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._started = time.time()

    def collect(self) -> Iterable[Metric]:
        """Return the families, read from the operating system now."""
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
