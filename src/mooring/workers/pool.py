"""The workers of one version of a model: as many as are wanted, and replacing those that die."""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from msgspec import structs

from mooring.core.errors import ErrorRecord, ModelLoadFailed, MooringError, WorkerDied
from mooring.core.service import Joining, JoiningState, LoadContext, ModelMetadata
from mooring.ipc.messages import Join, Load, LoadFailed
from mooring.observability.logs import get_logger
from mooring.observability.records import Record
from mooring.repository.spec import ModelSpec
from mooring.workers.handle import KeptWorker, PooledWorker, PoolOwner, WorkerState
from mooring.workers.heartbeat import Clock, StopWatch
from mooring.workers.local import LocalWorkers, Turn
from mooring.workers.recycling import Recycler, memory_of
from mooring.workers.retries import backoff, files_changed
from mooring.workers.spawner import Origin

log = get_logger(__name__)

_GOODBYE = 2.0  # seconds that a dismissed worker has to close its model
# A worker that takes requests while others run refuses the slow ones itself; it is only ended where it does not, and
# so many seconds after it should have.
_LENIENCE = 2.0
# A pool that has had all its workers for so many seconds has recovered, whether or not the new ones were asked for
# anything: longer than the longest pause between two tries.
_SETTLED = 60.0
# Workers of one version that are started at a time.
_ENTERING = 4


class Sharing(Protocol):
    """Who gives further fronts their part in the workers of a version."""

    def joined(self, worker: KeptWorker) -> None:
        """It has loaded the model, and serves one message at a time."""

    async def leave(self, worker: KeptWorker) -> None:
        """Return when no front has anything in it any more."""

    def buried(self, worker: KeptWorker, error: WorkerDied, *, retry: bool) -> None:
        """It died."""


class WorkerPool:
    """As many workers as asked for, kept alive.

    A worker that dies or cannot load is replaced at once the first time, then after 1, 1, 2, 3, 5, 8 ... seconds; an
    answer of a worker that came after the last failure ends the series. Where no worker can load the model's files, the
    next one is started when those have changed (retries.py).
    """

    def __init__(self, spec: ModelSpec, owner: PoolOwner, workers: LocalWorkers, threads: int) -> None:
        self.spec = spec
        self.owner = owner
        self.idle: list[KeptWorker] = []
        self.sharing: Sharing | None = None
        # Whether the workers take requests while others run: the idle ones are not all equally idle then.
        self.overlapping = False
        # From the moment that a worker was begun to the one that it had the model, of the last one; 0 until there is one.
        self.start_seconds = 0.0
        self.failures = 0
        self.failing_since: float | None = None
        self._failed_at = -math.inf
        self._whole_since = math.inf  # when the last missing worker came
        # Those that never had the model, over all time, and what the last of them said.
        self.stillborn = 0
        self.last_error: MooringError | None = None
        self.on_records: Callable[[Sequence[Record]], None] | None = None
        # Of a model that is a file: whether its requests share calls; known when a worker has loaded it.
        self.joining: Joining | None = None
        self._numbers = workers.numbers
        self._origin = Origin(spec, workers, threads)
        self._threads = threads
        self._wanted = 0
        self._served_before = 0  # by workers that are gone
        self._starting = 0
        self._workers: list[KeptWorker] = []
        self._recycler = Recycler(spec.scaling)
        self._local = workers
        self._looks = Clock(workers.deadlines.heartbeat)
        # Those that are being started; no more, so that many of one model leave room for others in the turns of all.
        self._entering = asyncio.Semaphore(_ENTERING)
        self._pause_until = -math.inf
        self._called_for = asyncio.Event()  # set where somebody wants the workers now, whatever failed before
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def workers(self) -> Sequence[KeptWorker]:
        """Those that live, loading ones included."""
        return self._workers

    @property
    def ready(self) -> int:
        """How many have the model loaded."""
        return sum(worker.state in (WorkerState.READY, WorkerState.BUSY) for worker in self._workers)

    @property
    def wanted(self) -> int:
        """How many there should be."""
        return self._wanted

    @property
    def pids(self) -> Sequence[int]:
        """Of its processes: the workers, and the template that has the model, where there is one."""
        return [pid for pid in (*(worker.process.pid for worker in self._workers), self._origin.pid) if pid]

    @property
    def processes(self) -> int:
        """How many there are."""
        return len(self._workers) + (self._origin.pid > 0)

    @property
    def served(self) -> int:
        """How many requests its workers were ever sent, by this process and by further fronts as far as they have said."""
        return self._served_before + sum(worker.served for worker in self._workers)

    @property
    def leaving(self) -> Collection[PooledWorker]:
        """Those whose successors are there: they get nothing new that may go elsewhere."""
        return self._recycler.leaving

    def holds(self, count: int) -> bool:
        """Whether there are exactly so many, all of them with the model."""
        return self.ready == len(self._workers) == count

    def start(self, count: int) -> None:
        """Have this many workers from now on. Of those too many the loading and idle ones end now, others when idle."""
        self._wanted = count
        self._called_for.set()
        self._called_for = asyncio.Event()
        self._recycler.due = None  # who is over its limit still is at the next look
        loading = [worker for worker in self._workers if worker.state is WorkerState.STARTING]
        while loading and len(self._workers) > self._places:
            self._dismiss(loading.pop())
        self.shed()
        for _ in range(self._places - len(self._workers) - self._starting):
            self._spawn(0.0)

    def scale_to_zero(self) -> None:
        """Have no process at all until ``start`` is called again; requests that come meanwhile wait for that."""
        self.start(0)
        self._origin.close()

    def shed(self) -> None:
        """Let idle workers that are too many end, where their owner lets them."""
        for worker in self.idle[::-1]:
            if self._superfluous(worker) and worker.state is WorkerState.READY and self.owner.may_go(worker):
                self._dismiss(worker)
        self._retire()

    def put_least_busy_last(self) -> None:
        """Arrange the idle workers so that the one with the most room is the next to be sent something."""
        self.idle.sort(key=lambda worker: worker.room)

    def free(self, worker: KeptWorker) -> None:
        """Called by a worker that has nothing to do any more, and takes one message at a time."""
        if self.failures:
            self._recover(worker)
        if self._superfluous(worker) and self.owner.may_go(worker):
            self._dismiss(worker)
            return
        self.idle.append(worker)
        self.owner.worker_free()

    def has_room(self, worker: KeptWorker) -> None:
        """Called by a worker with a capacity that has answered something."""
        if self.failures:
            self._recover(worker)
        if worker.state is WorkerState.READY:
            worker.retiring = False
            if self._superfluous(worker) and self.owner.may_go(worker):
                self._dismiss(worker)
                return
        worker.offer()
        self.owner.worker_free()

    def _retire(self) -> None:
        """Of workers that always have something to do, those too many get nothing new, and so end some time."""
        if not self.overlapping:
            return
        busy = [worker for worker in self._workers if worker.capacity and worker.state is WorkerState.BUSY]
        leaving = self._recycler.leaving
        busy.sort(key=lambda worker: worker not in leaving)
        too_many = max(len(self._workers) - self._places + len(leaving), 0)
        for index, worker in enumerate(busy):
            worker.retiring = index < too_many and self.owner.may_go(worker)
            if not worker.retiring:
                worker.offer()
            elif worker in self.idle:
                self.idle.remove(worker)

    def loaded(self, worker: KeptWorker, metadata: ModelMetadata, joining: Joining | None) -> None:
        """Called by a worker that has the model."""
        self.overlapping = worker.capacity > 0
        self._know_joining(worker, joining)
        if self.sharing is not None and not worker.capacity:
            self.sharing.joined(worker)
        worker.process.handed_over()
        worker.turn.end()
        self.start_seconds = time.monotonic() - worker.begun
        self.idle.append(worker)
        if self.ready >= self._wanted:
            self._whole_since = time.monotonic()
        if self._recycler.due is not None and self.ready - len(self._recycler.leaving) > self._wanted:
            self._let_go(self._recycler.leave())
        self.owner.worker_loaded(metadata)
        self.owner.worker_free()

    def _know_joining(self, worker: KeptWorker, joining: Joining | None) -> None:
        """What a worker says of its model; what a trial found of the same file holds for it, too."""
        worker.stamp = joining.stamp if joining is not None else ""
        known = self.joining
        if known is None or (
            known.state in (JoiningState.SHOWN, JoiningState.APART) and known.stamp != worker.stamp
        ):
            self.joining = joining
        elif known.state is JoiningState.SHOWN:
            worker.tell(Join())

    def joining_missed(self) -> None:
        """Called by a worker that had requests which might have shared a call, were it known that they may."""
        if self.joining is not None and self.joining.state is JoiningState.UNTRIED:
            self.joining = Joining(JoiningState.TRYING, "it is being tried", self.joining.stamp)
            self._run(self._try_joining())

    async def _try_joining(self) -> None:
        try:
            found = await self._origin.try_joining()
        except OSError as error:
            log.warning("joining not tried", model=self.spec.name, reason=str(error))
            self.joining = Joining(JoiningState.APART, f"it could not be tried: {error}")
            return
        tried = self.joining.stamp if self.joining is not None else ""
        self.joining = found = structs.replace(found, stamp=found.stamp or tried)
        facts = {"model": self.spec.name, "version": self.spec.version, "reason": found.reason}
        if not found.joined:
            log.warning("requests are not joined", **facts)
            return
        log.info("requests are joined from now on", **facts)
        for worker in self._workers:
            if worker.state in (WorkerState.READY, WorkerState.BUSY) and worker.stamp == found.stamp:
                worker.tell(Join())

    def failed(self, worker: KeptWorker, failure: LoadFailed) -> None:
        """Called by a worker that cannot load the model; it ends by itself."""
        error = failure.error.error(model=self.spec.name, version=self.spec.version)
        self._remove(worker)
        worker.close()
        self._report(error, loading=True)
        if failure.lasting and not self.ready:
            self._spawn(backoff(self.failures), failed_at=worker.started)
        else:
            self._replace()

    def ended(self, worker: KeptWorker) -> None:
        """Called when a worker's channel is closed on its side."""
        loading = worker.state is WorkerState.STARTING
        self._remove(worker)
        worker.close()
        self._run(self._bury(worker, loading=loading))

    def next(self) -> KeptWorker:
        """The idle worker to send to: one that no other front keeps busy, if there is one."""
        if self.sharing is not None and len(self.idle) > 1:
            for worker in reversed(self.idle):
                if not worker.process.progress.wanted_by_others(worker.process.channel):
                    return worker
        return self.idle[-1]

    def end(self, name: str) -> None:
        """End a worker that does not answer another front in time."""
        for worker in self._workers:
            if worker.id == name and not worker.timed_out:
                self._end(worker, self.spec.timeouts.response_timeout, "infer")

    def count_served(self, name: str, requests: int) -> None:
        """Another front sent a worker so many requests."""
        for worker in self._workers:
            if worker.id == name:
                worker.served += requests

    def measured(self, records: Sequence[Record]) -> None:
        """Called when the model's own code recorded metrics."""
        if self.on_records is not None:
            self.on_records(records)

    def check(self, now: float) -> None:
        """End workers that have not answered within the model's response time-out, and replace those that are to be
        recycled. Call it a few times a second.
        """
        if self._recycler.active:
            self._recycle(now)
        if self._looks.step(now):
            self._look_for_frozen(now)
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

    def _look_for_frozen(self, now: float) -> None:
        for worker in self._workers:
            if worker.process.stale:
                self._recycler.active = True
            if not worker.frozen and worker.stop_watch.frozen(now, worker.process.pid):
                self._end_frozen(worker)

    def _end_frozen(self, worker: KeptWorker) -> None:
        """What it had runs elsewhere, as when it had died."""
        worker.frozen = True
        log.error(
            "worker frozen, ending it",
            model=self.spec.name,
            worker=worker.id,
            pid=worker.process.pid,
            limit_seconds=self._local.deadlines.heartbeat,
        )
        worker.process.kill()

    def _end(self, worker: KeptWorker, limit: float, doing: str) -> None:
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
    def _places(self) -> int:
        """How many workers there may be, those included that leave when their successors are there."""
        return self._wanted + self._recycler.extra

    def _superfluous(self, worker: KeptWorker) -> bool:
        """Whether it is not needed: it has a successor, or there are too many."""
        return worker in self._recycler.leaving or len(self._workers) > self._places

    def _recycle(self, now: float) -> None:
        if self._recycler.looks(now):
            self._run(self._weigh())
        loaded = (worker for worker in self._workers if worker.state in (WorkerState.READY, WorkerState.BUSY))
        # Not while some are missing: the next one to load would not be a successor.
        if (
            self.ready - len(self._recycler.leaving) >= self._wanted
            and self._recycler.choose(loaded) is not None
        ):
            self._spawn(0.0)

    async def _weigh(self) -> None:
        for worker in list(self._workers):
            if worker.state not in (WorkerState.READY, WorkerState.BUSY):
                continue
            worker.memory = await asyncio.to_thread(memory_of, worker.process.pid)
            if self._recycler.excessive(worker) and worker in self._workers:
                log.error(
                    "worker has too much memory, ending it",
                    model=self.spec.name,
                    worker=worker.id,
                    pid=worker.process.pid,
                    bytes=worker.memory,
                    limit_bytes=self.spec.scaling.memory_limit,
                )
                worker.process.kill()

    def _let_go(self, worker: KeptWorker) -> None:
        """Its successor is there: it ends when it has nothing to do."""
        log.info(
            "worker recycled",
            model=self.spec.name,
            worker=worker.id,
            pid=worker.process.pid,
            requests=worker.served,
            bytes=worker.memory,
        )
        self.owner.worker_recycled()
        self._retire()
        self.shed()

    async def stop(self, grace: float = 2.0) -> None:
        """Return once every worker is gone. Idle ones get ``grace`` seconds to end; nobody waits for the others."""
        self._wanted = 0
        for task in list(self._tasks):
            task.cancel()
        workers, self._workers, self.idle = self._workers, [], []
        for worker in workers:
            if worker.state is not WorkerState.READY:
                worker.process.kill()
            worker.state = WorkerState.ENDED
            worker.turn.end()
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
        self._origin.close()

    def _dismiss(self, worker: KeptWorker) -> None:
        """It has nothing to do and ends by itself when its channel is closed; while it is loading it is made to."""
        if worker.state is WorkerState.STARTING:
            worker.process.kill()
        self._remove(worker)
        worker.close()
        self._run(self._see_off(worker))

    async def _see_off(self, worker: KeptWorker) -> None:
        if self.sharing is not None:
            await self.sharing.leave(worker)
        with suppress(TimeoutError):
            await asyncio.wait_for(worker.process.ended.wait(), _GOODBYE)
        worker.process.kill()
        worker.process.output.close()

    def _spawn(self, delay: float, *, failed_at: float | None = None) -> None:
        """Start a worker after so many seconds; with ``failed_at``, when the files that failed then have changed, too."""
        self._starting += 1
        self._run(self._start_one(delay, failed_at))

    async def _start_one(self, delay: float, failed_at: float | None) -> None:
        try:
            if failed_at is not None:
                await self._await_change(failed_at, delay)
            elif delay:
                await asyncio.sleep(delay)
            async with self._entering:
                await asyncio.sleep(self._pause_until - time.monotonic())
                turn = await self._local.turn()
                # Fewer may be wanted than when this was begun.
                wanted = len(self._workers) + self._starting <= self._places
                worker = await self._started(turn) if wanted else None
        finally:
            self._starting -= 1
        if worker is None:
            turn.end()
            self._replace()
            return
        self._workers.append(worker)
        if len(self._workers) > self._places:
            self._dismiss(worker)
            return
        try:
            worker.tell(Load(self.spec, LoadContext(worker=worker.id, threads=self._threads)))
        except (ArithmeticError, TypeError, ValueError) as error:
            # What the model is told cannot be written down: without this it would be loading for ever.
            self.failed(worker, LoadFailed(ErrorRecord("ModelLoadFailed", str(error)), lasting=True))

    async def _await_change(self, failed_at: float, pause: float) -> None:
        """Return when the model's files have changed after a time of the wall clock, or somebody calls for workers."""
        changed = self._loop.create_task(files_changed(Path(self.spec.location), failed_at, pause))
        called = self._loop.create_task(self._called_for.wait())
        try:
            await asyncio.wait([changed, called], return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            called.cancel()
        self._origin.reconsider()

    async def _started(self, turn: Turn) -> KeptWorker | None:
        """A worker that is about to load the model; None where there is no room for its process, which is reported."""
        begun = time.monotonic()
        try:
            process = await self._origin.start()
        except OSError as error:
            reason = f"no worker process could be started: {error}"
            self._report(ModelLoadFailed(reason, model=self.spec.name), loading=True)
            self._pause_until = time.monotonic() + backoff(self.failures)
            return None
        stop_watch = StopWatch(self._local.deadlines.heartbeat)
        worker = KeptWorker(self, process, str(next(self._numbers)), turn=turn, stop_watch=stop_watch)
        worker.begun = begun
        return worker

    async def _bury(self, worker: KeptWorker, *, loading: bool) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(worker.process.ended.wait(), 1.0)
        worker.process.kill()
        worker.process.output.read()
        error = self._obituary(worker, loading=loading)
        worker.process.output.close()
        if worker.process.stale and not worker.process.pid:  # its template was frozen, and never forked it
            self._spawn(0.0)
            return
        self._report(error, loading=loading)
        self._replace()
        retry = not worker.timed_out
        if self.sharing is not None:
            self.sharing.buried(worker, error, retry=retry)
        worker.give_up(error, retry=retry)

    def _obituary(self, worker: KeptWorker, *, loading: bool) -> WorkerDied:
        status = worker.process.status
        limit = self.spec.scaling.memory_limit
        if worker.timed_out:
            how = f"was ended after {self.spec.timeouts.startup_timeout if loading else self.spec.timeouts.response_timeout:g} s"
        elif worker.frozen:
            how = f"was ended after a signal had stopped it for {self._local.deadlines.heartbeat:g} s"
        elif limit and self._recycler.excessive(worker):
            how = f"was ended at {worker.memory} bytes of memory, its limit is {limit}"
        elif status is not None and status < 0:
            how = f"was killed by signal {-status}"
        else:
            how = worker.process.fault or f"ended with status {status}"
        detail = "\n".join(
            [f"worker {worker.id} (pid {worker.process.pid}) {how}", *worker.process.output.last_lines]
        )
        return WorkerDied("Worker died.", model=self.spec.name, version=self.spec.version, detail=detail)

    def _recover(self, worker: PooledWorker) -> None:
        """A worker answers that came after the last failure: that was not of the model, or is over.

        Another one's answers say nothing of it, or a worker that never loads would be tried again without a pause.
        """
        if worker.born > self._failed_at:
            self.failures = 0
            self.failing_since = None

    def _report(self, error: MooringError, *, loading: bool) -> None:
        if loading:
            self.stillborn += 1
            self.last_error = error
        now = time.monotonic()
        if now - self._whole_since > _SETTLED:  # the last one to come had nothing to answer
            self.failures = 0
            self.failing_since = None
        self._whole_since, self._failed_at = math.inf, now
        if self.failing_since is None:
            self.failing_since = now
        self.failures += 1
        self.owner.worker_failed(error)

    def _replace(self) -> None:
        if len(self._workers) + self._starting < self._places:
            self._spawn(max(backoff(self.failures), self._pause_until - time.monotonic()))

    def _remove(self, worker: KeptWorker) -> None:
        worker.state = WorkerState.ENDED
        worker.turn.end()
        self._served_before += worker.served
        self._recycler.forget(worker)
        worker.process.handed_over()
        with suppress(ValueError):
            self._workers.remove(worker)
        with suppress(ValueError):
            self.idle.remove(worker)
        self._retire()

    def _run(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("supervision failed", model=self.spec.name, reason=repr(error), exc_info=error)
