"""The server's end of one worker's channel: sending it work, and hearing its answers."""

import asyncio
import enum
import socket
import time
from collections.abc import Sequence
from typing import Any, Protocol

from mooring.core.buffers import LARGE, Buffer
from mooring.core.errors import ErrorRecord, MooringError, WorkerDied
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import Joining, ModelMetadata, Outcome
from mooring.ipc.framing import Frames, FrameWriter
from mooring.ipc.messages import (
    NO_MEMORY,
    Batch,
    Cancel,
    Codec,
    InGrant,
    JoiningMissed,
    Loaded,
    LoadFailed,
    Measured,
    Piece,
    Results,
    Returned,
    ToServer,
    ToWorker,
    lost,
)
from mooring.ipc.progress import Progress
from mooring.observability.logs import get_logger
from mooring.observability.records import Record
from mooring.repository.spec import ModelSpec
from mooring.workers.heartbeat import StopWatch
from mooring.workers.local import LocalProcess, Turn

log = get_logger(__name__)

# The room of a worker that takes one message at a time: what goes into that is the scheduler's to say.
_A_MESSAGE = 1 << 30

_codec = Codec()


class Work(Protocol):
    """A request on its way, as a worker sees it. ``answer_slot`` is memory that its answer may be written to."""

    key: int
    request: InferenceRequest
    answer_slot: Buffer | None

    def piece(self, response: InferenceResponse) -> None:
        """A part of a streamed answer."""

    def answer(self, outcome: Outcome) -> None:
        """The answer, or the last part of it."""


Answered = Sequence[InferenceResponse | ErrorRecord]


class PoolOwner(Protocol):
    """Who has work for the pool, and wants to know how it does."""

    def on_worker_free(self) -> None:
        """A worker is idle: send it what waits."""

    def on_worker_died(
        self, running: Sequence[Work], unstarted: Sequence[Work], error: WorkerDied, retry: bool
    ) -> None:
        """A worker is gone and did not answer these. ``retry`` is False when it was too slow rather than dead."""

    def may_dismiss(self, worker: "WorkerHandle") -> bool:
        """Whether an idle worker that is too many may end now; else ``shed`` is called when it may."""

    def requeue(self, works: Sequence[Work]) -> None:
        """These were not started and wait again."""

    def large_answer(self, size: int) -> None:
        """An answer had a payload of this many bytes, too large to copy gladly."""

    def batches_done(self, batches: Sequence[tuple[int, float]]) -> None:
        """The model was called, each time for so many rows and seconds."""

    def answers_came(self, seconds: float) -> None:
        """Answers took so long from the last message to their worker or from it, beyond the time of the model."""

    def finish_many(self, works: Sequence[Work], outcomes: Answered, *, borrowed: bool) -> None:
        """A message was answered; with ``borrowed`` some of its requests may have memory to give back."""

    def on_worker_loaded(self, metadata: ModelMetadata) -> None:
        """One more worker has the model."""

    def on_worker_failed(self, error: MooringError) -> None:
        """A worker could not load the model, or died; another try follows."""

    def on_worker_recycled(self) -> None:
        """A worker makes way for a fresh one, which has the model."""


class WorkerProcess(Protocol):
    """The process of a worker, as its channel needs it. ``channel`` is the number of this end among ``progress``."""

    sock: socket.socket
    progress: Progress
    channel: int
    shared: bool

    def kill(self) -> None:
        """End it now."""


class Pool(Protocol):
    """Who has workers, and is told of them."""

    spec: ModelSpec
    owner: PoolOwner
    idle: list[Any]

    def free(self, worker: Any) -> None:
        """It has nothing to do."""

    def loaded(self, worker: Any, metadata: ModelMetadata, joining: Joining | None) -> None:
        """It has the model."""

    def joining_missed(self) -> None:
        """Requests came that might have shared a call, were it known that they may."""

    def failed(self, worker: Any, failure: LoadFailed) -> None:
        """It cannot load the model, and ends by itself."""

    def ended(self, worker: Any) -> None:
        """Its channel is closed on its side."""

    def measured(self, records: Sequence[Record]) -> None:
        """The model's own code recorded metrics."""

    def has_room(self, worker: Any) -> None:
        """It has answered something, and takes requests while others run."""


class Workers(Protocol):
    """What a scheduler asks of those who have the workers of its version."""

    idle: list[Any]
    overlapping: bool

    @property
    def ready(self) -> int:
        """How many have the model loaded."""

    def next(self) -> Any:
        """The idle worker to send to."""

    def put_least_busy_last(self) -> None:
        """Arrange the idle ones so that the one with the most room is the next."""

    def check(self, now: float) -> None:
        """End those that take too long. Call it a few times a second."""


class WorkerState(enum.Enum):
    """What a worker is doing."""

    STARTING = "STARTING"
    READY = "READY"
    BUSY = "BUSY"
    ENDED = "ENDED"


class WorkerHandle:
    """The server's side of one worker and its channel.

    At most one message is outstanding, unless the worker has a ``capacity``: such a worker stays among the idle ones
    for as long as it has room for another request, and answers in any order.
    """

    def __init__(self, pool: Pool, process: WorkerProcess, name: str) -> None:
        self.id = name
        self.process = process
        self.state = WorkerState.STARTING
        self.born = time.monotonic()
        self.load_seconds: float | None = None
        self.timed_out = False
        self.served = 0  # requests that it was sent
        self.memory = 0  # bytes, where a limit is watched
        self.stamp = ""  # of the model's file that it has loaded (``Joining``)
        self.capacity = 0
        self.retiring = False
        self._pool = pool
        self._frames = Frames()
        self._sock: socket.socket = process.sock
        self._writer = FrameWriter(process.sock, _codec)
        self._message: Sequence[Work] = ()
        self._borrowed = False  # whether there is memory in that to release
        self._outstanding: dict[int, Work] = {}
        self._loop = asyncio.get_running_loop()
        self.sent_at = time.monotonic()
        self._loop.add_reader(self._sock, self._hear)

    @property
    def loaded(self) -> bool:
        """Whether it has the model, and has not ended."""
        return self.state is WorkerState.READY or self.state is WorkerState.BUSY

    @property
    def room(self) -> int:
        """How many more requests it takes now, if it takes any."""
        return self.capacity - len(self._outstanding) if self.capacity else _A_MESSAGE

    def send(self, works: Sequence[Work]) -> None:
        """Give it this to do. Only one of the pool's idle workers, which has been taken from among them."""
        if self.capacity:
            self._send_more(works)
            return
        self.state = WorkerState.BUSY
        self.sent_at = time.monotonic()
        self.served += len(works)
        self._message = works
        self._outstanding = {work.key: work for work in works}
        self.process.progress.send(self.process.channel, len(works))
        lent = [work.answer_slot for work in works]
        slots = [None if each is None else each.slot for each in lent] if any(lent) else None
        try:
            self._writer.send(Batch(list(self._outstanding), [work.request for work in works], slots))
        except (MemoryError, OverflowError):
            self._refuse(works)
        self._borrowed = _codec.lent or slots is not None

    def _send_more(self, works: Sequence[Work]) -> None:
        if not self._outstanding:
            self.state = WorkerState.BUSY
            self.sent_at = time.monotonic()
        self.served += len(works)
        self._outstanding.update((work.key, work) for work in works)
        self.offer()
        slots = [None if work.answer_slot is None else work.answer_slot.slot for work in works]
        batch = Batch(
            [work.key for work in works], [work.request for work in works], slots if any(slots) else None
        )
        try:
            self._writer.send(batch)
        except (MemoryError, OverflowError):
            self._refuse(works)

    def _refuse(self, works: Sequence[Work]) -> None:
        """Answer requests that there is no memory to send; nothing of them was."""
        keys = [work.key for work in works]
        results = Results(keys, [NO_MEMORY] * len(keys), [])
        self._loop.call_soon(self._answer_unsent, results)

    def _answer_unsent(self, results: Results) -> None:
        if self._outstanding.keys() >= set(results.keys):  # the worker may be gone, and they with it
            self._handle(results, large=False)

    def offer(self) -> None:
        """Stand among the idle ones of the pool where there is room for more."""
        if self.room > 0 and not self.retiring and self not in self._pool.idle:
            self._pool.idle.append(self)

    def cancel(self, work: Work) -> None:
        """Tell it that nobody waits for this any more."""
        self.tell(Cancel([work.key]))

    def tell(self, message: ToWorker) -> None:
        """Send now, and what the socket does not take as soon as it does."""
        self._writer.send(message)

    def _hear(self) -> bool:
        """Take what has come; False when nothing has, and nothing more will."""
        try:
            count = self._frames.receive(self._sock)
        except BlockingIOError:
            return False
        except OSError:
            count = 0
        except MemoryError:
            log.exception("worker's answers too large for memory", model=self._pool.spec.name, worker=self.id)
            self.process.kill()
            count = 0
        if not count:
            self._pool.ended(self)
            return False
        try:
            frames = self._frames
            for message, large in [
                _decode_attached(frame, frames.attached)
                if frames.attached
                else (_codec.to_server(frame), len(frame) > LARGE)
                for frame in frames
            ]:
                self._handle(message, large=large)
        except Exception:  # the supervisor: whatever it meant, whoever waits for it must not wait for ever
            log.exception("worker not understood, ending it", model=self._pool.spec.name, worker=self.id)
            self.process.kill()
            self._pool.ended(self)
            return False
        return True

    def _handle(self, message: ToServer, *, large: bool) -> None:
        """A message that is not ``large`` and has no granted slot has no large payload to look for."""
        if isinstance(message, Results):
            self._answer(message, large=large)
        elif isinstance(message, Piece):
            self.sent_at = time.monotonic()
            work = self._outstanding.get(message.key)
            if work is not None:
                work.piece(message.response)
        elif isinstance(message, Returned):
            self._pool.owner.requeue([self._outstanding.pop(key) for key in message.keys])
            self._free_if_done()
        elif isinstance(message, Loaded):
            self.state = WorkerState.READY
            self.capacity = message.capacity
            self.load_seconds = time.monotonic() - self.sent_at
            self._pool.loaded(self, message.metadata, message.joining)
        elif isinstance(message, JoiningMissed):
            self._pool.joining_missed()
        elif isinstance(message, LoadFailed):
            self._pool.failed(self, message)
        elif isinstance(message, Measured):
            self._pool.measured(message.records)

    def _answer(self, results: Results, *, large: bool) -> None:
        if self.capacity:
            self._answer_some(results)
            return
        pop = self._outstanding.pop
        works = [pop(key) for key in results.keys]
        now = time.monotonic()
        way, self.sent_at = now - self.sent_at, now
        owner = self._pool.owner
        owner.batches_done(results.batches)
        owner.answers_came(way - sum([seconds for _, seconds in results.batches]))
        if results.records:
            self._pool.measured(results.records)
        borrowed = self._borrowed  # of this message: the next one says so of its own
        # The worker gets its next message first: it infers while the answers to this one are written.
        self._free_if_done()
        if large or borrowed:
            for work, outcome in zip(works, results.outcomes, strict=True):
                if type(outcome) is InferenceResponse and (size := _large_payload(work, outcome)):
                    owner.large_answer(size)
        owner.finish_many(works, results.outcomes, borrowed=borrowed)

    def _answer_some(self, results: Results) -> None:
        """Answers and pieces, of whichever of the outstanding requests."""
        self.sent_at = time.monotonic()
        owner, spec = self._pool.owner, self._pool.spec
        owner.batches_done(results.batches)
        if results.records:
            self._pool.measured(results.records)
        told: list[tuple[Work, Outcome]] = []
        for key, outcome in zip(results.keys, results.outcomes, strict=True):
            if isinstance(outcome, ErrorRecord):
                told.append(
                    (self._outstanding.pop(key), outcome.error(model=spec.name, version=spec.version))
                )
            elif outcome.final:
                work = self._outstanding.pop(key)
                size = _large_payload(work, outcome)
                if size:
                    owner.large_answer(size)
                told.append((work, outcome))
            else:
                self._outstanding[key].piece(outcome)
        if told:
            if not self._outstanding:
                self.state = WorkerState.READY
            self._pool.has_room(self)
        for work, answer in told:
            work.answer(answer)

    def _free_if_done(self) -> None:
        if not self._outstanding and self.state is WorkerState.BUSY:
            self._message = ()
            self.state = WorkerState.READY
            if self.process.shared:
                self.process.progress.send(self.process.channel, 0)
            self._pool.free(self)

    def give_up(self, error: WorkerDied, *, retry: bool) -> None:
        """Hand what a dead worker did not answer to the owner. ``retry`` is False when it was too slow rather than dead."""
        done, running, unstarted = self._lost()
        self._pool.owner.on_worker_died(running, unstarted, error, retry)
        if done:  # those were not the slow ones: their answers waited in the worker for one that was
            self._pool.owner.on_worker_died(done, [], error, retry=True)

    def _lost(self) -> tuple[list[Work], list[Work], list[Work]]:
        """What it did not answer: what it was done with, what it was at, and what it had not started.

        Of what a worker with a capacity has, anything may have been started.
        """
        outstanding, message = self._outstanding, self._message
        self._outstanding, self._message = {}, ()
        if self.capacity:
            return [], list(outstanding.values()), []
        progress, channel = self.process.progress, self.process.channel
        done, started = progress.done(channel), progress.started(channel)

        def unanswered(works: Sequence[Work]) -> list[Work]:
            return [work for work in works if work.key in outstanding]

        return unanswered(message[:done]), unanswered(message[done:started]), unanswered(message[started:])

    def close(self) -> None:
        """Let go of the channel; an idle worker ends by itself then."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._writer.close()
            self._sock.close()


class OwnedWorker(WorkerHandle):
    """A worker whose process is a child of this one, or of one of its templates."""

    process: LocalProcess

    def __init__(
        self, pool: Pool, process: LocalProcess, name: str, *, turn: Turn, stop_watch: StopWatch
    ) -> None:
        super().__init__(pool, process, name)
        self.turn = turn
        self.stop_watch = stop_watch
        self.frozen = False  # and ended for it
        process.on_end = self._gone
        self.started = time.time()
        self.begun = time.monotonic()  # with the process that it is forked from

    def _gone(self) -> None:
        """The process has ended. What its model's code forked may hold its end of the channel open for ever."""
        while self.state is not WorkerState.ENDED and self._hear():
            pass
        if self.state is not WorkerState.ENDED:
            self._pool.ended(self)


def _decode_attached(frame: memoryview, attached: Sequence[Buffer | None]) -> tuple[ToServer, bool]:
    """A message with payloads beside it, which are large; answers that there is no memory for are replaced."""
    message: ToServer = _codec.to_server(frame, attached)
    if None in attached and isinstance(message, Results):
        message.outcomes = [
            NO_MEMORY if isinstance(outcome, InferenceResponse) and lost(outcome.outputs) else outcome
            for outcome in message.outcomes
        ]
    return message, True


def _large_payload(work: Work, response: InferenceResponse) -> int:
    """The size of the answer's large payload, if it has one; it gets the lent slot if it was written there."""
    large = 0
    for tensor in response.outputs:
        data = tensor.data
        payloads = data if isinstance(data, list) else [data]
        for index, payload in enumerate(payloads):
            if isinstance(payload, InGrant):
                slot, work.answer_slot = work.answer_slot, None
                assert slot is not None
                large = max(large, payload.size)
                payloads[index] = slot.shortened(payload.size)
                if data is not payloads:
                    tensor.data = payloads[0]
            elif len(payload) > LARGE:
                large = max(large, len(payload))
    return large
