"""What one version of a model has done: noted for every request, and summed up when somebody asks.

A note is two numbers at the end of a list; to find their places in the histograms at once costs ten times that. The
sums are exact whenever they are read, for they are only read through ``counts``.
"""

import operator
import time
from collections.abc import Sequence
from typing import Any

from mooring.observability.histogram import Histogram

# Seconds. From a tiny echo to TorchServe's default response time-out of 120 s.
DURATIONS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0,
)  # fmt: skip
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

# Notes that may lie about: to sum so many up takes some tens of microseconds.
_MOST_NOTES = 1024


class Counts:
    """The sums of one version, in this process or of several. Times are in seconds."""

    __slots__ = (
        "by_size", "durations", "inferences", "latency", "outcomes", "queue", "queues", "requests", "spent",
    )  # fmt: skip

    def __init__(self) -> None:
        self.outcomes = [0, 0]  # failed, answered
        self.spent = [0.0, 0.0]  # from arrival to answer, of each kind
        self.by_size: dict[int, list[float]] = {}  # rows of a batch -> how many of them, and their seconds
        # TorchServe's three, apart for requests whose URL named a version [0] and those whose URL did not [1].
        self.requests = [0, 0]
        self.latency = [0.0, 0.0]
        self.queue = [0.0, 0.0]
        self.durations = Histogram(DURATIONS)
        self.queues = Histogram(DURATIONS)
        self.inferences = Histogram(DURATIONS)

    @property
    def batches(self) -> Histogram:
        """The rows of every call."""
        sizes = Histogram(ROWS)
        for rows, (count, _) in self.by_size.items():
            sizes.observe(rows, int(count))
        return sizes

    def add_requests(self, ok: bool, defaulted: bool, latencies: list[float], queues: list[float]) -> None:
        """So many requests are over, all of them of these two kinds."""
        latency, queue = self.durations.observe_all(latencies), self.queues.observe_all(queues)
        self.outcomes[ok] += len(latencies)
        self.spent[ok] += latency
        self.requests[defaulted] += len(latencies)
        self.latency[defaulted] += latency
        self.queue[defaulted] += queue

    def add_calls(self, rows: int, seconds: list[float]) -> None:
        """The model was called, each time for so many rows and so many seconds."""
        of_size = self.by_size.setdefault(rows, [0, 0.0])
        of_size[0] += len(seconds)
        of_size[1] += self.inferences.observe_all(seconds)

    def packed(self) -> list[Any]:
        """Everything, for ``add`` in another process."""
        histograms = [(h.counts, h.total) for h in (self.durations, self.queues, self.inferences)]
        return [
            self.outcomes, self.spent, self.requests, self.latency, self.queue, self.by_size, histograms,
        ]  # fmt: skip

    def add(self, packed: Sequence[Any]) -> None:
        """What another process has packed."""
        *sums, by_size, histograms = packed
        totals: tuple[list[Any], ...] = (self.outcomes, self.spent, self.requests, self.latency, self.queue)
        for total, more in zip(totals, sums, strict=True):
            total[:] = map(operator.add, total, more)
        for rows, (count, seconds) in by_size.items():
            of_size = self.by_size.setdefault(rows, [0, 0.0])
            of_size[0] += count
            of_size[1] += seconds
        own = (self.durations, self.queues, self.inferences)
        for histogram, (counts, seconds) in zip(own, histograms, strict=True):
            histogram.counts[:] = map(operator.add, histogram.counts, counts)
            histogram.total += seconds


class ModelStatistics:
    """One version of a model. The engine keeps it beside the version, so that no name is looked up per request."""

    __slots__ = (
        "_calls", "_counts", "_noted", "_notes", "answered", "last", "last_queue", "last_way", "name", "sequences",
        "version", "workers",
    )  # fmt: skip

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.workers = [0, 0]  # that failed, that were recycled
        self.sequences: int | None = None  # that are open; None of a model that keeps no state
        self.last = 0.0  # when the model was called last, in seconds since the epoch
        self.last_queue = 0.0  # how long the last request waited for a worker
        self.last_way = 0.0  # and its worker's message, there and back, beyond the time of the model
        self._counts = Counts()
        # Of requests that are over and not in the sums: latencies and queue times, by kind (answered, named no version).
        self._notes: list[tuple[list[float], list[float]]] = [([], []) for _ in range(4)]
        # Those of answered requests, [0] that named a version and [1] that did not: see ``observe_answers``.
        self.answered = self._notes[2], self._notes[3]
        self._calls: dict[int, list[float]] = {}  # the same of calls of the model: their seconds, by rows
        self._noted = 0  # calls and answers, since they were summed up

    def observe(self, latency: float, queue: float, ok: bool, defaulted: bool = False) -> None:
        """A request is over. Times are in seconds; ``defaulted`` says that its URL named no version."""
        latencies, queues = self._notes[2 * ok + defaulted]
        latencies.append(latency)
        queues.append(queue)
        self.last_queue = queue
        if len(queues) >= _MOST_NOTES:
            self._sum_up()

    def observe_answers(self, count: int, last_queue: float) -> None:
        """Count answers whose latencies and queue times were appended to ``answered``; the last one queued so long.

        A call of ``observe`` for every request would cost as much as all the rest that is done at its end.
        """
        self.last_queue = last_queue
        self._noted += count
        if self._noted > _MOST_NOTES:
            self._sum_up()

    def observe_batches(self, batches: Sequence[tuple[int, float]]) -> None:
        """A worker has called the model, each time for so many rows and seconds.

        Of a model that takes one request at a time there are as many as requests.
        """
        self.last = time.time()
        calls = self._calls
        last = None
        for rows, seconds in batches:
            if rows != last:
                note, last = calls.setdefault(rows, []).append, rows
            note(seconds)
        self._noted += len(batches)
        if self._noted > _MOST_NOTES:
            self._sum_up()

    @property
    def counts(self) -> Counts:
        """The sums of all that was noted until now."""
        self._sum_up()
        return self._counts

    def take(self) -> list[Any]:
        """Everything counted since the last time, for ``add`` in another process; nothing is left of it here."""
        counts = self.counts
        if not any(counts.requests) and not counts.by_size:
            return []
        latest = [self.last, self.last_queue, self.last_way]
        self._counts = Counts()
        self.last = self.last_queue = self.last_way = 0.0
        return [*counts.packed(), latest]

    def add(self, counted: Sequence[Any]) -> None:
        """Count what another process has counted."""
        *packed, latest = counted
        self._counts.add(packed)
        if latest[0] > self.last:
            self.last, self.last_queue, self.last_way = latest

    def _sum_up(self) -> None:
        for kind, (latencies, queues) in enumerate(self._notes):
            if latencies:
                self._counts.add_requests(kind >= 2, kind % 2 == 1, latencies, queues)
                del latencies[:], queues[:]
        for rows, seconds in self._calls.items():
            self._counts.add_calls(rows, seconds)
        self._calls.clear()
        self._noted = 0
