"""The scheduler of a model whose configuration says how its requests wait: priorities, sizes, time-outs, order.

Models without such a configuration have a plain ``Scheduler``, so that no request of theirs pays for any of it.
"""

import math
import time
from collections import deque
from collections.abc import Callable

from mooring.core.buffers import Buffer
from mooring.core.errors import MooringError, QueueFull, QueueTimeout
from mooring.core.requests import InferenceRequest
from mooring.core.service import Done, ModelMetadata, Ticket
from mooring.engine.ordering import OrderedTicket, Ordering
from mooring.engine.scheduler import ASIDE, WAITING, QueuedRequest, Scheduler, keys
from mooring.observability.statistics import ModelStatistics
from mooring.repository.spec import ModelSpec, QueuePolicy


class PolicyScheduler(Scheduler):
    """The queue of one version with a queue policy, and the owner of its workers."""

    def __init__(
        self,
        spec: ModelSpec,
        statistics: ModelStatistics,
        allocate: Callable[[int], Buffer | None],
        health: Callable[[ModelMetadata | MooringError], None],
    ) -> None:
        super().__init__(spec, statistics, allocate, health)
        self._waits = spec.queue_policy or QueuePolicy()
        self._whole_queue = spec.queue_size
        self._ordering = Ordering() if self._waits.ordered else None
        # Of each priority those that wait, and when their time is over, the oldest first.
        self._timed: dict[int, deque[tuple[float, QueuedRequest]]] = {}

    def submit(self, request: InferenceRequest, done: Done, rows: int) -> Ticket:
        """Queue a request behind those of its priority, or refuse it at once."""
        waits = self._waits
        if waits.levels and not 1 <= request.priority <= waits.levels:
            request.priority = waits.default_level  # Triton's rule for none and for one that there is not
        level = request.priority if waits.levels else 0
        if self._ordering is None:
            return self._submit(request, done, rows, level)
        turn = self._ordering.enter(done)
        return OrderedTicket(self._submit(request, turn, rows, level), turn)

    def _submit(self, request: InferenceRequest, done: Done, rows: int, level: int) -> Ticket:
        policy = self._waits.of(level)
        full = self._level_full(level, policy.queue_size)
        if full is not None:
            refused = QueuedRequest(self, request, done, rows, time.monotonic(), next(keys))
            self._waiting += 1
            refused.refuse(full)
            return refused
        queued = super().submit(request, done, rows)
        if policy.timeout and isinstance(queued, QueuedRequest) and queued.state == WAITING:
            timed = self._timed.setdefault(level, deque())
            _forget_answered(timed)
            timed.append((queued.since + policy.timeout, queued))
        return queued

    def check(self, now: float) -> None:
        """Give up requests whose deadline, or whose time in the queue, has passed."""
        super().check(now)
        self._end_waits(now)

    def precedence(self, queued: QueuedRequest) -> tuple[float, bool]:
        """What is served first: the priority, and of one priority those that have not waited too long."""
        return (queued.request.priority or math.inf, queued.delayed)

    def _flush(self) -> None:
        # Before workers are given anything: whose time in the queue is over must not run.
        self._end_waits(time.monotonic())
        super()._flush()

    def _level_full(self, level: int, size: int) -> QueueFull | None:
        size = math.ceil(
            size * self.spec.queue_size / self._whole_queue
        )  # a further front has its share of both
        if not size or self._waiting < size or self._count(level) < size:
            return None
        self._flush()
        return self._queue_full() if self._count(level) >= size else None

    def _count(self, level: int) -> int:
        return sum(
            each.state == WAITING and (not level or each.request.priority == level) for each in self._queue
        )

    def _end_waits(self, now: float) -> None:
        for level, timed in self._timed.items():
            _forget_answered(timed)
            while timed and timed[0][0] <= now:
                _, queued = timed.popleft()
                if queued.state in (WAITING, ASIDE):
                    self._end_wait(queued, level)

    def _end_wait(self, queued: QueuedRequest, level: int) -> None:
        policy = self._waits.of(level)
        if not policy.delays:
            queued.refuse(self._waited_too_long(policy.timeout))
            return
        queued.delayed = True
        if queued.state == WAITING:
            self._queue.remove(queued)
            self._insert(queued)

    def _waited_too_long(self, limit: float) -> QueueTimeout:
        name = self.spec.name
        return QueueTimeout(
            f"Request timeout expired: no worker of model '{name}' was free within {limit:g} s",
            model=name,
            version=self.spec.version,
        )


def _forget_answered(timed: deque[tuple[float, QueuedRequest]]) -> None:
    while timed and timed[0][1].state not in (WAITING, ASIDE):
        timed.popleft()
