"""The scheduler of a model that keeps state: every request of a sequence goes to the worker that has it."""

import time
from collections.abc import Callable, Sequence

from mooring.core.buffers import Buffer
from mooring.core.errors import ErrorRecord, InvalidInput, MooringError, SequenceLost, WorkerDied
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, Operation, Step
from mooring.core.service import Done, ModelMetadata, Ticket
from mooring.engine.body_reader import Read, is_undecoded
from mooring.engine.scheduler import DONE, RUNNING, WAITING, QueuedRequest, Scheduler, keys
from mooring.engine.sequences import Sequences
from mooring.engine.steps import mark, new_id, said, tell
from mooring.observability.statistics import ModelStatistics
from mooring.repository.spec import ModelSpec, SequenceSettings
from mooring.workers.handle import Answered, PooledWorker, Work, WorkerState


class QueuedStep(QueuedRequest, eq=False):
    """A request of a model with sequences. ``made``: only its answer tells the client what its sequence is called."""

    step: Step | None = None
    made: bool = False

    def _named(self, response: InferenceResponse) -> InferenceResponse:
        response = super()._named(response)
        if self.step is not None:
            tell(response, self.request, self.step, self._scheduler.spec.sequence_headers)
        return response


class SequenceScheduler(Scheduler):
    """The queues of one version with sequences, and the owner of its workers.

    A worker gets one call's worth of steps at a time, each of another sequence. No step is retried or moved. A large body
    says in itself which sequence it belongs to, so it is read with ``read`` before it is a step. The rules are in
    sequences.py; here are the clock, the workers and the words.
    """

    def __init__(
        self,
        spec: ModelSpec,
        statistics: ModelStatistics,
        allocate: Callable[[int], Buffer | None],
        health: Callable[[ModelMetadata | MooringError], None],
        read: Read,
    ) -> None:
        super().__init__(spec, statistics, allocate, health)
        self._read = read
        self._unread: dict[QueuedStep, Ticket | None] = {}
        self._sequences: Sequences[PooledWorker, QueuedStep] = Sequences(
            spec.name, spec.sequence or SequenceSettings()
        )

    def submit(self, request: InferenceRequest, done: Done, rows: int) -> Ticket:
        """Queue a step behind those of its sequence, or refuse it at once."""
        now = time.monotonic()
        queued = QueuedStep(self, request, done, rows, now, next(keys))
        self._waiting += 1
        if self.refusal is not None:
            queued.refuse(self.refusal)
        elif not is_undecoded(request):
            self._take_in(queued, now)
        elif len(self._unread) >= self.spec.queue_size:
            queued.refuse(self._queue_full())
        else:
            self._have_read(queued)
        return queued

    def _take_in(self, queued: QueuedStep, now: float) -> None:
        try:
            self._admit(queued, now)
        except MooringError as error:
            queued.refuse(error)
            return
        if queued.request.deadline is not None:
            self._with_deadline.add(queued)
        self._flush_soon()

    def _have_read(self, queued: QueuedStep) -> None:
        self.set_aside(queued)
        if queued.request.deadline is not None:
            self._with_deadline.add(queued)
        self._unread[queued] = None
        ticket = self._read(queued.request, lambda error: self._body_read(queued, error))
        if queued in self._unread:
            self._unread[queued] = ticket

    def _body_read(self, queued: QueuedStep, error: MooringError | None) -> None:
        del self._unread[queued]
        self._leave_aside(1)
        queued.state = WAITING
        self._waiting += 1
        error = error or self.refusal
        if error is not None:
            queued.refuse(error)
        else:
            self._take_in(queued, time.monotonic())

    def withdrawn_aside(self, queued: QueuedRequest) -> None:
        """Called by a request that nobody waits for any more while its body is being read."""
        assert isinstance(queued, QueuedStep)
        self._leave_aside(1)
        self._with_deadline.discard(queued)
        ticket = self._unread.pop(queued)
        if ticket is not None:
            ticket.cancel()

    def overload_error(self) -> MooringError | None:
        """Which sequence a request belongs to is only known when it is there: nothing is said before."""
        return self.refusal

    def _flush_soon(self) -> None:
        if self._waiting and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _admit(self, queued: QueuedStep, now: float) -> None:
        request = queued.request
        if request.form is Form.TENSORS:
            queued.rows = max(request.rows, 1)
        if request.operation is Operation.DESCRIBE:
            self._sequences.admit_alone(queued, now)
            return
        if request.form is Form.INSTANCES and queued.rows > self.spec.max_batch_size:
            raise InvalidInput(
                f"a step of a sequence has at most {self.spec.max_batch_size} instances for model "
                f"'{self.spec.name}', not {queued.rows}"
            )
        step = self._step_of(queued)
        self._lose_the_dead()
        name, implicit = str(step.id), request.form is not Form.TENSORS
        if self._sequences.full(name):  # what waits may only wait for the end of this turn of the loop
            self._flush()
        if self.spec.job_ticket:
            self._sequences.place(self._idle_places())  # who came before in this turn of the loop
            if not self._sequences.could_run(name, self._idle_places()):
                raise self._queue_full()
        self._sequences.admit(name, queued, now, start=step.start, end=step.end, implicit=implicit)
        queued.step = step

    def _step_of(self, queued: QueuedStep) -> Step:
        step = said(queued.request, self.spec.sequence_headers)
        if step.id:
            return step
        if queued.request.form is Form.TENSORS:
            raise InvalidInput(
                f"inference request to model '{self.spec.name}' must specify a non-zero or non-empty correlation ID"
            )
        queued.made = True
        return Step(new_id(), start=True, end=step.end)

    def answered_together(self, works: Sequence[Work], outcomes: Answered, *, lent: bool) -> None:
        """One after the other: each answer may let the next step of its sequence run."""
        for work, outcome in zip(works, outcomes, strict=True):
            if isinstance(outcome, ErrorRecord):
                work.answer(outcome.error(model=self.spec.name, version=self.spec.version))
            else:
                work.answer(outcome)

    def answered(self, queued: QueuedRequest, ok: bool, told: bool) -> None:
        """As for every request; the next step of the sequence may run."""
        super().answered(queued, ok, told)
        assert isinstance(queued, QueuedStep)
        if queued.state == DONE:
            # Nobody can go on with a sequence whose id the answer was to tell.
            self._sequences.done(queued, time.monotonic(), over=queued.made and not (ok and told))
            self._shed()
            self._flush_soon()  # its worker was free before, and had nothing to do then

    def withdrawn(self, queued: QueuedRequest) -> None:
        """As for every request; the steps behind it move up."""
        super().withdrawn(queued)
        assert isinstance(queued, QueuedStep)
        self._sequences.withdraw(queued, time.monotonic())
        self._flush_soon()

    def refuse_all(self, error: MooringError) -> None:
        """Answer everyone who waits, and everyone who comes, with this error."""
        super().refuse_all(error)
        for queued in [*self._unread, *self._sequences.waiting()]:
            queued.refuse(error)

    def check(self, now: float) -> None:
        """Give up requests whose deadline has passed, and sequences that nobody goes on with."""
        super().check(now)
        self._sequences.expire(now)
        self._lose_the_dead()
        self._shed()
        self._flush_soon()  # there may be room now for a sequence that waits for some
        self._statistics.sequences = len(self._sequences)

    def worker_lost(
        self, running: Sequence[Work], unstarted: Sequence[Work], error: WorkerDied, retry: bool
    ) -> None:
        """What ran gets the reason; what waits for the state that is gone is told so."""
        for queued in running:
            queued.answer(error)
        self.handed_back(unstarted)

    def handed_back(self, works: Sequence[Work]) -> None:
        """They are the next steps of their sequences again."""
        for queued in works:
            assert isinstance(queued, QueuedStep)
            self._running -= 1
            queued.worker = None
            self._sequences.give_back(queued)
            if not queued.wanted:
                queued.forget()
                self._sequences.withdraw(queued, time.monotonic())
                continue
            if queued.grant is not None:
                queued.grant.release()
                queued.grant = None
            queued.state = WAITING
            self._waiting += 1
        self._lose_the_dead()
        if self._given_up is not None:
            self.refuse_all(self._given_up)
        self.worker_free()

    def sequences(self) -> list[str]:
        """The ids of those that are open."""
        return self._sequences.ids()

    def remember(self, lost: Sequence[str]) -> None:
        """Sequences that a scheduler before this one had: they can only be started anew."""
        self._sequences.remember(lost)

    def may_go(self, worker: PooledWorker) -> bool:
        """A worker that is too many stays until its sequences are over, unless no worker is to stay."""
        return self.pool is None or not self.pool.wanted or not self._sequences.held(worker)

    def _shed(self) -> None:
        pool = self.pool
        if pool is not None and len(pool.workers) > pool.wanted:
            pool.shed()

    def _lose_the_dead(self) -> None:
        """What waits for a worker that is gone has lost its state. What ran there is answered by ``worker_lost``."""
        for worker in self._sequences.places():
            if worker.state is WorkerState.ENDED and not self._sequences.busy(worker):
                for queued in self._sequences.lose(worker):
                    queued.refuse(
                        SequenceLost(
                            f"the worker of model '{self.spec.name}' that had the state of sequence "
                            f"'{queued.step.id if queued.step else ''}' is gone; start the sequence anew",
                            model=self.spec.name,
                            version=self.spec.version,
                        )
                    )
                self.worker_free()  # those that have not begun may go elsewhere

    def _flush(self) -> None:
        self._flushing = False
        pool = self.pool
        if pool is None:
            return
        now = time.monotonic()
        # With job tickets nothing waits for a worker that has the fewest and is busy.
        self._sequences.place(self._idle_places() if self.spec.job_ticket else self._open_places())
        waits: list[float] = []
        for worker in list(pool.idle):
            count, oldest = self._sequences.ready(worker)
            if oldest is None:
                continue
            wait = self._policy.due_in(count, now - oldest.since)
            if wait > 0.0:
                waits.append(wait)
                continue
            batch = self._next_call(worker, now)
            if batch:
                pool.idle.remove(worker)
                worker.send(batch)
        if waits:
            self._flush_in(min(waits))

    def _idle_places(self) -> Sequence[PooledWorker]:
        """The workers whose next call has room for one more step."""
        if self.pool is None:
            return []
        return [
            worker
            for worker in self._open_places()
            if worker in self.pool.idle
            and self._sequences.ready(worker)[0]
            < (worker.room if worker.capacity else self.spec.max_batch_size)
        ]

    def _open_places(self) -> Sequence[PooledWorker]:
        """The workers that new sequences may go to: of too many, those that have the most to keep."""
        assert self.pool is not None
        pool = self.pool
        loaded = [
            worker
            for worker in pool.workers
            if worker.state in (WorkerState.READY, WorkerState.BUSY) and worker not in pool.leaving
        ]
        if len(loaded) > pool.wanted:
            loaded.sort(key=self._sequences.held, reverse=True)
        return loaded[: pool.wanted] or loaded

    def _next_call(self, worker: PooledWorker, now: float) -> list[QueuedStep]:
        def rows(queued: QueuedStep) -> int:
            if queued.request.expired(now):
                queued.refuse(self._too_late())
                return 0
            return queued.rows

        batch: list[QueuedStep] = []
        most = self.spec.max_batch_size
        if worker.capacity:  # it takes steps while others run
            most = worker.room
        for turn in self._sequences.take(worker, most, rows):
            queued = turn.job
            if queued.step is not None:
                queued.step = Step(queued.step.id, turn.start, turn.end)
                mark(queued.request, queued.step, self.spec.sequence_headers)
            queued.state = RUNNING
            queued.worker = worker
            queued.queued_for = now - queued.since
            if self._answer_size:
                queued.grant = self._grant()
            batch.append(queued)
        self._waiting -= len(batch)
        self._running += len(batch)
        return batch
