"""Requests and responses as ``pb_utils`` has them: those that clients send a model, and those that the model sends others."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mooring.backends.triton_python.errors import TritonError, TritonModelException
from mooring.backends.triton_python.host import HOST, Exchange
from mooring.backends.triton_python.tensor import Tensor
from mooring.core.tensors import Parameter, RequestValue

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2
TRITONSERVER_MEMORY_CPU = 0
TRITONSERVER_MEMORY_GPU = 1

_DEFAULT_MEMORY = -1
_MICROSECONDS = 1e6


def _is_parameter(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, float) or _is_text(value)


def _is_text(value: Any) -> bool:
    """Whether this is a text that UTF-8 can hold: surrogates have no place in it."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class PreferredMemory:
    """Where a caller would like the outputs of another model. They are in the machine's memory here, whatever it says."""

    def __init__(self, preferred_memory_type: int = _DEFAULT_MEMORY, preferred_device_id: int = 0) -> None:
        self.preferred_memory_type = preferred_memory_type
        self.preferred_device_id = preferred_device_id


class InferenceTrace:
    """The trace of a request. None is written here, so that its context is empty."""

    def get_context(self) -> str | None:
        return None


class InferenceResponse:
    """An answer: tensors, or an error; one of a stream, of a model that is decoupled."""

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: TritonError | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> None:
        for each in output_tensors:
            if not isinstance(each, Tensor):
                raise TritonModelException(
                    f"output_tensors must hold pb_utils.Tensor objects, and has a {type(each).__name__}"
                )
        if error is not None and not isinstance(error, TritonError):
            raise TritonModelException(f"error must be a pb_utils.TritonError, not a {type(error).__name__}")
        self._output_tensors = list(output_tensors)
        self._error = error
        self._parameters = dict(parameters or {})
        for name, value in self._parameters.items():
            if not _is_text(name) or not _is_parameter(value):
                raise TritonModelException(
                    f"parameter {name!r} is {value!r}: a response's parameters are texts, booleans, floats and integers "
                    "of 64 bits"
                )

    def output_tensors(self) -> list[Tensor]:
        return self._output_tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def parameters(self) -> str:
        """The parameters as the JSON text of an object."""
        return json.dumps(self._parameters)

    def response_parameters(self) -> dict[str, Parameter]:
        """The parameters as they were given."""
        return self._parameters


class InferenceResponseSender:
    """Sends the responses to one request, from any thread, also after ``execute`` has returned."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Send a response. TRITONSERVER_RESPONSE_COMPLETE_FINAL says that it is the last, or without one that none follows.

        Raises ``TritonModelException`` for other flags, for no response without the flag, and after the last response.
        """
        if flags not in (0, TRITONSERVER_RESPONSE_COMPLETE_FINAL):
            raise TritonModelException(f"Unable to send response. Unsupported flag '{flags}' provided.")
        if response is None and not flags:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is not "
                "TRITONSERVER_RESPONSE_COMPLETE_FINAL."
            )
        if response is not None and not isinstance(response, InferenceResponse):
            raise TritonModelException(
                f"Expected an 'InferenceResponse' object, found type '{type(response).__name__}'."
            )
        self._exchange.send(response, final=bool(flags))

    def is_cancelled(self) -> bool:
        return self._exchange.is_cancelled()


class InferenceRequest:
    """A request: a client's, which ``execute`` gets, or one that the model makes to call another model.

    ``timeout`` is in microseconds, 0 for none. ``model_version`` -1 is the version that answers by default.
    """

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Sequence[Tensor] = (),
        requested_output_names: Sequence[str] = (),
        model_name: str = "",
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,
        trace: InferenceTrace | None = None,
        parameters: Mapping[str, RequestValue] | None = None,
    ) -> None:
        self._request_id = request_id
        self._correlation_id = correlation_id
        self._inputs = list(inputs)
        self._requested_output_names = list(requested_output_names)
        self._model_name = model_name
        self._model_version = model_version
        self._flags = flags
        self._timeout = timeout
        self._preferred_memory = preferred_memory or PreferredMemory()
        self._trace = trace or InferenceTrace()
        self._parameters = dict(parameters or {})
        self._exchange: Exchange | None = None
        self.release_flags = TRITONSERVER_REQUEST_RELEASE_ALL

    def bind(self, exchange: Exchange) -> "InferenceRequest":
        """Tie a client's request to where its responses go."""
        self._exchange = exchange
        return self

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def request_id(self) -> str:
        return self._request_id

    def correlation_id(self) -> int | str:
        """The sequence that the request belongs to: a number or a text, as its client gave it; 0 for none."""
        return self._correlation_id

    def requested_output_names(self) -> list[str]:
        """The outputs that the client asked for; all that are declared where it named none."""
        return self._requested_output_names

    def model_name(self) -> str:
        return self._model_name

    def model_version(self) -> int:
        return self._model_version

    def flags(self) -> int:
        """TRITONSERVER_REQUEST_FLAG_SEQUENCE_START and _END, as far as they are set."""
        return self._flags

    def set_flags(self, flags: int) -> None:
        self._flags = flags

    def timeout(self) -> int:
        """Microseconds: of a client's request those that are left now, 0 where it has no time-out."""
        if self._exchange is not None and self._exchange.deadline is not None:
            return max(1, round((self._exchange.deadline - time.monotonic()) * _MICROSECONDS))
        return self._timeout

    def parameters(self) -> str:
        """The parameters as the JSON text of an object."""
        return json.dumps(self._parameters)

    def request_parameters(self) -> dict[str, RequestValue]:
        """The parameters as they were given."""
        return self._parameters

    def preferred_memory(self) -> PreferredMemory:
        return self._preferred_memory

    def trace(self) -> InferenceTrace:
        return self._trace

    def set_release_flags(self, flags: int) -> None:
        """With TRITONSERVER_REQUEST_RELEASE_RESCHEDULE the request comes back in a later call of ``execute``.

        Raises ``TritonModelException`` for other flags.
        """
        if flags not in (TRITONSERVER_REQUEST_RELEASE_ALL, TRITONSERVER_REQUEST_RELEASE_RESCHEDULE):
            raise TritonModelException(f"Invalid release flags '{flags}' for the request.")
        self.release_flags = flags

    def get_response_sender(self) -> InferenceResponseSender:
        """Return the sender of a client's request. Raises ``TritonModelException`` for a request of the model's own."""
        if self._exchange is None:
            raise TritonModelException("'get_response_sender' is for requests that 'execute' was given")
        self._exchange.open_sender()
        return InferenceResponseSender(self._exchange)

    def is_cancelled(self) -> bool:
        return self._exchange is not None and self._exchange.is_cancelled()

    def exec(self, decoupled: bool = False) -> Any:
        """Send the request to the model that it names, and wait for its answer; errors of that model are in the answer.

        With ``decoupled`` the answer is an iterator over any number of responses.
        """
        return HOST.caller().call(self, decoupled=decoupled)

    def async_exec(self, decoupled: bool = False) -> Any:
        """As ``exec``, for a coroutine: returns something to await."""
        return HOST.caller().call_async(self, decoupled=decoupled)


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """Return the input of that name; None where the request has none."""
    return next((each for each in inference_request.inputs() if each.name() == name), None)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """Return the output of that name; None where the response has none."""
    return next((each for each in inference_response.output_tensors() if each.name() == name), None)
