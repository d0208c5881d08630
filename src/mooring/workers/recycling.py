"""Which worker makes way for a fresh one, and how much memory it has.

    serving ──▶ due: its successor loads ──▶ leaving: nothing new comes to it ──▶ dismissed once it is idle

One is due at a time: there is one process more than wanted, and all the others serve.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import psutil

from mooring.core.options import Scaling
from mooring.observability.statistics import RestartReason

if TYPE_CHECKING:
    from mooring.workers.handle import OwnedWorker

_LOOK_EVERY = 1.0  # seconds: the kernel walks all pages of a process to tell its memory
# A worker at this many times its limit is not waited for: a request that eats memory would take the machine's.
_TOO_MUCH = 2


class Recycler:
    """The workers of one pool that make way for fresh ones: the one that is ``due``, and those that are ``leaving``."""

    def __init__(self, rule: Scaling) -> None:
        self.due: OwnedWorker | None = None
        self.leaving: set[OwnedWorker] = set()
        self.active = bool(rule.max_requests or rule.memory_limit)
        self._rule = rule
        self._next_look = 0.0

    @property
    def extra(self) -> int:
        """The number of workers beyond the wanted ones that recycling needs."""
        return len(self.leaving) + (self.due is not None)

    def is_check_due(self, now: float) -> bool:
        """Whether the memory of the workers is to be read now."""
        if not self._rule.memory_limit or now < self._next_look:
            return False
        self._next_look = now + _LOOK_EVERY
        return True

    def choose_next(self, workers: Iterable["OwnedWorker"]) -> "OwnedWorker | None":
        """Make the first worker past a limit due, and return it; None if there is none, or another one is due."""
        if self.due is None:
            self.due = next((one for one in workers if one not in self.leaving and self._is_due(one)), None)
            return self.due
        return None

    def mark_replaced(self) -> "OwnedWorker":
        """Move the due worker to those that leave, since its successor is ready, and return it."""
        worker, self.due = self.due, None
        assert worker is not None
        self.leaving.add(worker)
        return worker

    def forget(self, worker: "OwnedWorker") -> None:
        """Forget a worker that has ended."""
        self.leaving.discard(worker)
        if self.due is worker:
            self.due = None

    def is_over_limit(self, worker: "OwnedWorker") -> bool:
        """Whether a worker has so much memory that it must be ended at once."""
        return worker.memory > self._rule.memory_limit * _TOO_MUCH

    def reason_for(self, worker: "OwnedWorker") -> RestartReason:
        """Why a worker makes way."""
        if worker.process.stale:
            return RestartReason.TEMPLATE_REPLACED
        most = self._rule.max_requests
        return RestartReason.REQUEST_LIMIT if most and worker.served >= most else RestartReason.MEMORY_LIMIT

    def _is_due(self, worker: "OwnedWorker") -> bool:
        most, limit = self._rule.max_requests, self._rule.memory_limit
        return worker.process.stale or bool(
            (most and worker.served >= most) or (limit and worker.memory > limit)
        )


def memory_of(pid: int) -> int:
    """Bytes of memory that are a process's own, and its share of what it shares; 0 when it is gone.

    The proportional set size where the kernel tells it: what is resident counts libraries and the arena in every worker
    again, and what is mapped (RLIMIT_AS) has nothing to do with memory in use.
    """
    try:
        told = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(told, "pss", told.uss))


def sum_memory(pids: Iterable[int]) -> int:
    """Bytes of memory of some processes, each as ``memory_of`` says it."""
    return sum(map(memory_of, pids))


def resident_memory(pid: int) -> int:
    """Bytes of memory that a process has in use, what it shares included; 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
