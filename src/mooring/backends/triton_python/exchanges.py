"""A client's request as the model's code has it, and the way of its responses back: one response, or a stream."""

import abc
import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mooring.backends.samples import Arrays, Sample
from mooring.backends.triton_python.errors import TritonModelException, to_refusal
from mooring.backends.triton_python.host import Exchange
from mooring.backends.triton_python.messages import (
    TRITONSERVER_REQUEST_RELEASE_RESCHEDULE,
    InferenceRequest,
    InferenceResponse,
)
from mooring.core import requests as core
from mooring.core.errors import InvalidOutput, MooringError, RequestCancelled
from mooring.core.tensors import Parameter

# Seconds between two looks whether the client of a request still waits.
_LOOK = 0.1


class Answers:
    """What the model gave for one sample of a request: the outputs of every response, or the error that ended it."""

    def __init__(self) -> None:
        self.pieces: list[Arrays] = []
        self.parameters: dict[str, Parameter] | None = None
        self.error: MooringError | None = None

    @property
    def complete(self) -> bool:
        """Whether there is an answer."""
        return bool(self.pieces) or self.error is not None


ToArrays = Callable[[InferenceResponse], Arrays]


class ClientExchange(Exchange, abc.ABC):
    """One sample of a client's request, until the model has answered it; ``cancelled`` tells that nobody waits for that."""

    def __init__(
        self,
        sample: Sample,
        request: InferenceRequest,
        deadline: float | None,
        cancelled: Callable[[], bool],
    ) -> None:
        self.sample = sample
        self.deadline = deadline
        self.request = request.bind(self)
        self._cancelled = cancelled
        self._sending = threading.Lock()

    @property
    @abc.abstractmethod
    def has_ended(self) -> bool:
        """Whether the model can send no more responses."""

    @abc.abstractmethod
    def fail(self, error: MooringError) -> None:
        """End the request with an error, unless it has ended."""

    @property
    def rescheduled(self) -> bool:
        """Whether the request is to come back in another call."""
        return self.request.release_flags == TRITONSERVER_REQUEST_RELEASE_RESCHEDULE and not self.has_ended

    def is_cancelled(self) -> bool:
        return self._cancelled()

    def drop_if_cancelled(self) -> bool:
        """End the request if nobody waits for it; return whether that is so."""
        if self.is_cancelled():
            self.fail(RequestCancelled("nobody waits for the answer"))
            return True
        self.request.set_flags(0)  # only the first call is a sequence's first
        return False


class SampleExchange(ClientExchange):
    """One sample of a request, of a model that gives one response to each. ``answers`` is filled from any thread."""

    def __init__(
        self,
        sample: Sample,
        request: InferenceRequest,
        deadline: float | None,
        to_arrays: ToArrays,
        cancelled: Callable[[], bool],
    ) -> None:
        super().__init__(sample, request, deadline, cancelled)
        self.answers = Answers()
        self.uses_sender = False
        self._to_arrays = to_arrays
        self._closed = threading.Event()

    @property
    def has_ended(self) -> bool:
        return self.answers.complete

    def open_sender(self) -> None:
        self.uses_sender = True

    def send(self, response: InferenceResponse | None, *, final: bool) -> None:
        with self._sending:
            if self._closed.is_set():
                raise TritonModelException("Unable to send response. Response sender has been closed.")
            if response is not None:
                if self.answers.complete:
                    raise TritonModelException(
                        "Unable to send response. The model is not decoupled, and may give one response to a request."
                    )
                self.take(response)
            elif not self.answers.complete:
                self.answers.error = InvalidOutput(
                    "the model gave no response; say decoupled in model_transaction_policy where it may give none"
                )
            if final:
                self._closed.set()

    def take(self, response: InferenceResponse) -> None:
        """Keep the response of the model."""
        answers = self.answers
        error = response.error()
        if error is not None:
            answers.error = to_refusal(error)
            return
        try:
            answers.pieces = [self._to_arrays(response)]
            answers.parameters = response.response_parameters() or None
        except MooringError as invalid:
            answers.error = invalid

    def fail(self, error: MooringError) -> None:
        if not self.answers.complete:
            self.answers.error = error
        self._closed.set()

    def wait(self) -> None:
        """Return when the sender has sent its last response, or nobody waits for it."""
        while not self._closed.wait(_LOOK):
            if self._cancelled():
                return


class StreamExchange(ClientExchange):
    """One sample of a request, of a model that gives any number of responses from any thread.

    ``emit`` sends a response on its way; ``ended`` is resolved with the last one, None where there is none, or with an
    error. Both happen on the event loop.
    """

    def __init__(
        self,
        sample: Sample,
        request: InferenceRequest,
        deadline: float | None,
        build_piece: Callable[[InferenceResponse], core.InferenceResponse],
        emit: Callable[[core.InferenceResponse], None],
        cancelled: Callable[[], bool],
    ) -> None:
        super().__init__(sample, request, deadline, cancelled)
        self.withdrawn = False
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[core.InferenceResponse | MooringError | None] = self._loop.create_future()
        self._build_piece = build_piece
        self._emit = emit
        self._closed = self._answered = False

    @property
    def has_ended(self) -> bool:
        return self._closed or self._answered

    def is_cancelled(self) -> bool:
        return self.withdrawn or super().is_cancelled()

    def open_sender(self) -> None:
        """Nothing to note: a decoupled model answers by senders only."""

    def send(self, response: InferenceResponse | None, *, final: bool) -> None:
        with self._sending:
            if self._closed:
                raise TritonModelException("Unable to send response. Response sender has been closed.")
            self._closed = final
            if self._answered:
                return
            if response is None:
                self._end(None)
                return
            error = response.error()
            if error is not None:
                self._end(to_refusal(error))
                return
            try:
                piece = self._build_piece(response)
            except MooringError as invalid:
                self._end(invalid)
                return
            piece.final = final
            if final:
                self._end(piece)
            else:
                self._on_loop(self._emit, piece)

    def fail(self, error: MooringError) -> None:
        with self._sending:
            if not self._answered:
                self._end(error)

    def _end(self, outcome: core.InferenceResponse | MooringError | None) -> None:
        self._answered = True
        self._on_loop(self._resolve, outcome)

    def _resolve(self, outcome: core.InferenceResponse | MooringError | None) -> None:
        if not self.ended.done():
            self.ended.set_result(outcome)

    def _on_loop(self, function: Callable[[Any], None], argument: Any) -> None:
        with suppress(RuntimeError):  # the worker ends, and its loop is closed
            self._loop.call_soon_threadsafe(function, argument)
