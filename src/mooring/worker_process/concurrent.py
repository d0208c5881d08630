"""A worker whose model takes requests while others run: one event loop, and a task for every batch.

A request whose client has gone is cancelled, one that takes longer than the response time-out is refused and then
cancelled; neither disturbs the others. A model that blocks the loop stops them all: the server ends such a worker.
"""

import asyncio
import time
from collections.abc import Sequence

from mooring.backends.backend import Concurrent
from mooring.core.errors import DeadlineExceeded, ModelFailed, MooringError, RequestCancelled
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import Outcome
from mooring.ipc.messages import Batch, Cancel, Load, Loaded
from mooring.repository.spec import ModelSpec
from mooring.worker_process.channel import Outbox
from mooring.worker_process.outcomes import chunks, failure_of, within


class ConcurrentServing:
    """Everything that runs in the worker, by channel."""

    def __init__(
        self, outboxes: Sequence[Outbox], model: Concurrent, spec: ModelSpec, loaded: Loaded
    ) -> None:
        self.model = model
        self.spec = spec
        self.loop = model.loop
        self._loaded = loaded
        self._calls: dict[Outbox, dict[int, _Call]] = {outbox: {} for outbox in outboxes}
        self._to_send: set[Outbox] = set()

    def run(self) -> None:
        """Return when the last channel is closed."""
        for outbox in self._calls:
            self.loop.add_reader(outbox.channel.sock, self._hear, outbox)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self._wind_up())

    def _hear(self, outbox: Outbox) -> None:
        messages = outbox.channel.receive()
        if messages is None:
            self.loop.remove_reader(outbox.channel.sock)
            for ended in set(self._calls.pop(outbox).values()):
                ended.task.cancel()
            if not self._calls:
                self.loop.stop()
            return
        for message in messages:
            if isinstance(message, Batch):
                self._begin(outbox, message)
            elif isinstance(message, Cancel):
                for key in message.keys:
                    if (call := self._calls[outbox].get(key)) is not None:
                        call.withdraw(key)
            elif isinstance(message, Load):  # another front asks for what is there already
                outbox.channel.send(self._loaded)

    def _begin(self, outbox: Outbox, batch: Batch) -> None:
        outbox.expect(batch)
        calls = self._calls[outbox]
        for begin, end, rows in chunks(batch.requests, self.spec.options.batching.max_batch_size):
            keys = batch.keys[begin:end]
            calls.update(dict.fromkeys(keys, _Call(self, outbox, keys, batch.requests[begin:end], rows)))

    def finished(self, call: "_Call") -> None:
        """All requests of a call have their answers: send them, with those of others that end in the same turn."""
        calls = self._calls.get(call.outbox)
        if calls is None:
            return  # its channel is closed
        for key in call.keys:
            del calls[key]
        if not self._to_send:
            self.loop.call_soon(self._send)
        self._to_send.add(call.outbox)

    def _send(self) -> None:
        outboxes, self._to_send = self._to_send, set()
        for outbox in outboxes:
            if outbox in self._calls:
                outbox.send()

    async def _wind_up(self) -> None:
        """Cancel what still runs, the model's own tasks too, and let it clean up."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.shutdown_asyncgens()


class _Call:
    """One batch in the model's hands, from its first moment to the answers of all its requests."""

    def __init__(
        self,
        serving: ConcurrentServing,
        outbox: Outbox,
        keys: list[int],
        requests: Sequence[InferenceRequest],
        rows: int,
    ) -> None:
        self.outbox = outbox
        self.keys = keys
        self.gone: set[int] = set()
        self.streamed: set[int] = set()
        self._serving = serving
        self._requests = requests
        self._rows = rows
        self._over = False
        self._ending: MooringError | None = None
        self._limit = serving.spec.timeouts.response_timeout
        self._heard = self._began = time.monotonic()
        self._timer = serving.loop.call_later(self._limit, self._look)
        self.task = serving.loop.create_task(self._run())

    def emit(self, row: int, piece: InferenceResponse) -> None:
        """Send a piece of a row's answer now."""
        if not self._over and self.keys[row] not in self.gone:
            self._heard = time.monotonic()
            self.streamed.add(row)
            self.outbox.put(self.keys[row], piece)
            self.outbox.send()

    def withdraw(self, key: int) -> None:
        """Nobody waits for this request any more; with the last one the call ends."""
        self.gone.add(key)
        if len(self.gone) == len(self.keys):
            self._ending = RequestCancelled("nobody waits for the answer")
            self.task.cancel()

    def _look(self) -> None:
        left = self._heard + self._limit - time.monotonic()
        if left > 0:
            self._timer = self._serving.loop.call_later(left, self._look)
            return
        name = self._serving.spec.name
        error = DeadlineExceeded(f"model '{name}' did not answer within {self._limit:g} s")
        # At once, not when the task has ended: it may take its time to notice.
        self._end([error] * len(self.keys))
        self.task.cancel()

    async def _run(self) -> None:
        try:
            outcomes = await self._infer(range(len(self.keys)))
        except asyncio.CancelledError:
            ending = self._ending or ModelFailed("CancelledError: the model's own code cancelled the request")
            outcomes = [ending] * len(self.keys)
        self._end(outcomes)

    async def _infer(self, rows: Sequence[int]) -> list[Outcome]:
        spec = self._serving.spec
        requests = [self._requests[row] for row in rows]
        try:
            outcomes = await self._serving.model.infer(requests, _Reply(self, rows))
            if len(outcomes) != len(rows):
                raise ModelFailed(f"the backend gave {len(outcomes)} outcomes for {len(rows)} requests")
        except Exception as error:  # user code may raise anything while it infers
            # What is over must not be run again: the memory of its requests has been given back.
            if len(rows) == 1 or not spec.limits.retry or self._over:
                return [failure_of(error)] * len(rows)
        else:
            return list(within(spec.options.limits.max_response_bytes, requests, outcomes))
        return [outcome for (outcome,) in await asyncio.gather(*map(self._once_more, rows))]

    async def _once_more(self, row: int) -> list[Outcome]:
        if row in self.streamed:  # its caller has seen a part already, which cannot be taken back
            return [ModelFailed("the batch failed after a part of the answer was sent")]
        return await self._infer([row])

    def _end(self, outcomes: Sequence[Outcome]) -> None:
        if self._over:
            return
        self._over = True
        self._timer.cancel()
        for key, outcome in zip(self.keys, outcomes, strict=True):
            self.outbox.put(key, outcome)
        self.outbox.measure(self._rows, time.monotonic() - self._began)
        self._serving.finished(self)


class _Reply:
    """The ``Reply`` that the backend gets for some rows of a call."""

    def __init__(self, call: _Call, rows: Sequence[int]) -> None:
        self._call = call
        self._rows = rows

    def emit(self, row: int, piece: InferenceResponse) -> None:
        self._call.emit(self._rows[row], piece)

    def cancelled(self, row: int) -> bool:
        return self._call.keys[self._rows[row]] in self._call.gone

    def metric(self, name: str, value: float, unit: str, kind: str, dimensions: dict[str, str]) -> None:
        self._call.outbox.record(name, value, unit, kind, dimensions)
