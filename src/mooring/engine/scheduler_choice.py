"""Which scheduler a version gets, so that no request pays for what its model does not have."""

from collections.abc import Callable

from mooring.core.buffers import Buffer
from mooring.core.errors import MooringError
from mooring.core.service import ModelMetadata
from mooring.engine.dispatcher import W
from mooring.engine.json_outputs import CodecProcesses
from mooring.engine.queue_policy import PolicyScheduler
from mooring.engine.response_cache import CachingScheduler, ResponseCache
from mooring.engine.scheduler import Scheduler
from mooring.observability.statistics import ModelStatistics
from mooring.repository.spec import ModelSpec
from mooring.workers.handle import PoolOwner


def make_scheduler(
    spec: ModelSpec,
    statistics: ModelStatistics,
    allocate: Callable[[int], Buffer | None],
    health: Callable[[ModelMetadata | MooringError], None],
    make_pool: Callable[[PoolOwner], W],
    *,
    codecs: CodecProcesses | None = None,
    wake: Callable[[], None] | None = None,
    cache: ResponseCache | None = None,
) -> Scheduler[W]:
    """The scheduler of a version whose requests do not depend on each other.

    It has a queue policy where the model has one, and keeps answers in the ``cache`` where the model says so.
    """
    kind: type[Scheduler[W]] = Scheduler if spec.limits.queue_policy is None else PolicyScheduler
    caches = cache is not None and cache.size > 0 and spec.limits.response_cache and not spec.decoupled
    if not caches:
        return kind(spec, statistics, allocate, health, make_pool, codecs=codecs, wake=wake)
    assert cache is not None
    scheduler = CachingScheduler(spec, statistics, allocate, health, make_pool, codecs=codecs, wake=wake)
    scheduler.set_cache(cache)
    return scheduler
