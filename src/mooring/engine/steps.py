"""Which sequence a request belongs to: read from the request, passed to the model, written into the answer.

TorchServe's clients name a sequence in headers, those of the Open Inference Protocol in parameters. One sequence may get
requests of both kinds, so ids are compared as texts.
"""

import uuid
from collections.abc import Mapping

from mooring.core.errors import InvalidInput
from mooring.core.options import SequenceHeaders
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, ResponseHead, Step
from mooring.core.tensors import RequestValue

ID, START, END = "sequence_id", "sequence_start", "sequence_end"

_MAX_LENGTH = 256  # characters of an id that is a text
_END_OF_IDS = 1 << 64  # an id that is a number is below: it is a uint64 of Triton's clients
_TRUE = frozenset({"true", "1"})


def step_of(request: InferenceRequest, names: SequenceHeaders) -> Step:
    """The step that a request is, with an empty id where it names no sequence. Raises ``InvalidInput``."""
    parameters = request.parameters or {}
    if request.form is Form.TENSORS and parameters.get(ID):
        return Step(
            _checked_id(parameters[ID]), _read_boolean(parameters, START), _read_boolean(parameters, END)
        )
    headers = _sequence_headers(request, names)
    name, start, end = (headers.get(each, "").strip() for each in names.lower)
    return Step(_checked_id(name) if name else "", start.lower() in _TRUE, end.lower() in _TRUE)


def new_sequence_id() -> str:
    """An id for a sequence whose client gave it none, as TorchServe makes them."""
    return f"ts-seq-{uuid.uuid4()}"


def mark_step(request: InferenceRequest, step: Step, names: SequenceHeaders) -> None:
    """Pass a step to the model, however the client named it: as ``sequence``, and to a handler in its headers."""
    request.sequence = step
    kept = [
        (name, value)
        for name, value in request.headers or ()
        if name.decode("latin-1").lower() not in names.lower
    ]
    kept.append((names.id.encode(), str(step.id).encode()))
    if step.start:
        kept.append((names.start.encode(), b"true"))
    if step.end:
        kept.append((names.end.encode(), b"true"))
    request.headers = kept
    if request.parameters:
        left = {key: value for key, value in request.parameters.items() if key not in (ID, START, END)}
        request.parameters = left or None


def add_sequence_id(
    response: InferenceResponse, request: InferenceRequest, step: Step, names: SequenceHeaders
) -> None:
    """Put the sequence's id into an answer: where gRPC and v2 read it, and as a header for TorchServe's clients."""
    response.parameters = {**(response.parameters or {}), ID: step.id}
    if request.form is Form.BODY:
        head = response.head = response.head or ResponseHead()
        if str(step.id).isascii() and all(name.lower() != names.lower[0] for name, _ in head.headers):
            head.headers.append((names.id, str(step.id)))


def _sequence_headers(request: InferenceRequest, names: SequenceHeaders) -> dict[str, str]:
    by_name: dict[str, str] = {}
    for raw, value in request.headers or ():
        name = raw.decode("latin-1").lower()
        if name in names.lower:
            # Decoded as UTF-8 where it is valid: over gRPC an id may be any text.
            by_name[name] = value.decode("utf-8", "replace")
    return by_name


def _checked_id(name: RequestValue) -> str | int:
    if type(name) is int and 0 < name < _END_OF_IDS:
        return name
    if not isinstance(name, str) or len(name) > _MAX_LENGTH or not name.isprintable():
        raise InvalidInput(
            f"{ID} must be a text of at most {_MAX_LENGTH} printable characters or a whole number from 1 "
            f"below 2^64, not {str(name)[:_MAX_LENGTH]!r}"
        )
    return name


def _read_boolean(parameters: Mapping[str, RequestValue], name: str) -> bool:
    value = parameters.get(name, False)
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):  # some clients send every parameter as text
        return value == "true"
    raise InvalidInput(f"parameter '{name}' of the request must be true or false, not {value!r}")
