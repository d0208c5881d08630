"""The codec processes, which decode and encode large JSON while the model's own workers are busy.

They are workers of a model of the server's own (backends/codec_backend.py), so their queue, retries, deadlines and deaths are those of
every model. The first starts when it is first needed, another one when all are busy.
"""

from collections.abc import Callable

from mooring.core.buffers import Buffer
from mooring.core.errors import ModelNotReady, MooringError
from mooring.core.options import ModelLimits, ModelOptions, Timeouts
from mooring.core.requests import InferenceRequest
from mooring.core.service import Done, ModelMetadata, Ticket
from mooring.engine.scheduler import Scheduler
from mooring.observability.logs import get_logger
from mooring.observability.statistics import ModelStatistics
from mooring.repository.spec import ModelSpec
from mooring.workers.handle import PoolOwner
from mooring.workers.local import LocalWorkers
from mooring.workers.pool import WorkerPool

log = get_logger(__name__)

# More codec processes than this do not help: the event loop is full with receiving what so many decode.
MAX_CODECS = 4
_UNBOUNDED = 1 << 30
_LARGEST = 1 << 62
# Seconds. Decoding takes milliseconds, and seconds for the largest bodies that are not plain JSON.
_TIMEOUT = 60.0


class CodecPool:
    """At most ``most`` codec processes, for all models together."""

    def __init__(self, most: int, allocate: Callable[[int], Buffer | None], workers: LocalWorkers) -> None:
        self._most = most
        spec = ModelSpec(
            name="codec",
            version="1",
            backend="codec",
            location="",
            options=ModelOptions(
                timeouts=Timeouts(response_timeout=_TIMEOUT),
                # What it gives is no answer to a client: the limit of those is the model's own.
                limits=ModelLimits(queue_size=_UNBOUNDED, max_response_bytes=_LARGEST),
            ),
        )

        def make_pool(owner: PoolOwner) -> WorkerPool:
            return WorkerPool(spec, owner, workers, threads=1)

        # Statistics of no model: they are not exported.
        statistics = ModelStatistics(spec.name, spec.version)
        self._scheduler = Scheduler(
            spec, statistics, allocate, self._on_worker_event, make_pool, on_worker_free=self._notify_waiting
        )
        self._pool = self._scheduler.pool
        self._waiting: dict[Callable[[], None], None] = {}

    def has_idle(self, again: Callable[[], None]) -> bool:
        """Whether a process has nothing to do; where not, ``again`` is called once when one may have."""
        if self._has_idle():
            return True
        self._waiting[again] = None
        self._start_one()
        return False

    def start_if_busy(self) -> None:
        """Start one more process where none has nothing to do, and one more is allowed."""
        if not self._has_idle():
            self._start_one()

    def _has_idle(self) -> bool:
        return len(self._pool.idle) > self._scheduler.waiting

    def _start_one(self) -> None:
        pool = self._pool
        if pool.wanted < self._most and pool.has_exactly(pool.wanted):
            pool.start(pool.wanted + 1)

    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        """Have the body of a request decoded; where it has none, its inputs encoded as JSON.

        An error other than ``InvalidInput`` and a deadline's only means that it cannot be done here.
        """
        return self._scheduler.submit(request, done, 1)

    def check_deadlines(self, now: float) -> None:
        """Give up requests that are late. Call it a few times a second."""
        self._scheduler.check_deadlines(now)

    async def stop(self) -> None:
        """Return once every process is gone."""
        await self._pool.stop()

    def _on_worker_event(self, event: ModelMetadata | MooringError) -> None:
        if isinstance(event, ModelMetadata):
            self._scheduler.accept_new()
            return
        log.warning("codec process lost", reason=event.message, detail=event.detail)
        if not self._pool.ready:
            # The model's own workers are there, and the next process may be seconds away. A request that needs a codec
            # all the same has done nothing to the last one, and its client may ask again.
            self._scheduler.refuse_all(
                ModelNotReady("the process that reads large bodies is being replaced; try again")
            )

    def _notify_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for again in waiting:
            again()
