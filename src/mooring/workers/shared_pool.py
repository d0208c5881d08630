"""Workers of the first process, as a frontend process sees them: it sends them requests, and does not keep them alive.

A worker has a channel to every frontend and serves them in turn, one message of each at a time.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence

from mooring.core.errors import WorkerDied
from mooring.core.service import Joining, ModelMetadata
from mooring.ipc.progress import Progress
from mooring.observability.records import Record
from mooring.repository.spec import ModelSpec
from mooring.workers.handle import PoolOwner, WorkerHandle, WorkerState

# Seconds that the reason for the death of a worker may take to come from the first process.
_REASON_TIMEOUT = 2.0


class SharedProcess:
    """A worker process of the first process. ``kill`` asks the first process to end it."""

    def __init__(
        self, sock: socket.socket, progress: Progress, channel: int, kill: Callable[[], None]
    ) -> None:
        self.sock = sock
        self.progress = progress
        self.channel = channel
        self.shared = True
        self.kill = kill


class SharedPool:
    """The workers of one version, as far as the first process has told of them.

    How this works: ``attach`` adds a worker that has loaded the model, ``detach`` takes one away when it has answered all.
    The channel of a worker that died is closed; the first process sends the reason, before or after that, and
    ``report_death`` gives it to the requests that the worker had.
    """

    def __init__(
        self, spec: ModelSpec, owner: PoolOwner, measured: Callable[[Sequence[Record]], None]
    ) -> None:
        self.spec = spec
        self.owner = owner
        self.idle: list[WorkerHandle] = []
        self.overlapping = False  # such workers are not shared
        self._measured = measured
        self._workers: dict[str, WorkerHandle] = {}
        self._leaving: dict[str, Callable[[], None]] = {}
        self._dead: dict[str, tuple[WorkerHandle, asyncio.TimerHandle]] = {}
        self._death_reasons: dict[str, tuple[WorkerDied, bool]] = {}
        self._loop = asyncio.get_running_loop()

    @property
    def ready(self) -> int:
        """How many workers there are to send to."""
        return len(self._workers) - len(self._leaving)

    def attach(self, name: str, process: SharedProcess) -> None:
        """Add a worker, which has loaded the model."""
        worker = WorkerHandle(self, process, name)
        worker.state = WorkerState.READY
        self._workers[name] = worker
        self.idle.append(worker)
        self.owner.on_worker_free()

    def detach(self, name: str, left: Callable[[], None]) -> None:
        """Send nothing more to a worker; ``left`` is called when it has answered all."""
        worker = self._workers.get(name)
        if worker is None:
            left()
            return
        self._leaving[name] = left
        if worker in self.idle:
            self._close_detached(worker)

    def report_death(self, name: str, error: WorkerDied, *, retry: bool) -> None:
        """Take the reason why a worker died; it comes before or after the end of its channel."""
        if name in self._dead:
            worker, timer = self._dead.pop(name)
            timer.cancel()
            self._reap(worker, error, retry=retry)
        elif name in self._workers:
            self._death_reasons[name] = error, retry

    def next(self) -> WorkerHandle:
        """The idle worker to send to: one that no other frontend keeps busy, if there is one."""
        if len(self.idle) > 1:
            for worker in reversed(self.idle):
                process = worker.process
                if not process.progress.wanted_by_others(process.channel):
                    return worker
        return self.idle[-1]

    def check(self, now: float) -> None:
        """Have workers ended that do not answer within the response time-out, counted from when they began."""
        for worker in self._workers.values():
            if worker.state is not WorkerState.BUSY or worker.timed_out:
                continue
            process = worker.process
            if not process.progress.started(process.channel):
                worker.sent_at = now  # it serves another frontend
            elif now - worker.sent_at > self.spec.timeouts.response_timeout:
                worker.timed_out = True
                process.kill()

    def served(self) -> Iterator[tuple[str, int]]:
        """How many requests each worker was sent since this was last asked, if any."""
        for worker in self._workers.values():
            if worker.served:
                yield worker.id, worker.served
                worker.served = 0

    def close(self) -> None:
        """Let go of all workers."""
        for worker in list(self._workers.values()):
            worker.close()
        for _, timer in self._dead.values():
            timer.cancel()
        self._workers, self.idle = {}, []

    # What a worker tells its pool.

    def on_idle(self, worker: WorkerHandle) -> None:
        """It is idle."""
        if worker.id in self._leaving:
            self._close_detached(worker)
            return
        self.idle.append(worker)
        self.owner.on_worker_free()

    def on_closed(self, worker: WorkerHandle) -> None:
        """Its channel is closed on its side."""
        worker.state = WorkerState.ENDED
        self._workers.pop(worker.id, None)
        if worker in self.idle:
            self.idle.remove(worker)
        worker.close()
        if worker.id in self._death_reasons:
            error, retry = self._death_reasons.pop(worker.id)
            self._reap(worker, error, retry=retry)
        else:
            timer = self._loop.call_later(_REASON_TIMEOUT, self._reap_unexplained, worker)
            self._dead[worker.id] = worker, timer

    def on_records(self, records: Sequence[Record]) -> None:
        """The model's own code recorded metrics."""
        self._measured(records)

    def on_room(self, worker: WorkerHandle) -> None:
        """Not said by a worker that is shared."""

    def put_least_busy_last(self) -> None:
        """All idle ones are equally idle."""

    def on_joining_missed(self) -> None:
        """Not said to a frontend, but to the process that keeps the worker."""

    def on_loaded(self, worker: WorkerHandle, metadata: ModelMetadata, joining: Joining | None) -> None:
        """Not said to a frontend: it is told of workers that have loaded the model."""

    def on_load_failed(self, worker: WorkerHandle, failure: object) -> None:
        """Not said to a frontend."""

    def _reap_unexplained(self, worker: WorkerHandle) -> None:
        del self._dead[worker.id]
        spec = self.spec
        error = WorkerDied("Worker died.", model=spec.name, version=spec.version)
        self._reap(worker, error, retry=not worker.timed_out)

    def _reap(self, worker: WorkerHandle, error: WorkerDied, *, retry: bool) -> None:
        worker.report_death(error, retry=retry)
        left = self._leaving.pop(worker.id, None)
        if left is not None:
            left()

    def _close_detached(self, worker: WorkerHandle) -> None:
        if worker in self.idle:
            self.idle.remove(worker)
        self._workers.pop(worker.id, None)
        worker.state = WorkerState.ENDED
        worker.close()
        self._leaving.pop(worker.id)()
