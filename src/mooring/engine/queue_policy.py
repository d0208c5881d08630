"""The scheduler of a model whose configuration says how its requests wait: priorities, sizes, time-outs, order.

Models without such a configuration have a plain ``Scheduler``, so that no request of theirs pays for any of it.
"""

import math
import time
from collections import deque
from collections.abc import Callable

from mooring.core.buffers import Buffer
from mooring.core.errors import MooringError, QueueFull, QueueTimeout
from mooring.core.options import QueuePolicy
from mooring.core.requests import InferenceRequest
from mooring.core.service import Done, ModelMetadata, Ticket
from mooring.engine.dispatch_timer import Loop
from mooring.engine.dispatcher import Clock, W
from mooring.engine.json_outputs import CodecProcesses
from mooring.engine.ordering import OrderedTicket, Ordering
from mooring.engine.queued_request import OFFLOADED, WAITING, QueuedRequest, next_key
from mooring.engine.scheduler import Scheduler
from mooring.observability.statistics import ModelStatistics
from mooring.repository.spec import ModelSpec
from mooring.workers.handle import PoolOwner


class PolicyScheduler(Scheduler[W]):
    """The queue of one version with a queue policy.

    A level is a priority, 1 the best; without priorities all requests are of level 0.
    """

    def __init__(
        self,
        spec: ModelSpec,
        statistics: ModelStatistics,
        allocate: Callable[[int], Buffer | None],
        health: Callable[[ModelMetadata | MooringError], None],
        make_pool: Callable[[PoolOwner], W],
        *,
        codecs: CodecProcesses | None = None,
        wake: Callable[[], None] | None = None,
        clock: Clock = time.monotonic,
        loop: Loop | None = None,
    ) -> None:
        self._queue_policy = spec.limits.queue_policy or QueuePolicy()
        self._ordering = Ordering() if self._queue_policy.ordered else None
        # Of each level the requests that wait, and when their time is over, the oldest first.
        self._timed: dict[int, deque[tuple[float, QueuedRequest]]] = {}
        super().__init__(
            spec, statistics, allocate, health, make_pool, codecs=codecs, wake=wake, clock=clock, loop=loop
        )

    def submit(self, request: InferenceRequest, done: Done, rows: int) -> Ticket:
        """Queue a request behind those of its priority, or refuse it at once."""
        policy = self._queue_policy
        if policy.levels and not 1 <= request.priority <= policy.levels:
            request.priority = policy.default_level  # Triton's rule for none and for one that there is not
        level = request.priority if policy.levels else 0
        if self._ordering is None:
            return self._submit_at(request, done, rows, level)
        entry = self._ordering.add_request(done)
        return OrderedTicket(self._submit_at(request, entry, rows, level), entry)

    def _submit_at(self, request: InferenceRequest, done: Done, rows: int, level: int) -> Ticket:
        policy = self._queue_policy.of(level)
        full = self._level_error(level, policy.queue_size)
        if full is not None:
            queued = QueuedRequest(self._dispatcher, request, done, rows, self._clock(), next_key())
            return self._dispatcher.reject(queued, full)
        ticket = super().submit(request, done, rows)
        if policy.timeout and isinstance(ticket, QueuedRequest) and ticket.state is WAITING:
            timed = self._timed.setdefault(level, deque())
            _drop_answered(timed)
            timed.append((ticket.arrived + policy.timeout, ticket))
        return ticket

    def check_deadlines(self, now: float) -> None:
        """Give up requests whose deadline, or whose time in the queue, has passed."""
        super().check_deadlines(now)
        self._end_waits(now)

    def dispatch(self) -> None:
        """Send what waits to the workers that are idle."""
        # First: a request whose time in the queue is over must not run.
        self._end_waits(self._clock())
        super().dispatch()

    def _level_error(self, level: int, size: int) -> QueueFull | None:
        # One of several frontend processes has its share of the whole queue, and the same share of every level.
        size = math.ceil(size * self.queue_size / self.spec.limits.queue_size)
        if not size or self._queue.waiting < size or self._count_waiting(level) < size:
            return None
        self.dispatch()
        return self._queue_full() if self._count_waiting(level) >= size else None

    def _count_waiting(self, level: int) -> int:
        return sum(not level or queued.request.priority == level for queued in self._queue)

    def _end_waits(self, now: float) -> None:
        for level, timed in self._timed.items():
            _drop_answered(timed)
            while timed and timed[0][0] <= now:
                _, queued = timed.popleft()
                if queued.state in (WAITING, OFFLOADED):
                    self._end_wait(queued, level)

    def _end_wait(self, queued: QueuedRequest, level: int) -> None:
        policy = self._queue_policy.of(level)
        if not policy.delays:
            queued.refuse(self._timeout_error(policy.timeout))
            return
        queued.delayed = True
        if queued.state is WAITING:
            self._queue.reinsert(queued)

    def _timeout_error(self, limit: float) -> QueueTimeout:
        name = self.spec.name
        return QueueTimeout(
            f"Request timeout expired: no worker of model '{name}' was free within {limit:g} s",
            model=name,
            version=self.spec.version,
        )


def _drop_answered(timed: deque[tuple[float, QueuedRequest]]) -> None:
    while timed and timed[0][1].state not in (WAITING, OFFLOADED):
        timed.popleft()
