"""The ``InferenceService`` of a frontend process: its own queues to shared workers, and the rest forwarded.

What only needs workers (any model whose requests are independent of each other) is served here, with everything that
the engine does for it. Sequences, chains, workflows, models that are loading and models nobody knows are the first
process's: their requests are forwarded, and get the answer that they would get there.
"""

import asyncio
import functools
import itertools
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mooring.core.errors import (
    ErrorRecord,
    ModelNotFound,
    ModelNotReady,
    MooringError,
    RequestCancelled,
    VersionNotFound,
    WorkerDied,
)
from mooring.core.memory import MemoryUse
from mooring.core.requests import InferenceRequest
from mooring.core.service import Done, InferenceService, ModelMetadata, ModelState, Ticket
from mooring.core.timing import RequestTiming
from mooring.engine.admission import QueueLoad, admit_request, wait_until
from mooring.engine.response_cache import CachingScheduler, ResponseCache
from mooring.engine.scheduler import Scheduler
from mooring.engine.scheduler_choice import make_scheduler
from mooring.frontends import messages
from mooring.frontends.balancing import Load, queue_share
from mooring.ipc.arena import Arena
from mooring.ipc.messages import NO_MEMORY
from mooring.ipc.progress import Progress
from mooring.observability.metrics import Metrics
from mooring.observability.recent import RecordForwarder
from mooring.repository.spec import ModelSpec
from mooring.tokens import Access, Token
from mooring.web.grpc.rpc import Rpc
from mooring.web.grpc.status import Status
from mooring.workers.handle import PoolOwner
from mooring.workers.shared_pool import SharedPool, SharedProcess

# How often time-outs are looked at and counts are sent, in seconds.
_CHECK_EVERY = 0.05
_COUNT_EVERY = 4  # checks
_REPORT_EVERY = 25  # counts, at least


class Commands(Protocol):
    """What the first process has a frontend do with its connections and its tokens."""

    def migrate(self, share: float, mark: int) -> None:
        """Have this share of the connections go to the process with the number ``mark``."""

    def set_accepting(self, listeners: Sequence[int]) -> None:
        """Accept connections from the sockets of these listeners, and of no others."""

    def set_tokens(self, tokens: Mapping[Access, Token]) -> None:
        """Check calls against these tokens."""


class ServedVersion:
    """A version that this frontend serves."""

    def __init__(self, number: int, scheduler: Scheduler[SharedPool], queue_size: int) -> None:
        self.number = number
        self.queue_size = queue_size  # of all processes together
        self.scheduler = scheduler
        self.pool = scheduler.pool
        self.name, self.version = scheduler.spec.name, scheduler.spec.version

    def give_up(self, reason: str) -> None:
        """Refuse the requests that wait, since no worker will come back. New requests are forwarded."""
        self.scheduler.refuse_all(ModelNotReady(reason, model=self.name, version=self.version))


class ForwardedRequest:
    """A request that the first process answers; the ``Ticket`` of whoever submitted it."""

    __slots__ = ("_frontend", "_key", "done", "request")

    def __init__(self, frontend: "FrontendService", key: int, request: InferenceRequest, done: Done) -> None:
        self._frontend = frontend
        self._key = key
        self.request = request
        self.done = done

    def cancel(self) -> None:
        """Cancel the request in the first process."""
        self._frontend.cancel_forwarded(self._key)


class ForwardedRpc:
    """A gRPC call that the first process answers; the ``Ticket`` of whoever relayed it."""

    def __init__(
        self,
        frontend: "FrontendService",
        key: int,
        receive: Callable[[bytes], None],
        end_received: Callable[[Status, str], None],
        timing: RequestTiming | None,
    ) -> None:
        self._frontend = frontend
        self.timing = timing
        self._key = key
        self.receive = receive
        self.end_received = end_received

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._frontend.cancel_call(self._key)


class FrontendService(InferenceService):
    """Serves what it was told of by the first process, whose link comes in as ``sock``.

    Descriptors of workers come over ``descriptors``; ``commands`` does what the first process says of connections. ``ended`` is set when the first process is gone or wants this one to end, and
    ``limit`` says how many seconds it then has for what runs. ``cache`` holds the answers of models with a response cache.
    """

    def __init__(
        self,
        number: int,
        sock: socket.socket,
        descriptors: socket.socket,
        arena: Arena,
        metrics: Metrics,
        commands: Commands,
        cache: ResponseCache | None = None,
        logged: RecordForwarder | None = None,
    ) -> None:
        self._logged = logged
        self.ended = asyncio.Event()
        self.limit = 0.0
        self._commands = commands
        self._share = 1
        self._load = Load(0.0, 0)
        self._number = number
        self._descriptors = descriptors
        self._arena = arena
        self._metrics = metrics
        metrics.read_versions(self._served_versions)
        self._cache = cache
        self._link = messages.Link(sock, messages.ToFrontend, self._receive_messages, self.ended.set)
        self._served: dict[int, ServedVersion] = {}
        self._by_name: dict[tuple[str, str], ServedVersion] = {}
        # With the orders to do so: who unloads a model and who scales it to zero may both wait for the same.
        self._retiring: dict[int, tuple[ServedVersion, list[int]]] = {}
        self._forwarded: dict[int, ForwardedRequest] = {}
        self._calls: dict[int, ForwardedRpc] = {}
        self._keys = itertools.count(1)
        self._view = messages.RegistryView([], [], ready=False, healthy=False)
        self._defaults: dict[str, str] = {}
        self._metadata: dict[tuple[str, str], ModelMetadata] = {}
        self._reported: tuple[dict[int, QueueLoad], MemoryUse] = {}, MemoryUse()
        self._uncounted = 0  # counts since the last report
        self._checks = 0
        self._loop = asyncio.get_running_loop()
        self._ticker = self._loop.call_later(_CHECK_EVERY, self._check)

    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        served = self._by_name.get((request.model, request.version))
        if served is None or not served.pool.ready or served.scheduler.refusal is not None:
            return self._forward(request, done)
        return admit_request(served.scheduler, request, done)

    def overload_error(self, model: str, version: str = "") -> MooringError | None:
        served = self._by_name.get((model, version))
        return served.scheduler.overload_error() if served is not None else None

    def ready(self, model: str = "", version: str = "") -> bool:
        return self._state(model, version).ready if model else self._view.ready

    def healthy(self) -> bool:
        return self._view.healthy

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        state = self._state(model, version)
        if not state.ready:
            raise ModelNotReady(
                f"model '{model}' version '{state.version}' is {state.state}",
                model=model,
                version=state.version,
            )
        return self._metadata[state.name, state.version]

    def models(self) -> Sequence[ModelState]:
        return self._view.states

    def end(self, limit: float) -> None:
        """Set ``ended``; what runs has so many seconds."""
        self.limit = limit
        self.ended.set()

    def listening(self) -> None:
        """Tell the first process that connections are taken."""
        self._link.send(messages.Listening())

    def report(self, load: Load) -> None:
        """Send the load of this process, if it has changed."""
        if load != self._load:
            self._load = load
            self._link.send(messages.LoadReport(load))

    def cancel_forwarded(self, key: int) -> None:
        """Cancel a forwarded request in the first process."""
        if self._forwarded.pop(key, None) is not None:
            self._link.send(messages.CancelForwarded(key))

    def relay_call(
        self,
        call: Rpc,
        message: bytes,
        receive: Callable[[bytes], None],
        end_received: Callable[[Status, str], None],
    ) -> Ticket:
        """Have the first process answer a gRPC call with this message; a ``CallRelay``."""
        key = next(self._keys)
        ticket = self._calls[key] = ForwardedRpc(self, key, receive, end_received, call.timing)
        timed = ticket.timing is not None
        self._link.send(
            messages.ForwardCall(key, call.path, list(call.metadata), message, call.deadline, timed)
        )
        return ticket

    def cancel_call(self, key: int) -> None:
        """Cancel a forwarded call in the first process."""
        if self._calls.pop(key, None) is not None:
            self._link.send(messages.CancelForwarded(key))

    async def drain(self, grace: float) -> None:
        """Wait until no request waits or runs, for ``grace`` seconds at most."""
        await wait_until(lambda: not self._busy(), grace)

    def close(self) -> None:
        """Send the last counts, and close the link and the channels of workers."""
        self._ticker.cancel()
        self._count()
        for served in self._served.values():
            served.pool.close()
        self._link.close()

    def _served_versions(self) -> set[tuple[str, str]]:
        return {(served.name, served.version) for served in self._served.values()}

    def _busy(self) -> bool:
        return bool(self._forwarded or self._calls) or any(
            not served.scheduler.idle for served in self._served.values()
        )

    def _state(self, model: str, version: str) -> ModelState:
        wanted = version or self._defaults.get(model)
        if wanted is None:
            raise ModelNotFound(f"model '{model}' is not loaded", model=model)
        for state in self._view.states:
            if state.name == model and state.version == wanted:
                return state
        raise VersionNotFound(f"model '{model}' has no version '{version}'", model=model, version=version)

    def _forward(self, request: InferenceRequest, done: Done) -> Ticket:
        key = next(self._keys)
        ticket = self._forwarded[key] = ForwardedRequest(self, key, request, done)
        try:
            self._link.send(messages.Forward(key, request))
        except (MemoryError, OverflowError):
            self._receive_outcome(messages.ForwardedOutcome(key, NO_MEMORY))
        request.release()  # it was copied, or lies where nothing else will
        return ticket

    # Messages of the first process

    def _receive_messages(self, message: messages.ToFrontend) -> None:
        if isinstance(message, messages.ForwardedOutcome):
            self._receive_outcome(message)
        elif isinstance(message, messages.ForwardedMessage):
            if message.key in self._calls:
                self._calls[message.key].receive(message.message)
        elif isinstance(message, messages.ForwardedStatus):
            call = self._calls.pop(message.key, None)
            if call is not None:
                if call.timing is not None and message.timing is not None:
                    call.timing.absorb(message.timing)
                call.end_received(Status(message.status), message.text)
        elif isinstance(message, messages.AttachWorker):
            self._attach_worker(message)
        elif isinstance(message, messages.ServeVersion):
            self._serve_version(message.number, message.spec)
        elif isinstance(message, messages.DetachWorker):
            self._detach_worker(message)
        elif isinstance(message, messages.WorkerDied):
            self._worker_died(message)
        elif isinstance(message, messages.RetireVersion):
            self._retire_version(message)
        elif isinstance(message, messages.RegistryView):
            self._update_view(message)
        elif isinstance(message, messages.SetShare):
            self._share = message.count
            for served in self._served.values():
                self._limit(served)
        elif isinstance(message, messages.MigrateConnections):
            self._commands.migrate(message.share, message.mark)
        elif isinstance(message, messages.SetAccepting):
            self._commands.set_accepting(message.listeners)
        elif isinstance(message, messages.SetTokens):
            self._commands.set_tokens(message.tokens)
        elif isinstance(message, messages.Ping):
            self._link.send(messages.Pong())
        else:
            self.end(message.limit)

    def _receive_outcome(self, message: messages.ForwardedOutcome) -> None:
        forwarded = self._forwarded.get(message.key)
        if forwarded is None:
            return
        outcome = message.outcome
        if isinstance(outcome, ErrorRecord) or outcome.final:
            del self._forwarded[message.key]
        request = forwarded.request
        if request.timing is not None and message.timing is not None:
            request.timing.follow(message.timing)
        forwarded.done(
            outcome.error(model=request.model, version=request.version)
            if isinstance(outcome, ErrorRecord)
            else outcome
        )

    def _serve_version(self, number: int, spec: ModelSpec) -> None:
        statistics = self._metrics.statistics_for(spec.name, spec.version)

        def make_pool(owner: PoolOwner) -> SharedPool:
            return SharedPool(
                spec, owner, lambda records: self._link.send(messages.MetricRecords(spec.name, list(records)))
            )

        scheduler = make_scheduler(
            spec, statistics, self._arena.slot, lambda _news: None, make_pool, cache=self._cache
        )
        served = self._served[number] = ServedVersion(number, scheduler, spec.limits.queue_size)
        self._limit(served)
        self._by_name[spec.name, spec.version] = served
        self._name_default(spec.name)

    def _limit(self, served: ServedVersion) -> None:
        served.scheduler.set_queue_size(queue_share(served.queue_size, self._share))

    def _attach_worker(self, message: messages.AttachWorker) -> None:
        _, descriptors, _, _ = socket.recv_fds(self._descriptors, 1, 2)
        sock = socket.socket(fileno=descriptors[0])
        sock.setblocking(False)
        progress = Progress(descriptors[1], message.channels)
        os.close(descriptors[1])
        served = self._served.get(message.number)
        if served is None:  # it was retired while this was on its way
            sock.close()
            return
        kill = functools.partial(self._link.send, messages.KillWorker(message.number, message.worker))
        served.pool.attach(message.worker, SharedProcess(sock, progress, self._number, kill))

    def _detach_worker(self, message: messages.DetachWorker) -> None:
        done = functools.partial(self._link.send, messages.OrderDone(message.order))
        served = self._served.get(message.number)
        if served is None:
            done()
            return
        served.pool.detach(message.worker, done)

    def _worker_died(self, message: messages.WorkerDied) -> None:
        served = self._served.get(message.number)
        if served is None:
            return
        error = message.error.error(model=served.name, version=served.version)
        assert isinstance(error, WorkerDied)
        served.pool.report_death(message.worker, error, retry=message.retry)

    def _retire_version(self, message: messages.RetireVersion) -> None:
        served = self._served.get(message.number)
        if served is None:
            self._link.send(messages.OrderDone(message.order))
            return
        if message.number in self._retiring:
            self._retiring[message.number][1].append(message.order)
            return
        key = served.name, served.version
        if self._by_name.get(key) is served:  # a newer one of the same name may have come
            del self._by_name[key]
            self._name_default(served.name)
        served.scheduler.refuse_new(RequestCancelled("this version is gone"))
        self._retiring[message.number] = served, [message.order]

    def _update_view(self, view: messages.RegistryView) -> None:
        self._view = view
        self._defaults = {state.name: state.version for state in view.states if state.is_default}
        self._metadata = {
            (state.name, state.version): metadata
            for state, metadata in zip(view.states, view.metadata, strict=True)
        }
        for name in {served.name for served in self._served.values()}:
            self._name_default(name)
        states = {(state.name, state.version): state for state in view.states}
        for served in self._by_name.values():
            state = states.get((served.name, served.version))
            if state is not None and state.state == "FAILED":
                served.give_up(f"model '{served.name}' version '{served.version}' is FAILED: {state.reason}")
                continue
            if state is not None:
                served.scheduler.adopt_code(self._metadata[state.name, state.version].code)
            served.scheduler.accept_new()

    def _name_default(self, name: str) -> None:
        """A request that names no version finds the default one."""
        self._by_name.pop((name, ""), None)
        default = self._by_name.get((name, self._defaults.get(name, "")))
        if default is not None:
            self._by_name[name, ""] = default

    # The ticker

    def _check(self) -> None:
        now = time.monotonic()
        for served in self._served.values():
            served.scheduler.check_deadlines(now)
        for number, (served, orders) in list(self._retiring.items()):
            if served.scheduler.idle:
                del self._retiring[number], self._served[number]
                served.pool.close()
                if isinstance(served.scheduler, CachingScheduler):
                    served.scheduler.answers.forget_all()
                for order in orders:
                    self._link.send(messages.OrderDone(order))
        self._checks += 1
        if self._checks % _COUNT_EVERY == 0:
            self._count()
        self._ticker = self._loop.call_later(_CHECK_EVERY, self._check)

    def _count(self) -> None:
        counted = self._metrics.take_counts()
        loads = {
            served.number: served.scheduler.load
            for served in self._served.values()
            if not served.scheduler.idle
        }
        memory = self._arena.memory_use()
        self._uncounted += 1
        # An idle process reports seldom: only that its event loop is not late.
        if counted or (loads, memory) != self._reported or self._uncounted >= _REPORT_EVERY:
            self._reported, self._uncounted = (loads, memory), 0
            sent = [(each.number, *sent) for each in self._served.values() for sent in each.pool.served()]
            lag = self._metrics.lag.take()
            self._link.send(messages.CountsReport(counted, loads, memory, lag, sent))
        records = self._logged.take() if self._logged is not None else []
        if records:
            self._link.send(messages.LogRecords(records))
