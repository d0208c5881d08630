"""Triton's metric names, worked out of our own counts when somebody asks."""

from collections.abc import Callable, Iterable, Iterator

import psutil
from prometheus_client import Metric
from prometheus_client.registry import Collector

from mooring.observability.metrics import Metrics
from mooring.observability.statistics import Counts, Failure, ModelStatistics

_MICROSECONDS = 1e6
_Value = Callable[[Counts], float]

# Joining and splitting a batch is part of the model's call here; it is not measured by itself.
_COUNTERS: tuple[tuple[str, str, _Value], ...] = (
    ("nv_inference_request_success", "Requests that were answered", lambda counts: counts.outcomes[1]),
    ("nv_inference_count", "Rows that the model was called with", lambda counts: counts.rows),
    (
        "nv_inference_exec_count",
        "Calls of the model, each of a batch",
        lambda counts: sum(count for count, _ in counts.by_size.values()),
    ),
    (
        "nv_inference_request_duration_us",
        "Microseconds from the arrival of requests to their answers",
        lambda counts: counts.spent[1] * _MICROSECONDS,
    ),
    (
        "nv_inference_queue_duration_us",
        "Microseconds that requests waited for a worker",
        lambda counts: sum(counts.queue) * _MICROSECONDS,
    ),
    ("nv_inference_compute_input_duration_us", "Part of nv_inference_compute_infer_duration_us", lambda _: 0),
    (
        "nv_inference_compute_infer_duration_us",
        "Microseconds of the calls of the model",
        lambda counts: counts.inferences.total * _MICROSECONDS,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Part of nv_inference_compute_infer_duration_us",
        lambda _: 0,
    ),
    ("nv_cache_num_hits_per_model", "Requests that the response cache answered", lambda c: c.cache[1]),
    ("nv_cache_num_misses_per_model", "Requests that it could not answer", lambda c: c.cache[0]),
    (
        "nv_cache_hit_duration_per_model",
        "Microseconds of looking answers up",
        lambda counts: counts.cache_spent[1] * _MICROSECONDS,
    ),
    (
        "nv_cache_miss_duration_per_model",
        "Microseconds of looking up answers that were not there, and of keeping them",
        lambda counts: counts.cache_spent[0] * _MICROSECONDS,
    ),
)


class TritonMetrics(Collector):
    """Joins the metrics of a server. ``waiting`` counts the requests in the queue of a version, by name and version."""

    def __init__(self, metrics: Metrics, waiting: Callable[[], Iterable[tuple[str, str, int]]]) -> None:
        self._metrics = metrics
        self._waiting = waiting
        metrics.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Return every family with the counts of now."""
        models = [(each, each.counts) for each in self._metrics.all_statistics()]
        for name, text, value_of in _COUNTERS:
            family = Metric(name, text, "counter")
            for statistics, counts in models:
                family.add_sample(name, _labels(statistics), value_of(counts))
            yield family
        failed = Metric("nv_inference_request_failure", "Requests that got an error, by reason", "counter")
        for statistics, counts in models:
            reasons = {each.name: counts.failures[each] for each in Failure}
            reasons["OTHER"] = max(counts.outcomes[0] - sum(reasons.values()), 0)
            for reason, count in reasons.items():
                failed.add_sample(failed.name, {**_labels(statistics), "reason": reason}, count)
        yield failed
        pending = Metric("nv_inference_pending_request_count", "Requests that wait for a worker", "gauge")
        for model, version, count in self._waiting():
            pending.add_sample(pending.name, {"model": model, "version": version}, count)
        yield pending
        yield from self._machine_families()

    def _machine_families(self) -> Iterator[Metric]:
        machine = self._metrics.host.machine
        if machine is None:
            return
        memory = psutil.virtual_memory()
        for name, text, value in (
            ("nv_cpu_utilization", "How busy all cores are, from 0 to 1", machine.cpu_percent() / 100),
            ("nv_cpu_memory_total_bytes", "Memory of the machine", memory.total),
            ("nv_cpu_memory_used_bytes", "Memory in use", memory.total - memory.available),
        ):
            family = Metric(name, text, "gauge")
            family.add_sample(name, {}, value)
            yield family


def _labels(statistics: ModelStatistics) -> dict[str, str]:
    return {"model": statistics.name, "version": statistics.version}
