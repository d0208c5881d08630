"""The number of workers follows the time that requests wait, for models that have a target for it. Runs in the first process.

The rule is in ``core/scaling_rule.py``. What is here reads what the rule looks at, out of counts that are kept anyway, and has
the pools do what it says.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from mooring.core.scaling_rule import Demand, ScalingBounds, ScalingRule
from mooring.core.service import QueueScaling
from mooring.engine.admission import QueueLoad
from mooring.engine.registry import ModelVersion, Registry
from mooring.hardware import free_memory
from mooring.observability.logs import get_logger
from mooring.observability.percentiles import find_percentiles, subtract_counts
from mooring.observability.statistics import DURATIONS, ModelStatistics
from mooring.workers.pool import WorkerPool
from mooring.workers.recycling import sum_memory

log = get_logger(__name__)

# Seconds between two looks, and between two times that the memory of a model's workers is measured.
_CHECK_EVERY = 0.25
_MEASURE_EVERY = 10.0
# Readings of a histogram that are kept of a window.
_READINGS = 10
_SHARE = 0.95


class QueueWindow:
    """The 95th percentile of how long requests waited that were answered within a window of some seconds.

    How this works: it keeps a few readings of the histogram that the metrics have anyway, and looks at what was counted since
    the oldest one. So it costs nothing per request, and is as exact as the bounds of the histogram.
    """

    def __init__(self) -> None:
        self._readings: deque[tuple[float, Sequence[int]]] = deque()

    def percentile(self, now: float, counts: Sequence[int], window: float) -> float:
        """Return it in seconds, 0.0 where nothing was answered. ``counts`` are those of the histogram now."""
        readings = self._readings
        if not readings or now - readings[-1][0] >= window / _READINGS:
            readings.append((now, list(counts)))
        while len(readings) > 1 and readings[1][0] <= now - window:
            readings.popleft()
        found = find_percentiles(DURATIONS, subtract_counts(counts, readings[0][1]), [_SHARE])
        return found[0] if found else 0.0


class Surroundings(Protocol):
    """What the scaling asks of the engine."""

    def load_of(self, version: ModelVersion) -> QueueLoad:
        """The requests of a version that wait and run, in all processes."""

    def statistics_of(self, version: ModelVersion) -> ModelStatistics:
        """What was counted of a version, in all processes."""

    def room_for(self, version: ModelVersion) -> int:
        """How many workers of a version there may be beside those that all others are to have."""


class _Scaled:
    """A version whose number of workers follows its queue."""

    def __init__(self) -> None:
        self.rule = ScalingRule()
        self.window = QueueWindow()
        self.p95 = 0.0
        self.most = 0
        self.worker_memory = 0  # bytes of one worker, where it was measured
        self.measured_at = -math.inf


class WorkerScaling:
    """Changes the workers of versions that have a target for their queue. Call ``check`` a few times a second.

    How this works: four times a second each version with a target is looked at, and its ``ScalingRule`` says how many workers it
    should have: within the range that its options or an operator name, within the room beside other models, and with no new
    worker that the free memory does not hold. Of too many workers the idle ones end, others once they are.
    To have none, no frontend process may use the version first (``retire`` returns then); the next request starts a
    worker (``wake_version``). A version is left alone while it is not READY, while an operator's change is under way, and while
    its workers fail.
    """

    def __init__(
        self,
        registry: Registry,
        surroundings: Surroundings,
        retire: Callable[[ModelVersion], Coroutine[Any, Any, None]],
        free_memory: Callable[[], int] = free_memory,
    ) -> None:
        self._registry = registry
        self._surroundings = surroundings
        self._retire = retire
        self._free_memory = free_memory
        self._scaled: dict[ModelVersion, _Scaled] = {}
        self._leaving: dict[ModelVersion, asyncio.Task[None]] = {}
        self._measuring: set[asyncio.Task[None]] = set()
        self._checked_at = -math.inf

    def check(self, now: float) -> None:
        """Give every version with a target the workers that it needs."""
        if now - self._checked_at < _CHECK_EVERY:
            return
        self._checked_at = now
        found = [
            (version, version.pool)
            for version in self._registry
            if version.pool is not None and version.spec.scaling.target_queue
        ]
        self._scaled = {version: self._scaled.get(version) or _Scaled() for version, _ in found}
        for version, pool in found:
            self._look(version, pool, self._scaled[version], now)

    def describe(self, version: ModelVersion) -> QueueScaling | None:
        """How a version is scaled, as of the last look; None where it has no target, or was not looked at yet."""
        scaled, pool = self._scaled.get(version), version.pool
        if scaled is None or pool is None:
            return None
        target = version.spec.scaling.target_queue
        needed = scaled.rule.needed if version.spec.scaling.scales else pool.wanted
        return QueueScaling(target, scaled.p95, needed, scaled.most)

    def wake_version(self, version: ModelVersion) -> None:
        """Start workers of a version that has requests and no workers, because nobody asked it."""
        pool = version.pool
        if pool is not None and version.scaled_to_zero and version.spec.scaling.scales:
            self._set_workers(
                version, pool, version.spec.scaling.first_workers, "requests wait for the first worker"
            )

    def close(self) -> None:
        """Stop scaling and measuring."""
        for task in (*self._leaving.values(), *self._measuring):
            task.cancel()

    def _look(self, version: ModelVersion, pool: WorkerPool, scaled: _Scaled, now: float) -> None:
        options = version.spec.scaling
        statistics = self._surroundings.statistics_of(version)
        scaled.p95 = scaled.window.percentile(now, statistics.counts.queues.counts, options.scaling_window)
        scaled.most = max(min(options.max_workers, self._surroundings.room_for(version)), options.min_workers)
        if statistics.scalings is None:
            statistics.scalings = [0, 0]
        fails = pool.failures.in_a_row and pool.ready < pool.wanted
        settled = version.ready and not version.resizes and not fails
        if not options.scales or not settled or version in self._leaving:
            return
        load = self._surroundings.load_of(version)
        demand = Demand(
            units=pool.wanted,
            ready=min(pool.ready, pool.wanted),
            busy=pool.busy,
            waiting=load.waiting,
            oldest_wait=max(now - load.oldest, 0.0) if load.waiting else 0.0,
            queue_p95=scaled.p95,
            requests=pool.served,
        )
        bounds = ScalingBounds(
            target=options.target_queue,
            least=_fewest_workers(version),
            most=scaled.most,
            window=options.scaling_window,
            cool_down=options.cool_down,
        )
        wanted = scaled.rule.decide(now, bounds, demand)
        if wanted > pool.wanted:
            wanted = self._workers_in_memory(pool, scaled, wanted, now)
        if wanted == pool.wanted:
            return
        if not wanted:
            self._leaving[version] = asyncio.ensure_future(self._scale_to_zero(version, pool))
            return
        why = f"waiting {load.waiting}, oldest {demand.oldest_wait:.3f} s, p95 {scaled.p95:.3f} s"
        self._set_workers(version, pool, wanted, why)

    def _workers_in_memory(self, pool: WorkerPool, scaled: _Scaled, wanted: int, now: float) -> int:
        """Return as many of the wanted workers as the free memory holds, going by what one has now."""
        if now - scaled.measured_at > _MEASURE_EVERY:
            scaled.measured_at = now
            task = asyncio.ensure_future(_measure_worker(pool, scaled))
            self._measuring.add(task)
            task.add_done_callback(self._measuring.discard)
        if not scaled.worker_memory:
            return wanted
        more = self._free_memory() // scaled.worker_memory
        return min(wanted, max(pool.ready + more, pool.wanted))

    def _set_workers(self, version: ModelVersion, pool: WorkerPool, workers: int, why: str) -> None:
        more = workers > pool.wanted
        log.info(
            "workers added" if more else "workers removed",
            model=version.spec.name,
            version=version.spec.version,
            before=pool.wanted,
            workers=workers,
            reason=why,
        )
        self._count(version, more=more)
        pool.start(workers)

    def _count(self, version: ModelVersion, *, more: bool) -> None:
        scalings = self._surroundings.statistics_of(version).scalings
        if scalings is not None:
            scalings[more] += 1

    async def _scale_to_zero(self, version: ModelVersion, pool: WorkerPool) -> None:
        try:
            await self._retire(version)
        finally:
            del self._leaving[version]
        # It may have got a request, or been scaled or unloaded meanwhile.
        unused = version.scheduler is not None and version.scheduler.idle
        if (
            version in self._scaled
            and version.ready
            and unused
            and not version.resizes
            and not _fewest_workers(version)
        ):
            log.info(
                "model scaled to zero",
                model=version.spec.name,
                version=version.spec.version,
                reason="nobody asked it for its cool_down",
            )
            self._count(version, more=False)
            pool.scale_to_zero()


def _fewest_workers(version: ModelVersion) -> int:
    """The least number of workers: never none of a model whose workers keep state, or that lets no request wait."""
    spec = version.spec
    keeps_one = spec.sequence.enabled or spec.limits.job_ticket
    return max(spec.scaling.min_workers, 1) if keeps_one else spec.scaling.min_workers


async def _measure_worker(pool: WorkerPool, scaled: _Scaled) -> None:
    """Measure the memory of the largest worker. The kernel needs milliseconds for each process, so a thread waits for it."""
    groups = [worker.pids for worker in pool.workers if worker.loaded]
    scaled.worker_memory = max([await asyncio.to_thread(sum_memory, pids) for pids in groups], default=0)
