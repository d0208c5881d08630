"""Scale to zero: idle models of files have no processes while all models together exceed a budget.

A model whose file and signature were checked when it was loaded can be loaded again whenever it is asked for. So such
models stay READY when their workers and their template have ended, and the next request waits for new ones. Models with
code of their own, models that keep state and models whose number of workers was set are never scaled to zero.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from mooring.descriptors import highest_limit
from mooring.engine.registry import ModelVersion, Registry
from mooring.hardware import count_cores, usable_memory
from mooring.observability.logs import get_logger
from mooring.repository.platforms import runs_user_code
from mooring.repository.spec import ModelSpec
from mooring.workers.pool import WorkerPool
from mooring.workers.recycling import memory_of, resident_memory

log = get_logger(__name__)

# The default budget: as many processes as an operator can still survey, and half of the memory.
_PROCESSES_PER_CORE = 64
# File descriptors of the server that a worker process takes, and as many again for connections.
_DESCRIPTORS = 8
# Seconds between two looks, and between two times that memory is measured.
_CHECK_EVERY = 1.0
_MEASURE_EVERY = 10.0
# Seconds after its last request for which a model keeps its workers whatever the budget: a start costs more than they do.
_MIN_IDLE = 10.0


class Budget(msgspec.Struct, frozen=True):
    """The number of processes and the bytes of ``memory`` above which idle models are scaled to zero; 0 is no limit."""

    processes: int = 0
    memory: int = 0


def machine_budget(processes: int | None, memory: int | None) -> Budget:
    """The budget of the settings ``scale_to_zero_processes`` and ``scale_to_zero_memory``; None takes the machine's."""
    return Budget(
        min(_PROCESSES_PER_CORE * count_cores(), highest_limit() // _DESCRIPTORS)
        if processes is None
        else processes,
        usable_memory() // 2 if memory is None else memory,
    )


def may_scale_to_zero(spec: ModelSpec) -> bool:
    """Whether an idle model may lose its workers: it keeps no state, runs no user code, and its workers are the default."""
    has_code = runs_user_code(spec.backend, module=bool(spec.parameters.get("module")))
    return (
        spec.scaling.workers_by_default
        and not has_code
        and not spec.sequence.enabled
        and not spec.limits.job_ticket
    )


def processes_kept(specs: Iterable[ModelSpec], budget: Budget) -> int:
    """The greatest number of workers that these models have while all of them are idle."""
    kept = idle = 0
    for spec in specs:
        if may_scale_to_zero(spec):
            idle += spec.scaling.min_workers
        else:
            kept += spec.scaling.min_workers
    return kept + (min(idle, budget.processes) if budget.processes else idle)


class _Use(msgspec.Struct):
    """The use of a version. ``last`` is when it last had a request, in seconds of the monotonic clock; minus infinity: never.

    ``first_seen`` is on the same clock, ``served`` counts the requests sent to its workers, ``memory`` is in bytes.
    """

    first_seen: float
    served: int = 0
    last: float = -math.inf
    memory: int = 0


class IdleModels:
    """Keeps the models of a registry within a budget. Call ``check_budget`` a few times a second.

    How this works: once a second the use of each version is brought up to date. While the processes or their memory
    exceed the budget, the least recently used idle versions lose their workers: first no frontend process may use them
    (``retire`` returns then), then their pools end. The next request calls ``wake_version``. Memory is measured in a
    thread, and less often, because the kernel needs milliseconds for each process.
    """

    def __init__(
        self,
        registry: Registry,
        budget: Budget,
        retire: Callable[[ModelVersion], Coroutine[Any, Any, None]],
    ) -> None:
        self._registry = registry
        self._budget = budget
        self._retire = retire
        self._uses: dict[ModelVersion, _Use] = {}
        self._leaving: dict[ModelVersion, asyncio.Task[None]] = {}
        self._measuring: asyncio.Task[None] | None = None
        self._checked_at = self._measured_at = -math.inf

    def check_budget(self, now: float) -> None:
        """Scale idle models to zero while all together exceed the budget, the least recently used first."""
        if now - self._checked_at < _CHECK_EVERY:
            return
        self._checked_at = now
        pools = dict(self._pools_by_version())
        self._uses = {version: self._update_use(version, pool, now) for version, pool in pools.items()}
        if not any(may_scale_to_zero(version.spec) for version in pools):
            return
        if self._budget.memory and now - self._measured_at > _MEASURE_EVERY and self._measuring is None:
            self._measured_at = now
            self._measuring = asyncio.ensure_future(self._measure_memory(pools))
        processes = sum(pool.processes for pool in pools.values()) - self._budget.processes
        memory = sum(use.memory for use in self._uses.values()) - self._budget.memory
        for version in self._idle_candidates(pools, now):
            if not (self._budget.processes and processes > 0) and not (self._budget.memory and memory > 0):
                break
            processes -= pools[version].processes
            memory -= self._uses[version].memory
            self._leaving[version] = asyncio.ensure_future(self._scale_to_zero(version, pools[version]))

    def workers_at_first(self, spec: ModelSpec) -> int:
        """The number of workers to start for a version that is loaded for the first time.

        Where the budget would end all of them in a moment, one is enough to learn the model's signature.
        """
        if self._budget.processes and may_scale_to_zero(spec):
            running = sum(pool.processes for _, pool in self._pools_by_version())
            if running + spec.scaling.min_workers > self._budget.processes:
                return min(spec.scaling.min_workers, 1)
        return spec.scaling.first_workers

    def wake_version(self, version: ModelVersion) -> None:
        """Start the workers of a version that has requests and no workers."""
        pool = version.pool
        if pool is not None and version.ready and not pool.wanted:
            log.info("model started again", model=version.spec.name, version=version.spec.version)
            pool.start(version.spec.scaling.min_workers)

    def close(self) -> None:
        """Stop scaling and measuring."""
        for task in (*self._leaving.values(), self._measuring):
            if task is not None:
                task.cancel()

    def _pools_by_version(self) -> "list[tuple[ModelVersion, WorkerPool]]":
        return [(version, version.pool) for version in self._registry if version.pool is not None]

    def _update_use(self, version: ModelVersion, pool: WorkerPool, now: float) -> _Use:
        """The use of a version, brought up to date. Frontend processes report what they sent to its workers."""
        use = self._uses.get(version) or _Use(now)
        assert version.scheduler is not None
        served = pool.served
        if served > use.served or not version.scheduler.idle:
            use.last = now
            # It was loaded with one worker when the budget had no room for more, and now has requests.
            if 0 < pool.wanted < version.spec.scaling.min_workers and may_scale_to_zero(version.spec):
                pool.start(version.spec.scaling.min_workers)
        use.served = served
        if not pool.workers:
            use.memory = 0
        return use

    def _idle_candidates(self, pools: Collection[ModelVersion], now: float) -> list[ModelVersion]:
        """The idle versions in the order to scale down: never used ones, the newest first, then the least recently used."""
        idle = [version for version in reversed(list(pools)) if self._is_idle(version, now)]
        return sorted(idle, key=lambda version: (self._uses[version].last, -self._uses[version].first_seen))

    def _is_idle(self, version: ModelVersion, now: float) -> bool:
        scheduler, pool = version.scheduler, version.pool
        assert scheduler is not None
        assert pool is not None
        return (
            may_scale_to_zero(version.spec)
            and version.ready
            and scheduler.idle
            and version not in self._leaving
            and pool.wanted > 0
            and pool.has_exactly(pool.wanted)
            and now - self._uses[version].last > _MIN_IDLE
        )

    async def _scale_to_zero(self, version: ModelVersion, pool: WorkerPool) -> None:
        await self._retire(version)
        del self._leaving[version]
        # It may have got a request, or been scaled or unloaded meanwhile.
        if version in self._uses and self._is_idle(version, self._checked_at):
            log.info(
                "model scaled to zero",
                model=version.spec.name,
                version=version.spec.version,
                reason="nobody asks it, and models take more than scale_to_zero_processes or scale_to_zero_memory",
            )
            pool.scale_to_zero()

    async def _measure_memory(self, pools: "dict[ModelVersion, WorkerPool]") -> None:
        """Measure the memory of the processes of each version."""
        pids = {version: pool.pids for version, pool in pools.items() if pool.workers}
        try:
            used = await asyncio.to_thread(_memory_of_versions, pids, resident_memory)
            # What is resident counts what is shared once for each process. The right number costs the kernel a walk through
            # all pages, in which the process may have to wait: it is asked for only where it matters.
            if sum(used.values()) > self._budget.memory:
                used = await asyncio.to_thread(_memory_of_versions, pids, memory_of)
            for version, size in used.items():
                if version in self._uses and pools[version].workers:
                    self._uses[version].memory = size
        finally:
            self._measuring = None


def _memory_of_versions(
    processes: Mapping[ModelVersion, Sequence[int]], measure: Callable[[int], int]
) -> dict[ModelVersion, int]:
    """Bytes of each version's processes."""
    return {version: sum(map(measure, pids)) for version, pids in processes.items()}
