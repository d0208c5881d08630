"""The scheduler of a model that keeps state: every request of a sequence goes to the worker that has it."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Generic, Protocol, TypeVar

from mooring.core.buffers import Buffer
from mooring.core.errors import DeadlineExceeded, InvalidInput, MooringError, QueueFull, SequenceLost
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, Operation, Step
from mooring.core.service import Done, ModelMetadata, Ticket
from mooring.engine.admission import QueueLoad
from mooring.engine.batching import SequencePolicy
from mooring.engine.body_reader import ReadBody, is_undecoded
from mooring.engine.dispatch_timer import DispatchTimer, Loop
from mooring.engine.dispatcher import Clock, Dispatcher
from mooring.engine.queued_request import OFFLOADED, WAITING, QueuedRequest, RequestState, next_key
from mooring.engine.scheduler import queue_full
from mooring.engine.sequences import Sequences
from mooring.engine.steps import add_sequence_id, mark_step, new_sequence_id, step_of
from mooring.observability.statistics import ModelStatistics
from mooring.repository.spec import ModelSpec
from mooring.workers.handle import PoolOwner, WorkerHandle, Workers, WorkerState


class SequenceWorkers(Workers, Protocol):
    """Workers that keep the state of sequences."""

    @property
    def workers(self) -> Sequence[WorkerHandle]:
        """All that live, loading ones included."""

    @property
    def wanted(self) -> int:
        """How many there should be."""

    @property
    def leaving(self) -> Collection[WorkerHandle]:
        """Those that get no new sequences, because their successors are there."""

    def dismiss_surplus(self) -> None:
        """End idle workers that are too many and may go."""


class QueuedStep(QueuedRequest, eq=False):
    """A request of a model with sequences.

    ``step`` is None until it is known which sequence it belongs to. With ``named_here`` only the answer tells the client
    what its sequence is called.
    """

    step: Step | None = None
    named_here: bool = False

    def fill_identity(self, response: InferenceResponse) -> None:
        """Fill in what every answer has, and the id of the sequence."""
        super().fill_identity(response)
        if self.step is not None:
            add_sequence_id(response, self.request, self.step, self.owner.spec.sequence.headers)


S = TypeVar("S", bound=SequenceWorkers)


class SequenceScheduler(Generic[S]):
    """The queues of one version with sequences.

    How this works: a worker gets one call's worth of steps at a time, each of another sequence; ``Sequences`` has the
    rules which step may run where. No step is retried or moved. A large body says in itself which sequence it belongs
    to, so ``read_body`` has it decoded before it is a step; it is OFFLOADED meanwhile. The ``Dispatcher`` sends, counts
    and answers, as it does for models without sequences.
    """

    def __init__(
        self,
        spec: ModelSpec,
        statistics: ModelStatistics,
        allocate: Callable[[int], Buffer | None],
        health: Callable[[ModelMetadata | MooringError], None],
        make_pool: Callable[[PoolOwner], S],
        read_body: ReadBody,
        *,
        clock: Clock = time.monotonic,
        loop: Loop | None = None,
    ) -> None:
        self.spec = spec
        self.queue_size = spec.limits.queue_size
        self._read_body = read_body
        # Requests whose bodies are being decoded; their tickets, once there are any.
        self._undecoded: dict[QueuedStep, Ticket | None] = {}
        self._waiting = 0  # steps; without the undecoded
        # Those that cannot run. They are refused in the next turn of the loop: behind the step that they depend on.
        self._unstarted: list[QueuedStep] = []
        self._policy = _policy_of(spec)
        self._sequences: Sequences[WorkerHandle, QueuedStep] = Sequences(spec.name, spec.sequence)
        self._clock = clock
        self._timer = DispatchTimer(self.dispatch, loop)
        self._dispatcher = Dispatcher(
            spec, self, make_pool, statistics, allocate, health, clock, self._step_finished
        )
        self._pool = self._dispatcher.pool

    @property
    def pool(self) -> S:
        """The workers of this version."""
        return self._pool

    @property
    def refusal(self) -> MooringError | None:
        """The error with which every new request is refused now, if any."""
        return self._dispatcher.refusal

    @property
    def waiting(self) -> int:
        """How many requests wait for a worker."""
        return self._waiting + len(self._undecoded)

    @property
    def load(self) -> QueueLoad:
        """How many steps wait and run, and since when the oldest waits."""
        return QueueLoad(self.waiting, self._dispatcher.running, self._oldest_arrival())

    def _oldest_arrival(self) -> float:
        undecoded = next((queued.arrived for queued in self._undecoded), math.inf)
        # Before the first one that waits are only those that run.
        jobs = self._sequences.jobs()
        step = next((queued.arrived for queued in jobs if queued.state is WAITING), math.inf)
        return min(undecoded, step)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._undecoded and not self._dispatcher.running

    def overload_error(self) -> MooringError | None:
        """Why any request would be refused if it came now.

        Whether there is room depends on its sequence, which is not known before the request is there.
        """
        return self._dispatcher.refusal

    def submit(self, request: InferenceRequest, done: Done, rows: int) -> Ticket:
        """Queue a step behind those of its sequence, or refuse it at once."""
        now, dispatcher = self._clock(), self._dispatcher
        queued = QueuedStep(dispatcher, request, done, rows, now, next_key())
        if dispatcher.refusal is not None:
            return dispatcher.reject(queued, dispatcher.refusal)
        if not is_undecoded(request):
            self._enqueue_step(queued, now)
        elif len(self._undecoded) >= self.queue_size:
            dispatcher.reject(queued, self._queue_full())
        else:
            self._start_decoding(queued)
        return queued

    def _enqueue_step(self, queued: QueuedStep, now: float) -> None:
        try:
            self._admit_step(queued, now)
        except MooringError as error:
            self._dispatcher.reject(queued, error)
            return
        self._waiting += 1
        if queued.request.deadline is not None:
            self._dispatcher.watch_deadline(queued)
        self._dispatch_soon()

    def _start_decoding(self, queued: QueuedStep) -> None:
        queued.move_to(OFFLOADED)
        queued.queued_for = self._clock() - queued.arrived
        if queued.request.deadline is not None:
            self._dispatcher.watch_deadline(queued)
        self._undecoded[queued] = None
        ticket = self._read_body(queued.request, lambda error: self._on_decoded(queued, error))
        if queued in self._undecoded:
            self._undecoded[queued] = ticket

    def _on_decoded(self, queued: QueuedStep, error: MooringError | None) -> None:
        del self._undecoded[queued]
        error = error or self._dispatcher.refusal
        if error is not None:
            self._dispatcher.reject(queued, error)
            return
        queued.move_to(WAITING)
        self._enqueue_step(queued, self._clock())

    def _dispatch_soon(self) -> None:
        if self._waiting:
            self._timer.dispatch_soon()

    def _admit_step(self, queued: QueuedStep, now: float) -> None:
        """Add a request to its sequence. Raises ``MooringError`` where the sequence cannot take it."""
        request = queued.request
        if request.form is Form.TENSORS:
            queued.rows = self._count_rows(request)
        if request.operation is Operation.DESCRIBE:
            self._sequences.admit_alone(queued, now)
            return
        if request.form is Form.INSTANCES and queued.rows > self.spec.batching.max_batch_size:
            raise InvalidInput(
                f"a step of a sequence has at most {self.spec.batching.max_batch_size} instances for model "
                f"'{self.spec.name}', not {queued.rows}"
            )
        step = self._read_step(queued)
        self._drop_dead_workers()
        name, implicit = str(step.id), request.form is not Form.TENSORS
        if self._sequences.is_full(name):  # what waits may only wait for the end of this turn of the loop
            self.dispatch()
        if (step.start or implicit) and not self._sequences.is_open(name):
            self._check_backlog()
        if self.spec.limits.job_ticket:
            self._sequences.assign_places(
                self._workers_with_room()
            )  # those that came earlier in this turn of the loop
            if not self._sequences.would_run(name, self._workers_with_room()):
                raise self._queue_full()
        self._sequences.admit_step(name, queued, now, start=step.start, end=step.end, implicit=implicit)
        queued.step = step

    def _count_rows(self, request: InferenceRequest) -> int:
        """Count the rows of a call that a step needs. Raises ``InvalidInput`` where it has more than a sequence may have."""
        batching, sequence = self.spec.batching, self.spec.sequence
        if batching.batch_dimension is True and request.rows > 1:
            raise InvalidInput(
                f"inference request to model '{self.spec.name}' must specify batch-size 1 due to requirements of "
                "sequence batcher"
            )
        one = sequence.direct or sequence.states or batching.batch_dimension is not None
        return 1 if one else max(request.rows, 1)

    def _check_backlog(self) -> None:
        """Raise ``QueueFull`` where one more sequence that waits for a worker would be too many."""
        if self._sequences.backlog >= self.queue_size:
            # Those that came earlier in this turn of the loop may have room.
            self._sequences.assign_places(self._eligible_workers())
        if self._sequences.backlog >= self.queue_size:
            raise QueueFull(
                f"model '{self.spec.name}' has {self._sequences.backlog} sequences waiting for a worker, as many as may; "
                "try again later",
                model=self.spec.name,
                version=self.spec.version,
            )

    def _read_step(self, queued: QueuedStep) -> Step:
        step = step_of(queued.request, self.spec.sequence.headers)
        if step.id:
            return step
        if queued.request.form is Form.TENSORS:
            raise InvalidInput(
                f"inference request to model '{self.spec.name}' must specify a non-zero or non-empty correlation ID"
            )
        queued.named_here = True
        return Step(new_sequence_id(), start=True, end=step.end)

    def set_queue_size(self, queue_size: int) -> None:
        """Let so many sequences wait for a worker, and so many requests for their bodies to be decoded."""
        self.queue_size = queue_size

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
        """Refuse requests whose deadline has passed, and end sequences that were idle for too long."""
        self._dispatcher.check_deadlines(now)
        self._sequences.end_expired(now)
        if self._dispatcher.refusal is not None:  # no step comes any more, and others may wait for the places
            self._sequences.end_idle()
        self._drop_dead_workers()
        self._dismiss_surplus()
        self._dispatch_soon()  # there may be room now for a sequence that waits for some
        self._dispatcher.statistics.sequences = len(self._sequences)

    def open_sequences(self) -> list[str]:
        """The ids of the sequences that are not over."""
        return self._sequences.open_ids()

    def remember_lost(self, ids: Sequence[str]) -> None:
        """Note sequences that a scheduler before this one had: they can only be started anew."""
        self._sequences.remember_lost(ids)

    # What the dispatcher asks of its source.

    def on_worker_free(self) -> None:
        """A worker is idle: send it what waits."""
        if self._waiting and not self._timer.pending:
            self.dispatch()

    def may_dismiss(self, worker: WorkerHandle) -> bool:
        """A worker that is too many stays until its sequences are over, unless no worker is to stay."""
        return not self._pool.wanted or not self._sequences.count_at(worker)

    def requeue(self, unstarted: Sequence[QueuedRequest]) -> None:
        """Make these the next steps of their sequences again."""
        for queued in unstarted:
            assert isinstance(queued, QueuedStep)
            self._sequences.return_step(queued)
            if queued.state is WAITING:
                self._waiting += 1
            else:
                self._withdraw_step(queued)
        self._drop_dead_workers()

    def on_withdrawn(self, queued: QueuedRequest, state: RequestState) -> None:
        """Forget a step that nobody waits for any more; those behind it move up."""
        assert isinstance(queued, QueuedStep)
        if state is OFFLOADED:
            ticket = self._undecoded.pop(queued)
            if ticket is not None:
                ticket.cancel()
            return
        self._waiting -= 1
        self._withdraw_step(queued)
        self._dismiss_surplus()
        self._dispatch_soon()

    def slow_batches_done(self, rows: int, row_time: float) -> None:
        """Do nothing: a step waits for its sequence, never for others to share its call."""

    def refuse_waiting(self, error: MooringError) -> None:
        """Refuse every step that waits."""
        # The last steps of a sequence first: without its start those behind it would get another error.
        waiting = reversed([*self._sequences.waiting_jobs(), *self._unstarted])
        for queued in [*self._undecoded, *waiting]:
            queued.refuse(error)

    def _withdraw_step(self, queued: QueuedStep) -> None:
        self._unstarted += self._sequences.withdraw_step(queued, self._clock())

    def _refuse_unstarted(self) -> None:
        """Refuse steps whose sequence did not begin, because the step that was to start it did not run."""
        unstarted, self._unstarted = self._unstarted, []
        for queued in unstarted:
            error = self._sequences.not_started_error(str(queued.step.id if queued.step else ""))
            error.message += ": the one that was to start it was not run"
            queued.refuse(error)

    def _step_finished(self, queued: QueuedRequest, error: MooringError | None, delivered: bool) -> None:
        """A step that ran is over: the next one of its sequence may run."""
        assert isinstance(queued, QueuedStep)
        if isinstance(error, InvalidInput | DeadlineExceeded):  # the model has not seen it
            self._unstarted += self._sequences.refuse_step(queued, self._clock())
        else:
            # A client that did not get its answer does not know the id that was made here, and cannot go on.
            over = queued.named_here and not delivered
            self._sequences.finish_step(queued, self._clock(), over=over)
        self._dismiss_surplus()
        self._dispatch_soon()  # its worker was free before, and had nothing to do then

    def _dismiss_surplus(self) -> None:
        pool = self._pool
        if len(pool.workers) > pool.wanted:
            pool.dismiss_surplus()

    def _drop_dead_workers(self) -> None:
        """Refuse the steps that wait for the state of a worker that is gone.

        What ran there is answered when the pool says that the worker is lost.
        """
        for worker in self._sequences.used_places():
            if worker.state is WorkerState.ENDED and not self._sequences.runs_at(worker):
                for queued in self._sequences.drop_place(worker):
                    queued.refuse(
                        SequenceLost(
                            f"the worker of model '{self.spec.name}' that had the state of sequence "
                            f"'{queued.step.id if queued.step else ''}' is gone; start the sequence anew",
                            model=self.spec.name,
                            version=self.spec.version,
                        )
                    )
                self.on_worker_free()  # those that have not begun may go elsewhere

    def dispatch(self) -> None:
        """Send every idle worker the next steps of its sequences."""
        self._timer.pending = False
        self._refuse_unstarted()
        now = self._clock()
        # With job tickets nothing waits for a worker that has the fewest sequences and is busy.
        self._sequences.assign_places(
            self._workers_with_room() if self.spec.limits.job_ticket else self._eligible_workers()
        )
        waits: list[float] = []
        for worker in list(self._pool.idle):
            count, oldest = self._sequences.next_at(worker)
            if oldest is None:
                continue
            size, wait = self._policy.next_call(count, now - oldest.arrived)
            if not size:
                waits.append(wait)
                continue
            batch = self._next_call(worker, size, now)
            if batch:
                self._waiting -= len(batch)
                self._dispatcher.start_batch(batch, worker, now)
        if waits:
            self._timer.dispatch_later(min(waits))

    def _workers_with_room(self) -> Sequence[WorkerHandle]:
        """The workers whose next call has room for one more step."""
        return [
            worker
            for worker in self._eligible_workers()
            if worker in self._pool.idle and self._sequences.next_at(worker)[0] < self._room_of(worker)
        ]

    def _eligible_workers(self) -> Sequence[WorkerHandle]:
        """The workers that new sequences may go to: where there are too many, those with the most sequences."""
        pool = self._pool
        loaded = [
            worker
            for worker in pool.workers
            if worker.state in (WorkerState.READY, WorkerState.BUSY) and worker not in pool.leaving
        ]
        if len(loaded) > pool.wanted:
            loaded.sort(key=self._sequences.count_at, reverse=True)
        return loaded[: pool.wanted] or loaded

    def _room_of(self, worker: WorkerHandle) -> int:
        """The rows that the next call of a worker may have. A worker with a capacity takes steps while others run."""
        return worker.room if worker.capacity else self.spec.batching.max_batch_size

    def _next_call(self, worker: WorkerHandle, size: int, now: float) -> list[QueuedStep]:
        def rows(queued: QueuedStep) -> int:
            if queued.request.expired(now):
                self._dispatcher.expire(queued)
                return 0
            return queued.rows

        batch: list[QueuedStep] = []
        # A worker with a capacity forms its calls itself.
        max_steps = None if worker.capacity else size
        for step in self._sequences.take_steps(worker, self._room_of(worker), rows, max_steps=max_steps):
            queued = step.job
            if queued.step is not None:
                slot = self._sequences.slot_of(queued)
                queued.step = Step(queued.step.id, step.start, step.end, slot)
                mark_step(queued.request, queued.step, self.spec.sequence.headers)
            batch.append(queued)
        return batch

    def _queue_full(self) -> MooringError:
        waiting = self._waiting + 1  # with the one that is refused
        return queue_full(self.spec, self.queue_size, self._dispatcher, waiting)


def _policy_of(spec: ModelSpec) -> SequencePolicy:
    batching, sequence = spec.batching, spec.sequence
    return SequencePolicy(
        batching.max_batch_size,
        batching.max_delay if batching.exact_delay else 0.0,
        sequence.preferred_batch_size,
        sequence.minimum_slot_utilization if sequence.direct else None,
    )
