"""The workers of one version of a model, in the server process: starting as many as are wanted, and replacing the dead."""

import asyncio
import signal
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from mooring.core.errors import ErrorRecord, ModelLoadFailed, MooringError, WorkerDied
from mooring.core.service import Joining, LoadContext, ModelMetadata
from mooring.ipc.messages import Load, LoadFailed
from mooring.observability.logs import get_logger
from mooring.observability.records import Record
from mooring.observability.statistics import RestartReason
from mooring.repository.platforms import calls_models
from mooring.repository.spec import ModelSpec
from mooring.workers.failures import FailureHistory
from mooring.workers.handle import OwnedWorker, PoolOwner, WorkerHandle, WorkerState
from mooring.workers.heartbeat import Clock, StopWatch
from mooring.workers.joining import JoiningTrial
from mooring.workers.local import LocalWorkers, StartPermit
from mooring.workers.output import shows_debug
from mooring.workers.recycling import Recycler, sum_memory
from mooring.workers.retries import backoff, files_changed
from mooring.workers.spawner import Spawner

log = get_logger(__name__)

_DISMISSAL = 2.0  # seconds that a dismissed worker has to close its model
# A worker that takes requests while others run refuses the slow ones itself; it is only ended where it does not, and
# so many seconds after it should have.
_LENIENCE = 2.0
# Workers of one version that are started at a time.
_STARTING_AT_A_TIME = 4


class Sharing(Protocol):
    """The part that frontend processes have in the workers of a version."""

    def joined(self, worker: OwnedWorker) -> None:
        """A worker has loaded the model, and serves one message at a time: frontends may use it."""

    async def leave(self, worker: OwnedWorker) -> None:
        """Return when no frontend has a request in the worker any more."""

    def on_worker_died(self, worker: OwnedWorker, error: WorkerDied, *, retry: bool) -> None:
        """Tell the frontends that a worker died, and why."""


class WorkerPool:
    """The workers of one version: as many as are wanted, kept alive.

    How this works: ``start`` sets the number that is wanted, and ``_spawn`` begins what is missing. A worker comes in
    with ``loaded``, is sent requests by the ``owner`` while it is among ``idle``, and goes out by one of four ways:
    dismissed when it is not needed, ended when it is too slow, frozen or too large, recycled when its successor is
    there, or it dies. A worker that dies or cannot load is replaced at once the first time, then after 1, 1, 2, 3, 5, 8
    ... seconds (``FailureHistory``). Where no worker can load the model's files, the next one is started when those
    have changed (retries.py).

    ``sharing`` is None where no frontend processes use the workers. ``record_metrics`` gets the metrics of the model's code.
    """

    def __init__(
        self,
        spec: ModelSpec,
        owner: PoolOwner,
        workers: LocalWorkers,
        threads: int,
        *,
        sharing: Sharing | None = None,
        record_metrics: Callable[[Sequence[Record]], None] | None = None,
    ) -> None:
        self.spec = spec
        self.owner = owner
        self.idle: list[OwnedWorker] = []
        # Whether the workers take requests while others run: the idle ones are not all equally idle then.
        self.overlapping = False
        # From the start of the worker that loaded last until it had the model; 0 until there is one.
        self.start_seconds = 0.0
        # When the first worker was begun, on the monotonic clock; None before.
        self.loading_since: float | None = None
        self.failures = FailureHistory()
        self._sharing = sharing
        self._record_metrics = record_metrics
        self._local = workers
        self._spawner = Spawner(spec, workers, threads)
        self._trial = JoiningTrial(spec, self._spawner)
        self._recycler = Recycler(spec.scaling)
        self._threads = threads
        self._wanted = 0
        self._served_before = 0  # by workers that are gone
        self._workers: list[OwnedWorker] = []
        self._starting = 0
        # At most a few of one model are started at once, to leave others their place in the turns of all.
        self._start_slots = asyncio.Semaphore(_STARTING_AT_A_TIME)
        self._restart = asyncio.Event()  # set when workers are wanted now, whatever failed before
        self._heartbeat_clock = Clock(workers.deadlines.heartbeat)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def workers(self) -> Sequence[OwnedWorker]:
        """All that have not ended, loading ones included."""
        return self._workers

    @property
    def ready(self) -> int:
        """The number of workers that have the model loaded."""
        return sum(worker.loaded for worker in self._workers)

    @property
    def starting(self) -> int:
        """The number of workers that load the model, or are to be started now or after a pause."""
        return self._starting + sum(worker.state is WorkerState.STARTING for worker in self._workers)

    @property
    def busy(self) -> float:
        """How many workers have work now, of this process or of a frontend; those with a capacity count by what is taken of it."""
        return sum(worker.busy for worker in self._workers)

    @property
    def wanted(self) -> int:
        """The number of workers that the pool keeps up."""
        return self._wanted

    @property
    def pids(self) -> Sequence[int]:
        """The pids of the workers, and of the template that has the model, if there is one."""
        pids = [pid for worker in self._workers for pid in worker.pids]
        return [*pids, self._spawner.pid] if self._spawner.pid else pids

    @property
    def processes(self) -> int:
        """The number of these processes."""
        return self.spec.count_processes(len(self._workers)) + (self._spawner.pid > 0)

    @property
    def served(self) -> int:
        """Requests sent to the workers, ever: by this process, and by frontends as far as they have reported."""
        return self._served_before + sum(worker.served for worker in self._workers)

    @property
    def leaving(self) -> Collection[WorkerHandle]:
        """The workers whose successors are ready: they get no new request that another worker can take."""
        return self._recycler.leaving

    def has_exactly(self, count: int) -> bool:
        """Whether there are exactly ``count`` workers, all with the model loaded."""
        return self.ready == len(self._workers) == count

    def start(self, count: int) -> None:
        """Keep ``count`` workers from now on. Surplus ones that load or are idle end now, others when they are idle."""
        self._wanted = count
        self._restart.set()
        self._restart = asyncio.Event()
        self._recycler.due = None  # who is over its limit still is at the next look
        loading = [worker for worker in self._workers if worker.state is WorkerState.STARTING]
        while loading and len(self._workers) > self._allowed_workers:
            self._dismiss(loading.pop())
        self.dismiss_surplus()
        for _ in range(self._allowed_workers - len(self._workers) - self._starting):
            self._spawn(0.0)

    def scale_to_zero(self) -> None:
        """End every process. Requests wait until ``start`` is called again."""
        self.start(0)
        self._spawner.close()

    def dismiss_surplus(self) -> None:
        """Dismiss idle workers beyond the wanted number, where the owner permits it."""
        for worker in self.idle[::-1]:
            if (
                self._is_surplus(worker)
                and worker.state is WorkerState.READY
                and self.owner.may_dismiss(worker)
            ):
                self._dismiss(worker)
        self._stop_sending_to_surplus()

    def put_least_busy_last(self) -> None:
        """Sort the idle workers so that the one with the most room is sent the next request."""
        self.idle.sort(key=lambda worker: worker.room)

    def on_idle(self, worker: OwnedWorker) -> None:
        """A worker that takes one message at a time has answered it."""
        if self.failures.in_a_row:
            self.failures.record_answer(worker.born)
        if self._is_surplus(worker) and self.owner.may_dismiss(worker):
            self._dismiss(worker)
            return
        self.idle.append(worker)
        self.owner.on_worker_free()

    def on_room(self, worker: OwnedWorker) -> None:
        """A worker with a capacity has answered a request."""
        if self.failures.in_a_row:
            self.failures.record_answer(worker.born)
        if worker.state is WorkerState.READY:
            worker.retiring = False
            if self._is_surplus(worker) and self.owner.may_dismiss(worker):
                self._dismiss(worker)
                return
        worker.offer()
        self.owner.on_worker_free()

    def _stop_sending_to_surplus(self) -> None:
        """Send no new requests to surplus workers with a capacity: they are never idle otherwise, and would never end."""
        if not self.overlapping:
            return
        busy = [worker for worker in self._workers if worker.capacity and worker.state is WorkerState.BUSY]
        leaving = self._recycler.leaving
        busy.sort(key=lambda worker: worker not in leaving)
        too_many = max(len(self._workers) - self._allowed_workers + len(leaving), 0)
        for index, worker in enumerate(busy):
            worker.retiring = index < too_many and self.owner.may_dismiss(worker)
            if not worker.retiring:
                worker.offer()
            elif worker in self.idle:
                self.idle.remove(worker)

    def on_loaded(self, worker: OwnedWorker, metadata: ModelMetadata, joining: Joining | None) -> None:
        """A worker has loaded the model."""
        self.overlapping = worker.capacity > 0
        self._trial.learn(worker, joining)
        if self._sharing is not None and not worker.capacity:
            self._sharing.joined(worker)
        worker.process.close_frontend_channels()
        worker.start_permit.end()
        self.start_seconds = time.monotonic() - worker.begun
        self.idle.append(worker)
        if self.ready >= self._wanted:
            self.failures.record_complete(time.monotonic())
        if self._recycler.due is not None and self.ready - len(self._recycler.leaving) > self._wanted:
            self._retire_recycled(self._recycler.mark_replaced())
        self.owner.on_worker_loaded(metadata)
        self.owner.on_worker_free()

    @property
    def joining(self) -> Joining | None:
        """Of a model that is a file, whether requests share calls; None until a worker has loaded it."""
        return self._trial.joining

    def on_joining_missed(self) -> None:
        """A worker had requests that might have shared a call of the model, had a trial shown that they may."""
        if self._trial.begin():
            self._run(self._trial.run(self._workers))

    def on_load_failed(self, worker: OwnedWorker, failure: LoadFailed) -> None:
        """A worker could not load the model. It ends by itself."""
        error = failure.error.error(model=self.spec.name, version=self.spec.version)
        self._remove(worker)
        worker.close()
        self._report(error, RestartReason.LOAD_FAILED, loading=True)
        if failure.lasting and not self.ready:
            self._spawn(backoff(self.failures.in_a_row), failed_at=worker.started)
        else:
            self._replace()

    def on_closed(self, worker: OwnedWorker) -> None:
        """A worker has closed its end of the channel."""
        loading = worker.state is WorkerState.STARTING
        self._remove(worker)
        worker.close()
        self._run(self._reap(worker, loading=loading))

    def next(self) -> OwnedWorker:
        """The idle worker to send to: one that no frontend keeps busy, if there is one."""
        if self._sharing is not None and len(self.idle) > 1:
            for worker in reversed(self.idle):
                if not worker.process.progress.wanted_by_others(worker.process.channel):
                    return worker
        return self.idle[-1]

    def end_slow_worker(self, name: str) -> None:
        """End a worker that does not answer a frontend in time."""
        for worker in self._workers:
            if worker.id == name and not worker.timed_out:
                self._end(worker, self.spec.timeouts.response_timeout, "infer")

    def add_served(self, name: str, requests: int) -> None:
        """Count requests that a frontend sent to a worker."""
        for worker in self._workers:
            if worker.id == name:
                worker.served += requests

    def on_records(self, records: Sequence[Record]) -> None:
        """The model's own code recorded metrics."""
        if self._record_metrics is not None:
            self._record_metrics(records)

    def check(self, now: float) -> None:
        """End workers past the model's time-outs, and start successors of those to recycle. Called a few times a second."""
        if self._recycler.active:
            self._recycle(now)
        if self._heartbeat_clock.step(now):
            self._end_frozen_workers(now)
        for worker in self._workers:
            limit = (
                self.spec.timeouts.response_timeout
                if worker.state is WorkerState.BUSY
                else self.spec.timeouts.startup_timeout
            )
            if worker.capacity:
                limit += _LENIENCE
            if (
                worker.state is not WorkerState.READY
                and now - worker.sent_at > limit
                and not worker.timed_out
            ):
                self._end(worker, limit, "infer" if worker.state is WorkerState.BUSY else "load")

    def _end_frozen_workers(self, now: float) -> None:
        for worker in self._workers:
            if worker.process.stale:
                self._recycler.active = True
            if not worker.frozen and worker.stop_watch.is_frozen(now, *worker.pids):
                self._end_frozen(worker)

    def _end_frozen(self, worker: OwnedWorker) -> None:
        """End a worker that a signal has stopped; its requests run elsewhere, as if it had died."""
        worker.frozen = True
        log.error(
            "worker frozen, ending it",
            model=self.spec.name,
            worker=worker.id,
            pid=worker.process.pid,
            limit_seconds=self._local.deadlines.heartbeat,
        )
        worker.process.kill()

    def _end(self, worker: OwnedWorker, limit: float, doing: str) -> None:
        worker.timed_out = True
        log.error(
            "worker too slow, ending it",
            model=self.spec.name,
            worker=worker.id,
            pid=worker.process.pid,
            limit_seconds=limit,
            doing=doing,
        )
        worker.process.kill()

    @property
    def _allowed_workers(self) -> int:
        """The number of workers that may live, with those that leave once their successors are ready."""
        return self._wanted + self._recycler.extra

    def _is_surplus(self, worker: OwnedWorker) -> bool:
        """Whether the worker is not needed: its successor is ready, or there are too many."""
        return worker in self._recycler.leaving or len(self._workers) > self._allowed_workers

    def _recycle(self, now: float) -> None:
        if self._recycler.is_check_due(now):
            self._run(self._measure_memory())
        loaded = (worker for worker in self._workers if worker.loaded)
        # Not while some are missing: the next one to load would not be a successor.
        if (
            self.ready - len(self._recycler.leaving) >= self._wanted
            and self._recycler.choose_next(loaded) is not None
        ):
            self._spawn(0.0)

    async def _measure_memory(self) -> None:
        for worker in list(self._workers):
            if not worker.loaded:
                continue
            worker.memory = await asyncio.to_thread(sum_memory, worker.pids)
            if self._recycler.is_over_limit(worker) and worker in self._workers:
                log.error(
                    "worker has too much memory, ending it",
                    model=self.spec.name,
                    worker=worker.id,
                    pid=worker.process.pid,
                    bytes=worker.memory,
                    limit_bytes=self.spec.scaling.memory_limit,
                )
                worker.process.kill()

    def _retire_recycled(self, worker: OwnedWorker) -> None:
        """Let a worker whose successor is ready end when it is idle."""
        log.info(
            "worker recycled",
            model=self.spec.name,
            worker=worker.id,
            pid=worker.process.pid,
            requests=worker.served,
            bytes=worker.memory,
        )
        self.owner.on_worker_recycled()
        self.owner.on_worker_restarted(self._recycler.reason_for(worker))
        self._stop_sending_to_surplus()
        self.dismiss_surplus()

    async def stop(self, grace: float = 2.0) -> None:
        """Return when every worker has ended. Idle ones get ``grace`` seconds to close their model; others are killed."""
        self._wanted = 0
        for task in list(self._tasks):
            task.cancel()
        workers, self._workers, self.idle = self._workers, [], []
        for worker in workers:
            if worker.state is not WorkerState.READY:
                worker.process.kill()
            worker.state = WorkerState.ENDED
            worker.start_permit.end()
            worker.process.close_frontend_channels()
            worker.close()
        ends = [asyncio.ensure_future(worker.process.ended.wait()) for worker in workers]
        if ends:
            await asyncio.wait(ends, timeout=grace)
        for worker in workers:
            worker.process.kill()
        if ends:
            await asyncio.wait(ends, timeout=grace)
        for worker in workers:
            worker.process.output.close()
        self._spawner.close()

    def _dismiss(self, worker: OwnedWorker) -> None:
        """Close the channel of an idle worker, at which it ends by itself; kill one that is loading."""
        if worker.state is WorkerState.STARTING:
            worker.process.kill()
        self._remove(worker)
        worker.close()
        self._run(self._await_end(worker))

    async def _await_end(self, worker: OwnedWorker) -> None:
        if self._sharing is not None:
            await self._sharing.leave(worker)
        with suppress(TimeoutError):
            await asyncio.wait_for(worker.process.ended.wait(), _DISMISSAL)
        worker.process.kill()
        worker.process.output.close()

    def _spawn(self, delay: float, *, failed_at: float | None = None) -> None:
        """Start a worker after ``delay`` seconds; with ``failed_at``, when the files that failed then have changed."""
        self._starting += 1
        self._run(self._start_one(delay, failed_at))

    async def _start_one(self, delay: float, failed_at: float | None) -> None:
        try:
            if failed_at is not None:
                await self._await_change(failed_at, delay)
            elif delay:
                await asyncio.sleep(delay)
            async with self._start_slots:
                await asyncio.sleep(self.failures.pause(time.monotonic()))
                permit = await self._local.acquire_start_permit()
                # Fewer may be wanted than when this was begun.
                wanted = len(self._workers) + self._starting <= self._allowed_workers
                worker = await self._start_process(permit) if wanted else None
        finally:
            self._starting -= 1
        if worker is None:
            permit.end()
            self._replace()
            return
        worker.place = min(set(range(len(self._workers) + 1)) - {each.place for each in self._workers})
        self._workers.append(worker)
        if len(self._workers) > self._allowed_workers:
            self._dismiss(worker)
            return
        try:
            context = LoadContext(
                worker=worker.id,
                threads=self._threads,
                gpu=worker.place % len(self.spec.gpus) if self.spec.gpus else None,
                debug=shows_debug(),
                call_socket=self._local.call_socket if calls_models(self.spec.backend) else "",
                place=worker.place,
            )
            worker.send_message(Load(self.spec, context))
        except (ArithmeticError, TypeError, ValueError) as error:
            # What the model is told cannot be written down: without this it would be loading for ever.
            self.on_load_failed(worker, LoadFailed(ErrorRecord("ModelLoadFailed", str(error)), lasting=True))

    async def _await_change(self, failed_at: float, pause: float) -> None:
        """Return when the model's files have changed after ``failed_at`` (wall clock), or ``start`` was called."""
        changed = asyncio.get_running_loop().create_task(
            files_changed(Path(self.spec.location), failed_at, pause)
        )
        called = asyncio.get_running_loop().create_task(self._restart.wait())
        try:
            await asyncio.wait([changed, called], return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            called.cancel()
        self._spawner.recheck_fork_safety()

    async def _start_process(self, permit: StartPermit) -> OwnedWorker | None:
        """A worker that is about to load the model; None, and a reported failure, where no process could be started."""
        begun = time.monotonic()
        if self.loading_since is None:
            self.loading_since = begun
            log.info("loading model", model=self.spec.name, version=self.spec.version)
        try:
            process = await self._spawner.start_worker()
        except ModelLoadFailed as error:
            self._report(error, RestartReason.LOAD_FAILED, loading=True)
            return None
        except OSError as fault:
            reason = f"no worker process could be started: {fault}"
            no_room = ModelLoadFailed(reason, model=self.spec.name)
            self._report(no_room, RestartReason.NOT_STARTED, loading=True)
            self.failures.record_no_room(time.monotonic())
            return None
        stop_watch = StopWatch(self._local.deadlines.heartbeat)
        worker = OwnedWorker(
            self, process, str(next(self._local.numbers)), start_permit=permit, stop_watch=stop_watch
        )
        worker.begun = begun
        process.output.name_worker(worker.id)
        process.output.record_values = self.on_records
        return worker

    async def _reap(self, worker: OwnedWorker, *, loading: bool) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(worker.process.ended.wait(), 1.0)
        worker.process.kill()
        worker.process.output.read()
        reason = self._restart_reason(worker, loading=loading)
        error = self._death_error(worker, reason)
        worker.process.output.close()
        if worker.process.stale and not worker.process.pid:  # its template was frozen, and never forked it
            self.owner.on_worker_restarted(RestartReason.TEMPLATE_REPLACED)
            self._spawn(0.0)
            return
        self._report(error, reason, loading=loading)
        self._replace()
        retry = not worker.timed_out
        if self._sharing is not None:
            self._sharing.on_worker_died(worker, error, retry=retry)
        worker.report_death(error, retry=retry)

    def _restart_reason(self, worker: OwnedWorker, *, loading: bool) -> RestartReason:
        """Why a worker that was not dismissed has ended."""
        if worker.timed_out:
            return RestartReason.STARTUP_TIMEOUT if loading else RestartReason.RESPONSE_TIMEOUT
        if worker.frozen:
            return RestartReason.FROZEN
        if self.spec.scaling.memory_limit and self._recycler.is_over_limit(worker):
            return RestartReason.MEMORY_LIMIT
        return RestartReason.DIED

    def _death_error(self, worker: OwnedWorker, reason: RestartReason) -> WorkerDied:
        status, timeouts = worker.process.status, self.spec.timeouts
        if reason is RestartReason.STARTUP_TIMEOUT:
            how = f"was ended after {timeouts.startup_timeout:g} s"
        elif reason is RestartReason.RESPONSE_TIMEOUT:
            how = f"was ended after {timeouts.response_timeout:g} s"
        elif reason is RestartReason.FROZEN:
            how = f"was ended after a signal had stopped it for {self._local.deadlines.heartbeat:g} s"
        elif reason is RestartReason.MEMORY_LIMIT:
            limit = self.spec.scaling.memory_limit
            how = f"was ended at {worker.memory} bytes of memory, its limit is {limit}"
        elif status is not None and status < 0:
            how = f"was killed by signal {-status}{_signal_name(-status)}"
        else:
            how = worker.process.fault or f"ended with status {status}"
        detail = "\n".join(
            [f"worker {worker.id} (pid {worker.process.pid}) {how}", *worker.process.output.last_lines]
        )
        error = WorkerDied("Worker died.", model=self.spec.name, version=self.spec.version, detail=detail)
        error.how = how
        return error

    def _report(self, error: MooringError, reason: RestartReason, *, loading: bool) -> None:
        self.failures.record(error, time.monotonic(), loading=loading)
        self.owner.on_worker_restarted(reason)
        self.owner.on_worker_failed(error)

    def _replace(self) -> None:
        if len(self._workers) + self._starting < self._allowed_workers:
            self._spawn(self.failures.retry_delay(time.monotonic()))

    def _remove(self, worker: OwnedWorker) -> None:
        worker.state = WorkerState.ENDED
        worker.start_permit.end()
        self._served_before += worker.served
        self._recycler.forget(worker)
        worker.process.close_frontend_channels()
        with suppress(ValueError):
            self._workers.remove(worker)
        with suppress(ValueError):
            self.idle.remove(worker)
        self._stop_sending_to_surplus()

    def _run(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("supervision failed", model=self.spec.name, reason=repr(error), exc_info=error)


def _signal_name(number: int) -> str:
    """Return the name of a signal in brackets; empty for one without a name, as those of real time are.

    >>> _signal_name(11)
    ' (SIGSEGV)'
    """
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""
