"""The codec processes: large JSON is read and written there while the workers that would do it are busy.

They are workers of a model that is ours (backends/codec_backend.py), so their queue, retries, deadlines and deaths are those of
every model. The first is started when it is first wanted, a further one when all are busy.
"""

from collections.abc import Callable

from mooring.core.buffers import Buffer
from mooring.core.errors import ModelNotReady, MooringError
from mooring.core.requests import InferenceRequest
from mooring.core.service import Done, ModelMetadata, Ticket
from mooring.engine.scheduler import Scheduler
from mooring.observability.logs import get_logger
from mooring.observability.statistics import ModelStatistics
from mooring.repository.spec import ModelSpec
from mooring.workers.local import LocalWorkers
from mooring.workers.pool import WorkerPool

log = get_logger(__name__)

# The server's loop is full with the bytes of what so many read.
MOST = 4
_UNBOUNDED = 1 << 30
# Reading and writing takes milliseconds, and seconds for the largest bodies that are not plain JSON.
_TIMEOUT = 60.0


class Codecs:
    """At most so many codec processes, for all models together."""

    def __init__(self, most: int, allocate: Callable[[int], Buffer | None], workers: LocalWorkers) -> None:
        self._most = most
        self._workers = workers
        self._spec = ModelSpec(
            name="codec",
            version="1",
            backend="codec",
            location="",
            queue_size=_UNBOUNDED,
            response_timeout=_TIMEOUT,
        )
        self._scheduler = _CodecScheduler(self._spec, allocate, self._report, self._freed)
        self._pool: WorkerPool | None = None
        self._asking: dict[Callable[[], None], None] = {}

    def idle(self, again: Callable[[], None]) -> bool:
        """Whether a process has nothing to do; where not, ``again`` is called once when one may have."""
        pool = self._pool
        if pool is None:
            pool = self._pool = WorkerPool(self._spec, self._scheduler, self._workers, threads=1)
            self._scheduler.pool = pool
        if len(pool.idle) > self._scheduler.waiting:
            return True
        self._asking[again] = None
        if pool.wanted < self._most and pool.holds(pool.wanted):
            pool.start(pool.wanted + 1)
        return False

    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        """Have it read or written. An error other than ``InvalidInput`` and a deadline's only means: not here."""
        return self._scheduler.submit(request, done, 1)

    def check(self, now: float) -> None:
        """Give up what is late. Call it a few times a second."""
        self._scheduler.check(now)

    async def stop(self) -> None:
        """Return once every process is gone."""
        if self._pool is not None:
            await self._pool.stop()

    def _report(self, news: ModelMetadata | MooringError) -> None:
        assert self._pool is not None
        if isinstance(news, ModelMetadata):
            self._scheduler.admit()
            return
        log.warning("codec process lost", reason=news.message, detail=news.detail)
        if not self._pool.ready:
            # The model's own workers are there, and the next process may be seconds away. Whoever needs one all the same
            # has done nothing to the last one, and may ask again.
            self._scheduler.refuse_all(
                ModelNotReady("the process that reads large bodies is being replaced; try again")
            )

    def _freed(self) -> None:
        asking, self._asking = self._asking, {}
        for again in asking:
            again()


class _CodecScheduler(Scheduler):
    """Says when a process is free. Its numbers are no model's, and nobody sees them."""

    def __init__(
        self,
        spec: ModelSpec,
        allocate: Callable[[int], Buffer | None],
        health: Callable[[ModelMetadata | MooringError], None],
        freed: Callable[[], None],
    ) -> None:
        super().__init__(spec, ModelStatistics(spec.name, spec.version), allocate, health)
        self._freed = freed

    def worker_free(self) -> None:
        """A process is idle: it gets what waits, or whoever asked may have it."""
        super().worker_free()
        self._freed()
