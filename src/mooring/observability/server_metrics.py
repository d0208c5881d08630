"""The metrics of the server's processes: their bytes, their memory for bodies, their event loops, and the first process."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import psutil
from prometheus_client import Metric
from prometheus_client.registry import Collector

from mooring.core.memory import MemoryUse
from mooring.observability.exposition import (
    Family,
    Page,
    fill,
    format_labels,
    histogram_template,
    histogram_values,
)
from mooring.observability.histogram import Histogram
from mooring.observability.loop_lag import LAGS
from mooring.observability.traffic import Traffic

LAG = Family(
    "mooring_event_loop_lag_seconds", "How late a timer of the event loop goes off, by process", "histogram"
)
_LAG = histogram_template(LAG.name, LAGS)


class ServerMetrics(Collector):
    """Collects what belongs to no model. ``traffic`` has the bytes by protocol, ``lags`` the event loops by process."""

    def __init__(self, traffic: Mapping[str, Traffic], lags: Mapping[str, Histogram]) -> None:
        self._traffic = traffic
        self._lags = lags
        self._memory: Callable[[], MemoryUse] = MemoryUse
        self._process = psutil.Process()
        self._started = time.time()

    def read_memory(self, source: Callable[[], MemoryUse]) -> None:
        """Ask ``source`` at every scrape how much memory bodies take, over all processes."""
        self._memory = source

    def collect(self) -> Iterable[Metric]:
        """Return all families but that of the event loops, read now."""
        yield from self._traffic_families()
        memory = self._memory()
        for name, text, value in (
            ("mooring_arena_used_bytes", "Shared memory that requests and answers take", memory.arena_used),
            ("mooring_arena_size_bytes", "Shared memory for requests and answers", memory.arena_size),
            ("mooring_body_memory_used_bytes", "Memory that bodies take beyond the arena", memory.body_used),
            (
                "mooring_body_memory_limit_bytes",
                "Memory that bodies may take beyond the arena; 0 is no limit",
                memory.body_limit,
            ),
        ):
            yield _single(name, text, "gauge", value)
        times = self._process.cpu_times()
        resident = self._process.memory_info().rss
        yield _single(
            "process_cpu_seconds_total",
            "User and system CPU time spent",
            "counter",
            times.user + times.system,
        )
        yield _single("process_resident_memory_bytes", "Resident memory size", "gauge", resident)
        yield _single(
            "process_start_time_seconds", "Start of the server since the epoch", "gauge", self._started
        )

    def _traffic_families(self) -> Iterator[Metric]:
        received = Metric("mooring_received_bytes_total", "Bytes received from clients", "counter")
        sent = Metric("mooring_sent_bytes_total", "Bytes sent to clients", "counter")
        for protocol, traffic in self._traffic.items():
            received.add_sample(received.name, {"protocol": protocol}, traffic.received)
            sent.add_sample(sent.name, {"protocol": protocol}, traffic.sent)
        yield received
        yield sent

    def write_lags(self, page: Page) -> None:
        """Add the histogram of the event loops."""
        if page.wants(LAG):
            page.add(
                LAG,
                [
                    fill(_LAG, format_labels({"process": process}), histogram_values(histogram))
                    for process, histogram in self._lags.items()
                ],
            )


def _single(name: str, text: str, kind: str, value: float) -> Metric:
    family = Metric(name, text, kind)
    family.add_sample(name, {}, value)
    return family
