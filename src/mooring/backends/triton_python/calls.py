"""Calls of other models from the code of a model (Triton's business logic scripting), and the loading of models."""

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import msgspec

from mooring.backends.triton_python.errors import TritonModelException, to_triton_error
from mooring.backends.triton_python.host import HOST
from mooring.backends.triton_python.messages import (
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
    InferenceRequest,
    InferenceResponse,
)
from mooring.backends.triton_python.tensor import Tensor
from mooring.codecs.packed import unpack_tensor
from mooring.core import requests as core
from mooring.core import tensors as core_tensors
from mooring.core.errors import MooringError, RequestCancelled, Unsupported
from mooring.core.service import Outcome, Ticket

# Seconds between two looks whether anybody still waits for what the caller does.
_LOOK = 0.1
_MICROSECONDS = 1e6


class _Call:
    """A call on its way. ``outcomes`` are put there from the thread that reads the server's answers."""

    def __init__(self, request: InferenceRequest) -> None:
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._on_outcome: Callable[[], None] = lambda: None
        self.over = False
        self.ticket: Ticket = HOST.find_models().submit(_to_request(request), self._put)

    def _put(self, outcome: Outcome) -> None:
        self._outcomes.put(outcome)
        self._on_outcome()

    def watch(self, on_outcome: Callable[[], None]) -> None:
        """Call this for every outcome from now on, and once for those that are there already."""
        self._on_outcome = on_outcome
        on_outcome()

    def next(self) -> core.InferenceResponse:
        """Wait for the next response. Raises ``MooringError``, also where nobody waits for the caller's own answer."""
        while True:
            try:
                outcome = self._outcomes.get(timeout=_LOOK)
                break
            except queue.Empty:
                if HOST.is_abandoned():
                    self.cancel()
                    raise RequestCancelled("nobody waits for the answer") from None
        return self._take(outcome)

    def poll(self) -> core.InferenceResponse | None:
        """Return the next response if it is there. Raises ``MooringError``."""
        try:
            outcome = self._outcomes.get_nowait()
        except queue.Empty:
            return None
        return self._take(outcome)

    def _take(self, outcome: Outcome) -> core.InferenceResponse:
        if isinstance(outcome, MooringError):
            self.over = True
            raise outcome
        self.over = outcome.final
        return outcome

    def cancel(self) -> None:
        """Tell the server that nobody waits for the rest."""
        if not self.over:
            self.over = True
            self.ticket.cancel()


class _OneResponse:
    """Takes the outcomes of a call that may have one response only."""

    def __init__(self, model: str, call: _Call) -> None:
        self._model = model
        self._call = call
        self._piece: core.InferenceResponse | None = None

    def take(self, outcome: core.InferenceResponse) -> InferenceResponse | None:
        """Return the response once it is known to be the only one. Raises ``Unsupported`` for a second one, or none."""
        if self._piece is not None and outcome.outputs:
            self._call.cancel()
            raise Unsupported(
                f"model '{self._model}' gives more than one response to a request; call exec or async_exec with "
                "decoupled=True"
            )
        if not outcome.final:
            self._piece = outcome
            return None
        if self._piece is None and not outcome.outputs:
            raise Unsupported(
                f"model '{self._model}' gave no response to the request; call exec or async_exec with decoupled=True"
            )
        return _to_response(self._piece or outcome)


class ResponseIterator:
    """The responses of a decoupled model, one by one as they come; an error is a response, the last one."""

    def __init__(self, call: _Call | None, first: InferenceResponse | None = None) -> None:
        self._call = call
        self._first = first

    def __iter__(self) -> Iterator[InferenceResponse]:
        return self

    def __next__(self) -> InferenceResponse:
        if self._first is not None:
            response, self._first = self._first, None
            return response
        call = self._call
        while call is not None and not call.over:
            try:
                outcome = call.next()
            except MooringError as error:
                return _to_error(error)
            if outcome.outputs:
                return _to_response(outcome)
        raise StopIteration

    async def __aiter__(self) -> AsyncIterator[InferenceResponse]:
        while True:
            response = await asyncio.to_thread(next, self, None)
            if response is None:
                return
            yield response

    def cancel(self) -> None:
        """Give up the rest of the responses."""
        if self._call is not None:
            self._call.cancel()


class ModelCaller:
    """Calls other models; what they refuse is the error of the response."""

    def call(self, request: InferenceRequest, *, decoupled: bool) -> InferenceResponse | ResponseIterator:
        """Send a request to another model and wait for the answer. Raises ``TritonModelException`` for one that names no model."""
        try:
            call = _Call(request)
            if decoupled:
                return ResponseIterator(call)
            only = _OneResponse(request.model_name(), call)
            while (response := only.take(call.next())) is None:
                pass
        except MooringError as error:
            failure = _to_error(error)
            return ResponseIterator(None, failure) if decoupled else failure
        return response

    def call_async(
        self, request: InferenceRequest, *, decoupled: bool
    ) -> "asyncio.Future[InferenceResponse | ResponseIterator]":
        """As ``call``, without waiting: the future belongs to the running event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[InferenceResponse | ResponseIterator] = loop.create_future()
        try:
            call = _Call(request)
        except MooringError as error:
            failure = _to_error(error)
            future.set_result(ResponseIterator(None, failure) if decoupled else failure)
            return future
        if decoupled:
            future.set_result(ResponseIterator(call))
            return future
        only = _OneResponse(request.model_name(), call)

        def take_outcomes() -> None:
            try:
                while not future.done() and (outcome := call.poll()) is not None:
                    response = only.take(outcome)
                    if response is not None:
                        future.set_result(response)
            except MooringError as error:
                future.set_result(_to_error(error))

        def on_outcome() -> None:
            loop.call_soon_threadsafe(take_outcomes)

        future.add_done_callback(lambda done: call.cancel() if done.cancelled() else None)
        call.watch(on_outcome)
        return future


def load_model(
    model_name: str, files: Mapping[str, bytes | str] | None = None, config: str | None = None
) -> None:
    """Load a model of the server and return when it is ready.

    ``files`` are its files by path ("file:1/model.onnx"), ``config`` its configuration in JSON. Raises
    ``TritonModelException``.
    """
    content = {
        name: value.encode() if isinstance(value, str) else bytes(value)
        for name, value in (files or {}).items()
    }
    try:
        own = msgspec.json.decode(config, type=dict[str, Any]) if config else None
        HOST.find_models().load(model_name, content, own)
    except (MooringError, msgspec.DecodeError) as error:
        raise TritonModelException(f"failed to load '{model_name}': {error}") from error


def unload_model(model_name: str, unload_dependents: bool = False) -> None:
    """Unload a model of the server. Raises ``TritonModelException``."""
    try:
        HOST.find_models().unload(model_name, dependents=unload_dependents)
    except MooringError as error:
        raise TritonModelException(f"failed to unload '{model_name}': {error}") from error


def is_model_ready(model_name: str, model_version: str = "") -> bool:
    """Whether a model of the server can answer now. Raises ``TritonModelException`` where the server cannot tell."""
    try:
        return HOST.find_models().is_ready(model_name, str(model_version))
    except MooringError as error:
        raise TritonModelException(str(error)) from error


def _to_request(request: InferenceRequest) -> core.InferenceRequest:
    if not request.model_name():
        raise TritonModelException("the request names no model: give it a model_name")
    parameters = dict(request.request_parameters())
    if request.correlation_id():
        parameters["sequence_id"] = request.correlation_id()
        parameters["sequence_start"] = bool(request.flags() & TRITONSERVER_REQUEST_FLAG_SEQUENCE_START)
        parameters["sequence_end"] = bool(request.flags() & TRITONSERVER_REQUEST_FLAG_SEQUENCE_END)
    deadlines = [HOST.deadline()]
    if request.timeout() > 0:
        deadlines.append(time.monotonic() + request.timeout() / _MICROSECONDS)
    known = [each for each in deadlines if each is not None]
    version = request.model_version()
    return core.InferenceRequest(
        request.model_name(),
        "" if version == -1 else str(version),
        request.request_id(),
        [core_tensors.Tensor.of(each.name(), each.as_numpy()) for each in request.inputs()],
        parameters=parameters or None,
        outputs=[core.RequestedOutput(name) for name in request.requested_output_names()] or None,
        deadline=min(known) if known else None,
    )


def _to_response(outcome: core.InferenceResponse) -> InferenceResponse:
    tensors = []
    for each in outcome.tensors:
        if each.packed:
            unpack_tensor(each)
        array = each.array()
        tensors.append(Tensor(each.name, array if array.flags.writeable else array.copy()))
    return InferenceResponse(tensors, parameters=outcome.parameters)


def _to_error(error: MooringError) -> InferenceResponse:
    return InferenceResponse([], to_triton_error(error))
