"""A worker whose model works on requests step by step (TorchServe's continuous batching).

Between two steps new requests join, and finished or cancelled ones leave: no request waits for others to end. Requests
that are no predictions (explanations, descriptions) are answered between two steps.
"""

import select
import time
from collections.abc import Sequence

from mooring.backends.backend import Backend, Stepwise
from mooring.backends.call_times import CallTimes
from mooring.core.errors import ModelFailed, MooringError, RequestCancelled
from mooring.core.requests import InferenceRequest, InferenceResponse, Operation
from mooring.core.service import MetricValue, Outcome
from mooring.ipc.messages import Batch, Cancel, Loaded, ToWorker
from mooring.repository.spec import ModelSpec
from mooring.worker_process.channel import ResponseBuffer
from mooring.worker_process.model_logging import running
from mooring.worker_process.outcomes import enforce_answer_limit, failure_of


class _Row:
    """One request, from the step in which it joins to its last."""

    __slots__ = ("buffer", "cancelled", "key", "request", "started", "times")

    def __init__(self, buffer: ResponseBuffer, key: int, request: InferenceRequest) -> None:
        self.buffer = buffer
        self.key = key
        self.request = request
        self.started = False
        self.cancelled = False
        self.times = None if request.timing is None else CallTimes()

    def note_step(self, began: float, rows: int) -> None:
        """Note a step that this request took part in, or a piece of it that leaves, where it asks for timings."""
        if self.times is not None:
            self.times.note_step(self.request, began, rows)
            self.buffer.add_span(self.key, self.times.span_of(self.request, rows))


class StepServing:
    """Serves a model that works step by step. Its requests are in order of arrival; those in a step are the first."""

    def __init__(
        self,
        buffers: Sequence[ResponseBuffer],
        backend: Backend,
        model: Stepwise,
        spec: ModelSpec,
        loaded: Loaded,
    ) -> None:
        self._backend = backend
        self._model = model
        self._spec = spec
        self._loaded = loaded
        self._buffers = {buffer.channel.sock.fileno(): buffer for buffer in buffers}
        self._rows: list[_Row] = []
        self._poll = select.poll()
        for fd in self._buffers:
            self._poll.register(fd, select.POLLIN)

    def serve_forever(self) -> None:
        """Serve until the last channel is closed."""
        while self._buffers:
            self.receive_messages(0 if self._rows else None)
            self._answer_without_step()
            if self._rows:
                self._run_step()

    def receive_messages(self, timeout: float | None) -> None:
        """Read the channels; ``timeout`` is in seconds, None waits for a message."""
        for fd, _ in self._poll.poll(timeout):
            buffer = self._buffers[fd]
            messages = buffer.channel.receive()
            if messages is None:
                self._poll.unregister(fd)
                del self._buffers[fd]
                for row in self._rows:
                    row.cancelled = row.cancelled or row.buffer is buffer
                continue
            for message in messages:
                self._handle_message(buffer, message)

    def _handle_message(self, buffer: ResponseBuffer, message: ToWorker) -> None:
        if isinstance(message, Batch):
            buffer.add_batch(message)
            self._rows += [
                _Row(buffer, key, request)
                for key, request in zip(message.keys, message.requests, strict=True)
            ]
        elif isinstance(message, Cancel):
            for row in self._rows:
                row.cancelled = row.cancelled or (row.buffer is buffer and row.key in message.keys)
        else:  # another frontend asks for a model that is loaded already
            buffer.channel.send(self._loaded)

    def _answer_without_step(self) -> None:
        """Answer the requests that take part in no step: cancelled ones, and those that are no predictions."""
        staying = []
        for row in self._rows:
            if row.cancelled:
                self._add_outcome(row, RequestCancelled("nobody waits for the answer"))
            elif row.request.operation is not Operation.INFER:
                self._add_outcome(row, self._infer_other(row))
            else:
                staying.append(row)
        if len(staying) < len(self._rows):
            self._rows = staying
            self._flush_buffers()

    def _infer_other(self, row: _Row) -> Outcome:
        began = time.monotonic()
        try:
            running.requests = [row.request]
            (outcome,) = self._backend.infer([row.request], _Reply(self, [row]))
        except Exception as error:  # user code may raise anything
            return failure_of(error, self._backend.client_errors)
        finally:
            running.requests = ()
            row.note_step(began, 1)
        return outcome

    def _run_step(self) -> None:
        rows = self._rows[: self._spec.options.batching.max_batch_size]
        requests = [row.request for row in rows]
        running.requests = requests
        started_at = time.monotonic()
        outcomes: Sequence[Outcome]
        try:
            outcomes = self._model.run_step(requests, sum(row.started for row in rows), _Reply(self, rows))
            if len(outcomes) != len(rows):
                raise ModelFailed(f"the step gave {len(outcomes)} outcomes for {len(rows)} requests")
        except Exception as error:  # user code may raise anything while it infers
            outcomes = [failure_of(error, self._backend.client_errors)] * len(rows)
        running.requests = ()
        rows[0].buffer.record_call(len(rows), time.monotonic() - started_at, len(rows))
        outcomes = enforce_answer_limit(self._spec.options.limits.max_response_bytes, requests, outcomes)
        finished = set()
        for row, outcome in zip(rows, outcomes, strict=True):
            row.started = True
            row.note_step(started_at, len(rows))
            self._add_outcome(row, outcome)
            if isinstance(outcome, MooringError) or outcome.final:
                finished.add(row)
        self._rows = [row for row in self._rows if row not in finished]
        self._flush_buffers()

    def _add_outcome(self, row: _Row, outcome: Outcome) -> None:
        if row.buffer.channel.sock.fileno() in self._buffers:
            row.buffer.add_outcome(row.key, outcome)

    def _flush_buffers(self) -> None:
        for buffer in self._buffers.values():
            buffer.flush()


class _Reply:
    """The ``Reply`` for the rows of a step."""

    def __init__(self, serving: StepServing, rows: Sequence[_Row]) -> None:
        self._serving = serving
        self._rows = rows
        self._began = time.monotonic()

    def emit(self, row: int, piece: InferenceResponse) -> None:
        target = self._rows[row]
        target.buffer.add_outcome(target.key, piece)
        target.note_step(self._began, len(self._rows))
        target.buffer.flush()

    def cancelled(self, row: int) -> bool:
        self._serving.receive_messages(0)
        return self._rows[row].cancelled

    def record_metric(self, metric: MetricValue) -> None:
        self._rows[0].buffer.record_metric(metric)
