"""Which sequence a request belongs to: how clients say it, how the model hears of it, how the answer tells it.

TorchServe's clients say it in headers, those of the Open Inference Protocol in parameters; one sequence may be asked
both ways, so ids are compared as texts.
"""

import uuid
from collections.abc import Mapping

from mooring.core.errors import InvalidInput
from mooring.core.options import SequenceHeaders
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, ResponseHead, Step
from mooring.core.tensors import RequestValue

ID, START, END = "sequence_id", "sequence_start", "sequence_end"

_LONGEST = 256
_LARGEST = 1 << 64
_TRUE = frozenset({"true", "1"})


def step_of(request: InferenceRequest, names: SequenceHeaders) -> Step:
    """What the request says of its sequence, with an empty id where it names none. Raises ``InvalidInput``."""
    parameters = request.parameters or {}
    if request.form is Form.TENSORS and parameters.get(ID):
        return Step(_checked(parameters[ID]), _flag(parameters, START), _flag(parameters, END))
    headers = _headers(request, names)
    name, start, end = (headers.get(each, "").strip() for each in names.lower)
    return Step(_checked(name) if name else "", start.lower() in _TRUE, end.lower() in _TRUE)


def new_sequence_id() -> str:
    """An id for a sequence whose client gave it none, as TorchServe makes them."""
    return f"ts-seq-{uuid.uuid4()}"


def mark_step(request: InferenceRequest, step: Step, names: SequenceHeaders) -> None:
    """Tell the model, whichever way the client said it: as ``sequence``, and to a handler in its headers."""
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


def _headers(request: InferenceRequest, names: SequenceHeaders) -> dict[str, str]:
    wanted = names.lower
    found: dict[str, str] = {}
    for raw, value in request.headers or ():
        name = raw.decode("latin-1").lower()
        if name in wanted:
            # As UTF-8 where it is that: over gRPC an id is any text.
            found[name] = value.decode("utf-8", "replace")
    return found


def _checked(name: RequestValue) -> str | int:
    if type(name) is int and 0 < name < _LARGEST:
        return name
    if not isinstance(name, str) or len(name) > _LONGEST or not name.isprintable():
        raise InvalidInput(
            f"{ID} must be a text of at most {_LONGEST} printable characters or a whole number from 1 "
            f"below 2^64, not {str(name)[:_LONGEST]!r}"
        )
    return name


def _flag(parameters: Mapping[str, RequestValue], name: str) -> bool:
    value = parameters.get(name, False)
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):  # what clients send whose parameters are all texts
        return value == "true"
    raise InvalidInput(f"parameter '{name}' of the request must be true or false, not {value!r}")
