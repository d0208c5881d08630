"""A worker process: it loads one model, then receives requests, infers and sends answers until the server is gone.

The worker serves its channels in turn, one message at a time. A message may hold more requests than the model takes
at once: the model is called in batches of at most its maximum, and the answers that are ready travel back together.
A model that takes requests while others run is served by concurrent.py or stepwise.py once it is loaded.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from mooring.backends import call_times
from mooring.backends.backend import Backend, Concurrent, Stepwise, create_backend
from mooring.backends.call_times import CallTimes
from mooring.backends.library_threads import limit_library_threads
from mooring.core.errors import DeadlineExceeded, ErrorRecord, ModelFailed, ModelLoadFailed
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import JoiningState, MetricValue, Outcome
from mooring.core.timing import CallSpan
from mooring.hardware import explain_process_limit
from mooring.ipc.arena import MappedArena
from mooring.ipc.messages import (
    Batch,
    Cancel,
    EnableJoining,
    GroupStarted,
    JoiningMissed,
    Load,
    Loaded,
    LoadFailed,
    MetricRecords,
    Piece,
    Results,
    ToWorker,
    Unstarted,
)
from mooring.ipc.progress import Progress
from mooring.observability.records import Recorder
from mooring.process_titles import set_process_title
from mooring.repository.platforms import runs_user_code
from mooring.repository.spec import ModelSpec
from mooring.worker_process.channel import Channel, ResponseBuffer
from mooring.worker_process.model_logging import running, show_debug
from mooring.worker_process.outcomes import (
    blame_clients,
    enforce_answer_limit,
    fails_again,
    failure_of,
    load_failure_of,
    split_into_calls,
)
from mooring.worker_process.preloaded import Preloaded
from mooring.worker_process.stepwise import StepServing

# Seconds that finished answers may wait for a slower call of the same message.
_FLUSH_DELAY = 0.003
# Rounds (of _FLUSH_DELAY each) without a batch before the flush thread sleeps until it is woken.
_MAX_IDLE_ROUNDS = 100
_GPUS = "CUDA_VISIBLE_DEVICES"


class BatchInProgress:
    """One message of requests while the model works on it.

    How this works: the model's thread takes the requests of the next call (``take_requests``), calls the model, and
    adds its answers (``add_outcomes``). With the last call it sends what is left (``send_rest``). Meanwhile the flush
    thread calls ``flush_if_late``. Where the call at hand has taken longer than ``_FLUSH_DELAY``, it sends the answers
    that are ready, and gives the requests that were not started back to the server, which has other workers. The
    requests of a message are therefore in three runs, in this order: answered and sent, taken, not started. A lock
    guards the borders between them. After requests were given back, ``take_requests`` refuses to take any. ``call_times`` are there
    where a request of the message asks for timings.
    """

    def __init__(self, channel: Channel, batch: Batch, progress: Progress, recorder: Recorder) -> None:
        self.batch = batch
        self.cancelled: set[int] = set()
        self.started_at = 0.0
        self.call_times: CallTimes | None = None
        self._channel = channel
        self._progress = progress
        self._recorder = recorder
        self._lock = threading.Lock()
        self._taken = 0
        self._sent = 0
        self._gave_back = False
        self._outcomes: list[InferenceResponse | ErrorRecord] = []
        self._batches: list[tuple[int, float, int]] = []
        self._spans: dict[int, CallSpan] | None = None

    def take_requests(self, end: int) -> bool:
        """Take the requests up to ``end`` for a call; False where they were given back to the server meanwhile."""
        with self._lock:
            if self._gave_back:
                return False
            self._progress.start(self._channel.number, self._taken, end)
            self._taken = end
            self.started_at = time.monotonic()
            return True

    def add_outcomes(self, outcomes: Sequence[Outcome], rows: int) -> None:
        """Keep the outcomes of the requests taken last, in order; their call had ``rows`` rows."""
        answer_slots = self.batch.answer_slots
        with self._lock:
            self._batches.append((rows, time.monotonic() - self.started_at, len(outcomes)))
            if self.call_times is not None:
                self._add_spans(self.call_times, len(outcomes), rows)
            if answer_slots is None:
                for (
                    outcome
                ) in outcomes:  # most often one, for which a comprehension costs more than all of this
                    self._outcomes.append(
                        outcome
                        if type(outcome) is InferenceResponse
                        else self._channel.prepare_outcome(outcome, None)
                    )
                return
            base = self._sent + len(self._outcomes)
            for offset, outcome in enumerate(outcomes):
                self._outcomes.append(self._channel.prepare_outcome(outcome, answer_slots[base + offset]))

    def _add_spans(self, times: CallTimes, count: int, rows: int) -> None:
        """Keep when the model was called for those of the next ``count`` requests that ask for it."""
        begin = self._sent + len(self._outcomes)
        for key, request in zip(
            self.batch.keys[begin : begin + count], self.batch.requests[begin : begin + count], strict=True
        ):
            if request.timing is not None and (span := times.span_of(request, rows)) is not None:
                self._spans = self._spans or {}
                self._spans[key] = span

    def send_rest(self) -> None:
        """Send the outcomes that were not sent yet."""
        with self._lock:
            self._send()

    def flush_if_late(self, now: float) -> None:
        """Send what is ready and give back what was not started, where the call at hand takes long.

        ``now`` is on the monotonic clock. Called from the flush thread.
        """
        with self._lock:
            if now - self.started_at < _FLUSH_DELAY:
                return
            if self._outcomes:
                self._send()
            if self._taken < len(self.batch.keys) and not self._gave_back:
                self._gave_back = True
                self._channel.send(Unstarted(self.batch.keys[self._taken :]))

    def _send(self) -> None:
        if not self._outcomes and not self._batches:
            return
        end = self._sent + len(self._outcomes)
        records = self._recorder.take_records()
        self._channel.send(
            Results(self.batch.keys[self._sent : end], self._outcomes, self._batches, records, self._spans)
        )
        self._sent, self._outcomes, self._batches, self._spans = end, [], [], None


class WorkerReply:
    """The ``Reply`` of one call; row i of the call is the request ``keys[i]``.

    ``streamed`` are rows with pieces sent.
    """

    def __init__(self, channel: Channel, worker: "Worker") -> None:
        self._channel = channel
        self._worker = worker
        self._recorder = worker.recorder
        self.keys: list[int] = []
        self.streamed: set[int] = set()

    def emit(self, row: int, piece: InferenceResponse) -> None:
        self.streamed.add(row)
        key = self.keys[row]
        self._channel.send(Piece(key, piece, self._worker.span_of_piece(key)))

    def cancelled(self, row: int) -> bool:
        return self._worker.is_cancelled(self.keys[row])

    def record_metric(self, metric: MetricValue) -> None:
        if self._recorder.record_value(metric):
            records = self._recorder.take_records()
            if records:  # another thread may have taken them
                self._channel.send(MetricRecords(records))


class FlushThread(threading.Thread):
    """Flushes the batch in progress while it has several calls, so that a slow call does not delay finished answers."""

    def __init__(self) -> None:
        super().__init__(name="flush", daemon=True)
        self._wake = threading.Event()
        self._watched_batch: BatchInProgress | None = None
        self._asleep = True

    def watch_batch(self, batch_in_progress: BatchInProgress | None) -> None:
        """Flush this batch from now on; None for no batch."""
        self._watched_batch = batch_in_progress
        if batch_in_progress is not None and self._asleep:
            self._wake.set()

    def run(self) -> None:
        idle_rounds = 0
        while True:
            if idle_rounds > _MAX_IDLE_ROUNDS:
                self._wake.clear()
                self._asleep = True
                if self._watched_batch is None:
                    self._wake.wait()
                idle_rounds = 0
            self._asleep = False
            batch_in_progress = self._watched_batch
            if batch_in_progress is None:
                idle_rounds += 1
            else:
                idle_rounds = 0
                batch_in_progress.flush_if_late(time.monotonic())
            time.sleep(_FLUSH_DELAY)


class Worker:
    """Serves one model in this process.

    How this works: ``serve_forever`` reads messages from all channels into an inbox and handles one at a time, on the
    main thread, which is the only one that calls the model. ``Load`` loads it. ``Batch`` is cut into calls of at most
    ``max_batch_size`` rows (``outcomes.split_into_calls``), and their answers collect in a ``BatchInProgress``. While a
    call runs, the model may ask whether its client has gone: ``is_cancelled`` then reads the channels for ``Cancel``
    messages, and keeps all others in the inbox. A call that raises is repeated request by request, so that only the bad
    one fails.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        progress: Progress,
        model: Preloaded | None,
        *,
        role: Sequence[str] = ("worker",),
    ) -> None:
        self._role = role
        self.recorder = Recorder()
        self._model = model
        self._channels = {channel.sock.fileno(): channel for channel in channels}
        self._progress = progress
        self._backend: Backend | None = None
        self._spec: ModelSpec | None = None
        self._loaded: Loaded | None = None
        self._flush_thread = FlushThread()
        self._batch: BatchInProgress | None = None
        self._batch_channel: Channel | None = None
        self._inbox: list[tuple[Channel, ToWorker]] = []
        # The channel of the first process: it owns the workers, and gets the messages that concern all of them.
        self._first_channel = channels[0]
        # The most rows of a call, and whether it is unknown yet if requests may share one (decision 34).
        self._rows = 1
        self._joining_untried = False
        self._receiving = threading.Lock()
        self._poll = select.poll()
        for fd in self._channels:
            self._poll.register(fd, select.POLLIN)

    def serve_forever(self) -> None:
        """Serve until the last channel is closed, or the model could not be loaded."""
        while self._channels or self._inbox:
            if not self._inbox:
                self._wait_for_messages()
            pending, self._inbox = self._inbox, []
            for channel, message in pending:
                if channel.sock.fileno() not in self._channels:
                    continue  # who sent it is gone
                if isinstance(message, Batch):
                    self._serve_batch(channel, message)
                elif isinstance(message, EnableJoining):
                    self._join_requests()
                elif isinstance(message, Load) and not self._load_model(channel, message):
                    return
            if self._backend is not None and self._backend.overlap is not None:
                self._serve_overlapping(self._backend, self._backend.overlap)
        if self._backend is not None:
            self._backend.close()

    def is_cancelled(self, key: int) -> bool:
        """Whether a running request was cancelled. Reads the channels first; may be called from any thread."""
        if self._receiving.acquire(blocking=False):  # else another thread looks just now
            try:
                self._receive_messages(0)
            finally:
                self._receiving.release()
        return self._batch is not None and key in self._batch.cancelled

    def span_of_piece(self, key: int) -> CallSpan | None:
        """How far the call for a running request has come, where it asks for timings; may be called from any thread."""
        batch = self._batch
        if batch is None or batch.call_times is None:
            return None
        request = batch.batch.requests[batch.batch.keys.index(key)]
        return None if request.timing is None else batch.call_times.note_piece(request)

    def _wait_for_messages(self) -> None:
        with self._receiving:
            self._receive_messages(None)

    def _receive_messages(self, timeout: float | None) -> None:
        for fd, _ in self._poll.poll(timeout):
            channel = self._channels[fd]
            messages = channel.receive()
            if messages is None:
                self._poll.unregister(fd)
                del self._channels[fd]
                if self._batch_channel is channel and self._batch is not None:
                    self._batch.cancelled.update(self._batch.batch.keys)
                continue
            for message in messages:
                if not isinstance(message, Cancel):
                    self._inbox.append((channel, message))
                elif self._batch is not None and self._batch_channel is channel:
                    self._batch.cancelled.update(message.keys)

    def _load_model(self, channel: Channel, message: Load) -> bool:
        if self._loaded is not None:  # another frontend asks for a model that is loaded already
            channel.send(self._loaded)
            return True
        set_process_title(*_title_of(message.spec, self._role))
        if message.spec.gpus:  # before anything asks which there are
            os.environ[_GPUS] = visible_gpus(message.spec.gpus, os.environ.get(_GPUS))
        try:
            if self._model is not None:
                backend = self._model.backend
            else:
                if message.context.debug:
                    show_debug()
                backend = self._create_backend(message.spec)
            if message.context.call_socket:
                from mooring.worker_process.model_client import ModelCalls  # noqa: PLC0415 - most call no models

                backend.models = ModelCalls(message.context.call_socket, message.spec.name)
            if self._model is not None:
                metadata = self._model.metadata
                backend.after_fork(message.context)
            else:
                limit_library_threads(message.context.threads)
                metadata = backend.load(message.spec, message.context)
                limit_library_threads(message.context.threads)
            if message.spec.warmup:
                from mooring.worker_process.warmup import run_warmup  # noqa: PLC0415 - most models have none

                run_warmup(backend, message.spec, metadata)
        except Exception as error:  # user code may raise anything while it loads
            spec = message.spec
            record = ErrorRecord.of(load_failure_of(error, Path(spec.location)))
            code = runs_user_code(spec.backend, module=bool(spec.parameters.get("module")))
            lasting = fails_again(error, code=code)
        else:
            spec = message.spec.with_code(metadata.code)
            self._backend, self._spec = backend, spec
            backend.client_errors |= set(spec.handler.client_errors)
            joining = backend.joining
            self._joining_untried = joining is not None and joining.state is JoiningState.UNTRIED
            self._rows = 1 if self._joining_untried else spec.batching.max_batch_size
            self._loaded = Loaded(metadata, capacity_of(backend, spec), joining)
            if self._loaded.capacity or (failure := self._start_flush_thread(spec)) is None:
                channel.send(self._loaded)
                return True
            record, lasting = ErrorRecord.of(failure), False
        channel.send(LoadFailed(record, lasting))
        return False

    def _start_flush_thread(self, spec: ModelSpec) -> ModelLoadFailed | None:
        """Start the thread; return why it cannot be, as where a container may have no more of them."""
        try:
            self._flush_thread.start()
        except RuntimeError as error:
            text = f"the worker {error}{explain_process_limit()}"
            return ModelLoadFailed(text, model=spec.name, version=spec.version)
        return None

    def _create_backend(self, spec: ModelSpec) -> Backend:
        if not spec.ranks:
            return create_backend(spec.backend)
        # Imported here: for the few that have several processes.
        from mooring.worker_process.group import GroupBackend, lead_session  # noqa: PLC0415

        lead_session()
        return GroupBackend(lambda pids: self._first_channel.send(GroupStarted(pids)))

    def _join_requests(self) -> None:
        assert self._backend is not None
        assert self._spec is not None
        self._joining_untried, self._rows = False, self._spec.batching.max_batch_size
        self._backend.join_requests()

    def _serve_overlapping(self, backend: Backend, model: Concurrent | Stepwise) -> None:
        """Serve a model that takes requests while others run, until the last channel is closed."""
        assert self._spec is not None
        assert self._loaded is not None
        buffers = [ResponseBuffer(channel, self.recorder) for channel in self._channels.values()]
        self._channels.clear()
        if isinstance(model, Stepwise):
            StepServing(buffers, backend, model, self._spec, self._loaded).serve_forever()
        else:
            from mooring.worker_process.concurrent import ConcurrentServing  # noqa: PLC0415 - asyncio, for the few that use it

            model.serve(ConcurrentServing(buffers, backend, model, self._spec, self._loaded).serve_forever)

    def _serve_batch(self, channel: Channel, batch: Batch) -> None:
        channel.map_slots(batch.requests)
        batch_in_progress = BatchInProgress(channel, batch, self._progress, self.recorder)
        self._batch, self._batch_channel = batch_in_progress, channel
        runs = list(split_into_calls(batch.requests, self._rows))
        if self._joining_untried and len(runs) > 1:
            self._report_missed_joining()
        if len(runs) > 1:
            self._flush_thread.watch_batch(batch_in_progress)
        reply = WorkerReply(channel, self)
        requests = batch.requests
        backend = self._backend
        assert backend is not None
        timed = asks_times = False
        for request in requests:
            if request.deadline is not None:
                timed = True
            if request.timing is not None:
                asks_times = True
        for begin, end, rows in runs:
            if not batch_in_progress.take_requests(end):
                break
            reply.keys = batch.keys[begin:end]
            if reply.streamed:
                reply.streamed = set()
            if asks_times:
                batch_in_progress.call_times = CallTimes(whole=not backend.notes_calls)
                call_times.CURRENT.set(batch_in_progress.call_times)
            infer = self._infer_in_time if timed and begin else self._infer_requests
            batch_in_progress.add_outcomes(infer(requests[begin:end], reply), rows)
        if len(runs) > 1:
            self._flush_thread.watch_batch(None)
        if asks_times:
            call_times.CURRENT.set(None)
        running.requests = ()
        batch_in_progress.send_rest()
        self._batch = self._batch_channel = None
        if self._joining_untried and self._backend is not None and self._backend.missed_joining:
            self._report_missed_joining()

    def _report_missed_joining(self) -> None:
        """Tell the server, once, that joining requests would have helped: it may try whether they can be joined."""
        self._joining_untried = False
        self._first_channel.send(JoiningMissed())

    def _infer_in_time(self, requests: Sequence[InferenceRequest], reply: WorkerReply) -> Sequence[Outcome]:
        """Call ``_infer_requests`` for the requests whose deadline has not passed during the calls before this one."""
        now = time.monotonic()
        if not any(request.expired(now) for request in requests):
            return self._infer_requests(requests, reply)
        late = DeadlineExceeded("the time ran out while others were answered")
        keys, live = reply.keys, [row for row, request in enumerate(requests) if not request.expired(now)]
        outcomes: list[Outcome] = [late] * len(requests)
        if live:
            reply.keys = [keys[row] for row in live]
            for row, outcome in zip(
                live, self._infer_requests([requests[row] for row in live], reply), strict=True
            ):
                outcomes[row] = outcome
        return outcomes

    def _infer_requests(self, requests: Sequence[InferenceRequest], reply: WorkerReply) -> Sequence[Outcome]:
        assert self._backend is not None
        assert self._spec is not None
        running.requests = requests
        try:
            outcomes = self._backend.infer(requests, reply)
        except Exception as error:  # user code may raise anything while it infers
            if len(requests) == 1 or not self._spec.limits.retry:
                return [failure_of(error, self._backend.client_errors)] * len(requests)
        else:
            if len(outcomes) == len(requests):
                outcomes = blame_clients(outcomes, self._backend.client_errors)
                return enforce_answer_limit(self._spec.options.limits.max_response_bytes, requests, outcomes)
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
            outcomes.extend(self._infer_requests([request], reply))
        reply.keys, reply.streamed = keys, set()
        return outcomes


def _title_of(spec: ModelSpec, role: Sequence[str]) -> Sequence[str]:
    """Return the words of the title of a process that runs this model in this role."""
    return ("codec",) if spec.backend == "codec" else (*role, spec.name, spec.version)


def visible_gpus(reserved: Sequence[int], there: str | None) -> str:
    """The GPUs that a model sees of those that the server may use: by their own names, else by their place among these.

    >>> visible_gpus([1, 2], None), visible_gpus([5], "4,5"), visible_gpus([1], "GPU-a,GPU-b")
    ('1,2', '5', 'GPU-b')
    """
    names = there.split(",") if there else []
    return ",".join(
        names[number] if str(number) not in names and number < len(names) else str(number)
        for number in reserved
    )


def capacity_of(backend: Backend, spec: ModelSpec) -> int:
    """The number of requests that the loaded model takes while others run; 0 for one message at a time."""
    if backend.overlap is None:
        return 0
    return (
        spec.batching.max_batch_size if isinstance(backend.overlap, Stepwise) else spec.batching.concurrency
    )


def run_worker(
    channel_fds: Sequence[int], arena_fds: Sequence[int], progress_fd: int, model: Preloaded | None = None
) -> None:
    """Run a worker over these descriptors until the server is gone. ``model`` may be loaded already."""
    channels = [
        Channel(socket.socket(fileno=fd), MappedArena(arena), number)
        for number, (fd, arena) in enumerate(zip(channel_fds, arena_fds, strict=True))
    ]
    # A process that the model's code forks and that comes back from it must not answer in our place.
    for channel in channels:
        os.register_at_fork(after_in_child=channel.sock.close)
    Worker(channels, Progress(progress_fd, len(channels)), model).serve_forever()
