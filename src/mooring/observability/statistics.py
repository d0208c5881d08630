"""Statistics of one version of a model: noted for every request, summed up when they are read.

A note is two numbers appended to lists; sorting them into the histograms at once would cost ten times that. The sums
are exact whenever they are read, because they are only read through ``counts``.
"""

import enum
import operator
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mooring.observability.exposition import version_labels
from mooring.observability.histogram import Histogram

# Seconds. From a tiny echo to TorchServe's default response time-out of 120 s.
DURATIONS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0,
)  # fmt: skip
# Seconds. From a model that its template has already to one of many gigabytes.
LOADS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

DEFAULT_VERSION = "default"
"""The version in TorchServe's counters of requests whose URL named no version."""

# Responses of one request that are counted by their number.
_MAX_RESPONSES = 1000
# Numbers of rows that are counted apart, beside those of the histogram. Clients choose them where a model takes any number.
_MAX_SIZES = 1000
# Notes that are kept before they are summed up, which takes some tens of microseconds for so many.
_MAX_NOTES = 1024


class Failure(enum.IntEnum):
    """Why a request got an error, where it is known."""

    REJECTED = 0  # it waited too long
    CANCELED = 1
    BACKEND = 2  # the model, or the process that ran it


class RestartReason(enum.IntEnum):
    """Why another worker takes the place of one. The label of the metric is the name in lower case."""

    DIED = 0  # its process ended by itself, or by a signal that the server did not send
    FROZEN = 1
    RESPONSE_TIMEOUT = 2
    STARTUP_TIMEOUT = 3
    LOAD_FAILED = 4
    NOT_STARTED = 5  # there was no room for its process
    REQUEST_LIMIT = 6
    MEMORY_LIMIT = 7
    TEMPLATE_REPLACED = 8  # the process that it was forked from was frozen


class ResponseKind(enum.IntEnum):
    """What a response of a decoupled model is."""

    SUCCESS = 0
    FAIL = 1
    EMPTY = 2  # the end of a request, with nothing more


class Counts:
    """The sums of one version, in this process or of several. Times are in seconds."""

    __slots__ = (
        "by_requests", "by_size", "cache", "cache_spent", "durations", "failures", "inferences", "latency", "outcomes", "queue", "queues", "requests", "responses", "rows", "spent",
    )  # fmt: skip

    def __init__(self) -> None:
        self.outcomes = [0, 0]  # failed, answered
        self.failures = [0, 0, 0]  # of those that failed, by Failure
        self.spent = [0.0, 0.0]  # from arrival to answer, of each kind
        self.rows = 0  # of all calls of the model
        # Rows of a batch -> how many of them, and their seconds. Beyond _MAX_SIZES a power of two stands for them.
        self.by_size: dict[int, list[float]] = {}
        self.by_requests: dict[int, int] = {}  # requests of a call of the model -> how many of them
        # Of a decoupled model: number of a response -> how many were given, failed and were empty, each with its seconds.
        self.responses: dict[int, list[float]] = {}
        # TorchServe's three, apart for requests whose URL named a version [0] and those whose URL did not [1].
        self.requests = [0, 0]
        self.latency = [0.0, 0.0]
        self.queue = [0.0, 0.0]
        # Of requests to a model with a response cache: misses [0] and hits [1], and the seconds of looking and keeping.
        self.cache = [0, 0]
        self.cache_spent = [0.0, 0.0]
        self.durations = Histogram(DURATIONS)
        self.queues = Histogram(DURATIONS)
        self.inferences = Histogram(DURATIONS)

    @property
    def batches(self) -> Histogram:
        """The histogram of rows per call."""
        sizes = Histogram(ROWS)
        for rows, (count, _) in self.by_size.items():
            sizes.observe(rows, int(count))
        sizes.total = float(self.rows)
        return sizes

    @property
    def batch_requests(self) -> Histogram:
        """The histogram of requests per call."""
        sizes = Histogram(ROWS)
        for requests, count in self.by_requests.items():
            sizes.observe(requests, count)
        return sizes

    def add_requests(self, ok: bool, defaulted: bool, latencies: list[float], queues: list[float]) -> None:
        """Add finished requests, all with this outcome and with or without a version in the URL."""
        latency, queue = self.durations.observe_all(latencies), self.queues.observe_all(queues)
        self.outcomes[ok] += len(latencies)
        self.spent[ok] += latency
        self.requests[defaulted] += len(latencies)
        self.latency[defaulted] += latency
        self.queue[defaulted] += queue

    def add_calls(self, calls: Mapping[tuple[int, int], Sequence[float]]) -> None:
        """Add calls of the model: the seconds of each, by their rows and requests."""
        # One look at the bounds for all: there may be many kinds of calls, and few of each.
        together: list[float] = []
        for (rows, requests), seconds in calls.items():
            self.by_requests[requests] = self.by_requests.get(requests, 0) + len(seconds)
            self.rows += rows * len(seconds)
            self._add_size(rows, len(seconds), sum(seconds))
            together += seconds
        self.inferences.observe_all(together)

    def _add_size(self, rows: int, count: float, seconds: float) -> None:
        if rows > ROWS[-1] and rows not in self.by_size and len(self.by_size) >= _MAX_SIZES:
            rows = 1 << rows.bit_length()  # above the histogram's bounds, as they are
        of_size = self.by_size.setdefault(rows, [0, 0.0])
        of_size[0] += count
        of_size[1] += seconds

    def to_list(self) -> list[Any]:
        """Return all sums, for ``add_list`` in another process."""
        histograms = [(h.counts, h.total) for h in (self.durations, self.queues, self.inferences)]
        return [
            self.outcomes, self.spent, self.requests, self.latency, self.queue, self.cache, self.cache_spent,
            self.failures, self.rows, self.by_requests, self.by_size, self.responses, histograms,
        ]  # fmt: skip

    def add_list(self, values: Sequence[Any]) -> None:
        """Add the sums of another process, as ``to_list`` returns them."""
        *sums, all_rows, by_requests, by_size, responses, histograms = values
        totals: tuple[list[Any], ...] = (
            self.outcomes, self.spent, self.requests, self.latency, self.queue, self.cache, self.cache_spent,
            self.failures,
        )  # fmt: skip
        for total, more in zip(totals, sums, strict=True):
            total[:] = map(operator.add, total, more)
        self.rows += all_rows
        for requests, count in by_requests.items():
            self.by_requests[requests] = self.by_requests.get(requests, 0) + count
        for rows, (count, seconds) in by_size.items():
            self._add_size(rows, count, seconds)
        for number, counted in responses.items():
            total = self.responses.setdefault(number, [0.0] * len(counted))
            total[:] = map(operator.add, total, counted)
        own = (self.durations, self.queues, self.inferences)
        for histogram, (counts, seconds) in zip(own, histograms, strict=True):
            histogram.add(counts, seconds)


class ModelStatistics:
    """One version of a model. The engine keeps it beside the version, so that no name is looked up per request.

    With ``observes_each`` every request must be passed to ``observe_request``, and none to ``observe_answers``.
    """

    __slots__ = (
        "_calls",
        "_counts",
        "_note_count",
        "_notes",
        "answered",
        "labels",
        "last",
        "last_overhead",
        "last_queue",
        "loads",
        "name",
        "restarts",
        "scalings",
        "sequences",
        "version",
        "workers",
    )  # fmt: skip

    observes_each = False

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.labels = version_labels(name, version)  # as they stand on the page of metrics
        self.workers = [0, 0]  # that failed, that were recycled
        self.restarts = [0] * len(RestartReason)
        # How often workers were removed and added for the time that requests wait; None of a version without a target for it.
        self.scalings: list[int] | None = None
        self.loads = Histogram(LOADS)  # seconds from the begin of a load until the version was ready
        self.sequences: int | None = None  # that are open; None of a model that keeps no state
        self.last = 0.0  # when the model was called last, in seconds since the epoch
        self.last_queue = 0.0  # how long the last request waited for a worker
        self.last_overhead = 0.0  # and its worker's message, there and back, beyond the time of the model
        self._counts = Counts()
        # Of requests that are over and not in the sums: latencies and queue times, by kind (answered, named no version).
        self._notes: list[tuple[list[float], list[float]]] = [([], []) for _ in range(4)]
        # Those of answered requests, [0] that named a version and [1] that did not: see ``observe_answers``.
        self.answered = self._notes[2], self._notes[3]
        # The same of calls of the model: their seconds, by rows and requests.
        self._calls: dict[tuple[int, int], list[float]] = {}
        self._note_count = 0  # calls and answers, since they were summed up

    def observe_request(
        self, latency: float, queue: float, ok: bool, defaulted: bool = False, rows: int = 1
    ) -> None:
        """Note a finished request of so many rows. Times are in seconds; ``defaulted``: its URL named no version."""
        latencies, queues = self._notes[2 * ok + defaulted]
        latencies.append(latency)
        queues.append(queue)
        self.last_queue = queue
        if len(queues) >= _MAX_NOTES:
            self._sum_up()

    def observe_run(self, latency: float, ok: bool, defaulted: bool) -> None:
        """As ``observe_request`` of a request that other models have answered, each of which counts it as well."""
        ModelStatistics.observe_request(self, latency, 0.0, ok, defaulted)

    def observe_answers(self, count: int, last_queue: float) -> None:
        """Count answers whose latencies and queue times were appended to ``answered``; the last one queued so long.

        A call of ``observe_request`` for every request would cost as much as all the rest that is done at its end.
        """
        self.last_queue = last_queue
        self._note_count += count
        if self._note_count > _MAX_NOTES:
            self._sum_up()

    def observe_cache(self, seconds: float, *, hit: bool) -> None:
        """Note that a response cache had the answer to a request, or had not, and the seconds that this took."""
        self._counts.cache[hit] += 1
        self._counts.cache_spent[hit] += seconds

    def observe_response(self, number: int, kind: ResponseKind, seconds: float) -> None:
        """Note the response of a decoupled model with this number, 0 for the first of a request."""
        if number < _MAX_RESPONSES:
            counted = self._counts.responses.setdefault(number, [0.0] * 2 * len(ResponseKind))
            counted[2 * kind] += 1
            counted[2 * kind + 1] += seconds

    def count_failure(self, failure: Failure) -> None:
        """Note why a request got an error, beside ``observe_request``."""
        self._counts.failures[failure] += 1

    def observe_batches(self, batches: Sequence[tuple[int, float, int]]) -> None:
        """Note calls of the model by a worker, each with its rows, its seconds and its requests.

        A model without batching has one call per request.
        """
        self.last = time.time()
        calls = self._calls
        last_rows = last_requests = -1
        for rows, seconds, requests in batches:
            if rows != last_rows or requests != last_requests:
                note = calls.setdefault((rows, requests), []).append
                last_rows, last_requests = rows, requests
            note(seconds)
        self._note_count += len(batches)
        if self._note_count > _MAX_NOTES:
            self._sum_up()

    def observe_overhead(self, seconds: float) -> None:
        """Note how long a message to a worker and its answers were on their way, beyond the time of the model."""
        self.last_overhead = seconds

    def note_load(self) -> None:
        """Note that a worker has loaded the model."""

    @property
    def counts(self) -> Counts:
        """The sums of all notes until now."""
        self._sum_up()
        return self._counts

    def take_counts(self) -> list[Any]:
        """Return and reset the sums since the last call, for ``add_counts`` in another process."""
        counts = self.counts
        if not any(counts.requests) and not counts.by_size and not counts.responses:
            return []
        latest = [self.last, self.last_queue, self.last_overhead]
        self._counts = Counts()
        self.last = self.last_queue = self.last_overhead = 0.0
        return [*counts.to_list(), latest]

    def add_counts(self, counted: Sequence[Any]) -> None:
        """Add the sums of another process, as ``take_counts`` returns them."""
        *values, latest = counted
        self._counts.add_list(values)
        if latest[0] > self.last:
            self.last, self.last_queue, self.last_overhead = latest

    def _sum_up(self) -> None:
        for kind, (latencies, queues) in enumerate(self._notes):
            if latencies:
                self._counts.add_requests(kind >= 2, kind % 2 == 1, latencies, queues)
                del latencies[:], queues[:]
        if self._calls:
            self._counts.add_calls(self._calls)
            self._calls.clear()
        self._note_count = 0
