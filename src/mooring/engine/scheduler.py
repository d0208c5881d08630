"""One queue per version: who waits, who goes to which worker, and who is refused."""

import time
from collections.abc import Callable, Sequence
from typing import Generic

from mooring.core.buffers import Buffer
from mooring.core.errors import MooringError, QueueFull
from mooring.core.requests import InferenceRequest
from mooring.core.service import CodeOptions, Done, ModelMetadata, Ticket
from mooring.engine.admission import QueueLoad
from mooring.engine.batching import SLOW_ROW, BatchPolicy, RefillWait, fair_share
from mooring.engine.dispatch_timer import DispatchTimer, Loop
from mooring.engine.dispatcher import Clock, Dispatcher, W
from mooring.engine.json_outputs import CodecProcesses
from mooring.engine.offload import JsonOffload, worth_offloading
from mooring.engine.queued_request import OFFLOADED, WAITING, QueuedRequest, RequestState, next_key
from mooring.engine.request_queue import RequestQueue
from mooring.observability.statistics import ModelStatistics
from mooring.repository.spec import ModelSpec
from mooring.workers.handle import PoolOwner, WorkerHandle


class Scheduler(Generic[W]):
    """The queue of one version whose requests do not depend on each other.

    How this works: ``submit`` puts a request into the queue, or refuses it where the queue is full, and asks for a
    ``dispatch`` at the end of this turn of the event loop, so that all requests of one turn leave together. ``dispatch``
    gives every idle worker its share of what waits (batching.py); it also runs when a worker becomes idle. While all
    workers are busy, large JSON bodies are decoded elsewhere (offload.py). The ``Dispatcher`` does the rest: it sends,
    counts and answers.

    ``make_pool`` makes the workers. ``codecs`` decode large bodies; without any, workers do. ``wake`` is called where
    requests wait and no worker has the model, ``on_worker_free`` each time that a worker is idle and has been given what
    waited.
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
        on_worker_free: Callable[[], None] | None = None,
        clock: Clock = time.monotonic,
        loop: Loop | None = None,
    ) -> None:
        self.spec = spec
        self.queue_size = spec.limits.queue_size
        # With job tickets nothing may wait: whether an idle worker has room is looked at for every request.
        self._queue = RequestQueue(0 if spec.limits.job_ticket else spec.limits.queue_size)
        self._policy = _batch_policy(spec)
        self._refill = RefillWait()
        self._offload = JsonOffload(codecs, self, spec, allocate) if codecs is not None else None
        self._wake = wake
        self._on_worker_free = on_worker_free
        # Only handlers read a request's headers, or models that get some as parameters, and they are half of what the
        # worker must decode of a small request.
        self._drops_headers = not spec.reads_headers(None)
        self._clock = clock
        self._timer = DispatchTimer(self.dispatch, loop)
        self._health = health
        self._dispatcher = Dispatcher(
            spec, self, make_pool, statistics, allocate, self._on_worker_event, clock
        )
        self._expire = self._dispatcher.expire  # not bound anew for every batch

    @property
    def pool(self) -> W:
        """The workers of this version."""
        return self._dispatcher.pool

    @property
    def refusal(self) -> MooringError | None:
        """The error with which every new request is refused now, if any."""
        return self._dispatcher.refusal

    @property
    def waiting(self) -> int:
        """How many requests wait for a worker."""
        return self._queue.waiting + self._queue.offloaded

    @property
    def load(self) -> QueueLoad:
        """How many requests wait and run, and since when the oldest waits."""
        oldest = self._queue.oldest_arrival()
        if self._offload is not None:
            oldest = min(oldest, self._offload.oldest_arrival())
        return QueueLoad(self.waiting, self._dispatcher.running, oldest)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._queue.waiting and not self._queue.offloaded and not self._dispatcher.running

    def overload_error(self) -> MooringError | None:
        """Why a request would be refused if it came now; None where there is room."""
        if self._dispatcher.refusal is not None:
            return self._dispatcher.refusal
        queue = self._queue
        return self._queue_full() if queue.waiting >= queue.limit and self._is_full() else None

    def _on_worker_event(self, event: ModelMetadata | MooringError) -> None:
        if isinstance(event, ModelMetadata):
            self.adopt_code(event.code)
        self._health(event)

    def adopt_code(self, code: CodeOptions | None) -> None:
        """Do what the code of the model asks for, which a worker has told that has loaded it."""
        if code is None:
            return
        self._drops_headers = not self.spec.reads_headers(code)
        self.spec = self.spec.with_code(code)
        self._policy = _batch_policy(self.spec)

    def submit(self, request: InferenceRequest, done: Done, rows: int) -> Ticket:
        """Queue a request of so many rows, or refuse it at once."""
        queue, dispatcher = self._queue, self._dispatcher
        queued = QueuedRequest(dispatcher, request, done, rows, self._clock(), next_key())
        if self._drops_headers:
            request.headers = None
        refusal = dispatcher.refusal
        if refusal is None and queue.waiting >= queue.limit and self._is_full():
            refusal = self._queue_full()
        if refusal is not None:
            return dispatcher.reject(queued, refusal)
        if request.deadline is not None:
            dispatcher.watch_deadline(queued)
        queue.push(queued)
        if request.body is not None and self._offload is not None and worth_offloading(request):
            self._offload.pending.append(queued)
        if not self._timer.pending:
            self._timer.dispatch_soon()
        return queued

    def dispatch(self) -> None:
        """Send what waits to the workers that are idle."""
        self._timer.pending = False
        queue, dispatcher, policy = self._queue, self._dispatcher, self._policy
        pool = dispatcher.pool
        now = self._clock()
        while pool.idle and queue.waiting:
            if policy.exact:
                wait = policy.due_in(queue.waiting, now - queue.head().arrived)
                if wait > 0.0:
                    self._timer.dispatch_later(wait)
                    return
            if pool.overlapping:
                pool.put_least_busy_last()
                share = policy.share_of_room(queue.waiting, len(pool.idle), pool.idle[-1].room)
            else:
                row_time = dispatcher.row_time.value
                share = policy.share_of_queue(queue.waiting, len(pool.idle), row_time)
                if row_time is not None and row_time >= SLOW_ROW and not policy.exact:
                    wait = self._refill.due_in(queue.waiting, pool.ready, policy.max_size, now)
                    if wait > 0.0:
                        self._timer.dispatch_later(wait)
                        return
                    load = queue.waiting + dispatcher.running
                    share = min(share, fair_share(load, pool.ready, dispatcher.running))
            worker = pool.next()
            # A body that takes milliseconds to decode goes to a worker alone: others are for the codec processes.
            pending = self._offload is not None and self._offload.pending
            batch = queue.take_batch(share, now, self._expire, _has_large_body if pending else None)
            if batch:
                dispatcher.start_batch(batch, worker, now)
        if self._offload is not None and self._offload.pending:
            self._offload.start_pending()
        if queue.waiting and self._wake is not None and not pool.ready:
            self._wake()

    def set_queue_size(self, queue_size: int) -> None:
        """Let so many requests wait at most; those that wait already are not affected."""
        self.queue_size = queue_size
        if not self.spec.limits.job_ticket:
            self._queue.resize(queue_size)

    def refuse_new(self, error: MooringError) -> None:
        """Refuse new requests with this error; those that wait already were accepted and are served."""
        self._dispatcher.refuse_new(error)

    def accept_new(self) -> None:
        """Take requests again."""
        self._dispatcher.accept_new()

    def refuse_all(self, error: MooringError) -> None:
        """Refuse new requests and those that wait with this error."""
        self._dispatcher.refuse_all(error)

    def check_deadlines(self, now: float) -> None:
        """Give up requests whose deadline has passed. Call it often enough for the deadlines to mean something."""
        self._dispatcher.check_deadlines(now)

    # What the dispatcher asks of its source.

    def on_worker_free(self) -> None:
        """A worker is idle: send it what waits."""
        if self._queue.waiting and not self._timer.pending:
            self.dispatch()
        if self._on_worker_free is not None:
            self._on_worker_free()

    def may_dismiss(self, worker: WorkerHandle) -> bool:
        """A worker that is idle and too many may end at once."""
        return True

    def requeue(self, unstarted: Sequence[QueuedRequest]) -> None:
        """Let these wait again, before all others."""
        for queued in reversed(unstarted):
            if queued.state is WAITING:
                self._queue.push_first(queued)

    def on_withdrawn(self, queued: QueuedRequest, state: RequestState) -> None:
        """Forget a request that nobody waits for any more."""
        if state is OFFLOADED:
            self._queue.end_offload()
            assert self._offload is not None
            self._offload.cancel_decoding(queued)
        else:
            self._queue.forget_withdrawn()

    def slow_batches_done(self, rows: int, row_time: float) -> None:
        """A worker has answered so many rows of a slow model: their callers may be about to ask again."""
        dispatcher = self._dispatcher
        self._refill.note_answers(row_time, dispatcher.running, self._queue.waiting, rows, self._clock())

    def refuse_waiting(self, error: MooringError) -> None:
        """Refuse every request that waits."""
        for queued in [*self._queue, *(self._offload.in_flight if self._offload is not None else ())]:
            queued.refuse(error)

    # What the offload asks of its queue.

    def offload(self, queued: QueuedRequest) -> None:
        """Give a request to no worker while its body is decoded; it still counts as waiting."""
        self._queue.offload(queued)
        queued.queued_for = self._clock() - queued.arrived

    def put_back(self, queued: QueuedRequest) -> None:
        """Let a request whose body was decoded wait for a worker, at its old place."""
        self._queue.put_back(queued)
        self.on_worker_free()

    def fail_offloaded(self, queued: QueuedRequest, error: MooringError) -> None:
        """End a request whose body cannot be decoded."""
        self._queue.end_offload()
        queued.answer(error)

    def _queue_full(self) -> QueueFull:
        spec, dispatcher = self.spec, self._dispatcher
        return queue_full(spec, self.queue_size, dispatcher, self._queue.waiting)

    def _idle_room(self) -> int:
        """How many requests the idle workers take at once."""
        idle = self._dispatcher.pool.idle
        return sum(worker.room if worker.capacity else self.spec.batching.max_batch_size for worker in idle)

    def _is_full(self) -> bool:
        """Whether one more would find no room, once those that wait have gone to the workers that are idle."""
        if self.spec.limits.job_ticket:
            return self._queue.waiting >= self._idle_room()
        self.dispatch()
        return self.waiting >= self.queue_size


def queue_full(spec: ModelSpec, queue_size: int, dispatcher: Dispatcher[W], waiting: int) -> QueueFull:
    """The error of a request that finds no room, with the seconds after which there should be some."""
    if spec.limits.job_ticket:
        text = f"model '{spec.name}' has no idle worker; try again later"
    else:
        waiting_ones = "1 request" if queue_size == 1 else f"{queue_size} requests"
        text = f"the queue of model '{spec.name}' is full, with {waiting_ones} waiting; try again later"
    error = QueueFull(text, model=spec.name, version=spec.version)
    error.retry_after = (dispatcher.row_time.value or 0.0) * waiting / max(dispatcher.pool.ready, 1)
    return error


def _has_large_body(queued: QueuedRequest) -> bool:
    return worth_offloading(queued.request)


def _batch_policy(spec: ModelSpec) -> BatchPolicy:
    batching = spec.batching
    return BatchPolicy(batching.max_batch_size, batching.max_delay, batching.exact_delay)
