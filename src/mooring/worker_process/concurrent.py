"""A worker whose model takes requests while others run: one event loop, and a task for every batch.

A request whose client has gone is cancelled, one that takes longer than the response time-out is refused and then
cancelled; neither disturbs the others. A model that blocks the loop stops them all: the server ends such a worker.
"""

import asyncio
import time
from collections.abc import Sequence

from mooring.backends import call_times
from mooring.backends.backend import Backend, Concurrent
from mooring.backends.call_times import CallTimes
from mooring.core.errors import DeadlineExceeded, ModelFailed, MooringError, RequestCancelled
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import MetricValue, Outcome
from mooring.ipc.messages import Batch, Cancel, Load, Loaded
from mooring.repository.spec import ModelSpec
from mooring.worker_process.channel import ResponseBuffer
from mooring.worker_process.model_logging import requests_of_call
from mooring.worker_process.outcomes import (
    blame_clients,
    enforce_answer_limit,
    failure_of,
    split_into_calls,
)


class ConcurrentServing:
    """Serves a model whose calls overlap.

    How this works: the event loop of the model reads every channel. Each ``Batch`` is cut into calls, and each call is
    a task (``_Call``). A call ends once: with the model's answers, with an error, when its time-out passes, or when all
    of its requests are cancelled. Calls that end in one turn of the loop are sent in one message per channel.
    """

    def __init__(
        self,
        buffers: Sequence[ResponseBuffer],
        backend: Backend,
        model: Concurrent,
        spec: ModelSpec,
        loaded: Loaded,
    ) -> None:
        self.backend = backend
        self.model = model
        self.spec = spec
        self.loop = model.loop
        self._loaded = loaded
        self._calls: dict[ResponseBuffer, dict[int, _Call]] = {buffer: {} for buffer in buffers}
        self._to_send: set[ResponseBuffer] = set()

    def serve_forever(self) -> None:
        """Serve until the last channel is closed."""
        for buffer in self._calls:
            self.loop.add_reader(buffer.channel.sock, self._receive_messages, buffer)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self._wind_up())

    def _receive_messages(self, buffer: ResponseBuffer) -> None:
        messages = buffer.channel.receive()
        if messages is None:
            self.loop.remove_reader(buffer.channel.sock)
            for running in set(self._calls.pop(buffer).values()):
                running.task.cancel()
            if not self._calls:
                self.loop.stop()
            return
        for message in messages:
            if isinstance(message, Batch):
                self._start_calls(buffer, message)
            elif isinstance(message, Cancel):
                for key in message.keys:
                    if (call := self._calls[buffer].get(key)) is not None:
                        call.cancel_request(key)
            elif isinstance(message, Load):  # another frontend asks for a model that is loaded already
                buffer.channel.send(self._loaded)

    def _start_calls(self, buffer: ResponseBuffer, batch: Batch) -> None:
        buffer.add_batch(batch)
        calls = self._calls[buffer]
        limit = self.spec.options.batching.max_batch_size if self.model.joins_requests else 1
        for begin, end, rows in split_into_calls(batch.requests, limit):
            keys = batch.keys[begin:end]
            calls.update(dict.fromkeys(keys, _Call(self, buffer, keys, batch.requests[begin:end], rows)))

    def on_call_finished(self, call: "_Call") -> None:
        """Send the answers of a finished call, with those of other calls that end in the same turn of the loop."""
        calls = self._calls.get(call.buffer)
        if calls is None:
            return  # its channel is closed
        for key in call.keys:
            del calls[key]
        if not self._to_send:
            self.loop.call_soon(self._flush_buffers)
        self._to_send.add(call.buffer)

    def _flush_buffers(self) -> None:
        buffers, self._to_send = self._to_send, set()
        for buffer in buffers:
            if buffer in self._calls:
                buffer.flush()

    async def _wind_up(self) -> None:
        """Cancel all tasks, the model's own too, and wait until they have cleaned up."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.shutdown_asyncgens()


class _Call:
    """One call of the model, until all of its requests are answered. It owns its task and its time-out."""

    def __init__(
        self,
        serving: ConcurrentServing,
        buffer: ResponseBuffer,
        keys: list[int],
        requests: Sequence[InferenceRequest],
        rows: int,
    ) -> None:
        self.buffer = buffer
        self.keys = keys
        self.cancelled_keys: set[int] = set()
        self.streamed: set[int] = set()
        self._serving = serving
        self._requests = requests
        self._rows = rows
        self._finished = False
        self._ending: MooringError | None = None
        self._limit = serving.spec.timeouts.response_timeout
        asks_times = any(request.timing is not None for request in requests)
        self._times = CallTimes(whole=not serving.backend.notes_calls) if asks_times else None
        self._last_activity = self._started_at = time.monotonic()
        self._timer = serving.loop.call_later(self._limit, self._check_timeout)
        self.task = serving.loop.create_task(self._run_call())

    def emit(self, row: int, piece: InferenceResponse) -> None:
        """Send a piece of a row's answer now, which also starts the call's time-out anew."""
        if not self._finished and self.keys[row] not in self.cancelled_keys:
            self._last_activity = time.monotonic()
            self.streamed.add(row)
            self.buffer.add_outcome(self.keys[row], piece)
            if self._times is not None and self._requests[row].timing is not None:
                self.buffer.add_span(self.keys[row], self._times.note_piece(self._requests[row]))
            self.buffer.flush()

    def cancel_request(self, key: int) -> None:
        """Note that a request was cancelled; with the last one the call ends."""
        self.cancelled_keys.add(key)
        if len(self.cancelled_keys) == len(self.keys):
            self._ending = RequestCancelled("nobody waits for the answer")
            self.task.cancel()

    def _check_timeout(self) -> None:
        left = self._last_activity + self._limit - time.monotonic()
        if left > 0:
            self._timer = self._serving.loop.call_later(left, self._check_timeout)
            return
        name = self._serving.spec.name
        error = DeadlineExceeded(f"model '{name}' did not answer within {self._limit:g} s")
        # At once, not when the task has ended: it may take its time to notice.
        self._finish_call([error] * len(self.keys))
        self.task.cancel()

    async def _run_call(self) -> None:
        if self._times is not None:
            call_times.CURRENT.set(self._times)  # in the context of this task alone
        try:
            outcomes = await self._infer_rows(range(len(self.keys)))
        except asyncio.CancelledError:
            ending = self._ending or ModelFailed("CancelledError: the model's own code cancelled the request")
            outcomes = [ending] * len(self.keys)
        self._finish_call(outcomes)

    async def _infer_rows(self, rows: Sequence[int]) -> list[Outcome]:
        spec = self._serving.spec
        requests = [self._requests[row] for row in rows]
        requests_of_call.set(requests)
        try:
            outcomes = await self._serving.model.infer(requests, _Reply(self, rows))
            if len(outcomes) != len(rows):
                raise ModelFailed(f"the backend gave {len(outcomes)} outcomes for {len(rows)} requests")
        except Exception as error:  # user code may raise anything while it infers
            # What is over must not be run again: the memory of its requests has been given back.
            if len(rows) == 1 or not spec.limits.retry or self._finished:
                return [failure_of(error, self._serving.backend.client_errors)] * len(rows)
        else:
            outcomes = blame_clients(outcomes, self._serving.backend.client_errors)
            return list(enforce_answer_limit(spec.options.limits.max_response_bytes, requests, outcomes))
        return [outcome for (outcome,) in await asyncio.gather(*map(self._once_more, rows))]

    async def _once_more(self, row: int) -> list[Outcome]:
        if row in self.streamed:  # its caller has seen a part already, which cannot be taken back
            return [ModelFailed("the batch failed after a part of the answer was sent")]
        return await self._infer_rows([row])

    def _finish_call(self, outcomes: Sequence[Outcome]) -> None:
        if self._finished:
            return
        self._finished = True
        self._timer.cancel()
        for key, outcome in zip(self.keys, outcomes, strict=True):
            self.buffer.add_outcome(key, outcome)
        if self._times is not None:
            for key, request in zip(self.keys, self._requests, strict=True):
                if request.timing is not None:
                    self.buffer.add_span(key, self._times.span_of(request, self._rows))
        self.buffer.record_call(self._rows, time.monotonic() - self._started_at, len(self.keys))
        self._serving.on_call_finished(self)


class _Reply:
    """The ``Reply`` for some rows of a call; row i is row ``rows[i]`` of the call."""

    def __init__(self, call: _Call, rows: Sequence[int]) -> None:
        self._call = call
        self._rows = rows

    def emit(self, row: int, piece: InferenceResponse) -> None:
        self._call.emit(self._rows[row], piece)

    def cancelled(self, row: int) -> bool:
        return self._call.keys[self._rows[row]] in self._call.cancelled_keys

    def record_metric(self, metric: MetricValue) -> None:
        self._call.buffer.record_metric(metric)
