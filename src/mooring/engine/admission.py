"""Admission of a request to the queue of a version: its deadline, and its split where it has more rows than a batch."""

import asyncio
import math
import re
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from mooring.codecs.packed import join_predictions
from mooring.core.buffers import Buffer
from mooring.core.errors import InvalidInput, MooringError, Unsupported
from mooring.core.requests import BODY, INSTANCES, InferenceRequest, InferenceResponse
from mooring.core.service import Done, Outcome, Ticket
from mooring.core.tensors import ROWS, Tensor, release
from mooring.repository.platforms import FUNCTION
from mooring.repository.spec import ModelSpec

_PLACE = re.compile(r"instance (\d+): ")


class QueueLoad(msgspec.Struct, array_like=True, frozen=True):
    """The requests of one version in one process, or in several.

    ``oldest`` is when the one that has waited longest came, on the monotonic clock, which all processes of a machine share;
    infinity where none waits.
    """

    waiting: int = 0
    running: int = 0
    oldest: float = math.inf

    def plus(self, other: "QueueLoad") -> "QueueLoad":
        """The requests of both."""
        return QueueLoad(
            self.waiting + other.waiting, self.running + other.running, min(self.oldest, other.oldest)
        )


NO_LOAD = QueueLoad()


class RequestScheduler(Protocol):
    """The queue of one version, whether its requests depend on each other or not."""

    spec: ModelSpec

    @property
    def refusal(self) -> MooringError | None:
        """The error with which every new request is refused now, if any."""

    @property
    def waiting(self) -> int:
        """How many requests wait for a worker."""

    @property
    def load(self) -> QueueLoad:
        """How many requests wait and run, and since when the oldest waits. Asked for once a second, of every version."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""

    def overload_error(self) -> MooringError | None:
        """The error for a request that came now; None where it would be queued, or where that cannot be told."""

    def submit(self, request: InferenceRequest, done: Done, rows: int) -> Ticket:
        """Queue a request of so many rows; a refusal goes to ``done``."""

    def set_queue_size(self, queue_size: int) -> None:
        """Let so many requests wait at most; those that wait already are not affected."""

    def refuse_new(self, error: MooringError) -> None:
        """Refuse new requests with this error; those that wait already were accepted and are served."""

    def refuse_all(self, error: MooringError) -> None:
        """Refuse new requests and those that wait with this error."""

    def accept_new(self) -> None:
        """Take requests again."""

    def check_deadlines(self, now: float) -> None:
        """Give up requests whose deadline has passed. Call it often enough for the deadlines to mean something."""


def admit_request(scheduler: RequestScheduler, request: InferenceRequest, done: Done) -> Ticket:
    """Queue a request for the version that this scheduler serves; every refusal goes to ``done``."""
    options = scheduler.spec.options
    if options.timeouts.client_timeout and request.deadline is None:
        request.deadline = time.monotonic() + options.timeouts.client_timeout
    form = request.form
    if form is not INSTANCES:
        return scheduler.submit(request, done, 1 if form is BODY else request.rows or 1)
    rows = request.rows
    if rows > 1:
        # A handler that goes step by step has a row for each request.
        most = 1 if options.batching.stepwise else options.batching.max_batch_size
        if rows > most and not options.sequence.enabled:
            return SplitRequest(scheduler, request, done, max(most, _least_part(scheduler.spec, rows)))
    elif rows == 0:
        spec = scheduler.spec
        done(
            InferenceResponse(
                [Tensor("predictions", "BYTES", [0], [])], model=spec.name, version=spec.version
            )
        )
        return NO_OP_TICKET
    return scheduler.submit(request, done, rows)


def _least_part(spec: ModelSpec, rows: int) -> int:
    """Return how many rows a part has at least, so that a lone request does not fill the queue by itself.

    A function is called for one row after the other where a request has more than it takes at once.
    """
    size = spec.limits.queue_size
    return -(-rows * 2 // size) if spec.backend == FUNCTION and rows > size > 0 else 1


def _with_place(error: MooringError, begin: int) -> MooringError:
    """Return the error of a part that begins at an instance, with the place that its instance has in the whole request."""
    if type(error) is not InvalidInput:
        return error
    named = _PLACE.match(error.message)
    place, text = (int(named[1]), error.message[named.end() :]) if named else (0, error.message)
    return InvalidInput(
        f"instance {begin + place}: {text}", model=error.model, version=error.version, detail=error.detail
    )


class SplitRequest:
    """A request of more rows than a batch holds: it is split in order, and the answers are joined in order.

    The first part that fails answers for all, and the others are withdrawn.
    """

    def __init__(self, scheduler: RequestScheduler, request: InferenceRequest, done: Done, most: int) -> None:
        self._done: Done | None = done
        self._request = request
        self._most = most
        self._names_places = scheduler.spec.backend == FUNCTION
        elements = request.inputs[0].data
        groups = [elements[begin : begin + most] for begin in range(0, len(elements), most)]
        self._answers: list[InferenceResponse | None] = [None] * len(groups)
        self._tickets: list[Ticket] = []
        for index, group in enumerate(groups):
            if self._done is None:  # a part was refused: the others would be, too
                break
            self._tickets.append(
                scheduler.submit(_make_part(request, group), self._collect_part(index), len(group))
            )

    def cancel(self) -> None:
        """Withdraw every part: the caller does not wait any more."""
        self._done = None
        for ticket in self._tickets:
            ticket.cancel()

    def _collect_part(self, index: int) -> Done:
        def done(outcome: Outcome) -> None:
            if self._done is None:
                return
            if isinstance(outcome, InferenceResponse) and not outcome.final:
                release(outcome.outputs)
                name = self._request.model
                outcome = Unsupported(f"model '{name}' streams its answers: send one instance in a request")
            if isinstance(outcome, MooringError):
                whole = self._done
                self.cancel()
                whole(_with_place(outcome, index * self._most) if self._names_places else outcome)
            else:
                self._answers[index] = outcome
                if None not in self._answers:
                    whole, self._done = self._done, None
                    whole(self._join_answers())

        return done

    def _join_answers(self) -> InferenceResponse:
        first = self._answers[0]
        assert first is not None
        outputs = [answer.tensors[0] for answer in self._answers if answer is not None]
        output = outputs[0]
        if any(each.packed for each in outputs):
            text = b"[" + b",".join(map(join_predictions, outputs)) + b"]"
            release(outputs)
            output.data, output.packed = text, ROWS
        else:
            output.data = [element for each in outputs for element in each.data]
        output.shape = [sum(each.shape[0] for each in outputs)]
        return first


class _NoOpTicket:
    """The ticket of a request that is not queued: answered before, or on its way there."""

    def cancel(self) -> None:
        """Do nothing: there is nothing to withdraw."""


NO_OP_TICKET = _NoOpTicket()


def refuse_request(request: InferenceRequest, done: Done, error: MooringError) -> Ticket:
    """Refuse a request that is in no queue: release its memory and pass the error to ``done``."""
    request.release()
    done(error)
    return NO_OP_TICKET


def _make_part(request: InferenceRequest, elements: list[bytes | Buffer]) -> InferenceRequest:
    tensor = request.inputs[0]
    if not isinstance(elements, list):
        raise InvalidInput(f"tensor '{tensor.name}' is not a list of elements")
    part = Tensor(tensor.name, tensor.datatype, [len(elements)], elements, tensor.parameters)
    return InferenceRequest(
        model=request.model,
        version=request.version,
        id=request.id,
        inputs=[part],
        form=request.form,
        operation=request.operation,
        parameters=request.parameters,
        deadline=request.deadline,
        headers=request.headers,
        path=request.path,
        timing=request.timing,
    )


async def wait_until(condition: Callable[[], bool], limit: float) -> bool:
    """Return True as soon as the condition holds, or False after ``limit`` seconds."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.01)
    return True
