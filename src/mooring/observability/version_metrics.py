"""The metrics of every version of every model: what was counted of it, and what it has to do now."""

import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mooring.core.service import QueueScaling, VersionLoad
from mooring.observability.exposition import (
    Family,
    Number,
    Page,
    fill,
    format_labels,
    histogram_template,
    histogram_values,
    sample_template,
    version_labels,
)
from mooring.observability.histogram import Histogram
from mooring.observability.statistics import (
    DEFAULT_VERSION,
    DURATIONS,
    LOADS,
    ROWS,
    Counts,
    ModelStatistics,
    RestartReason,
)

States = Callable[[], Iterable[tuple[str, str, str]]]
"""Returns the name, version and state of every version."""
Loads = Callable[[], Sequence[VersionLoad]]
"""Returns what every version has to do now."""

BY_URL = (
    "ts_inference_requests_total",
    "ts_inference_latency_microseconds",
    "ts_queue_latency_microseconds",
)
"""TorchServe's three counters by model."""

_Key = tuple[str, str]
_Read = Callable[[ModelStatistics, Counts], tuple[Number, ...] | None]


class CountedFamily(NamedTuple):
    """A family with the counts of every version. ``read`` gives the numbers of one; None where it has none of this."""

    family: Family
    template: str
    read: _Read


class LoadFamily(NamedTuple):
    """A gauge of what every version has to do now. ``read`` gives None for a version that has none of this."""

    family: Family
    template: str
    read: Callable[[VersionLoad], Number | None]


def _counter(name: str, text: str, read: _Read, *further: str) -> CountedFamily:
    return CountedFamily(Family(name, text, "counter"), sample_template(name, *further), read)


def _histogram(
    name: str, text: str, bounds: Sequence[float], of: Callable[[ModelStatistics, Counts], Histogram]
) -> CountedFamily:
    def read(statistics: ModelStatistics, counts: Counts) -> tuple[Number, ...]:
        return histogram_values(of(statistics, counts))

    return CountedFamily(Family(name, text, "histogram"), histogram_template(name, bounds), read)


def _gauge(
    name: str, text: str, read: Callable[[VersionLoad], Number | None], number: str = "%d"
) -> LoadFamily:
    return LoadFamily(Family(name, text, "gauge"), sample_template(name, number=number), read)


def _scaling_gauge(
    name: str, text: str, read: Callable[[QueueScaling], Number], number: str = "%d"
) -> LoadFamily:
    return _gauge(name, text, lambda load: None if load.scaling is None else read(load.scaling), number)


def _read_cache(_: ModelStatistics, counts: Counts) -> tuple[Number, ...] | None:
    return tuple(counts.cache) if any(counts.cache) else None


COUNTED: tuple[CountedFamily, ...] = (
    _counter(
        "mooring_requests_total",
        "Requests by whether the model answered them",
        lambda _, counts: tuple(counts.outcomes),
        'outcome="failed"',
        'outcome="answered"',
    ),
    _counter(
        "mooring_response_cache_requests_total",
        "Requests to models with a response cache by whether it had the answer",
        _read_cache,
        'outcome="miss"',
        'outcome="hit"',
    ),
    _counter(
        "mooring_worker_failures_total",
        "Workers that died, or could not load the model",
        lambda statistics, _: (statistics.workers[0],),
    ),
    _counter(
        "mooring_workers_recycled_total",
        "Workers that made way for fresh ones, losing nothing",
        lambda statistics, _: (statistics.workers[1],),
    ),
    _counter(
        "mooring_worker_restarts_total",
        "Workers that another one took the place of, by the reason",
        lambda statistics, _: tuple(statistics.restarts),
        *(f'reason="{reason.name.lower()}"' for reason in RestartReason),
    ),
    _counter(
        "mooring_scaling_events_total",
        "Changes of the number of workers by the time that requests wait, of versions with a target for it",
        lambda statistics, _: None if statistics.scalings is None else tuple(statistics.scalings),
        'direction="down"',
        'direction="up"',
    ),
    _histogram(
        "mooring_request_duration_seconds",
        "From arrival of a request to its answer",
        DURATIONS,
        lambda _, counts: counts.durations,
    ),
    _histogram(
        "mooring_queue_duration_seconds",
        "Time a request waited for a worker",
        DURATIONS,
        lambda _, counts: counts.queues,
    ),
    _histogram(
        "mooring_inference_duration_seconds",
        "Time a worker took for a batch",
        DURATIONS,
        lambda _, counts: counts.inferences,
    ),
    _histogram(
        "mooring_batch_rows", "Rows in a batch sent to a worker", ROWS, lambda _, counts: counts.batches
    ),
    _histogram(
        "mooring_batch_requests", "Requests in a batch", ROWS, lambda _, counts: counts.batch_requests
    ),
    _histogram(
        "mooring_model_load_duration_seconds",
        "From the begin of a load until the version was ready",
        LOADS,
        lambda statistics, _: statistics.loads,
    ),
)
LOADED: tuple[LoadFamily, ...] = (
    _gauge("mooring_waiting_requests", "Requests that wait for a worker", lambda load: load.waiting),
    _gauge(
        "mooring_oldest_wait_seconds",
        "How long the oldest request that waits has waited",
        lambda load: load.oldest_wait,
        "%r",
    ),
    _gauge("mooring_in_flight_requests", "Requests that a worker is working on", lambda load: load.in_flight),
    _gauge("mooring_workers_ready", "Workers that have the model loaded", lambda load: load.ready_workers),
    _gauge("mooring_workers_wanted", "Workers that are kept up", lambda load: load.wanted_workers),
    _gauge("mooring_workers_busy", "Workers that have a request now", lambda load: load.busy_workers, "%r"),
    _scaling_gauge(
        "mooring_queue_target_seconds",
        "How long 95 of 100 requests should wait at most",
        lambda scaling: scaling.target,
        "%r",
    ),
    _scaling_gauge(
        "mooring_queue_p95_seconds",
        "How long 95 of 100 requests waited at most that were answered lately, of versions with a target for it",
        lambda scaling: scaling.queue_p95,
        "%r",
    ),
    _scaling_gauge(
        "mooring_workers_needed",
        "Workers that the target for the queue takes, whether or not there may be so many",
        lambda scaling: scaling.needed_workers,
    ),
    _scaling_gauge(
        "mooring_workers_limit",
        "Workers that there may be: the most of the model's range, or fewer where other models leave no room",
        lambda scaling: scaling.most_workers,
    ),
)
STATE = Family("mooring_model_state", "1 for the state that a version is in", "gauge")
SEQUENCES = Family("mooring_sequences", "Sequences that are open, of models that keep state", "gauge")
_SEQUENCES = sample_template(SEQUENCES.name)


class UrlFamily(NamedTuple):
    """One of TorchServe's: ``read`` gives the sums with and without a version in the URL, ``scale`` makes its unit of them."""

    family: Family
    read: Callable[[Counts], Sequence[float]]
    scale: float


def _by_url(name: str, unit: str, read: Callable[[Counts], Sequence[float]], scale: float) -> UrlFamily:
    text = f"Torchserve prometheus counter metric with unit: {unit}"
    return UrlFamily(Family(name, text, "counter"), read, scale)


_BY_URL = (
    _by_url(BY_URL[0], "Count", lambda counts: counts.requests, 1.0),
    _by_url(BY_URL[1], "Microseconds", lambda counts: counts.latency, 1e6),
    _by_url(BY_URL[2], "Microseconds", lambda counts: counts.queue, 1e6),
)


class VersionMetrics:
    """Writes them to the page of a scrape. ``models`` are the counts, by name and version.

    How this works: ``write`` goes through the versions once and fills the templates of all families with the numbers of
    each, so that they are of one moment. Gauges are read all at once, and written family by family. It yields after every
    version and every family of gauges, and its caller may do other things then.
    """

    def __init__(self, models: Mapping[_Key, ModelStatistics]) -> None:
        self._models = models
        self._host = socket.gethostname()
        self._states: States = lambda: ()
        self._loads: Loads = lambda: ()

    @property
    def families(self) -> Collection[Family]:
        """Every family, whether or not it has samples now."""
        counted = [each.family for each in COUNTED]
        loaded = [each.family for each in LOADED]
        return [*(each.family for each in _BY_URL), *counted, *loaded, STATE, SEQUENCES]

    def read_versions(self, states: States, loads: Loads) -> None:
        """Ask at every scrape for the state of every version, and for what it has to do."""
        self._states, self._loads = states, loads

    def write(self, page: Page) -> Iterator[None]:
        """Add all families with the counts of now."""
        # As many lists of samples as there are families.
        wanted = [each for each in COUNTED if page.wants(each.family)]
        samples: list[list[str]] = [[] for _ in wanted]
        by_url = _UrlCounts(self._host)
        for statistics in list(self._models.values()):
            counts, labels = statistics.counts, statistics.labels
            by_url.add(statistics, counts)
            for each, lines in zip(wanted, samples, strict=True):
                values = each.read(statistics, counts)
                if values is not None:
                    lines.append(fill(each.template, labels, values))
            yield
        by_url.write(page)
        for each, lines in zip(wanted, samples, strict=True):
            page.add(each.family, lines)
        yield
        yield from self._write_loads(page)

    def _write_loads(self, page: Page) -> Iterator[None]:
        """Add the gauges, which only versions have that are loaded."""
        families = [each for each in LOADED if page.wants(each.family)]
        if families or page.wants(SEQUENCES):
            loads = [(self._labels_of(load.name, load.version), load) for load in self._loads()]
            yield
            for each in families:
                values = [(labels, each.read(load)) for labels, load in loads]
                page.add(
                    each.family,
                    [fill(each.template, labels, (value,)) for labels, value in values if value is not None],
                )
                yield
            open_sequences = [(labels, self._sequences_of(load)) for labels, load in loads]
            page.add(
                SEQUENCES,
                [fill(_SEQUENCES, labels, (count,)) for labels, count in open_sequences if count is not None],
            )
            yield
        if page.wants(STATE):
            page.add(
                STATE,
                [
                    f'{STATE.name}{{{self._labels_of(model, version)},state="{state}"}} 1\n'
                    for model, version, state in self._states()
                ],
            )

    def _labels_of(self, model: str, version: str) -> str:
        statistics = self._models.get((model, version))
        return statistics.labels if statistics is not None else version_labels(model, version)

    def _sequences_of(self, load: VersionLoad) -> int | None:
        statistics = self._models.get((load.name, load.version))
        return statistics.sequences if statistics is not None else None


class _UrlCounts:
    """TorchServe's three counters by model, and by version where the URL named one."""

    def __init__(self, host: str) -> None:
        self._host = format_labels({"hostname": host})
        self._lines: list[list[str]] = [[] for _ in _BY_URL]
        self._defaulted: dict[str, list[float]] = {}  # over all versions that have been the default one

    def add(self, statistics: ModelStatistics, counts: Counts) -> None:
        """Add the counts of a version."""
        if counts.requests[0]:
            self._add_lines(statistics.labels, [read(counts)[0] * scale for _, read, scale in _BY_URL])
        if counts.requests[1]:
            sums = self._defaulted.setdefault(statistics.name, [0.0] * len(_BY_URL))
            sums[:] = [
                total + read(counts)[1] * scale for total, (_, read, scale) in zip(sums, _BY_URL, strict=True)
            ]

    def _add_lines(self, labels: str, values: Sequence[float]) -> None:
        for lines, (family, _, _), value in zip(self._lines, _BY_URL, values, strict=True):
            lines.append(f"{family.name}{{{labels},{self._host}}} {float(value)!r}\n")

    def write(self, page: Page) -> None:
        """Add the families to the page."""
        for name, values in self._defaulted.items():
            self._add_lines(version_labels(name, DEFAULT_VERSION), values)
        for (family, _, _), lines in zip(_BY_URL, self._lines, strict=True):
            page.add(family, lines)
