"""One queue per version: who waits, who goes to which worker, and who has waited long enough."""

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from mooring.codecs.nonfinite import writes_null
from mooring.codecs.v2_json import Wanted
from mooring.core.buffers import Buffer
from mooring.core.errors import (
    DeadlineExceeded,
    ErrorRecord,
    ModelFailed,
    MooringError,
    QueueFull,
    WorkerDied,
)
from mooring.core.requests import TENSORS, InferenceRequest, InferenceResponse
from mooring.core.service import Done, ModelMetadata, Outcome, Ticket
from mooring.core.tensors import release
from mooring.engine.batching import BatchPolicy, RowTime, company, fair
from mooring.engine.offload import Openings, is_closed, write_piece
from mooring.observability.logs import Throttle, get_logger
from mooring.observability.statistics import ModelStatistics
from mooring.repository.spec import ModelSpec
from mooring.workers.handle import Answered, PooledWorker, Work, Workers
from mooring.workers.pool import WorkerPool

log = get_logger(__name__)

keys = itertools.count(1)

# ASIDE waits, too, while its body is being opened (offload.py).
WAITING, RUNNING, DONE, ASIDE = 0, 1, 2, 3
_UNUSED_GRANTS = 32
_LOGGED_FAILURES = 20
# Withdrawn requests that may lie in a queue, beside as many as wait in it twice over.
_MOST_WITHDRAWN = 64


class QueuedRequest(msgspec.Struct, eq=False):
    """One request from its arrival to its answer; the ``Ticket`` of whoever submitted it.

    It owns the request's payloads and the slot granted for its answer. Both stay untouched until no worker can be
    using them any more, which may be long after the caller has gone.
    """

    _scheduler: "Scheduler"
    request: InferenceRequest
    done: Done | None
    rows: int
    since: float
    key: int
    queued_for: float = 0.0
    state: int = WAITING
    attempts: int = 0
    streamed: bool = False
    delayed: bool = False  # it has waited too long, and goes after others of its priority (queue_policy.py)
    grant: Buffer | None = None
    worker: PooledWorker | None = None
    # Where the worker leaves the JSON of its outputs to a codec process: which of them are not to be JSON.
    texts: Wanted | None = None

    def piece(self, response: InferenceResponse) -> None:
        """A part of a streamed answer."""
        self.streamed = True
        if self.done is not None:
            if self.texts is not None:
                null = writes_null(self._scheduler.spec.json_nan, asked=self.request.null_for_nan)
                write_piece(response, self.texts, null=null)
            self.done(self._named(response))

    def answer(self, outcome: Outcome) -> None:
        """The end of it: no worker holds the payloads any more."""
        self.forget()
        if self.texts is not None and isinstance(outcome, InferenceResponse) and self.wanted:
            self._scheduler.write(self, outcome, self.texts)
        else:
            self.finish(outcome)

    def finish(self, outcome: Outcome) -> None:
        """Tell the caller; ``answer`` does so unless there is something to be written first."""
        done, self.done = self.done, None
        if type(outcome) is InferenceResponse:
            self._scheduler.answered(self, True, done is not None)
            if done is None:
                release(outcome.outputs)
            else:
                done(self._named(outcome))
        else:
            self._scheduler.answered(self, False, done is not None)
            if isinstance(outcome, ModelFailed) and not 400 <= outcome.code < 500:
                self._scheduler.log_failure(self.request, outcome)
            if done is not None:
                done(outcome)

    def refuse(self, error: MooringError) -> None:
        """Tell the caller now; a worker that has the request may go on with it, but its answer is dropped."""
        done, self.done = self.done, None
        self._withdraw()
        if done is not None:
            self._scheduler.answered(self, False, True)
            done(error)

    def cancel(self) -> None:
        """Nobody waits any more."""
        self.done = None
        self._withdraw()

    def forget(self) -> None:
        """No worker has it and none will get it: give back its memory."""
        self.state = DONE
        release(self.request.inputs)
        if self.grant is not None:
            self._scheduler.grant_unused()
            self.grant.release()
            self.grant = None

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for the answer."""
        return self.done is not None

    def _withdraw(self) -> None:
        if self.state == WAITING:
            self.forget()
            self._scheduler.withdrawn(self)
        elif self.state == ASIDE:
            self.forget()
            self._scheduler.withdrawn_aside(self)
        elif self.state == RUNNING and self.worker is not None:
            self.worker.cancel(self)

    def _named(self, response: InferenceResponse) -> InferenceResponse:
        request = self.request
        response.model = response.model or request.model
        response.version = response.version or self._scheduler.spec.version
        response.id = response.id or request.id
        return response


class Scheduler:
    """The queue of one version, and the owner of its workers.

    A request on an idle worker leaves in the same turn of the event loop, together with all that arrive in it.
    """

    def __init__(
        self,
        spec: ModelSpec,
        statistics: ModelStatistics,
        allocate: Callable[[int], Buffer | None],
        health: Callable[[ModelMetadata | MooringError], None],
    ) -> None:
        self.spec = spec
        self.pool: WorkerPool | None = None
        self.refusal: MooringError | None = None
        self._given_up: MooringError | None = None
        self._statistics = statistics
        self._allocate = allocate
        self._health = health
        self._policy = BatchPolicy(spec.max_batch_size, spec.max_delay, spec.exact_delay)
        self._row_time = RowTime()
        self._company = self._company_until = 0.0
        self._level = self._others = 0
        self._queue: deque[QueuedRequest] = deque()
        # With job tickets nobody waits: whether there is room is asked for every request.
        self._most_waiting = 0 if spec.job_ticket else spec.queue_size
        self._waiting = 0
        self._running = 0
        self._aside = 0
        # Who opens large bodies while all workers are busy; None where nobody does.
        self.openings: Openings | None = None
        # Called where requests wait and no worker has the model; None where there are always some, or somebody else's.
        self.wake: Callable[[], None] | None = None
        self._with_deadline: set[QueuedRequest] = set()
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._answer_size = 0
        self._unused_grants = 0
        self._prioritized = False
        # Only handlers read them, and they are half of what the worker must decode of a small request.
        self._headless = spec.backend != "handler"
        self._failures = Throttle(_LOGGED_FAILURES)
        self._loop = asyncio.get_running_loop()

    @property
    def waiting(self) -> int:
        """How many requests wait for a worker."""
        return self._waiting + self._aside

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._running and not self._aside

    def overload_error(self) -> MooringError | None:
        """Why a request would be refused if it came now; None where there is room."""
        if self.refusal is not None:
            return self.refusal
        return self._queue_full() if self._waiting >= self._most_waiting and self._full() else None

    def submit(self, request: InferenceRequest, done: Done, rows: int) -> Ticket:
        """Queue a request, or refuse it at once."""
        now = time.monotonic()
        queued = QueuedRequest(self, request, done, rows, now, next(keys))
        if self._headless:
            request.headers = None
        refusal = self.refusal
        if refusal is None and self._waiting >= self._most_waiting and self._full():
            refusal = self._queue_full()
        self._waiting += 1
        if refusal is not None:
            queued.refuse(refusal)
            return queued
        if request.deadline is not None:
            self._with_deadline.add(queued)
        if request.priority or self._prioritized:
            self._insert(queued)
        else:
            self._queue.append(queued)
        if self.openings is not None and request.form is TENSORS:
            inputs = request.inputs
            if inputs and inputs[0].json and is_closed(request):
                self.openings.closed.append(queued)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return queued

    def _insert(self, queued: QueuedRequest) -> None:
        """Behind those of its priority or a better one; only while such requests wait is the queue looked through."""
        self._prioritized = True
        queue, place = self._queue, len(self._queue)
        while place and self.precedence(queued) < self.precedence(queue[place - 1]):
            place -= 1
        queue.insert(place, queued)

    def precedence(self, queued: QueuedRequest) -> tuple[float, bool]:
        """What is served first: the smallest of these."""
        return (queued.request.priority or math.inf, False)

    # What is done to requests whose bodies are opened elsewhere.

    def holds(self, queued: QueuedRequest) -> bool:
        """Whether it waits for a worker."""
        return queued.state == WAITING

    def is_aside(self, queued: QueuedRequest) -> bool:
        """Whether its body is being opened."""
        return queued.state == ASIDE

    def set_aside(self, queued: QueuedRequest) -> None:
        """Its body is being opened: no worker gets it, but it waits, and counts among those."""
        queued.state = ASIDE
        queued.queued_for = time.monotonic() - queued.since
        self._waiting -= 1
        self._leave_aside(-1)

    def _leave_aside(self, count: int) -> None:
        self._aside -= count
        self._most_waiting += count

    def put_back(self, queued: QueuedRequest) -> None:
        """It has been: it waits again, behind those only that came before it or have a priority."""
        self._leave_aside(1)
        queued.state = WAITING
        self._waiting += 1
        queue, place, own = self._queue, 0, (self.precedence(queued), queued.key)
        # What was set aside came early, so its place is near the head.
        while place < len(queue) and (self.precedence(queue[place]), queue[place].key) < own:
            place += 1
        queue.insert(place, queued)
        self.worker_free()

    def dismiss(self, queued: QueuedRequest, error: MooringError) -> None:
        """It cannot be opened."""
        self._leave_aside(1)
        queued.answer(error)

    def withdrawn_aside(self, queued: QueuedRequest) -> None:
        """Called by a request that nobody waits for any more while it is being opened."""
        self._leave_aside(1)
        self._with_deadline.discard(queued)
        if self.openings is not None:
            self.openings.withdraw(queued)

    def write(self, queued: QueuedRequest, answer: InferenceResponse, wanted: Wanted) -> None:
        """Have the outputs written that its worker has left to others."""
        assert self.openings is not None
        self.openings.write(queued, answer, wanted)

    def answered(self, queued: QueuedRequest, ok: bool, told: bool) -> None:
        """Called by a request that has its outcome."""
        request = queued.request
        if queued.worker is not None and queued.state == DONE:
            queued.worker = None
            self._running -= 1
        if request.deadline is not None:
            self._with_deadline.discard(queued)
        if told:
            latency = time.monotonic() - queued.since
            self._statistics.observe(latency, queued.queued_for, ok, not request.version)

    def answered_together(self, works: Sequence[Work], outcomes: Answered, *, lent: bool) -> None:
        """All at once what ``QueuedRequest.answer`` does of each: called for every request, that would cost as much again."""
        now = time.monotonic()
        spec = self.spec
        notes: tuple[tuple[list[float], list[float]], ...] = ([], []), ([], [])
        try:
            for queued, outcome in zip(works, outcomes, strict=True):
                assert isinstance(queued, QueuedRequest)
                if type(outcome) is not InferenceResponse:
                    assert isinstance(outcome, ErrorRecord)
                    queued.answer(outcome.error(model=spec.name, version=spec.version))
                    continue
                request, done = queued.request, queued.done
                if (
                    lent
                    or done is None
                    or queued.state != RUNNING
                    or queued.texts is not None
                    or request.deadline is not None
                ):
                    queued.answer(outcome)
                    continue
                queued.state, queued.done = DONE, None
                self._running -= 1
                latencies, queues = notes[not request.version]
                latencies.append(now - queued.since)
                queues.append(queued.queued_for)
                outcome.model = outcome.model or request.model
                outcome.version = outcome.version or spec.version
                outcome.id = outcome.id or request.id
                done(outcome)
        finally:
            for defaulted, (latencies, queues) in enumerate(notes):
                if queues:
                    self._statistics.observe_all(latencies, queues, defaulted == 1)

    def log_failure(self, request: InferenceRequest, error: ModelFailed) -> None:
        """The reason that the wire does not show. A model that fails every request gets so many lines a second."""
        throttle = self._failures
        if not throttle.admits(time.monotonic()):
            return
        log.error(
            "prediction failed",
            model=self.spec.name,
            version=self.spec.version,
            request=request.id,
            kind=type(error).__name__,
            reason=error.message,
            left_out=throttle.left_out,
            detail=error.detail,
        )
        throttle.left_out = 0

    def withdrawn(self, queued: QueuedRequest) -> None:
        """Called by a request that nobody waits for any more; the queue forgets it when it comes by.

        Where clients come and go before a slow model, so many go that the queue is cleared of them in between.
        """
        self._waiting -= 1
        self._with_deadline.discard(queued)
        queue = self._queue
        if len(queue) > 2 * self._waiting + _MOST_WITHDRAWN:
            left = [each for each in queue if each.state == WAITING]
            queue.clear()  # in place: it may be gone through just now
            queue.extend(left)

    def limit(self, queue_size: int) -> None:
        """Have so many requests wait at most; who waits already is not affected."""
        self.spec = msgspec.structs.replace(self.spec, queue_size=queue_size)
        if not self.spec.job_ticket:
            self._most_waiting = queue_size

    def refuse_new(self, error: MooringError) -> None:
        """Answer everyone who comes with this error; who waits already was accepted and is served."""
        self.refusal = error

    def admit(self) -> None:
        """Take requests again."""
        self.refusal = self._given_up = None

    def refuse_all(self, error: MooringError) -> None:
        """Answer everyone who waits, and everyone who comes, with this error."""
        self.refusal = self._given_up = error
        waiting, self._queue = self._queue, deque()
        for queued in [*waiting, *(self.openings.begun if self.openings is not None else ())]:
            if queued.state in (WAITING, ASIDE):
                queued.refuse(error)

    def check(self, now: float) -> None:
        """Give up requests whose deadline has passed. Call it often enough for the deadlines to mean something."""
        if self.pool is not None:
            self.pool.check(now)
        for queued in [queued for queued in self._with_deadline if queued.request.expired(now)]:
            self._with_deadline.discard(queued)
            queued.refuse(self._too_late())

    # What the pool tells its owner.

    def worker_free(self) -> None:
        """An idle worker and work that waits: send at once, the worker infers while answers are written."""
        if self._waiting and not self._flushing:
            self._flush()

    def worker_lost(
        self, running: Sequence[Work], unstarted: Sequence[Work], error: WorkerDied, retry: bool
    ) -> None:
        """Requests that ran are tried once more if that can do no harm; those that did not start just wait again."""
        again: list[QueuedRequest] = []
        for queued in running:
            assert isinstance(queued, QueuedRequest)
            if retry and self.spec.retry and not queued.attempts and not queued.streamed and queued.wanted:
                queued.attempts += 1
                again.append(queued)
            else:
                queued.answer(error)
        self.handed_back([*again, *unstarted])

    def may_go(self, worker: PooledWorker) -> bool:
        """A worker that is idle and too many ends at once."""
        return True

    def handed_back(self, works: Sequence[Work]) -> None:
        """They wait again, before all others."""
        for queued in reversed(works):
            assert isinstance(queued, QueuedRequest)
            self._running -= 1
            queued.worker = None
            if not queued.wanted:
                queued.forget()
            else:
                if queued.grant is not None:
                    queued.grant.release()
                    queued.grant = None
                queued.state = WAITING
                self._waiting += 1
                self._queue.appendleft(queued)
        if self._given_up is not None:
            self.refuse_all(self._given_up)
        self.worker_free()

    def large_answer(self, size: int) -> None:
        """An answer had a payload of this size: the next ones get a slot to put theirs in."""
        self._unused_grants = 0
        self._answer_size = max(size, self._answer_size)

    def grant_unused(self) -> None:
        """A granted slot came back empty; a model whose answers are small again gets none."""
        self._unused_grants += 1
        if self._unused_grants > _UNUSED_GRANTS:
            self._answer_size = self._unused_grants = 0

    def batches_done(self, batches: Sequence[tuple[int, float]]) -> None:
        """The model was called, each time for so many rows and seconds."""
        self._row_time.observe(batches)
        self._statistics.observe_batches(batches)
        self._company = company(self._row_time.value)
        if self._company:
            # Who is answered now is likely to ask again at once. All of these together are what the workers share.
            self._level = self._running + self._waiting
            self._others = self._running - sum(rows for rows, _ in batches)
            self._company_until = time.monotonic() + self._company

    def answers_came(self, seconds: float) -> None:
        """Answers took so long on their way, beyond the time of the model."""
        self._statistics.last_way = max(seconds, 0.0)

    def worker_loaded(self, metadata: ModelMetadata) -> None:
        """One more worker has the model."""
        self._health(metadata)

    def worker_failed(self, error: MooringError) -> None:
        """A worker could not load the model, or died."""
        self._statistics.workers[0] += 1
        self._health(error)

    def worker_recycled(self) -> None:
        """A worker makes way for a fresh one."""
        self._statistics.workers[1] += 1

    def _queue_full(self) -> QueueFull:
        what = "no idle worker" if self.spec.job_ticket else f"{self.spec.queue_size} requests waiting"
        error = QueueFull(
            f"model '{self.spec.name}' has {what}; try again later",
            model=self.spec.name,
            version=self.spec.version,
        )
        pool: Workers | None = self.pool
        workers = pool.ready if pool is not None else 0
        error.retry_after = (self._row_time.value or 0.0) * self._waiting / max(workers, 1)
        return error

    def _room(self) -> int:
        """How many requests the idle workers take at once."""
        pool: Workers | None = self.pool
        idle = pool.idle if pool is not None else ()
        return sum(worker.room if worker.capacity else self.spec.max_batch_size for worker in idle)

    def _full(self) -> bool:
        """Whether one more would find no room, once those that wait have gone to whoever is idle."""
        if self.spec.job_ticket:
            return self._waiting >= self._room()
        self._flush()
        return self.waiting >= self.spec.queue_size

    def _flush(self) -> None:
        self._flushing = False
        pool: Workers | None = self.pool  # a further front's is no WorkerPool
        if pool is None:
            return
        now = time.monotonic()
        if not self._waiting:
            self._prioritized = False
        while pool.idle and self._waiting:
            self._skip_withdrawn()
            wait = self._policy.due_in(self._waiting, now - self._queue[0].since)
            if wait > 0.0:
                self._flush_in(wait)
                return
            if pool.overlapping:
                pool.put_least_busy_last()
                share = self._policy.share_of_room(self._waiting, len(pool.idle), pool.idle[-1].room)
            else:
                share = self._policy.share(self._waiting, len(pool.idle), self._row_time.value)
                if self._company and not self._policy.exact:
                    share = min(share, fair(self._waiting + self._running, pool.ready, self._running))
                    wanted = fair(self._level, pool.ready, self._others)
                    if self._waiting < min(wanted, self._policy.max_size) and now < self._company_until:
                        self._flush_in(self._company_until - now)
                        return
                    self._company_until = 0.0
            worker = pool.next()
            batch = self._take(share, now, worker)
            if batch:
                pool.idle.remove(worker)
                worker.send(batch)
        if self.openings is not None and self.openings.closed:
            self.openings.begin()
        if self._waiting and self.wake is not None and not pool.ready:
            self.wake()

    def _flush_in(self, wait: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(wait, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self._flush()

    def _skip_withdrawn(self) -> None:
        while self._queue[0].state != WAITING:
            self._queue.popleft()

    def _take(self, most: int, now: float, worker: PooledWorker) -> list[QueuedRequest]:
        """The next requests of at most ``most`` rows together, and always at least one."""
        batch: list[QueuedRequest] = []
        rows = 0
        queue = self._queue
        # One that takes milliseconds to open goes alone: others are for the codec processes.
        opening = self.openings is not None and bool(self.openings.closed)
        while queue:
            queued = queue[0]
            if queued.state != WAITING:
                queue.popleft()
                continue
            # What ran on a worker that died goes alone, too: nobody else is to be there if that was its fault.
            alone = queued.attempts or (opening and is_closed(queued.request))
            if batch and (alone or rows + queued.rows > most):
                break
            queue.popleft()
            # Here, not on arrival: a request grows old in the queue, and running one that nobody waits for
            # delays all the others.
            if queued.request.deadline is not None and queued.request.expired(now):
                queued.refuse(self._too_late())
                continue
            queued.state = RUNNING
            queued.worker = worker
            queued.queued_for = now - queued.since
            if self._answer_size:
                queued.grant = self._grant()
            batch.append(queued)
            rows += queued.rows
            if alone:
                break
        self._waiting -= len(batch)
        self._running += len(batch)
        return batch

    def _grant(self) -> Buffer | None:
        return self._allocate(self._answer_size)

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"model '{self.spec.name}' did not answer in time",
            model=self.spec.name,
            version=self.spec.version,
        )
