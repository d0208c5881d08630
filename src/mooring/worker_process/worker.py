"""What a child process does: load, then receive, infer, send, for as long as the server is there.

It serves its channels in turn, one message at a time. A message may hold more requests than the model takes at once;
the model is called in batches of at most its maximum, and what is ready travels back together. A model that takes
requests while others run is served by concurrent.py or stepwise.py once it is loaded.
"""

import select
import socket
import threading
import time
import traceback
from collections.abc import Sequence

from mooring.backends.backend import Backend, Concurrent, Stepwise, create
from mooring.core.errors import DeadlineExceeded, ErrorRecord, ModelFailed, MooringError
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import JoiningState, Outcome
from mooring.ipc.arena import MappedArena
from mooring.ipc.messages import (
    Batch,
    Cancel,
    Join,
    JoiningMissed,
    Load,
    Loaded,
    LoadFailed,
    Measured,
    Piece,
    Results,
    Returned,
    ToWorker,
)
from mooring.ipc.progress import Progress
from mooring.observability.records import Recorder
from mooring.repository.platforms import runs_user_code
from mooring.repository.spec import ModelSpec
from mooring.worker_process.channel import Channel, Outbox
from mooring.worker_process.outcomes import chunks, fails_again, failure_of, line_of, within
from mooring.worker_process.preloaded import Preloaded
from mooring.worker_process.stepwise import StepServing

# How long finished answers may wait for a slower one in the same message, in seconds.
_PATIENCE = 0.003
# How many looks in vain (of _PATIENCE each) before the courier sleeps until it is called.
_IDLE_LOOKS = 100


class Delivery:
    """One message being worked on: what was started, what is ready, what was handed back.

    The model's thread begins and adds; the courier sends what has waited too long. One lock keeps them apart.
    """

    def __init__(self, channel: Channel, batch: Batch, progress: Progress, recorder: Recorder) -> None:
        self.batch = batch
        self.cancelled: set[int] = set()
        self.began = 0.0
        self._channel = channel
        self._progress = progress
        self._recorder = recorder
        self._lock = threading.Lock()
        self._taken = 0
        self._sent = 0
        self._returned = False
        self._outcomes: list[InferenceResponse | ErrorRecord] = []
        self._batches: list[tuple[int, float]] = []

    def begin(self, end: int) -> bool:
        """Take the requests up to ``end``; False when they were handed back meanwhile."""
        with self._lock:
            if self._returned:
                return False
            self._progress.start(self._channel.number, self._taken, end)
            self._taken = end
            self.began = time.monotonic()
            return True

    def add(self, outcomes: Sequence[Outcome], rows: int) -> None:
        """Keep the answers to what ``begin`` took."""
        grants = self.batch.grants
        with self._lock:
            self._batches.append((rows, time.monotonic() - self.began))
            if grants is None:
                for (
                    outcome
                ) in outcomes:  # most often one, for which a comprehension costs more than all of this
                    self._outcomes.append(
                        outcome if type(outcome) is InferenceResponse else self._channel.place(outcome, None)
                    )
                return
            base = self._sent + len(self._outcomes)
            for offset, outcome in enumerate(outcomes):
                self._outcomes.append(self._channel.place(outcome, grants[base + offset]))

    def finish(self) -> None:
        """Send what is left."""
        with self._lock:
            self._send()

    def hurry(self, now: float) -> None:
        """Called by the courier: if the model is slow at the moment, let nobody else wait for it."""
        with self._lock:
            if now - self.began < _PATIENCE:
                return
            if self._outcomes:
                self._send()
            if self._taken < len(self.batch.keys) and not self._returned:
                self._returned = True
                self._channel.send(Returned(self.batch.keys[self._taken :]))

    def _send(self) -> None:
        if not self._outcomes and not self._batches:
            return
        end = self._sent + len(self._outcomes)
        records = self._recorder.take()
        self._channel.send(Results(self.batch.keys[self._sent : end], self._outcomes, self._batches, records))
        self._sent, self._outcomes, self._batches = end, [], []


class WorkerReply:
    """The ``Reply`` that the backend gets: rows of the running batch, by their keys."""

    def __init__(self, channel: Channel, worker: "Worker") -> None:
        self._channel = channel
        self._worker = worker
        self._recorder = worker.recorder
        self.keys: list[int] = []
        self.streamed: set[int] = set()

    def emit(self, row: int, piece: InferenceResponse) -> None:
        self.streamed.add(row)
        self._channel.send(Piece(self.keys[row], piece))

    def cancelled(self, row: int) -> bool:
        return self._worker.cancelled(self.keys[row])

    def metric(self, name: str, value: float, unit: str, kind: str, dimensions: dict[str, str]) -> None:
        if self._recorder.record(name, value, unit, kind, dimensions):
            records = self._recorder.take()
            if records:  # another thread may have taken them
                self._channel.send(Measured(records))


class Courier(threading.Thread):
    """Watches the delivery at hand while several batches of it are to run, so that a slow one delays nobody."""

    def __init__(self) -> None:
        super().__init__(name="courier", daemon=True)
        self._called = threading.Event()
        self._watched: Delivery | None = None
        self._parked = True

    def watch(self, delivery: Delivery | None) -> None:
        """Look after this delivery from now on; None when it is finished."""
        self._watched = delivery
        if delivery is not None and self._parked:
            self._called.set()

    def run(self) -> None:
        in_vain = 0
        while True:
            if in_vain > _IDLE_LOOKS:
                self._called.clear()
                self._parked = True
                if self._watched is None:
                    self._called.wait()
                in_vain = 0
            self._parked = False
            delivery = self._watched
            if delivery is None:
                in_vain += 1
            else:
                in_vain = 0
                delivery.hurry(time.monotonic())
            time.sleep(_PATIENCE)


class Worker:
    """One model in this process."""

    def __init__(self, channels: Sequence[Channel], progress: Progress, model: Preloaded | None) -> None:
        self.recorder = Recorder()
        self._model = model
        self._channels = {channel.sock.fileno(): channel for channel in channels}
        self._progress = progress
        self._backend: Backend | None = None
        self._spec: ModelSpec | None = None
        self._loaded: Loaded | None = None
        self._courier = Courier()
        self._delivery: Delivery | None = None
        self._delivering: Channel | None = None
        self._inbox: list[tuple[Channel, ToWorker]] = []
        # The first process's: it keeps the workers, and is told what concerns them all.
        self._keeper = channels[0]
        # How many rows a call of the model has at most, and whether nobody knows yet if it may be more than a request's.
        self._rows = 1
        self._untried = False
        self._collecting = threading.Lock()
        self._poll = select.poll()
        for fd in self._channels:
            self._poll.register(fd, select.POLLIN)

    def run(self) -> None:
        """Return when the last channel is closed or the model could not be loaded."""
        while self._channels or self._inbox:
            if not self._inbox:
                self._collect()
            pending, self._inbox = self._inbox, []
            for channel, message in pending:
                if channel.sock.fileno() not in self._channels:
                    continue  # who sent it is gone
                if isinstance(message, Batch):
                    self._serve(channel, message)
                elif isinstance(message, Join):
                    self._join_requests()
                elif isinstance(message, Load) and not self._load(channel, message):
                    return
            if self._backend is not None and self._backend.overlap is not None:
                self._serve_overlapping(self._backend, self._backend.overlap)
        if self._backend is not None:
            self._backend.close()

    def cancelled(self, key: int) -> bool:
        """Whether nobody waits for a running request any more; looks into the channels for news of it.

        Any thread of the model's may ask.
        """
        if self._collecting.acquire(blocking=False):  # else another thread looks just now
            try:
                self._look(0)
            finally:
                self._collecting.release()
        return self._delivery is not None and key in self._delivery.cancelled

    def _collect(self) -> None:
        with self._collecting:
            self._look(None)

    def _look(self, timeout: float | None) -> None:
        for fd, _ in self._poll.poll(timeout):
            channel = self._channels[fd]
            messages = channel.receive()
            if messages is None:
                self._poll.unregister(fd)
                del self._channels[fd]
                if self._delivering is channel and self._delivery is not None:
                    self._delivery.cancelled.update(self._delivery.batch.keys)
                continue
            for message in messages:
                if not isinstance(message, Cancel):
                    self._inbox.append((channel, message))
                elif self._delivery is not None and self._delivering is channel:
                    self._delivery.cancelled.update(message.keys)

    def _load(self, channel: Channel, message: Load) -> bool:
        if self._loaded is not None:  # another front asks for what is there already
            channel.send(self._loaded)
            return True
        try:
            if self._model is not None:
                backend, metadata = self._model.backend, self._model.metadata
                backend.adopt(message.context)
            else:
                backend = create(message.spec.backend)
                metadata = backend.load(message.spec, message.context)
            if message.spec.warmup:
                from mooring.worker_process.warmup import warm  # noqa: PLC0415 - most models have none

                warm(backend, message.spec, metadata)
        except Exception as error:  # user code may raise anything while it loads
            record = (
                ErrorRecord.of(error)
                if isinstance(error, MooringError)
                else ErrorRecord("ModelLoadFailed", line_of(error), traceback.format_exc())
            )
            spec = message.spec
            code = runs_user_code(spec.backend, module=bool(spec.parameters.get("module")))
            lasting = fails_again(error, code=code)
        else:
            self._backend, self._spec = backend, message.spec
            joining = backend.joining
            self._untried = joining is not None and joining.state is JoiningState.UNTRIED
            self._rows = 1 if self._untried else message.spec.batching.max_batch_size
            self._loaded = Loaded(metadata, capacity_of(backend, message.spec), joining)
            if not self._loaded.capacity:
                self._courier.start()
            channel.send(self._loaded)
            return True
        channel.send(LoadFailed(record, lasting))
        return False

    def _join_requests(self) -> None:
        assert self._backend is not None
        assert self._spec is not None
        self._untried, self._rows = False, self._spec.batching.max_batch_size
        self._backend.join_requests()

    def _serve_overlapping(self, backend: Backend, model: Concurrent | Stepwise) -> None:
        """Return when the last channel is closed."""
        assert self._spec is not None
        assert self._loaded is not None
        outboxes = [Outbox(channel, self.recorder) for channel in self._channels.values()]
        self._channels.clear()
        if isinstance(model, Stepwise):
            StepServing(outboxes, backend, model, self._spec, self._loaded).run()
        else:
            from mooring.worker_process.concurrent import ConcurrentServing  # noqa: PLC0415 - asyncio, for the few that use it

            ConcurrentServing(outboxes, model, self._spec, self._loaded).run()

    def _serve(self, channel: Channel, batch: Batch) -> None:
        channel.attach(batch.requests)
        delivery = Delivery(channel, batch, self._progress, self.recorder)
        self._delivery, self._delivering = delivery, channel
        runs = list(chunks(batch.requests, self._rows))
        if self._untried and len(runs) > 1:
            self._say_joining_missed()
        if len(runs) > 1:
            self._courier.watch(delivery)
        reply = WorkerReply(channel, self)
        requests = batch.requests
        timed = any(request.deadline is not None for request in requests)
        for begin, end, rows in runs:
            if not delivery.begin(end):
                break
            reply.keys = batch.keys[begin:end]
            if reply.streamed:
                reply.streamed = set()
            infer = self._infer_in_time if timed and begin else self._infer
            delivery.add(infer(requests[begin:end], reply), rows)
        if len(runs) > 1:
            self._courier.watch(None)
        delivery.finish()
        self._delivery = self._delivering = None
        if self._untried and self._backend is not None and self._backend.missed_joining:
            self._say_joining_missed()

    def _say_joining_missed(self) -> None:
        """Once: whatever comes of it, the server says so where requests may be joined."""
        self._untried = False
        self._keeper.send(JoiningMissed())

    def _infer_in_time(self, requests: Sequence[InferenceRequest], reply: WorkerReply) -> Sequence[Outcome]:
        """As ``_infer``, but for those whose time ran out while the calls before this one were made."""
        now = time.monotonic()
        if not any(request.expired(now) for request in requests):
            return self._infer(requests, reply)
        late = DeadlineExceeded("the time ran out while others were answered")
        keys, kept = reply.keys, [row for row, request in enumerate(requests) if not request.expired(now)]
        outcomes: list[Outcome] = [late] * len(requests)
        if kept:
            reply.keys = [keys[row] for row in kept]
            for row, outcome in zip(kept, self._infer([requests[row] for row in kept], reply), strict=True):
                outcomes[row] = outcome
        return outcomes

    def _infer(self, requests: Sequence[InferenceRequest], reply: WorkerReply) -> Sequence[Outcome]:
        assert self._backend is not None
        assert self._spec is not None
        try:
            outcomes = self._backend.infer(requests, reply)
        except Exception as error:  # user code may raise anything while it infers
            if len(requests) == 1 or not self._spec.limits.retry:
                return [failure_of(error)] * len(requests)
        else:
            if len(outcomes) == len(requests):
                return within(self._spec.options.limits.max_response_bytes, requests, outcomes)
            wrong = ModelFailed(f"the backend gave {len(outcomes)} outcomes for {len(requests)} requests")
            return [wrong] * len(requests)
        return self._one_by_one(requests, reply)

    def _one_by_one(self, requests: Sequence[InferenceRequest], reply: WorkerReply) -> Sequence[Outcome]:
        keys, streamed = reply.keys, reply.streamed
        outcomes: list[Outcome] = []
        for row, request in enumerate(requests):
            if row in streamed:  # its caller has seen a part already, which cannot be taken back
                outcomes.append(ModelFailed("the batch failed after a part of the answer was sent"))
                continue
            reply.keys, reply.streamed = [keys[row]], set()
            outcomes.extend(self._infer([request], reply))
        reply.keys, reply.streamed = keys, set()
        return outcomes


def capacity_of(backend: Backend, spec: ModelSpec) -> int:
    """How many requests the loaded model takes while others run; 0 for one message at a time."""
    if backend.overlap is None:
        return 0
    return (
        spec.batching.max_batch_size if isinstance(backend.overlap, Stepwise) else spec.batching.concurrency
    )


def main(
    channel_fds: Sequence[int], arena_fds: Sequence[int], progress_fd: int, model: Preloaded | None = None
) -> None:
    """Be a worker over these descriptors until the server is gone, of a model that may be loaded already."""
    channels = [
        Channel(socket.socket(fileno=fd), MappedArena(arena), number)
        for number, (fd, arena) in enumerate(zip(channel_fds, arena_fds, strict=True))
    ]
    Worker(channels, Progress(progress_fd, len(channels)), model).run()
