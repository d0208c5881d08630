"""What the first process does for frontend processes: it tells them of versions and workers, and answers what they forward."""

import asyncio
import functools
import itertools
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from mooring.core.errors import ErrorRecord, MooringError, WorkerDied
from mooring.core.memory import MemoryUse
from mooring.core.service import InferenceService, ModelMetadata, ModelState, Outcome, Ticket
from mooring.core.tensors import release
from mooring.core.timing import RequestTiming
from mooring.engine.admission import NO_LOAD, NO_OP_TICKET, QueueLoad
from mooring.engine.registry import ModelVersion, Registry
from mooring.frontends import messages
from mooring.frontends.balancing import Load, queue_share
from mooring.ipc.arena import Arena, anonymous_file
from mooring.ipc.messages import NO_MEMORY
from mooring.observability.logs import get_logger
from mooring.observability.metrics import Metrics
from mooring.observability.recent import RecentRecords
from mooring.repository.spec import ModelSpec
from mooring.signals import held_back
from mooring.tokens import Access, Token
from mooring.workers.handle import OwnedWorker
from mooring.workers.heartbeat import DEADLINES, Deadlines, Heartbeat, StopWatch, cpu_seconds
from mooring.workers.pool import Sharing, WorkerPool

log = get_logger(__name__)

# Seconds before a frontend that died is started again: whatever killed it may come again.
_AGAIN = 0.5
# Seconds that one has to be gone whose link is.
_GRACE = 5.0

RunCall = Callable[
    [
        str,
        Sequence[tuple[bytes, bytes]],
        bytes,
        float | None,
        Callable[[bytes], None],
        Callable[[int, str], None],
        RequestTiming | None,
    ],
    Ticket,
]
"""Answers a gRPC call, of which it gets path, metadata, message and deadline: each message of the answer goes to the first
function, then the status to the second one; the timing is there where its client asks for it.
"""

_generations = itertools.count(1)


class FrontendProcess:
    """One frontend process as the first process sees it. A new one takes its place when it dies.

    ``arena`` describes the shared memory of its large payloads, ``generation`` which of the processes with this number
    it is: a worker knows only those that were there when it was forked.
    """

    def __init__(self, number: int, arena: Arena, supervisor: "FrontendSupervisor") -> None:
        self.number = number
        self.generation = next(_generations)
        self.arena = anonymous_file(arena.size)
        self.gone = False
        self.heartbeat = Heartbeat(supervisor.deadlines.heartbeat)
        self.stop_watch = StopWatch(supervisor.deadlines.heartbeat)
        self.late = math.inf  # when it must listen
        self.listening = asyncio.Event()
        self.settled = asyncio.Event()  # it listens, or is gone
        self.served: set[int] = set()
        self.loads: dict[int, QueueLoad] = {}
        self.memory = MemoryUse()
        self.load = Load(0.0, 0)
        self.tickets: dict[int, Ticket] = {}
        self.orders: dict[int, asyncio.Future[None]] = {}
        # From the beginning: what it is told before it runs, it reads then. Workers may be there before it is.
        ours, self._their_link = socket.socketpair()
        self._descriptors, self._their_descriptors = socket.socketpair()
        self._link = messages.Link(
            ours,
            messages.ToSupervisor,
            functools.partial(supervisor.receive, self),
            functools.partial(supervisor.on_lost, self),
            arena.allocate,  # what a frontend forwards counts here, and reaches a worker like any other body
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, settings: bytes, supervisor: "FrontendSupervisor") -> None:
        """Start the process, which reads ``settings`` from its standard input."""
        self.late = time.monotonic() + supervisor.deadlines.startup
        channel, their_channel = socket.socketpair()
        theirs = (self._their_link, self._their_descriptors, their_channel)
        passed = [*(each.fileno() for each in theirs), self.arena]
        words = [str(number) for number in (self.number, *passed, os.getpid())]
        with their_channel, self._their_link, self._their_descriptors, held_back():
            self._process = subprocess.Popen(  # noqa: S603 - our own module under our own interpreter
                [sys.executable, "-m", "mooring.frontends.process", *words],
                pass_fds=passed,
                stdin=subprocess.PIPE,
            )
        assert self._process.stdin is not None
        with self._process.stdin as pipe:
            pipe.write(settings)
        assert supervisor.attach is not None
        supervisor.attach(self, channel)

    @property
    def pid(self) -> int:
        """The process id; 0 before it runs."""
        return self._process.pid if self._process is not None else 0

    def send(self, message: messages.ToFrontend) -> None:
        """Send a message; nothing happens once the process is gone."""
        self._link.send(message)

    def attach_worker(
        self, number: int, worker: str, sock: socket.socket, progress: int, channels: int
    ) -> None:
        """Pass on the channel of a worker."""
        if not self.gone:
            socket.send_fds(self._descriptors, [b"w"], [sock.fileno(), progress])
            self.send(messages.AttachWorker(number, worker, channels))

    def order(self, number: int, message: messages.ToFrontend) -> asyncio.Future[None]:
        """Send an order; the future is done when the frontend has carried it out, or is gone."""
        done = self.orders[number] = asyncio.get_running_loop().create_future()
        self.send(message)
        return done

    def forget(self) -> None:
        """Cancel what a process that is gone has forwarded, and end all waits for it. A second call does nothing."""
        if self.gone:
            return
        self.gone = True
        self.settled.set()
        for ticket in self.tickets.values():
            ticket.cancel()
        for done in self.orders.values():
            if not done.done():
                done.set_result(None)
        self._link.close()
        for sock in (self._descriptors, self._their_link, self._their_descriptors):
            sock.close()
        os.close(self.arena)

    def frozen(self, now: float) -> bool:
        """Whether the process does not answer, or has not begun to listen in time. Call it a few times a second."""
        if self.gone or self._process is None:
            return False
        if not self.listening.is_set():
            return now > self.late or self.stop_watch.is_frozen(now, self.pid)
        ping = functools.partial(self.send, messages.Ping())
        return self.heartbeat.is_frozen(now, ping=ping, used=lambda: cpu_seconds(self.pid))

    def kill(self) -> None:
        """Kill the process; ``on_lost`` follows from the end of its link."""
        if self._process is not None:
            self._process.kill()

    async def end(self, limit: float) -> None:
        """Wait for the process to end by itself, and kill it after ``limit`` seconds."""
        process = self._process
        if process is None:
            return
        try:
            await asyncio.wait_for(asyncio.to_thread(process.wait), limit)
        except TimeoutError:
            process.kill()
            process.wait()


Attach = Callable[[FrontendProcess, socket.socket], None]


class FrontendSupervisor:
    """All frontend processes. ``count`` 0 is the usual case, in which nothing here costs or does anything."""

    def __init__(
        self,
        count: int,
        arena: Arena,
        metrics: Metrics,
        deadlines: Deadlines = DEADLINES,
        recent: RecentRecords | None = None,
    ) -> None:
        self._recent = recent or RecentRecords()
        self.deadlines = deadlines
        self._arena = arena
        self._metrics = metrics
        self._share = 1 + count  # processes that set_share every bound on a queue among them
        self.attach: Attach | None = None
        self.processes = [FrontendProcess(number, arena, self) for number in range(1, count + 1)]
        self._settings: Callable[[], bytes] = bytes
        self._service: InferenceService | None = None
        self._run_call: RunCall | None = None
        self._registry = Registry()
        self._numbers: dict[int, ModelVersion] = {}
        self._orders = itertools.count(1)
        self._view: messages.RegistryView | None = None
        self._ending = False
        self._cleanup_tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def start(
        self,
        settings: Callable[[], bytes],
        service: InferenceService,
        registry: Registry,
        run_call: RunCall,
        attach: "Attach",
    ) -> None:
        """Run them, each with the settings as they are then.

        ``service`` answers the requests that they forward, ``run_call`` the gRPC calls.
        ``attach`` gets every frontend that is started, and this process's end of its channel.
        """
        self._run_call, self.attach = run_call, attach
        self._settings, self._service, self._registry = settings, service, registry
        for frontend in self.processes:
            frontend.start(settings(), self)
        self.set_share(self._share)
        self.publish()

    async def listening(self) -> None:
        """Wait until all frontends take connections; one that died is replaced meanwhile."""
        for at in range(len(self.processes)):
            while not self._ending and not (frontend := self.processes[at]).listening.is_set():
                await frontend.settled.wait()

    def check(self, now: float) -> None:
        """Kill frontends that are frozen; others are started in their place. Call it a few times a second."""
        for frontend in self.processes:
            if frontend.frozen(now):
                log.error("frontend frozen, ending it", frontend=frontend.number, pid=frontend.pid)
                frontend.kill()

    async def drain(self, limit: float) -> None:
        """Have all frontends answer what they accepted, and end."""
        self._ending = True
        for frontend in self.processes:
            frontend.send(messages.Drain(limit))
        await asyncio.gather(*(frontend.end(limit + 1.0) for frontend in self.processes))

    async def close(self) -> None:
        """End all frontends now."""
        self._ending = True
        for frontend in self.processes:
            frontend.forget()
        await asyncio.gather(*(frontend.end(1.0) for frontend in self.processes))

    def load(self, version: ModelVersion) -> QueueLoad:
        """The requests of a version that wait and run in all of them, by their last reports."""
        total = NO_LOAD
        for frontend in self.processes:
            if version.number in frontend.loads:
                total = total.plus(frontend.loads[version.number])
        return total

    def memory_use(self) -> MemoryUse:
        """How much memory bodies take in all of them, by their last reports."""
        total = MemoryUse()
        for frontend in self.processes:
            total = total.plus(frontend.memory)
        return total

    def set_tokens(self, tokens: Mapping[Access, Token]) -> None:
        """Have them check calls against these tokens."""
        self._send_all(messages.SetTokens(dict(tokens)))

    def publish(self) -> None:
        """Send the state of every version to all frontends, if it has changed."""
        service = self._service
        if not self.processes or service is None:
            return
        states = list(service.models())
        known = {(each.spec.name, each.spec.version): each.metadata for each in self._registry}
        metadata = [
            known.get((state.name, state.version)) or _metadata_elsewhere(service, state) for state in states
        ]
        view = messages.RegistryView(states, metadata, service.ready(), service.healthy())
        if view != self._view:
            self._view = view
            self._send_all(view)

    def set_share(self, count: int) -> None:
        """Have so many processes set_share every bound on a queue among them."""
        self._share = count
        self._send_all(messages.SetShare(count))
        for version in self._numbers.values():
            self._limit(version)

    def sharing(self, version: ModelVersion) -> Sharing | None:
        """The part that frontends have in the workers of a version; None where they have none."""
        return VersionSharing(self, version) if self.processes and shareable(version.spec) else None

    async def retire(self, version: ModelVersion) -> None:
        """Wait until no frontend has a request in the version any more."""
        number = version.number
        await self.order(lambda order: messages.RetireVersion(number, order), number)
        self._numbers.pop(number, None)
        for frontend in self.processes:
            frontend.served.discard(number)
            frontend.loads.pop(number, None)

    def serve(self, version: ModelVersion, frontend: FrontendProcess) -> None:
        """Tell a frontend of a version that it may serve, unless it was told before."""
        number = version.number
        if number not in frontend.served:
            frontend.served.add(number)
            self._numbers[number] = version
            frontend.send(messages.ServeVersion(number, version.spec))
            self._limit(version)

    def _limit(self, version: ModelVersion) -> None:
        if version.scheduler is not None:
            version.scheduler.set_queue_size(queue_share(version.spec.limits.queue_size, self._share))

    async def order(self, order: Callable[[int], messages.ToFrontend], version: int) -> None:
        """Send an order to all frontends that serve a version, and wait until they have carried it out."""
        waiting = []
        for frontend in self.processes:
            if version in frontend.served:
                number = next(self._orders)
                waiting.append(frontend.order(number, order(number)))
        if waiting:
            await asyncio.wait(waiting)

    # Messages of a frontend

    def receive(self, frontend: FrontendProcess, message: messages.ToSupervisor) -> None:
        """Handle one message of a frontend."""
        if isinstance(message, messages.Forward):
            self._submit_forwarded(frontend, message)
        elif isinstance(message, messages.ForwardCall):
            self._answer_call(frontend, message)
        elif isinstance(message, messages.CancelForwarded):
            ticket = frontend.tickets.pop(message.key, None)
            if ticket is not None:
                ticket.cancel()
        elif isinstance(message, messages.OrderDone):
            done = frontend.orders.pop(message.order, None)
            if done is not None and not done.done():
                done.set_result(None)
        elif isinstance(message, messages.CountsReport):
            self._metrics.add_counts(message.counted)
            self._metrics.add_lag(f"frontend-{frontend.number}", message.lag)
            frontend.loads, frontend.memory = message.loads, message.memory
            for number, worker, count in message.served:
                self._count_served(number, worker, count)
        elif isinstance(message, messages.LoadReport):
            frontend.load = message.load
        elif isinstance(message, messages.MetricRecords):
            self._metrics.record_values(message.model, message.records)
        elif isinstance(message, messages.LogRecords):
            for line, error in message.records:
                self._recent.add(line, error)
        elif isinstance(message, messages.KillWorker):
            self._kill_worker(message)
        elif isinstance(message, messages.Pong):
            frontend.heartbeat.record_pong()
        else:
            frontend.listening.set()
            frontend.settled.set()
            log.info("frontend listening", frontend=frontend.number, pid=frontend.pid)

    def on_lost(self, frontend: FrontendProcess) -> None:
        """Release a frontend whose link has ended, and start another one unless all are to end."""
        frontend.forget()
        if self._ending:
            return
        log.error("frontend died, starting another", frontend=frontend.number, pid=frontend.pid)
        cleanup = self._loop.create_task(frontend.end(_GRACE))
        self._cleanup_tasks.add(cleanup)  # the loop itself holds tasks only weakly
        cleanup.add_done_callback(self._cleanup_tasks.discard)
        at = self.processes.index(frontend)
        self.processes[at] = FrontendProcess(frontend.number, self._arena, self)
        self._loop.call_later(_AGAIN, self._start_again, self.processes[at])

    def _start_again(self, frontend: FrontendProcess) -> None:
        if self._ending:
            return
        frontend.start(self._settings(), self)
        frontend.send(messages.SetShare(self._share))
        if self._view is not None:
            frontend.send(self._view)

    def _submit_forwarded(self, frontend: FrontendProcess, message: messages.Forward) -> None:
        assert self._service is not None
        key, timing = message.key, message.request.timing

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, MooringError):
                frontend.tickets.pop(key, None)
                frontend.send(messages.ForwardedOutcome(key, ErrorRecord.of(outcome), timing))
                return
            if outcome.final:
                frontend.tickets.pop(key, None)
            try:
                frontend.send(messages.ForwardedOutcome(key, outcome, timing))
            except (MemoryError, OverflowError):
                frontend.send(messages.ForwardedOutcome(key, NO_MEMORY))
            release(outcome.outputs)  # they were copied, or lie where nothing else will

        # What is refused at once is answered before there is a ticket: it must not be kept then.
        frontend.tickets[key] = NO_OP_TICKET
        ticket = self._service.submit(message.request, done)
        if key in frontend.tickets:
            frontend.tickets[key] = ticket

    def _answer_call(self, frontend: FrontendProcess, message: messages.ForwardCall) -> None:
        assert self._run_call is not None
        key, timing = message.key, RequestTiming() if message.timed else None

        def receive(answer: bytes) -> None:
            frontend.send(messages.ForwardedMessage(key, answer))

        def end(status: int, text: str) -> None:
            frontend.tickets.pop(key, None)
            frontend.send(messages.ForwardedStatus(key, status, text, timing))

        frontend.tickets[key] = NO_OP_TICKET  # as for requests
        ticket = self._run_call(
            message.path, message.metadata, message.message, message.deadline, receive, end, timing
        )
        if key in frontend.tickets:
            frontend.tickets[key] = ticket

    def _kill_worker(self, message: messages.KillWorker) -> None:
        pool = self._pool(message.number)
        if pool is not None:
            pool.end_slow_worker(message.worker)

    def _count_served(self, number: int, worker: str, count: int) -> None:
        pool = self._pool(number)
        if pool is not None:
            pool.add_served(worker, count)

    def _pool(self, number: int) -> WorkerPool | None:
        version = self._numbers.get(number)
        return version.pool if version is not None else None

    def _send_all(self, message: messages.ToFrontend) -> None:
        for frontend in self.processes:
            frontend.send(message)


class VersionSharing:
    """The part that the frontends have in the workers of one version."""

    def __init__(self, frontends: FrontendSupervisor, version: ModelVersion) -> None:
        self._frontends = frontends
        self._version = version
        self._number = version.number

    def joined(self, worker: OwnedWorker) -> None:
        """Every frontend that was there when the worker was forked gets its channel."""
        processes = self._frontends.processes
        for share in worker.process.frontend_channels:
            frontend = processes[share.number - 1]
            if frontend.generation == share.generation:
                self._frontends.serve(self._version, frontend)
                channels = len(processes) + 1
                frontend.attach_worker(
                    self._number, worker.id, share.sock, worker.process.progress_fd, channels
                )

    async def leave(self, worker: OwnedWorker) -> None:
        """Return when no frontend has anything in it any more."""
        await self._frontends.order(
            lambda order: messages.DetachWorker(self._number, worker.id, order), self._number
        )

    def on_worker_died(self, worker: OwnedWorker, error: WorkerDied, *, retry: bool) -> None:
        """Those who had something in it want to know why."""
        record = ErrorRecord.of(error)
        for frontend in self._frontends.processes:
            if self._number in frontend.served:
                frontend.send(messages.WorkerDied(self._number, worker.id, record, retry))


def _metadata_elsewhere(service: InferenceService, state: ModelState) -> ModelMetadata:
    """The metadata of a version that another node of the cluster has, as far as they are known here."""
    try:
        return service.metadata(state.name, state.version)
    except MooringError:
        return ModelMetadata(state.name, [state.version], state.platform)


def shareable(spec: ModelSpec) -> bool:
    """Whether frontends may send requests to the workers of a model: not where requests depend on each other."""
    policy = spec.limits.queue_policy
    alone = (
        spec.stages
        or spec.following
        or spec.sequence.enabled
        or spec.batching.stepwise
        or spec.limits.job_ticket
        or (policy is not None and policy.ordered)
    )
    return not alone
