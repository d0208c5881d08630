"""A worker whose model works on requests step by step (TorchServe's continuous batching).

Between two steps new requests join and withdrawn ones leave; nobody waits for the others to end. What is no
prediction is asked between two steps, too.
"""

import select
import time
from collections.abc import Sequence

from mooring.backends.backend import Backend, Stepwise
from mooring.core.errors import ModelFailed, MooringError, RequestCancelled
from mooring.core.requests import InferenceRequest, InferenceResponse, Operation
from mooring.core.service import Outcome
from mooring.ipc.messages import Batch, Cancel, Loaded, ToWorker
from mooring.repository.spec import ModelSpec
from mooring.worker_process.channel import Outbox
from mooring.worker_process.outcomes import failure_of, within


class _Row:
    """One request from the step it joins to the one it ends with."""

    __slots__ = ("begun", "gone", "key", "outbox", "request")

    def __init__(self, outbox: Outbox, key: int, request: InferenceRequest) -> None:
        self.outbox = outbox
        self.key = key
        self.request = request
        self.begun = False
        self.gone = False


class StepServing:
    """The requests in the worker, in the order of their arrival: those at work are always the first."""

    def __init__(
        self, outboxes: Sequence[Outbox], backend: Backend, model: Stepwise, spec: ModelSpec, loaded: Loaded
    ) -> None:
        self._backend = backend
        self._model = model
        self._spec = spec
        self._loaded = loaded
        self._outboxes = {outbox.channel.sock.fileno(): outbox for outbox in outboxes}
        self._rows: list[_Row] = []
        self._poll = select.poll()
        for fd in self._outboxes:
            self._poll.register(fd, select.POLLIN)

    def run(self) -> None:
        """Return when the last channel is closed."""
        while self._outboxes:
            self.collect(0 if self._rows else None)
            self._let_go()
            if self._rows:
                self._step()

    def collect(self, timeout: float | None) -> None:
        """Hear what the server says, waiting for it without a ``timeout``."""
        for fd, _ in self._poll.poll(timeout):
            outbox = self._outboxes[fd]
            messages = outbox.channel.receive()
            if messages is None:
                self._poll.unregister(fd)
                del self._outboxes[fd]
                for row in self._rows:
                    row.gone = row.gone or row.outbox is outbox
                continue
            for message in messages:
                self._take(outbox, message)

    def _take(self, outbox: Outbox, message: ToWorker) -> None:
        if isinstance(message, Batch):
            outbox.expect(message)
            self._rows += [
                _Row(outbox, key, request)
                for key, request in zip(message.keys, message.requests, strict=True)
            ]
        elif isinstance(message, Cancel):
            for row in self._rows:
                row.gone = row.gone or (row.outbox is outbox and row.key in message.keys)
        else:  # another front asks for what is there already
            outbox.channel.send(self._loaded)

    def _let_go(self) -> None:
        """Those that nobody waits for leave; those that ask for something else are answered and leave."""
        staying = []
        for row in self._rows:
            if row.gone:
                self._answer(row, RequestCancelled("nobody waits for the answer"))
            elif row.request.operation is not Operation.INFER:
                self._answer(row, self._ask(row))
            else:
                staying.append(row)
        if len(staying) < len(self._rows):
            self._rows = staying
            self._send()

    def _ask(self, row: _Row) -> Outcome:
        try:
            (outcome,) = self._backend.infer([row.request], _Reply(self, [row]))
        except Exception as error:  # user code may raise anything
            return failure_of(error)
        return outcome

    def _step(self) -> None:
        rows = self._rows[: self._spec.options.batching.max_batch_size]
        requests = [row.request for row in rows]
        began = time.monotonic()
        outcomes: Sequence[Outcome]
        try:
            outcomes = self._model.step(requests, sum(row.begun for row in rows), _Reply(self, rows))
            if len(outcomes) != len(rows):
                raise ModelFailed(f"the step gave {len(outcomes)} outcomes for {len(rows)} requests")
        except Exception as error:  # user code may raise anything while it infers
            outcomes = [failure_of(error)] * len(rows)
        rows[0].outbox.measure(len(rows), time.monotonic() - began)
        outcomes = within(self._spec.options.limits.max_response_bytes, requests, outcomes)
        ended = set()
        for row, outcome in zip(rows, outcomes, strict=True):
            row.begun = True
            self._answer(row, outcome)
            if isinstance(outcome, MooringError) or outcome.final:
                ended.add(row)
        self._rows = [row for row in self._rows if row not in ended]
        self._send()

    def _answer(self, row: _Row, outcome: Outcome) -> None:
        if row.outbox.channel.sock.fileno() in self._outboxes:
            row.outbox.put(row.key, outcome)

    def _send(self) -> None:
        for outbox in self._outboxes.values():
            outbox.send()


class _Reply:
    """The ``Reply`` that the backend gets for the rows of a step."""

    def __init__(self, serving: StepServing, rows: Sequence[_Row]) -> None:
        self._serving = serving
        self._rows = rows

    def emit(self, row: int, piece: InferenceResponse) -> None:
        found = self._rows[row]
        found.outbox.put(found.key, piece)
        found.outbox.send()

    def cancelled(self, row: int) -> bool:
        self._serving.collect(0)
        return self._rows[row].gone

    def metric(self, name: str, value: float, unit: str, kind: str, dimensions: dict[str, str]) -> None:
        self._rows[0].outbox.record(name, value, unit, kind, dimensions)
