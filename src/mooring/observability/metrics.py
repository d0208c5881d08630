"""The server's metrics. Counting is cheap; the text for Prometheus is made only at a scrape.

A request costs a few list operations here and no lock: all counts are changed on the event loop's thread.
"""

import operator
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from mooring.core.turns import take_turns
from mooring.observability.call_log import CallLog
from mooring.observability.exposition import Page
from mooring.observability.histogram import Histogram
from mooring.observability.host import SYSTEM, HostMetrics
from mooring.observability.log_output.line_writer import LineWriter
from mooring.observability.loop_lag import LAGS
from mooring.observability.metrics_log import MetricsLog
from mooring.observability.observed_statistics import ObservedStatistics
from mooring.observability.recorded_metrics import RecordedMetrics
from mooring.observability.records import Record
from mooring.observability.server_metrics import ServerMetrics
from mooring.observability.statistics import DURATIONS, ModelStatistics
from mooring.observability.traffic import Traffic
from mooring.observability.version_metrics import BY_URL, Loads, States, VersionMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MetricsMode = Literal["prometheus", "log", "legacy", "both"]

MAX_UNSERVED = 100
"""Versions that are not served any more whose counts are kept."""

_HOST_NAMES = {"Requests2XX", "Requests4XX", "Requests5XX", "QueueTime", "WorkerThreadTime", "WorkerLoadTime"}
_TORCHSERVE_NAMES = frozenset((*BY_URL, *_HOST_NAMES, *SYSTEM))
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
    """The counts of one process since the last report: per version, responses by class, AMD's requests by method, bytes."""

    models: list[tuple[str, str, list[Any]]]
    responses: list[int]
    ingress: dict[str, int]
    traffic: dict[str, list[int]]

    def __bool__(self) -> bool:
        done = any(self.responses) or any(self.ingress.values()) or any(map(any, self.traffic.values()))
        return done or bool(self.models)


class Metrics:
    """All metrics of the server and of its models. Further collectors are added to ``registry``.

    How this works: the engine counts requests in a ``ModelStatistics`` per version, and responses are counted by
    class. At a scrape ``VersionMetrics`` writes the families by version, which are nearly all of a page, and the collectors
    of the registry make the others. A
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
        # Bytes by protocol; and how late the event loops are, by process.
        self.traffic = {"http": Traffic(), "grpc": Traffic()}
        self.lag = Histogram(LAGS)
        self._lags = {"server": self.lag}
        self._models: dict[tuple[str, str], ModelStatistics] = {}
        self._served: Callable[[], Collection[tuple[str, str]]] = self._models.keys
        self.versions = VersionMetrics(self._models)
        self.server = ServerMetrics(self.traffic, self._lags)
        self.host = HostMetrics(self._last_overhead, system=system)
        self._recorded = RecordedMetrics(_is_reserved)
        self.log: MetricsLog | None = None
        self.calls: CallLog | None = None
        if writer is not None:
            if mode != "prometheus":
                self.log = MetricsLog(writer, self.host.machine_families, by_model=mode != "legacy")
            if access_log or self.log is not None:
                self.calls = CallLog(writer, access=access_log, metrics=self.log)
        for collector in (ResponseClasses(self.responses), self.host, self.server):
            self.registry.register(collector)

    def read_versions(
        self,
        served: Callable[[], Collection[tuple[str, str]]],
        states: States = lambda: (),
        loads: Loads = lambda: (),
    ) -> None:
        """Ask for the versions, by name and version, that are ``served``, for their ``states`` and what they have to do.

        Without this all that were ever counted are served.
        """
        self._served = served
        self.versions.read_versions(states, loads)
        self._recorded.read_loaded(lambda: {name for name, _ in served()})

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
        traffic = {protocol: each.take() for protocol, each in self.traffic.items()}
        return CountsDelta(models, responses, ingress, traffic)

    def add_counts(self, counted: CountsDelta) -> None:
        """Add the counts of another process."""
        for name, version, one in counted.models:
            self.statistics_for(name, version).add_counts(one)
        classes = self.responses.classes
        classes[:] = map(operator.add, classes, counted.responses)
        for method, count in counted.ingress.items():
            self.ingress[method] += count
        for protocol, moved in counted.traffic.items():
            self.traffic[protocol].add(moved)

    def add_lag(self, process: str, lag: tuple[list[int], float]) -> None:
        """Add what ``Histogram.take`` gave of the event loop of another process."""
        self._lags.setdefault(process, Histogram(LAGS)).add(*lag)

    def _last_overhead(self) -> tuple[float, float] | None:
        """Return the queue time and the overhead, in seconds, of the model that was called last."""
        last = max(self._models.values(), key=lambda model: model.last, default=None)
        return (last.last_queue, last.last_overhead) if last is not None and last.last else None

    def statistics_for(self, name: str, version: str) -> ModelStatistics:
        """Return the statistics of a version: always the same object, so that a reload does not reset the counters.

        Of versions that are not served any more only those that were called last are kept.
        """
        statistics = self._models.get((name, version))
        if statistics is None:
            self._forget_unserved()
            statistics = self._models[name, version] = self._new_statistics(name, version)
        return statistics

    def _forget_unserved(self) -> None:
        if len(self._models) < MAX_UNSERVED:
            return
        served = set(self._served())
        unserved = [each for key, each in self._models.items() if key not in served]
        unserved.sort(key=lambda statistics: statistics.last)
        for each in unserved[: max(len(unserved) - MAX_UNSERVED + 1, 0)]:
            del self._models[each.name, each.version]

    def _new_statistics(self, name: str, version: str) -> ModelStatistics:
        if self.calls is None:
            return ModelStatistics(name, version)
        return ObservedStatistics(name, version, self.calls, self.log, self.host.load_times)

    def all_statistics(self) -> Collection[ModelStatistics]:
        """Return the statistics of every version that was ever loaded."""
        return self._models.values()

    def render_text(self, names: Collection[str] | None = None) -> bytes:
        """Return Prometheus' text format 0.0.4, with the samples and families in ``names``; None for all."""
        began = time.perf_counter()
        page = self._new_page(names)
        for _ in self._write(page):
            pass
        return self._finish(page, began)

    async def render_in_turns(self, names: Collection[str] | None = None) -> bytes:
        """As ``render_text``, with a turn of the event loop for everybody else after every millisecond."""
        began = time.perf_counter()
        page = self._new_page(names)
        await take_turns(self._write(page))
        return self._finish(page, began)

    def _new_page(self, names: Collection[str] | None) -> Page:
        if self.mode in ("log", "legacy"):
            # TorchServe answers 200 with an empty body in log mode; a scraper counts the target as up.
            shown = set(BY_URL) if self.mode == "legacy" else set()
            names = shown.intersection(names) if names is not None else shown
        return Page(names)

    def _write(self, page: Page) -> Iterator[None]:
        """Add everything to the page; yields where its caller may do other things."""
        yield from self.versions.write(page)
        self.server.write_lags(page)
        for family in self.registry.collect():
            page.add_metric(family)
            yield
        yield from self._recorded.write(page)

    def _finish(self, page: Page, began: float) -> bytes:
        text = page.encode()
        self.scrapes.observe(time.perf_counter() - began)
        self.scraped_bytes += len(text)
        return text


class ResponseClasses(Collector):
    """Collects TorchServe's counters of HTTP responses by the first digit of their status."""

    def __init__(self, responses: ResponseCounter) -> None:
        self._responses = responses
        self._host = socket.gethostname()

    def collect(self) -> Iterable[Metric]:
        """Return the families with the counts of now."""
        for first in (2, 4, 5):
            name = f"Requests{first}XX"
            family = Metric(name, "Torchserve prometheus counter metric with unit: Count", "counter")
            family.add_sample(name, {"Level": "Host", "Hostname": self._host}, self._responses.classes[first])
            yield family


def _is_reserved(name: str) -> bool:
    return name in _TORCHSERVE_NAMES or name.startswith(_OWN_PREFIXES)
