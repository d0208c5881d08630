"""The server's end of one worker's channel: sending it work, and hearing its answers."""

import asyncio
import enum
import socket
import time
from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

from mooring.core.buffers import LARGE, Buffer
from mooring.core.errors import ErrorRecord, MooringError, WorkerDied
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import Joining, ModelMetadata, Outcome
from mooring.core.timing import CallSpan
from mooring.ipc.framing import Frames, FrameWriter
from mooring.ipc.messages import (
    NO_MEMORY,
    Batch,
    Cancel,
    Codec,
    GroupStarted,
    InAnswerSlot,
    JoiningMissed,
    Loaded,
    LoadFailed,
    MetricRecords,
    Piece,
    Results,
    ToServer,
    ToWorker,
    Unstarted,
    has_lost_payload,
)
from mooring.ipc.progress import Progress
from mooring.observability.logs import get_logger
from mooring.observability.records import Record
from mooring.observability.statistics import RestartReason
from mooring.repository.spec import ModelSpec
from mooring.workers.heartbeat import StopWatch
from mooring.workers.local import LocalProcess, StartPermit

log = get_logger(__name__)

# The room of a worker that takes one message at a time: what goes into that is the scheduler's to say.
_UNBOUNDED_ROOM = 1 << 30

_codec = Codec()


class Work(Protocol):
    """A request on its way to a worker and back. The worker may write a large answer to ``answer_slot``."""

    key: int
    request: InferenceRequest
    answer_slot: Buffer | None

    def piece(self, response: InferenceResponse) -> None:
        """A part of a streamed answer."""

    def note_call(self, span: CallSpan) -> None:
        """The worker tells when the model was called for it, since its client asks for timings."""

    def answer(self, outcome: Outcome) -> None:
        """The answer, or the last part of it."""


Answered = Sequence[InferenceResponse | ErrorRecord]


class PoolOwner(Protocol):
    """The scheduler of a pool: it has the requests, and is told what became of workers and answers."""

    def on_worker_free(self) -> None:
        """A worker is idle: send it what waits."""

    def on_worker_died(
        self, running: Sequence[Work], unstarted: Sequence[Work], error: WorkerDied, retry: bool
    ) -> None:
        """A worker is gone and did not answer these. ``retry`` is False when it was too slow rather than dead."""

    def may_dismiss(self, worker: "WorkerHandle") -> bool:
        """Whether an idle worker that is too many may end now; else ``dismiss_surplus`` is called when it may."""

    def requeue(self, works: Sequence[Work]) -> None:
        """These were not started and wait again."""

    def large_answer(self, size: int) -> None:
        """An answer had a payload of this many bytes, too large to copy gladly."""

    def batches_done(self, batches: Sequence[tuple[int, float, int]]) -> None:
        """The model was called, each time for so many rows, seconds and requests."""

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

    def on_worker_restarted(self, reason: RestartReason) -> None:
        """Another worker takes the place of one, for this reason."""


class WorkerProcess(Protocol):
    """The process of a worker, as its channel needs it. ``channel`` is the number of this end among ``progress``."""

    sock: socket.socket
    progress: Progress
    channel: int
    shared: bool

    def kill(self) -> None:
        """End it now."""


W = TypeVar("W")


class Pool(Protocol[W]):
    """The pool of a worker, which hears from the worker's handle."""

    spec: ModelSpec
    owner: PoolOwner
    idle: list[W]

    def on_idle(self, worker: W) -> None:
        """The worker has answered its message."""

    def on_loaded(self, worker: W, metadata: ModelMetadata, joining: Joining | None) -> None:
        """The worker has loaded the model."""

    def on_joining_missed(self) -> None:
        """Requests came that might have shared a call, had a trial shown that they may."""

    def on_load_failed(self, worker: W, failure: LoadFailed) -> None:
        """The worker could not load the model, and ends by itself."""

    def on_closed(self, worker: W) -> None:
        """The worker has closed its end of the channel."""

    def on_records(self, records: Sequence[Record]) -> None:
        """The model's own code recorded metrics."""

    def on_room(self, worker: W) -> None:
        """A worker with a capacity has answered a request."""


class Workers(Protocol):
    """The workers of one version, as its scheduler uses them."""

    overlapping: bool

    @property
    def idle(self) -> Sequence["WorkerHandle"]:
        """The workers that may be sent a request now. Each leaves them when it is sent one."""

    @property
    def ready(self) -> int:
        """How many have the model loaded."""

    def next(self) -> "WorkerHandle":
        """The idle worker to send to."""

    def put_least_busy_last(self) -> None:
        """Sort the idle ones so that the one with the most room is the next."""

    def check(self, now: float) -> None:
        """End workers past their time-outs. Called a few times a second."""


class WorkerState(enum.Enum):
    """The states of a worker. ENDED is final."""

    STARTING = "STARTING"
    READY = "READY"
    BUSY = "BUSY"
    ENDED = "ENDED"


# Looked up for every message (core/requests.py says what a look into the class costs).
STARTING, READY, BUSY, ENDED = WorkerState


class WorkerHandle:
    """The server's side of one worker and its channel.

    How this works: ``send`` gives the worker a message of requests, and ``_receive_messages`` hears its answers. At
    most one message is outstanding, unless the worker has a ``capacity``: such a worker stays among the idle ones for
    as long as it has room for another request, and answers in any order. When a message is answered, the pool hears
    so before the answers are handed out: the worker infers again while they are written. A worker that dies leaves
    its unanswered requests, which ``report_death`` hands back by how far they had come (``Progress``).
    """

    def __init__(self, pool: Pool[Self], process: WorkerProcess, name: str) -> None:
        self.id = name
        self.process = process
        self.state = STARTING
        self.born = time.monotonic()
        self.load_seconds: float | None = None
        self.timed_out = False
        self.served = 0  # requests that it was sent
        self.memory = 0  # bytes, where a limit is watched
        self.ranks: Sequence[int] = ()  # pids of the processes of its parallel group
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
        self._loop.add_reader(self._sock, self._receive_messages)

    @property
    def loaded(self) -> bool:
        """Whether it has the model, and has not ended."""
        return self.state is READY or self.state is BUSY

    @property
    def busy(self) -> float:
        """The share of it that has work now, from any process: 1 or 0, and for one with a capacity what is taken of that."""
        if self.capacity:
            return len(self._outstanding) / self.capacity
        progress, channel = self.process.progress, self.process.channel
        return float(self.state is BUSY or (self.state is READY and progress.wanted_by_others(channel)))

    @property
    def room(self) -> int:
        """The number of requests that it takes now."""
        return self.capacity - len(self._outstanding) if self.capacity else _UNBOUNDED_ROOM

    def send(self: Self, works: Sequence[Work]) -> None:
        """Send requests to the worker, which is one of its pool's idle ones until then."""
        self._pool.idle.remove(self)
        if self.capacity:
            self._send_more(works)
            return
        self.state = BUSY
        self.sent_at = time.monotonic()
        self.served += len(works)
        self._message = works
        outstanding: dict[int, Work] = {}
        requests: list[InferenceRequest] = []
        lends = False
        for work in works:
            outstanding[work.key] = work
            requests.append(work.request)
            if work.answer_slot is not None:
                lends = True
        self._outstanding = outstanding
        process = self.process
        process.progress.send(process.channel, len(works))
        slots = (
            [None if each.answer_slot is None else each.answer_slot.slot for each in works] if lends else None
        )
        try:
            self._writer.send(Batch(list(outstanding), requests, slots))
        except (MemoryError, OverflowError):
            self._refuse_unsent(works)
        self._borrowed = _codec.lent or slots is not None

    def _send_more(self, works: Sequence[Work]) -> None:
        if not self._outstanding:
            self.state = BUSY
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
            self._refuse_unsent(works)

    def _refuse_unsent(self, works: Sequence[Work]) -> None:
        """Answer requests that there is no memory to send; nothing of them was."""
        keys = [work.key for work in works]
        results = Results(keys, [NO_MEMORY] * len(keys), [])
        self._loop.call_soon(self._answer_refused, results)

    def _answer_refused(self, results: Results) -> None:
        if self._outstanding.keys() >= set(results.keys):  # the worker may be gone, and they with it
            self._handle_message(results, large=False)

    def offer(self: Self) -> None:
        """Join the idle workers of the pool if there is room for another request."""
        if self.room > 0 and not self.retiring and self not in self._pool.idle:
            self._pool.idle.append(self)

    def cancel(self, work: Work) -> None:
        """Tell the worker that nobody waits for this request any more."""
        self.send_message(Cancel([work.key]))

    def send_message(self, message: ToWorker) -> None:
        """Send a message; what the socket does not take is sent as soon as it does."""
        self._writer.send(message)

    def _receive_messages(self: Self) -> bool:
        """Handle the messages that have come; False when none has."""
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
            self._pool.on_closed(self)
            return False
        try:
            frames = self._frames
            for message, large in [
                _decode_attached(frame, frames.attached)
                if frames.attached
                else (_codec.to_server(frame), len(frame) > LARGE)
                for frame in frames
            ]:
                self._handle_message(message, large=large)
        except Exception:  # the supervisor: whatever it meant, whoever waits for it must not wait for ever
            log.exception("worker not understood, ending it", model=self._pool.spec.name, worker=self.id)
            self.process.kill()
            self._pool.on_closed(self)
            return False
        return True

    def _handle_message(self: Self, message: ToServer, *, large: bool) -> None:
        """Handle one message. One that is not ``large`` has no large payload, unless an answer slot was lent for it."""
        if isinstance(message, Results):
            self._handle_results(message, large=large)
        elif isinstance(message, Piece):
            self.sent_at = time.monotonic()
            work = self._outstanding.get(message.key)
            if work is not None:
                if message.span is not None:
                    work.note_call(message.span)
                work.piece(message.response)
        elif isinstance(message, Unstarted):
            self._pool.owner.requeue([self._outstanding.pop(key) for key in message.keys])
            self._free_if_done()
        elif isinstance(message, Loaded):
            self.state = READY
            self.capacity = message.capacity
            self.load_seconds = time.monotonic() - self.sent_at
            self._pool.on_loaded(self, message.metadata, message.joining)
        elif isinstance(message, JoiningMissed):
            self._pool.on_joining_missed()
        elif isinstance(message, LoadFailed):
            self._pool.on_load_failed(self, message)
        elif isinstance(message, MetricRecords):
            self._pool.on_records(message.records)
        elif isinstance(message, GroupStarted):
            self.ranks = message.pids

    def _handle_results(self, results: Results, *, large: bool) -> None:
        if self.capacity:
            self._handle_concurrent_results(results)
            return
        works = list(map(self._outstanding.pop, results.keys))
        now = time.monotonic()
        way, self.sent_at = now - self.sent_at, now
        owner = self._pool.owner
        owner.batches_done(results.batches)
        owner.answers_came(way - sum([seconds for _, seconds, _ in results.batches]))
        if results.spans is not None:
            for work in works:
                if (span := results.spans.get(work.key)) is not None:
                    work.note_call(span)
        if results.records:
            self._pool.on_records(results.records)
        borrowed = self._borrowed  # of this message: the next one says so of its own
        # The worker gets its next message first: it infers while the answers to this one are written.
        self._free_if_done()
        if large or borrowed:
            for work, outcome in zip(works, results.outcomes, strict=True):
                if type(outcome) is InferenceResponse and (size := _large_payload(work, outcome)):
                    owner.large_answer(size)
        owner.finish_many(works, results.outcomes, borrowed=borrowed)

    def _handle_concurrent_results(self: Self, results: Results) -> None:
        """Answers and pieces, of whichever of the outstanding requests."""
        self.sent_at = time.monotonic()
        owner, spec = self._pool.owner, self._pool.spec
        owner.batches_done(results.batches)
        for key, span in (results.spans or {}).items():
            if key in self._outstanding:
                self._outstanding[key].note_call(span)
        if results.records:
            self._pool.on_records(results.records)
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
                self.state = READY
            self._pool.on_room(self)
        for work, answer in told:
            work.answer(answer)

    def _free_if_done(self: Self) -> None:
        if not self._outstanding and self.state is BUSY:
            self._message = ()
            self.state = READY
            if self.process.shared:
                self.process.progress.send(self.process.channel, 0)
            self._pool.on_idle(self)

    def report_death(self, error: WorkerDied, *, retry: bool) -> None:
        """Hand the unanswered requests of a dead worker to the owner. ``retry`` is False when it was too slow."""
        done, running, unstarted = self._split_unanswered()
        self._pool.owner.on_worker_died(running, unstarted, error, retry)
        if done:  # those were not the slow ones: their answers waited in the worker for one that was
            self._pool.owner.on_worker_died(done, [], error, retry=True)

    def _split_unanswered(self) -> tuple[list[Work], list[Work], list[Work]]:
        """The unanswered requests: those it had done, those it was running, and those not started.

        A worker with a capacity may have started any of its requests.
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
        """Close the channel; an idle worker then ends by itself."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._writer.close()
            self._sock.close()


class OwnedWorker(WorkerHandle):
    """A worker whose process is a child of this one, or of one of its templates."""

    process: LocalProcess

    def __init__(
        self,
        pool: Pool[Self],
        process: LocalProcess,
        name: str,
        *,
        start_permit: StartPermit,
        stop_watch: StopWatch,
    ) -> None:
        super().__init__(pool, process, name)
        self.start_permit = start_permit
        self.stop_watch = stop_watch
        self.frozen = False  # and ended for it
        self.place = 0  # among the workers of its pool
        process.on_end = self._on_process_end
        self.started = time.time()
        self.begun = time.monotonic()  # with the process that it is forked from

    @property
    def pids(self) -> Sequence[int]:
        """The pid of its process, and those of its parallel group; empty while it is still to be forked."""
        return (self.process.pid, *self.ranks) if self.process.pid else ()

    def _on_process_end(self: Self) -> None:
        """The process has ended. What its model's code forked may hold its end of the channel open for ever."""
        while self.state is not ENDED and self._receive_messages():
            pass
        if self.state is not ENDED:
            self._pool.on_closed(self)


def _decode_attached(frame: memoryview, attached: Sequence[Buffer | None]) -> tuple[ToServer, bool]:
    """A message with payloads beside it, which are large; answers that there is no memory for are replaced."""
    message: ToServer = _codec.to_server(frame, attached)
    if None in attached and isinstance(message, Results):
        message.outcomes = [
            NO_MEMORY if isinstance(outcome, InferenceResponse) and has_lost_payload(outcome) else outcome
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
            if isinstance(payload, InAnswerSlot):
                slot, work.answer_slot = work.answer_slot, None
                assert slot is not None
                large = max(large, payload.size)
                payloads[index] = slot.shortened(payload.size)
                if data is not payloads:
                    tensor.data = payloads[0]
            elif len(payload) > LARGE:
                large = max(large, len(payload))
    return large
