"""Workers as child processes of this machine: starting them from templates, and hearing that one has ended."""

import asyncio
import errno
import itertools
import math
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple, Protocol
from weakref import WeakSet

import msgspec

from mooring.core.errors import ErrorRecord, ModelLoadFailed
from mooring.core.service import Joining, JoiningState
from mooring.hardware import count_cores, explain_process_limit
from mooring.ipc.arena import Arena, anonymous_file
from mooring.ipc.messages import Codec, CompleteConfig, Load, Trial
from mooring.ipc.progress import Progress
from mooring.ipc.template_protocol import (
    ENDED,
    FORK_FAILED,
    FORKED,
    MODEL,
    ORDER,
    PING,
    PONG,
    READY,
    RECORD,
    REFUSED,
    TRIAL,
)
from mooring.observability.logs import get_logger
from mooring.repository.spec import ModelSpec
from mooring.workers.execution_env import ExecutionEnv, ExecutionEnvs
from mooring.workers.heartbeat import DEADLINES, Deadlines, Heartbeat, StopWatch, cpu_seconds, has_ended
from mooring.workers.libraries import Libraries
from mooring.workers.library_process import LibraryProcess
from mooring.workers.output import WorkerOutput

log = get_logger(__name__)

# Workers that are started at a time: enough to keep the cores busy while some wait for a disk.
_MIN_STARTING = 8
# Seconds after which the next worker need not wait for one that is still loading its model.
_LONGEST_START = 5.0

# Seconds that the trial of a model may take, and bytes of its result that are read at once.
_TRIAL = 120.0
_MOST_RESULT = 65_536

_REFUSED = RECORD.pack(REFUSED, 0, 0)[:8]


class FrontendChannel(NamedTuple):
    """A frontend's end of its channel to a worker. ``generation`` tells the frontends of one number apart."""

    number: int
    generation: int
    sock: socket.socket


class SharingFrontend(Protocol):
    """A frontend, as whoever forks workers for it must know it. ``arena`` is a descriptor of its shared memory."""

    number: int
    generation: int
    arena: int


class ForkedProcess:
    """A process that a template was asked for. ``status`` is its exit status, negative for a signal."""

    def __init__(self, output: WorkerOutput) -> None:
        self.pid = 0
        self.output = output
        self.status: int | None = None
        self.fault = ""  # why there never was one
        # Whether its template was frozen and is given up: a successor takes its place while it goes on.
        self.stale = False
        self.ended = asyncio.Event()
        self.on_end: Callable[[], None] = lambda: None
        self._doomed = False

    def on_forked(self, pid: int) -> None:
        """The template has forked it."""
        self.pid = pid
        if self._doomed:
            self.kill()

    def on_fork_failed(self, error: int) -> None:
        """The template could not fork it, for want of processes or memory; ``error`` is the ``errno``."""
        hint = explain_process_limit() if error == errno.EAGAIN else ""
        self.fault = f"could not be forked: {os.strerror(error)}{hint}"
        self.end(1)

    def end(self, status: int) -> None:
        """It is gone."""
        self.status = status
        self.ended.set()
        # Let go of it, or the process and its worker would keep each other in memory.
        on_end, self.on_end = self.on_end, lambda: None
        on_end()

    def kill(self) -> None:
        """End it now. Nothing is lost: the server knows what it was doing."""
        self._doomed = True  # it may infer already while the news of its pid is still on the way
        if self.pid and self.status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class LocalProcess(ForkedProcess):
    """One worker process as the server sees it.

    ``frontend_channels`` are the ends of the channels for frontends until those have them, ``progress_fd`` describes
    the memory of ``progress`` for as long.
    """

    channel = 0

    def __init__(
        self,
        sock: socket.socket,
        progress: Progress,
        output: WorkerOutput,
        frontend_channels: Sequence[FrontendChannel] = (),
        progress_fd: int = -1,
    ) -> None:
        super().__init__(output)
        self.sock = sock
        self.progress = progress
        self.shared = bool(frontend_channels)
        self.frontend_channels = frontend_channels
        self.progress_fd = progress_fd

    def close_frontend_channels(self) -> None:
        """Every frontend has its end of its channel."""
        for share in self.frontend_channels:
            share.sock.close()
        if self.progress_fd >= 0:
            os.close(self.progress_fd)
        self.frontend_channels, self.progress_fd = (), -1


class Template:
    """The server's side of one template process: asks it for others, and hears how they fare."""

    def __init__(self, control: socket.socket, deadlines: Deadlines = DEADLINES) -> None:
        self.dead = False  # or of no use for another reason
        # Why it is of no use, where it is not; known once it is ready.
        self.refusal = ""
        self._control = control
        control.setblocking(False)
        self._unread = b""
        self._waiting: deque[ForkedProcess] = deque()
        self._processes: dict[int, ForkedProcess] = {}
        self._models: WeakSet[ModelTemplate] = WeakSet()
        self._ready = asyncio.Event()
        self._deadlines = deadlines
        self._heartbeat = Heartbeat(deadlines.heartbeat)
        self._stop_watch = StopWatch(deadlines.heartbeat)
        self._late = time.monotonic() + deadlines.startup
        self._answers = True  # it was neither dismissed nor given up
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control, self._read_records)

    @property
    def pid(self) -> int:
        """Of its process; 0 while that is still to be forked."""
        raise NotImplementedError

    async def ready(self) -> None:
        """Return when it has imported its modules or loaded its model, or has died or been given up trying."""
        await self._ready.wait()

    def fork(
        self, process: LocalProcess, channels: Sequence[socket.socket], descriptors: Sequence[int]
    ) -> None:
        """Ask for a worker over these descriptors; its pid is known a moment later. Raises ``OSError``."""
        self._send_order(len(channels), process, descriptors)

    def _send_order(self, word: int, process: ForkedProcess, descriptors: Sequence[int]) -> None:
        if self.dead:
            raise OSError("the process to fork it from has ended, or no longer answers")
        socket.send_fds(self._control, [ORDER.pack(word)], list(descriptors))
        self._waiting.append(process)

    def fork_model(self, load: Load, facts: Mapping[str, str]) -> "ModelTemplate":
        """Ask for a template with this model in it. Raises ``OSError``."""
        with ExitStack() as handed_over, ExitStack() as kept:
            ours, theirs = socket.socketpair()
            kept.enter_context(ours)
            handed_over.enter_context(theirs)
            read, write = os.pipe()
            handed_over.callback(os.close, write)
            output = WorkerOutput(read, facts)
            kept.callback(output.close)
            process = ForkedProcess(output)
            self._send_order(MODEL, process, [write, theirs.fileno()])
            ours.sendall(Codec().frame(load))
            kept.pop_all()
        model = ModelTemplate(ours, process, self._deadlines)
        self._models.add(model)
        return model

    def fork_trial(self, process: ForkedProcess, descriptors: Sequence[int]) -> None:
        """Ask for a process that tries whether requests may be joined. Raises ``OSError``."""
        self._send_order(TRIAL, process, descriptors)

    def close(self) -> None:
        """End it. Its workers end by their own channels, or are killed by the kernel with it."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control)
            self._control.close()
        for model in self._models:
            model.close()
        self._end()

    def check(self, now: float) -> None:
        """Give it up when it is frozen, and end it then as soon as none of its workers is left.

        Until it is ready nobody expects it to answer. Call this a few times a second.
        """
        for model in list(self._models):
            model.check(now)
        if self._control.fileno() < 0:
            return
        if not self._answers:
            if self.dead and all(map(has_ended, self._processes)):
                self._lost()
        elif not self._ready.is_set():
            if now > self._late or self._stop_watch.is_frozen(now, self.pid):
                self._give_up()
        elif self._heartbeat.is_frozen(now, ping=self._ping, used=lambda: cpu_seconds(self.pid)):
            self._give_up()

    def _ping(self) -> None:
        with suppress(
            OSError
        ):  # it is dead, and that is heard; or its socket is full, and it does not answer
            self._control.send(ORDER.pack(PING))

    def _give_up(self) -> None:
        """It is frozen: workers come from another one from now on, and take the place of those it has forked.

        Killing it would kill those, and with them what they are asked just now.
        """
        log.error("template frozen, starting another", pid=self.pid, processes=len(self._processes))
        self._answers, self.dead = False, True
        self._ready.set()
        for process in self._processes.values():
            process.stale = True
        while self._waiting:
            process = self._waiting.popleft()
            process.stale = True
            process.kill()
            process.end(-signal.SIGKILL)

    def _end(self) -> None:
        """Make sure that the process is gone, or about to be."""

    def _read_records(self) -> None:
        try:
            data = self._control.recv(65_536)
        except (BlockingIOError, ConnectionResetError):
            data = b""
        if not data:
            self._lost()
            return
        data = self._unread + data
        whole = len(data) - len(data) % RECORD.size
        if data[: RECORD.size].startswith(_REFUSED):  # its reason follows, and nothing else ever
            self.refusal, whole = data[RECORD.size :].decode(errors="replace"), 0
        self._unread = data[whole:]
        for what, pid, status in RECORD.iter_unpack(data[:whole]):
            if what == READY:
                self._ready.set()
            elif what == PONG:
                self._heartbeat.record_pong()
            elif what == FORKED:
                self._forked(pid)
            elif what == FORK_FAILED and self._waiting:
                self._waiting.popleft().on_fork_failed(status)
            elif what == ENDED and pid in self._processes:
                self._processes.pop(pid).end(status)

    def _forked(self, pid: int) -> None:
        if self._waiting:
            process = self._processes[pid] = self._waiting.popleft()
            process.on_forked(pid)
        else:  # it went on after it had been given up
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _lost(self) -> None:
        """It died: the kernel ends its children with it, and the next worker comes from a new template."""
        if self._control.fileno() < 0:
            return
        self._loop.remove_reader(self._control)
        self._control.close()
        self._end()
        self.dead = True
        self._ready.set()
        for process in [*self._processes.values(), *self._waiting]:
            process.kill()
            process.end(-signal.SIGKILL)
        self._processes.clear()
        self._waiting.clear()


class LibraryTemplate(Template):
    """One that imports libraries. It is this one's to end."""

    def __init__(self, process: LibraryProcess, deadlines: Deadlines) -> None:
        self._process = process
        self._output = WorkerOutput(process.take_output(), {"process": "template"}, event="library says")
        super().__init__(process.control, deadlines)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def closed(self) -> bool:
        """Whether its process is gone."""
        return self._control.fileno() < 0

    def _end(self) -> None:
        self._process.end()
        self._output.read()
        self._output.close()


class ModelTemplate(Template):
    """One that has loaded a model, forked from the one with its libraries."""

    def __init__(self, control: socket.socket, process: ForkedProcess, deadlines: Deadlines) -> None:
        self._process = process
        # Who waits for its model has a time-out for that.
        super().__init__(control, deadlines._replace(startup=math.inf))
        process.on_end = self._on_fork_failed

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it and its workers now."""
        self._process.kill()

    def dismiss(self) -> None:
        """No worker is wanted of it any more: it ends when its last one has."""
        if not self.dead and self._control.fileno() >= 0:
            self._answers = False
            with suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)

    def _on_fork_failed(self) -> None:
        if not self._process.pid:  # else it says itself that it ends, and why
            self._lost()

    def _give_up(self) -> None:
        if not self._ready.is_set():
            self.refusal = "it did not answer while it loaded the model"
        super()._give_up()

    def _end(self) -> None:
        self.refusal = self.refusal or "its template has ended"
        self._process.kill()
        self._process.output.close()


class StartPermit:
    """The right to start a worker, of which there are only so many. ``end`` gives it back, and may be called twice."""

    def __init__(self, permits: asyncio.Semaphore) -> None:
        self._permits = permits
        self._timer = asyncio.get_running_loop().call_later(_LONGEST_START, self.end)
        self._held = True

    def end(self) -> None:
        """The worker has its model, or will not have it, or takes so long over it that others need not wait."""
        self._timer.cancel()
        if self._held:
            self._held = False
            self._permits.release()


class LocalWorkers:
    """Starts worker processes, each from the template that has its libraries, a few at a time over all models.

    ``numbers`` counts them from ``first`` on. Every worker gets a channel to each of the ``frontends``, too. What trials
    of models find out is kept in ``cache_folder``; empty: nowhere. In the server's ``private_folder`` is the
    socket over which models call models, and the environments that models bring are unpacked there.
    """

    def __init__(
        self,
        arena: Arena,
        libraries: Libraries,
        first: int,
        frontends: Sequence[SharingFrontend] = (),
        cache_folder: str = "",
        deadlines: Deadlines = DEADLINES,
        private_folder: str = "",
    ) -> None:
        self.call_socket = f"{private_folder}/calls" if private_folder else ""
        self._execution_envs = ExecutionEnvs(f"{private_folder}/environments")
        self.numbers = itertools.count(first)
        self.deadlines = deadlines
        self._arena = arena
        self._libraries = libraries
        self._frontends = frontends
        self._cache_folder = cache_folder
        self._one_trial = asyncio.Semaphore()
        self._templates: dict[tuple[str, ...], LibraryTemplate] = {}
        self._given_up: list[LibraryTemplate] = []  # of which workers may be left
        self._permits = asyncio.Semaphore(max(_MIN_STARTING, 2 * count_cores()))

    async def acquire_start_permit(self) -> StartPermit:
        """Return when one more worker may be started. It is the caller's to end."""
        await self._permits.acquire()
        return StartPermit(self._permits)

    def start(self, template: Template, facts: Mapping[str, str]) -> LocalProcess:
        """A new worker, forked from a template that is ready. Raises ``OSError`` when there is no room."""
        # Both are closed where descriptors run out in the middle: who has none left must not lose more.
        with ExitStack() as handed_over, ExitStack() as kept:
            ours, theirs = [], []
            for _ in range(1 + len(self._frontends)):
                mine, its = socket.socketpair()
                ours.append(kept.enter_context(mine))
                theirs.append(handed_over.enter_context(its))
            read, write = os.pipe()
            handed_over.callback(os.close, write)
            output = WorkerOutput(read, facts)
            kept.callback(output.close)
            progress_fd = anonymous_file(Progress.size(len(ours)))
            kept.callback(os.close, progress_fd)
            shares = [
                FrontendChannel(frontend.number, frontend.generation, sock)
                for frontend, sock in zip(self._frontends, ours[1:], strict=True)
            ]
            progress = Progress(progress_fd, len(ours))
            process = LocalProcess(ours[0], progress, output, shares, progress_fd)
            arenas = [self._arena.fd, *(frontend.arena for frontend in self._frontends)]
            template.fork(process, theirs, [write, progress_fd, *(s.fileno() for s in theirs), *arenas])
            kept.pop_all()
        if not shares:
            process.close_frontend_channels()
        ours[0].setblocking(False)
        return process

    async def try_joining(self, template: Template, load: Load, facts: Mapping[str, str]) -> Joining:
        """Whether requests for a model may share its calls, as a process of its own finds out. Raises ``OSError``."""
        async with self._one_trial:  # they take cores and memory from the workers
            with self._run_once(template, Trial(load, self._cache_folder), facts) as sock:
                return await _read_trial_result(sock)

    async def complete_config(self, template: Template, load: Load, facts: Mapping[str, str]) -> str:
        """Return what the code of a model completes of its configuration, as JSON text.

        A process of its own runs that code, for as long as a worker may take to start. Raises ``ModelLoadFailed`` and
        ``OSError``.
        """
        limit = load.spec.timeouts.startup_timeout
        try:
            with self._run_once(template, CompleteConfig(load), facts) as sock:
                async with asyncio.timeout(limit):
                    said = await _read_to_end(sock)
            answer = msgspec.msgpack.decode(said, type=str | ErrorRecord)
        except TimeoutError:
            raise ModelLoadFailed(f"auto_complete_config took longer than {limit:g} s") from None
        except (ConnectionError, msgspec.DecodeError):
            raise ModelLoadFailed("the process that ran auto_complete_config ended") from None
        if isinstance(answer, ErrorRecord):
            raise answer.error(model=load.spec.name, version=load.spec.version)
        return answer

    @contextmanager
    def _run_once(
        self, template: Template, order: Trial | CompleteConfig, facts: Mapping[str, str]
    ) -> Iterator[socket.socket]:
        """Start a process that finds out one thing of a model; it says it over this socket, and is ended at the end."""
        with ExitStack() as closed:
            ours, theirs = socket.socketpair()
            closed.enter_context(ours)
            read, write = os.pipe()
            output = WorkerOutput(read, facts)
            closed.callback(output.close)
            process = ForkedProcess(output)
            closed.callback(process.kill)
            try:
                template.fork_trial(process, [write, theirs.fileno()])
            finally:
                os.close(write)
                theirs.close()
            ours.sendall(Codec().frame(order))
            ours.setblocking(False)
            yield ours
            output.read()

    async def prepare_environment(self, spec: ModelSpec) -> ExecutionEnv | None:
        """Return the environment that a model brings; None where it brings none. Raises ``ModelLoadFailed``."""
        return await self._execution_envs.prepare(spec, self._libraries.environment)

    def template(self, modules: Sequence[str], env: ExecutionEnv | None = None) -> LibraryTemplate:
        """The template for these modules, started if need be: worth calling early, it imports meanwhile.

        With ``env`` it is run by the interpreter of that environment.
        """
        key = tuple(modules) if env is None else (env.interpreter, *modules)
        template = self._templates.get(key)
        if template is None or template.dead:
            if template is not None and not template.closed:
                self._given_up.append(template)
            template = self._templates[key] = LibraryTemplate(
                self._libraries.take_process(key) if env is None else _start_in(env, modules), self.deadlines
            )
        return template

    def check(self, now: float) -> None:
        """Give up templates that are frozen. Call it a few times a second."""
        for template in [*self._templates.values(), *self._given_up]:
            template.check(now)
        if self._given_up:
            self._given_up = [template for template in self._given_up if not template.closed]

    def close(self) -> None:
        """End the templates; every worker must have been stopped before."""
        for template in [*self._templates.values(), *self._given_up]:
            template.close()


def _start_in(env: ExecutionEnv, modules: Sequence[str]) -> LibraryProcess:
    process = LibraryProcess(env.variables, env.interpreter)
    process.load(modules)
    return process


async def _read_to_end(sock: socket.socket) -> bytes:
    loop, said = asyncio.get_running_loop(), b""
    while part := await loop.sock_recv(sock, _MOST_RESULT):
        said += part
    return said


async def _read_trial_result(sock: socket.socket) -> Joining:
    """What a trial says before it ends, or that it said nothing in time."""
    try:
        async with asyncio.timeout(_TRIAL):
            said = await _read_to_end(sock)
        return msgspec.msgpack.decode(said, type=Joining)
    except TimeoutError:
        why = f"the trial took longer than {_TRIAL:g} s"
    except (ConnectionError, msgspec.DecodeError):
        why = "the process of the trial ended"
    return Joining(
        JoiningState.APART,
        f"it cannot be shown that rows are independent: {why}; set max_batch_size in the model's configuration to have its "
        "requests joined",
    )
