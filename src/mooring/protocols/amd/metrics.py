"""AMD's metric names: counted where no counter of ours says the same, else worked out of ours when somebody asks."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.registry import Collector

from mooring.observability.histogram import Histogram
from mooring.observability.metrics import Metrics
from mooring.observability.statistics import DURATIONS
from mooring.protocols.endpoints import Endpoint
from mooring.web.http1 import Exchange
from mooring.web.routing import Handler, Match

_QUANTILES = (0.5, 0.9, 0.99)
# What AMD's server counts as a request, by the last segment of its path, and as which: hardware is a GET there.
_COUNTED = {"v2": "GET", "live": "GET", "ready": "GET", "hardware": "GET", "infer": "POST"}
_MODEL = ("/v2/models/{model_name}", "/v2/models/{model_name}/versions/{model_version}")


class AmdMetrics(Collector):
    """Joins the metrics of a server. ``waiting`` tells how many requests are in the queues."""

    def __init__(self, metrics: Metrics, waiting: Callable[[], int]) -> None:
        self._metrics = metrics
        self._waiting = waiting
        metrics.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Every family anew."""
        models = [model.counts for model in self._metrics.all_statistics()]
        requests = sum(sum(model.outcomes) for model in models)
        batches = sum(sum(model.batches.counts) for model in models)
        waiting = self._waiting()
        yield _counter(
            "amdinfer_requests_ingress_total",
            "Requests that came in, over REST by method",
            *(({"api": "rest", "method": kind}, count) for kind, count in self._metrics.ingress.items()),
            ({"api": "cpp", "method": "native"}, 0),
        )
        # What leaves a batcher here is a batch that a worker gets, and has answered.
        yield _counter(
            "amdinfer_pipeline_ingress_total",
            "What entered a stage of the pipeline",
            ({"stage": "batcher"}, requests + waiting),
            ({"stage": "worker"}, batches),
        )
        yield _counter(
            "amdinfer_pipeline_egress_total",
            "What left a stage of the pipeline",
            ({"stage": "batcher"}, batches),
            ({"stage": "worker"}, batches),
        )
        yield _counter(
            "exposer_transferred_bytes_total", "Bytes of metrics sent", ({}, self._metrics.scraped_bytes)
        )
        yield _counter(
            "exposer_scrapes_total",
            "Times that metrics were asked for",
            ({}, sum(self._metrics.scrapes.counts)),
        )
        yield self._queues(waiting)
        yield _summary(
            "exposer_request_latencies", "Microseconds to tell the metrics", [self._metrics.scrapes]
        )
        yield _summary(
            "amdinfer_request_latency",
            "Microseconds from a request's arrival to its answer",
            [model.durations for model in models],
        )

    def _queues(self, waiting: int) -> Metric:
        family = Metric("amdinfer_queue_sizes_total", "Requests in a queue", "gauge")
        for stage, direction, size in (("batcher", "input", waiting), ("batcher", "output", 0)):
            family.add_sample(family.name, {"direction": direction, "stage": stage}, size)
        # There is no pool of buffers to run dry.
        for direction in ("input", "output"):
            family.add_sample(family.name, {"direction": direction, "stage": "buffer"}, 0)
        return family


def count_requests(endpoints: Iterable[Endpoint], metrics: Metrics) -> list[Endpoint]:
    """The same endpoints, where every call that AMD's server counts is counted in ``metrics.ingress``.

    Count a call in the process that its client has reached, and not again where it is relayed to.
    """
    return [
        endpoint.with_handler(_counted(endpoint.handler, kind, metrics.ingress))
        if (kind := _kind_of(endpoint))
        else endpoint
        for endpoint in endpoints
    ]


def _counted(handler: Handler, kind: str, ingress: dict[str, int]) -> Handler:
    def count(exchange: Exchange, match: Match) -> None:
        ingress[kind] += 1
        handler(exchange, match)

    return count


def _kind_of(endpoint: Endpoint) -> str:
    if endpoint.methods == frozenset({"OPTIONS"}):
        return ""
    if endpoint.pattern in _MODEL:
        return "GET"
    return _COUNTED.get(endpoint.pattern.rpartition("/")[2], "") if endpoint.pattern.startswith("/v2") else ""


def _counter(name: str, text: str, *samples: tuple[dict[str, str], float]) -> Metric:
    family = Metric(name, text, "counter")
    for labels, value in samples:
        family.add_sample(name, labels, value)
    return family


def _summary(name: str, text: str, histograms: Sequence[Histogram]) -> Metric:
    family = Metric(name, text, "summary")
    counts = [sum(column) for column in zip(*(each.counts for each in histograms), strict=True)]
    for quantile, value in zip(_QUANTILES, quantiles(counts, _QUANTILES), strict=True):
        family.add_sample(name, {"quantile": str(quantile)}, value * 1e6)
    family.add_sample(f"{name}_count", {}, sum(counts))
    family.add_sample(f"{name}_sum", {}, sum(each.total for each in histograms) * 1e6)
    return family


def quantiles(counts: Sequence[int], wanted: Iterable[float]) -> Iterator[float]:
    """Estimates in seconds, out of how many values fell up to each of ``DURATIONS``; NaN where there are none.

    Within a bucket values count as evenly spread; above the last bound they count as the bound.

    >>> [f"{each:.6f}" for each in quantiles([0, 10] + [0] * 18, [0.5])]  # ten values between 100 and 250 us
    ['0.000175']
    """
    below = [0]
    for count in counts:
        below.append(below[-1] + count)
    for each in wanted:
        rank = each * below[-1]
        if not rank:
            yield math.nan
            continue
        bucket = bisect_left(below, rank) - 1
        low = DURATIONS[bucket - 1] if bucket else 0.0
        high = DURATIONS[min(bucket, len(DURATIONS) - 1)]
        yield low + (high - low) * (rank - below[bucket]) / counts[bucket] if high > low else high
