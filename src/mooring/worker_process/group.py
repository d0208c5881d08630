"""A worker whose model runs in several processes, the ranks of a parallel group, under torchrun's environment (decision 47).

    server  <-- channel -->  worker (this process)  <-- a socket each -->  rank 0, rank 1, ...

The server knows one worker, which runs no code of the model. Each rank is a worker of its own kind: it loads the model
and gets every call that this one gets. The answer is that of rank 0. The ranks are in the session of the worker, whose
template ends all of it with the worker.
"""

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from msgspec import structs

from mooring.backends.backend import Backend
from mooring.core.errors import ErrorRecord, ModelLoadFailed, MooringError
from mooring.core.options import ModelLimits, Parallel, ParallelType, declare
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import LoadContext, MetricValue, ModelMetadata, Outcome, Reply
from mooring.hardware import CPU, find_devices
from mooring.ipc.framing import Frames, send_whole
from mooring.ipc.log_records import MARK, decode_record, encode_record
from mooring.ipc.messages import (
    NO_MEMORY,
    Batch,
    Codec,
    Load,
    Loaded,
    LoadFailed,
    MetricRecords,
    Piece,
    Results,
    ToServer,
    ToWorker,
    has_lost_payload,
)
from mooring.observability.records import Record
from mooring.repository.parallel import GROUPS_TAKE_NO_STEPS
from mooring.repository.spec import ModelSpec

_LONGEST_LINE = 65_536
# Seconds that the other ranks have to end a call which one of them could not end. They may wait for it for ever.
_OUT_OF_STEP = 10.0
_CLOSING = 1.5  # seconds in which ranks close their model
_GPUS = "CUDA_VISIBLE_DEVICES"


class RankFailed(Exception):
    """A failure of one rank that may not come again."""


class Rank:
    """One process of a group, and the socket over which it works."""

    def __init__(self, number: int, environment: Mapping[str, str]) -> None:
        self.number = number
        self.sock, theirs = socket.socketpair()
        command = [
            sys.executable,
            "-m",
            "mooring.worker_process.rank",
            str(theirs.fileno()),
            str(os.getpid()),
        ]
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - our own module under our own interpreter
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(environment),
            )
        self._frames = Frames()
        self._codec = Codec(lends=False)
        self._printer = threading.Thread(target=self._print_output, name=f"rank {number} output", daemon=True)
        self._printer.start()

    def send(self, message: ToWorker) -> None:
        """Send a message; nothing happens where the rank has ended, which its watcher reports."""
        with suppress(BrokenPipeError, ConnectionResetError):
            send_whole(self.sock, self._codec, message)

    def receive(self) -> list[ToServer] | None:
        """Read once and return the messages that are complete; None where the rank has ended."""
        try:
            if not self._frames.receive(self.sock):
                return None
        except OSError:
            return None
        frames = self._frames
        return [_without_lost_payloads(self._codec.to_server(frame, frames.attached)) for frame in frames]

    def await_end(self) -> str:
        """Return how the process has ended, once it has and all of its output is read."""
        status = self.process.wait()
        self._printer.join(1.0)  # what it forked may hold its output open
        return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"

    def _print_output(self) -> None:
        assert self.process.stdout is not None
        head = f"[rank{self.number}] "
        with self.process.stdout as output:
            while line := output.readline(_LONGEST_LINE):
                text, mark, rest = line.rstrip(b"\n").partition(MARK)
                if text or not mark:
                    os.write(1, head.encode() + text + b"\n")
                if mark and (record := decode_record(mark + rest)) is not None:
                    os.write(1, encode_record(structs.replace(record, text=head + record.text)))


def lead_session() -> None:
    """Make this process the leader of a session, so that signals to the server's terminal are not for its ranks.

    Other workers lead process groups only: with a session each, the kernel shares the processor out by sessions
    (``sched_autogroup``), and the server and its workers take turns less often. The leader of a process group can lead no
    session, so this process goes back to its parent's group first.
    """
    os.setpgid(0, os.getpgid(os.getppid()))
    os.setsid()


class GroupBackend(Backend):
    """The model of a parallel group, as the worker of the group calls it.

    How this works: ``load`` starts the ranks, has them load the model, and returns when all of them have. ``infer`` sends a
    call to every rank (of a pipeline to the first one) and waits for all of them, so that they stay in step. Pieces and
    metrics are those of rank 0, too. A thread for each rank waits for its end: without it the others would wait for ever
    in the next collective operation, so that the worker ends, and the server replaces the group.
    """

    def __init__(self, on_started: Callable[[list[int]], None]) -> None:
        self._on_started = on_started
        self._ranks: list[Rank] = []
        self._asked: list[Rank] = []
        self._spec: ModelSpec
        self._loading = True
        self._closing = False
        self._ending = threading.Lock()

    def load(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        parallel = spec.parallel
        assert parallel is not None
        if spec.batching.stepwise:
            raise ModelLoadFailed(GROUPS_TAKE_NO_STEPS)
        self._spec = spec
        shared = torchrun_environment(spec.name, parallel, context, os.environ)
        for number in range(parallel.level):
            rank = Rank(number, shared | rank_environment(number))
            self._ranks.append(rank)
            threading.Thread(target=self._watch, args=(rank,), name=f"rank {number}", daemon=True).start()
        self._on_started([rank.process.pid for rank in self._ranks])
        order = Load(_spec_of_ranks(spec), structs.replace(context, threads=int(shared["OMP_NUM_THREADS"])))
        for rank in self._ranks:
            rank.send(order)
        loaded = self._await_loaded()
        if any(message.capacity for message in loaded.values()):
            raise ModelLoadFailed(
                "an asynchronous handler cannot run in a parallel group, whose ranks would take different requests at a "
                "time: make handle a plain function"
            )
        self._asked = self._ranks[:1] if parallel.type is ParallelType.PIPELINE else self._ranks
        self._loading = False
        for rank in self._ranks:  # one that has ended since it loaded the model, while others still did
            if rank.process.poll() is not None:
                raise ModelLoadFailed(_ended_in_load(rank)) from RankFailed()
        return loaded[0].metadata

    def _await_loaded(self) -> dict[int, Loaded]:
        loaded: dict[int, Loaded] = {}
        waiting = {rank.sock.fileno(): rank for rank in self._ranks}
        while waiting:
            for rank, message in self._receive(waiting):
                if isinstance(message, Loaded):
                    loaded[rank.number] = message
                    del waiting[rank.sock.fileno()]
                elif isinstance(message, LoadFailed):
                    record = message.error
                    error = ModelLoadFailed(f"rank {rank.number}: {record.message}", detail=record.detail)
                    raise error from (None if message.lasting else RankFailed())
                elif message is None:
                    raise ModelLoadFailed(_ended_in_load(rank)) from RankFailed()
        return loaded

    def infer(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        call = Batch(list(range(len(requests))), list(requests))
        for rank in self._asked:
            rank.send(call)
        answers = self._await_answers(len(requests), reply)
        for number, outcomes in answers.items():
            failed = _first_error(outcomes)
            if number and failed and not _first_error(answers[0]):
                _print_error(f"rank {number} failed a call: {failed.message}\n{failed.detail}")
        if len(requests) > 1 and self._spec.limits.retry and (failure := _shared_failure(answers[0])):
            raise self._to_outcome(failure)  # the worker asks for each request by itself, in all ranks
        return [self._to_outcome(each) if isinstance(each, ErrorRecord) else each for each in answers[0]]

    def _to_outcome(self, record: ErrorRecord) -> MooringError:
        return record.error(model=self._spec.name, version=self._spec.version)

    def _await_answers(self, count: int, reply: Reply) -> dict[int, list[InferenceResponse | ErrorRecord]]:
        """The outcomes of each rank that was asked, in the order of the requests."""
        answers: dict[int, dict[int, InferenceResponse | ErrorRecord]] = {
            rank.number: {} for rank in self._asked
        }
        waiting = {rank.sock.fileno(): rank for rank in self._asked}
        failure, limit = "", 0.0
        while waiting:
            timeout = max(limit - time.monotonic(), 0.0) if failure else None
            for rank, message in self._receive(waiting, timeout):
                if message is None:
                    self._end_with(rank)
                if rank.number == 0:
                    _pass_on(message, reply)
                if isinstance(message, Results):
                    done = answers[rank.number]
                    done.update(zip(message.keys, message.outcomes, strict=True))
                    if len(done) == count:
                        del waiting[rank.sock.fileno()]
                        if not failure and (failed := _first_error(done.values())):
                            failure = f"rank {rank.number} failed a call ({failed.message})"
                            limit = time.monotonic() + _OUT_OF_STEP
            if failure and waiting and time.monotonic() >= limit:
                names = ", ".join(str(rank.number) for rank in waiting.values())
                self._end(f"{failure}, and ranks {names} have not ended it after {_OUT_OF_STEP:g} s")
        return {number: [done[key] for key in range(count)] for number, done in answers.items()}

    def _receive(
        self, waiting: Mapping[int, Rank], timeout: float | None = None
    ) -> Iterator[tuple[Rank, ToServer | None]]:
        """Wait for messages of these ranks; None stands for the end of one."""
        poll = select.poll()
        for fd in waiting:
            poll.register(fd, select.POLLIN)
        ready = [waiting[fd] for fd, _ in poll.poll(None if timeout is None else timeout * 1000)]
        for rank in ready:
            messages = rank.receive()
            if messages is None:
                yield rank, None
            for message in messages or ():
                yield rank, message

    def _watch(self, rank: Rank) -> None:
        how = rank.await_end()
        if self._closing:
            return
        if self._loading:
            # Whoever waits for its answer reports it: what it forked may hold its end of the socket open.
            with suppress(OSError):  # it is closed already
                rank.sock.shutdown(socket.SHUT_RDWR)
        else:
            self._end(f"rank {rank.number} {how}")

    def _end_with(self, rank: Rank) -> NoReturn:
        """A rank has closed its socket: end it, if it has not ended, and this process by the thread that waits for it."""
        rank.process.kill()
        while True:
            time.sleep(1.0)

    def _end(self, why: str) -> NoReturn:
        """End this process, and with it the group; the server then starts another."""
        with self._ending:
            _print_error(f"{why}: the parallel group of {len(self._ranks)} ends with it")
            os._exit(1)

    def close(self) -> None:
        """Have the ranks close their model; those that do not in time are killed."""
        self._closing = True
        for rank in self._ranks:
            rank.sock.close()
        end = time.monotonic() + _CLOSING
        for rank in self._ranks:
            try:
                rank.process.wait(max(end - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                rank.process.kill()


def _ended_in_load(rank: Rank) -> str:
    return f"rank {rank.number} {rank.await_end()} while the group loaded the model"


def torchrun_environment(
    model: str, parallel: Parallel, context: LoadContext, environment: Mapping[str, str]
) -> dict[str, str]:
    """The variables that torchrun gives every rank of a group, with those of ``environment`` and of the group's GPUs."""
    level = str(parallel.level)
    threads = parallel.threads or max(context.threads // parallel.level, 1)
    return {
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        **environment,
        "OMP_NUM_THREADS": str(threads),
        "MASTER_ADDR": parallel.master or "127.0.0.1",
        "MASTER_PORT": str(parallel.master_port or _find_free_port()),
        "WORLD_SIZE": level,
        "LOCAL_WORLD_SIZE": level,
        "ROLE_WORLD_SIZE": level,
        "GROUP_WORLD_SIZE": "1",
        "GROUP_RANK": "0",
        "ROLE_NAME": "default",
        "TORCHELASTIC_RUN_ID": f"{model}_{context.worker}",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "False",  # rank 0 has the store
        **choose_gpus(parallel, context.place, environment.get(_GPUS)),
    }


def rank_environment(number: int) -> dict[str, str]:
    """The variables that tell a rank which one it is."""
    return dict.fromkeys(("RANK", "LOCAL_RANK", "ROLE_RANK"), str(number))


def choose_gpus(parallel: Parallel, place: int, visible: str | None) -> dict[str, str]:
    """The GPUs of a worker's group: as many as it has ranks, after those of the workers before it, and round again.

    >>> choose_gpus(Parallel(level=2, devices=[0, 1, 2, 3]), 1, None)
    {'CUDA_VISIBLE_DEVICES': '2,3'}
    """
    gpus = [str(number) for number in parallel.devices] or _visible_gpus(visible)
    if not gpus or parallel.device_type == "cpu":
        return {}
    first = place * parallel.level % len(gpus)
    return {_GPUS: ",".join(gpus[first : first + parallel.level])}


def _visible_gpus(visible: str | None) -> list[str]:
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    return [
        str(number) for number in range(sum(count for kind, count in find_devices().items() if kind != CPU))
    ]


def _find_free_port() -> int:
    """A port of this machine that is free now. Another process may take it meanwhile: then the load fails, and the next try finds another port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _spec_of_ranks(spec: ModelSpec) -> ModelSpec:
    """The model as a rank knows it. What a worker does beside calling the model is done once, for all of them."""
    once = structs.replace(spec, parallel=None, warmup=[])
    return once.with_options(declare(ModelLimits, retry=False))


def _pass_on(message: ToServer | None, reply: Reply) -> None:
    """Give the pieces and metrics of rank 0 to whoever asked the group."""
    if isinstance(message, Piece):
        reply.emit(message.key, message.response)
    elif isinstance(message, Results | MetricRecords):
        for record in message.records or ():
            _record_again(record, reply)


def _record_again(record: Record, reply: Reply) -> None:
    name, unit, kind, dimensions, values, description, request_id, bounds = record
    for value in values:
        reply.record_metric(MetricValue(name, value, unit, kind, dimensions, description, request_id, bounds))


def _first_error(outcomes: Iterable[InferenceResponse | ErrorRecord]) -> ErrorRecord | None:
    return next((each for each in outcomes if isinstance(each, ErrorRecord)), None)


def _shared_failure(outcomes: Sequence[InferenceResponse | ErrorRecord]) -> ErrorRecord | None:
    """The error by which all requests of a call have failed: the call did, and not each of them."""
    first = outcomes[0]
    return first if isinstance(first, ErrorRecord) and all(each == first for each in outcomes) else None


def _without_lost_payloads(message: ToServer) -> ToServer:
    if isinstance(message, Results):
        message.outcomes = [
            NO_MEMORY if isinstance(outcome, InferenceResponse) and has_lost_payload(outcome) else outcome
            for outcome in message.outcomes
        ]
    return message


def _print_error(text: str) -> None:
    sys.stderr.write(f"{text.rstrip()}\n")
    sys.stderr.flush()
