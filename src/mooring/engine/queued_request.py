"""One request from its arrival to its answer, and the states it goes through, as a table.

             ┌──── requeued: its body is decoded, or could not be ───┐
             ▼                                                       │
    ──▶ WAITING ────── a codec process decodes its body ──────▶ OFFLOADED
         ▲   │ │                                                     │
requeued:│   │ └── refused or withdrawn ──────────┐                  │
its      │   ▼                                   ▼                  │
worker  RUNNING ─── answered, or failed ───────▶ DONE ◀──────────────┘ refused or withdrawn
is gone

``QueuedRequest.move_to`` makes every change of a state. Only the two that every request makes are made in place as well,
where the old state was just looked at: in ``Dispatcher.start_batch`` and ``Dispatcher.finish_many``.
"""

import enum
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from mooring.core.buffers import Buffer
from mooring.core.errors import MooringError
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import Done, Outcome
from mooring.core.timing import CallSpan
from mooring.engine.answer_slots import AnswerSlots
from mooring.observability.statistics import ResponseKind
from mooring.repository.spec import ModelSpec
from mooring.workers.handle import Work, WorkerHandle


class RequestState(enum.IntEnum):
    """The state of a queued request; the table of moves is ``TRANSITIONS``."""

    WAITING = 0
    RUNNING = 1
    DONE = 2
    OFFLOADED = 3


# Looked up per request: a member of an enum costs 0.1 us each time that its class is asked for it (core/requests.py).
WAITING, RUNNING = RequestState.WAITING, RequestState.RUNNING
DONE, OFFLOADED = RequestState.DONE, RequestState.OFFLOADED

# By the old state: the new ones that may follow.
TRANSITIONS: tuple[tuple[RequestState, ...], ...] = (
    (RUNNING, DONE, OFFLOADED),
    (DONE, WAITING),
    (),
    (WAITING, DONE),
)

next_key = itertools.count(1).__next__


class IllegalTransition(Exception):
    """A change of state that the table does not have: a bug."""


class OutputEncoder(Protocol):
    """Writes the JSON text of one request's outputs, where its worker leaves that to the server."""

    def encode_piece(self, piece: InferenceResponse) -> None:
        """Write the JSON of a streamed part now, in place."""

    def encode_answer(self, answer: InferenceResponse, done: Callable[[Outcome], None]) -> None:
        """Write the JSON of an answer in place, then pass it to ``done``; it passes an error where that fails."""


class RequestOwner(Protocol):
    """The dispatcher of a queued request."""

    spec: ModelSpec
    slots: AnswerSlots
    counts_responses: bool  # the model is decoupled

    def finish_many(self, works: "Sequence[Work]", outcomes: Sequence[Outcome], *, borrowed: bool) -> None:
        """Pass the outcomes of requests to their callers; with ``borrowed`` some have memory to give back."""

    def on_withdrawn(self, queued: "QueuedRequest", state: RequestState) -> None:
        """A request that was in this state, and that no worker has, is DONE: nobody waits for it any more."""

    def count_refusal(self, queued: "QueuedRequest", error: MooringError) -> None:
        """A request is about to be refused after it was accepted."""

    def count_response(self, queued: "QueuedRequest", kind: ResponseKind) -> None:
        """A decoupled model has given a response."""


class QueuedRequest(msgspec.Struct, eq=False):
    """One request from its arrival to its answer; the ``Ticket`` of the caller that submitted it.

    It owns the request's payloads and the slot that was lent for its answer. Both stay untouched until no worker can be
    using them any more, which may be long after the caller has gone. ``arrived`` is on the monotonic clock and
    ``queued_for`` in seconds. ``done`` is None once the caller has its outcome or has gone.
    """

    owner: RequestOwner
    request: InferenceRequest
    done: Done | None
    rows: int
    arrived: float
    key: int
    queued_for: float = 0.0
    state: RequestState = WAITING
    attempts: int = 0
    streamed: bool = False
    responses: int = 0  # of a decoupled model, so far
    responded: float = 0.0  # when the last of them was given
    delayed: bool = False  # it has waited too long, and goes after others of its priority (queue_policy.py)
    answer_slot: Buffer | None = None
    worker: WorkerHandle | None = None
    output_encoder: OutputEncoder | None = None

    @property
    def has_caller(self) -> bool:
        """Whether the caller still waits for the answer."""
        return self.done is not None

    @property
    def precedence(self) -> tuple[float, bool]:
        """The sort key in the queue, the smallest first. A request without a priority comes after all with one."""
        return (self.request.priority or math.inf, self.delayed)

    def move_to(self, state: RequestState) -> None:
        """Change the state. Raises ``IllegalTransition`` where the table does not have that change."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(f"a request cannot go from {self.state.name} to {state.name}")
        self.state = state

    def piece(self, response: InferenceResponse) -> None:
        """Pass a part of a streamed answer to the caller."""
        self.streamed = True
        if self.owner.counts_responses:
            self.owner.count_response(self, ResponseKind.SUCCESS)
        if self.done is not None:
            if self.output_encoder is not None:
                self.output_encoder.encode_piece(response)
            self.fill_identity(response)
            self.done(response)

    def note_call(self, span: CallSpan) -> None:
        """Note when the model was called, for a client that asks for timings."""
        if self.request.timing is not None:
            self.request.timing.note_call(self.key, self.arrived, self.arrived + self.queued_for, span)

    def note_wait(self, now: float) -> None:
        """Note how long a request waited that gets an error, for a client that asks for timings."""
        if self.request.timing is not None:
            left = self.arrived + self.queued_for if self.queued_for else now
            self.request.timing.note_wait(self.key, self.arrived, left)

    def answer(self, outcome: Outcome) -> None:
        """Pass the last part of the answer, or an error, to the caller: no worker holds the payloads any more."""
        self.owner.finish_many((self,), (outcome,), borrowed=True)

    def refuse(self, error: MooringError) -> None:
        """Pass an error to the caller now. A worker that has the request may go on; its answer is dropped."""
        done, self.done = self.done, None
        self._withdraw()
        if done is not None:
            self.owner.count_refusal(self, error)
            done(error)

    def cancel(self) -> None:
        """Withdraw the request: the caller does not wait any more."""
        self.done = None
        self._withdraw()

    def release_memory(self) -> None:
        """Release the payloads and the answer slot: no worker has the request and none will get it."""
        self.request.release()
        if self.answer_slot is not None:
            self.owner.slots.return_unused(self.answer_slot)
            self.answer_slot = None

    def fill_identity(self, response: InferenceResponse) -> None:
        """Fill in which model answers and which request it answers, where the worker has left that open."""
        request = self.request
        response.model = response.model or request.model
        response.version = response.version or self.owner.spec.version
        response.id = response.id or request.id

    def _withdraw(self) -> None:
        state = self.state
        if state is RUNNING:
            if self.worker is not None:
                self.worker.cancel(self)
        elif state is not DONE:
            self.release_memory()
            self.move_to(DONE)
            self.owner.on_withdrawn(self, state)
