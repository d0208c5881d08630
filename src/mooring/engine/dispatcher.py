"""The dispatcher of one version: it sends batches to workers and passes the outcomes to the callers."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from mooring.core.buffers import Buffer
from mooring.core.errors import (
    DeadlineExceeded,
    ErrorRecord,
    ModelFailed,
    MooringError,
    QueueTimeout,
    RequestCancelled,
    WorkerDied,
)
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import ModelMetadata, Outcome
from mooring.core.tensors import release
from mooring.engine.answer_slots import AnswerSlots
from mooring.engine.batching import SLOW_ROW, RowTime
from mooring.engine.queued_request import DONE, RUNNING, WAITING, QueuedRequest, RequestState
from mooring.observability.logs import MODEL_LOG, Throttle, get_logger
from mooring.observability.statistics import Failure, ModelStatistics, ResponseKind, RestartReason
from mooring.repository.spec import ModelSpec
from mooring.workers.handle import PoolOwner, Work, WorkerHandle, Workers

model_log = get_logger(MODEL_LOG)  # TorchServe has the failures of handlers in its model_log.log

W = TypeVar("W", bound=Workers)
Clock = Callable[[], float]
"""Seconds on the monotonic clock."""

_MAX_LOGGED_FAILURES = 20  # a second


class RequestSource(Protocol):
    """The queue behind a dispatcher: it chooses which requests go to which worker."""

    def on_worker_free(self) -> None:
        """A worker is idle: send it what waits."""

    def may_dismiss(self, worker: WorkerHandle) -> bool:
        """Whether an idle worker that is too many may end now."""

    def requeue(self, unstarted: Sequence[QueuedRequest]) -> None:
        """Put requests back before all others. Those that are DONE were withdrawn while they ran."""

    def on_withdrawn(self, queued: QueuedRequest, state: RequestState) -> None:
        """A request that was in this state is DONE: nobody waits for it any more."""

    def slow_batches_done(self, rows: int, row_time: float) -> None:
        """A worker of a model that takes ``SLOW_ROW`` or more has answered so many rows; they still count as running."""

    def refuse_waiting(self, error: MooringError) -> None:
        """Refuse every request that waits."""


_FAILURES: Sequence[tuple[tuple[type[MooringError], ...], Failure]] = (
    ((QueueTimeout, DeadlineExceeded), Failure.REJECTED),
    ((RequestCancelled,), Failure.CANCELED),
    ((ModelFailed, WorkerDied), Failure.BACKEND),
)


class Dispatcher(Generic[W]):
    """Runs the requests of one version on its workers.

    How this works: a scheduler queues requests and calls ``start_batch`` with a batch and an idle worker. The pool reports to
    this class what its workers do. An outcome goes through ``finish_many``, the only place where a request that ran ends:
    it gives memory back, counts, fills in the names of the answer and calls the caller's ``done``. Requests of a worker
    that died go back to the ``source``, or fail. The deadlines of waiting and of running requests are kept here, too.

    ``pool`` is made with this object as its owner. ``refusal`` is the error with which new requests are refused now.
    ``on_finished`` hears of every request that has ended: its error, if any, and whether its caller gets an answer.
    """

    def __init__(
        self,
        spec: ModelSpec,
        source: RequestSource,
        make_pool: Callable[[PoolOwner], W],
        statistics: ModelStatistics,
        allocate: Callable[[int], Buffer | None],
        health: Callable[[ModelMetadata | MooringError], None],
        clock: Clock = time.monotonic,
        on_finished: Callable[[QueuedRequest, MooringError | None, bool], None] | None = None,
    ) -> None:
        self.spec = spec
        self.statistics = statistics
        self.slots = AnswerSlots(allocate)
        self.row_time = RowTime()
        self.counts_responses = spec.decoupled
        self.running = 0
        self.refusal: MooringError | None = None
        self._given_up: MooringError | None = None
        self._source = source
        self._health = health
        self._clock = clock
        self._on_finished = on_finished
        # A step of a sequence has changed the state that its worker keeps, so it cannot be run again elsewhere.
        self._retries = spec.limits.retry and not spec.sequence.enabled
        self._with_deadline: set[QueuedRequest] = set()
        self._failures = Throttle(_MAX_LOGGED_FAILURES)
        # Not methods of this class that call the source's: that is a call less for every message of a worker.
        self.on_worker_free = source.on_worker_free
        self.may_dismiss = source.may_dismiss
        self.pool = make_pool(self)

    def start_batch(self, batch: Sequence[QueuedRequest], worker: WorkerHandle, now: float) -> None:
        """Send these requests to an idle worker."""
        slots = self.slots
        lends = slots.size > 0
        for queued in batch:
            if queued.state is not WAITING:
                queued.move_to(RUNNING)  # which raises; a call for every request would cost 1 % of its time
            queued.state = RUNNING
            queued.worker = worker
            queued.queued_for = now - queued.arrived
            if lends:
                queued.answer_slot = slots.lend_slot()
        self.running += len(batch)
        worker.send(batch)

    def reject(self, queued: QueuedRequest, error: MooringError) -> QueuedRequest:
        """Refuse a request that is not in the queue, and return it as the ticket of its caller."""
        done, queued.done = queued.done, None
        queued.release_memory()
        queued.move_to(DONE)
        self.count_refusal(queued, error)
        if done is not None:
            done(error)
        return queued

    def watch_deadline(self, queued: QueuedRequest) -> None:
        """Refuse this request when its deadline has passed, unless it is answered before."""
        self._with_deadline.add(queued)

    def check_deadlines(self, now: float) -> None:
        """Give up requests whose deadline has passed. Call it often enough for the deadlines to mean something."""
        self.pool.check(now)
        for queued in [queued for queued in self._with_deadline if queued.request.expired(now)]:
            self._with_deadline.discard(queued)
            self.expire(queued)

    def expire(self, queued: QueuedRequest) -> None:
        """Refuse a request whose deadline has passed."""
        spec = self.spec
        queued.refuse(
            DeadlineExceeded(
                f"model '{spec.name}' did not answer in time", model=spec.name, version=spec.version
            )
        )

    # Whether requests are taken at all.

    def refuse_new(self, error: MooringError) -> None:
        """Refuse new requests with this error; those that wait already were accepted and are served."""
        self.refusal = error

    def accept_new(self) -> None:
        """Take requests again."""
        self.refusal = self._given_up = None

    def refuse_all(self, error: MooringError) -> None:
        """Refuse new requests and those that wait with this error, and those that a worker hands back."""
        self.refusal = self._given_up = error
        self._source.refuse_waiting(error)

    # What requests tell their owner.

    def finish_many(
        self, works: Sequence[Any], outcomes: Sequence[Outcome | ErrorRecord], *, borrowed: bool
    ) -> None:
        """Pass the outcomes of requests to their callers. With ``borrowed`` some requests may have memory to give back."""
        now = self._clock()
        answered = self.statistics.answered
        version, hears = self.spec.version, self._on_finished is not None or self.counts_responses
        observe = self.statistics.observe_request if self.statistics.observes_each else None
        queued: QueuedRequest
        last_queue: float | None = None
        try:
            for queued, outcome in zip(works, outcomes, strict=True):
                if borrowed:
                    queued.release_memory()
                request, done = queued.request, queued.done
                if (
                    type(outcome) is not InferenceResponse
                    or done is None
                    or queued.state is not RUNNING
                    or queued.output_encoder is not None
                    or hears
                ):
                    self._finish_one(queued, outcome)
                    continue
                # The same as ``_finish_one``, without its calls: they would cost a small request 2 % of all its time.
                queued.state, queued.done, queued.worker = DONE, None, None
                self.running -= 1
                if request.deadline is not None:
                    self._with_deadline.discard(queued)
                if observe is None:
                    latencies, queues = answered[not request.version]
                    latencies.append(now - queued.arrived)
                    last_queue = queued.queued_for
                    queues.append(last_queue)
                else:
                    observe(now - queued.arrived, queued.queued_for, True, not request.version, queued.rows)
                outcome.model = outcome.model or request.model
                outcome.version = outcome.version or version
                outcome.id = outcome.id or request.id
                done(outcome)
        finally:
            if last_queue is not None:
                self.statistics.observe_answers(len(works), last_queue)

    def _finish_one(self, queued: QueuedRequest, outcome: Outcome | ErrorRecord) -> None:
        """End a request, whatever its outcome is and whether or not its caller still waits."""
        queued.move_to(DONE)
        if isinstance(outcome, ErrorRecord):
            self._deliver_error(queued, outcome.error(model=self.spec.name, version=self.spec.version))
        elif isinstance(outcome, MooringError):
            self._deliver_error(queued, outcome)
        elif queued.output_encoder is not None and queued.done is not None:
            queued.output_encoder.encode_answer(outcome, functools.partial(self._finish_encoded, queued))
        else:
            self._deliver_answer(queued, outcome)

    def _finish_encoded(self, queued: QueuedRequest, outcome: Outcome) -> None:
        """Pass an answer to its caller whose JSON has been written, or why it could not be."""
        if isinstance(outcome, MooringError):
            self._deliver_error(queued, outcome)
        else:
            self._deliver_answer(queued, outcome)

    def _deliver_answer(self, queued: QueuedRequest, answer: InferenceResponse) -> None:
        done, queued.done = queued.done, None
        self._note_end(queued, None, delivered=done is not None)
        if done is None:
            release(answer.outputs)
            return
        if self.counts_responses:
            self.count_response(queued, ResponseKind.SUCCESS if answer.outputs else ResponseKind.EMPTY)
        latency = self._clock() - queued.arrived
        self.statistics.observe_request(
            latency, queued.queued_for, True, not queued.request.version, queued.rows
        )
        queued.fill_identity(answer)
        done(answer)

    def _deliver_error(self, queued: QueuedRequest, error: MooringError) -> None:
        done, queued.done = queued.done, None
        self._note_end(queued, error, delivered=False)
        if done is not None:
            if self.counts_responses:
                self.count_response(queued, ResponseKind.FAIL)
            self.count_refusal(queued, error)
        if isinstance(error, ModelFailed) and not 400 <= error.code < 500:
            self._log_failure(queued.request, error)
        if done is not None:
            done(error)

    def _note_end(self, queued: QueuedRequest, error: MooringError | None, *, delivered: bool) -> None:
        if queued.worker is not None:
            queued.worker = None
            self.running -= 1
        if queued.request.deadline is not None:
            self._with_deadline.discard(queued)
        if self._on_finished is not None:
            self._on_finished(queued, error, delivered)

    def count_response(self, queued: QueuedRequest, kind: ResponseKind) -> None:
        """Count a response of a decoupled model, and the time since the one before or since the model had the request."""
        now = self._clock()
        begun = queued.responded or queued.arrived + queued.queued_for
        self.statistics.observe_response(queued.responses, kind, now - begun)
        queued.responses, queued.responded = queued.responses + 1, now

    def count_refusal(self, queued: QueuedRequest, error: MooringError) -> None:
        """Count a request that got an error."""
        for kinds, failure in _FAILURES:
            if isinstance(error, kinds):
                self.statistics.count_failure(failure)
        now = self._clock()
        queued.note_wait(now)
        latency = now - queued.arrived
        self.statistics.observe_request(
            latency, queued.queued_for, False, not queued.request.version, queued.rows
        )

    def on_withdrawn(self, queued: QueuedRequest, state: RequestState) -> None:
        """A request that no worker has is DONE: nobody waits for it any more."""
        self._with_deadline.discard(queued)
        self._source.on_withdrawn(queued, state)

    def _log_failure(self, request: InferenceRequest, error: ModelFailed) -> None:
        """Log the reason, which clients do not get. Of a model that fails every request so many a second are logged."""
        throttle = self._failures
        if not throttle.allow_line(self._clock()):
            return
        model_log.error(
            "prediction failed",
            model=self.spec.name,
            version=self.spec.version,
            request=request.id,
            kind=type(error).__name__,
            reason=error.message,
            detail=error.detail,
            **throttle.take_left_out(),
        )

    # What the pool tells its owner.

    def on_worker_died(
        self, running: Sequence[Work], unstarted: Sequence[Work], error: WorkerDied, retry: bool
    ) -> None:
        """Try requests that ran once more where that can do no harm; those that had not started just wait again."""
        again: list[Work] = []
        for queued in running:
            assert isinstance(queued, QueuedRequest)
            if retry and self._retries and not queued.attempts and not queued.streamed and queued.has_caller:
                queued.attempts += 1
                again.append(queued)
            else:
                queued.answer(error)
        self.requeue([*again, *unstarted])

    def requeue(self, works: Sequence[Work]) -> None:
        """Let requests wait again, before all others, that a worker has not started or that are tried once more."""
        requests: list[QueuedRequest] = []
        for queued in works:
            assert isinstance(queued, QueuedRequest)
            self.running -= 1
            queued.worker = None
            if not queued.has_caller:
                queued.release_memory()
                queued.move_to(DONE)
                self._with_deadline.discard(queued)
            else:
                if queued.answer_slot is not None:
                    queued.answer_slot.release()
                    queued.answer_slot = None
                queued.move_to(WAITING)
            requests.append(queued)
        self._source.requeue(requests)
        if self._given_up is not None:
            self.refuse_all(self._given_up)
        self.on_worker_free()

    def large_answer(self, size: int) -> None:
        """An answer had a payload of so many bytes."""
        self.slots.note_large_answer(size)

    def batches_done(self, batches: Sequence[tuple[int, float, int]]) -> None:
        """The model was called, each time for so many rows, seconds and requests."""
        self.row_time.observe(batches)
        self.statistics.observe_batches(batches)
        row_time = self.row_time.value
        if row_time is not None and row_time >= SLOW_ROW:
            self._source.slow_batches_done(sum(rows for rows, _, _ in batches), row_time)

    def answers_came(self, seconds: float) -> None:
        """Answers took so long on their way, beyond the time of the model."""
        self.statistics.observe_overhead(max(seconds, 0.0))

    def on_worker_loaded(self, metadata: ModelMetadata) -> None:
        """One more worker has the model."""
        self.statistics.note_load()
        self._health(metadata)

    def on_worker_failed(self, error: MooringError) -> None:
        """A worker could not load the model, or died."""
        self.statistics.workers[0] += 1
        self._health(error)

    def on_worker_recycled(self) -> None:
        """A worker makes way for a fresh one."""
        self.statistics.workers[1] += 1

    def on_worker_restarted(self, reason: RestartReason) -> None:
        """Another worker takes the place of one, for this reason."""
        self.statistics.restarts[reason] += 1
