"""How requests become calls of a model, and calls become outcomes: the pure rules of every kind of worker."""

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from mooring.backends.client_errors import find_client_error
from mooring.backends.model_calls import to_model_failure
from mooring.core.errors import (
    InvalidOutput,
    ModelFailed,
    ModelLoadFailed,
    MooringError,
    OutOfResources,
    PackageMissing,
)
from mooring.core.missing_packages import explain_missing_module
from mooring.core.requests import TENSORS, InferenceRequest, InferenceResponse
from mooring.core.service import Outcome


def split_into_calls(requests: Sequence[InferenceRequest], limit: int) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, rows) of each call: consecutive requests of one operation, of at most ``limit`` rows together.

    A request of more rows is a call of its own.
    """
    begin = rows = 0
    for index, request in enumerate(requests):
        more = request.rows
        if index > begin and (rows + more > limit or request.operation is not requests[begin].operation):
            yield begin, index, rows
            begin, rows = index, 0
        rows += more
    if requests:
        yield begin, len(requests), rows


def enforce_answer_limit(
    limit: int, requests: Sequence[InferenceRequest], outcomes: Sequence[Outcome]
) -> Sequence[Outcome]:
    """Return the outcomes, with an error in place of every answer of more than ``limit`` bytes.

    TorchServe answers 500 for it and kills the worker; here the worker goes on. Answers of tensors have no limit, as in
    Triton.
    """
    limited = outcomes
    for index, outcome in enumerate(outcomes):
        if type(outcome) is not InferenceResponse or requests[index].form is TENSORS:
            continue
        size = _size_of(outcome)
        if size > limit:
            text = f"the model's answer has {size} bytes and max_response_size is {limit}"
            limited = [*limited[:index], InvalidOutput(text, code=500), *limited[index + 1 :]]
    return limited


def _size_of(response: InferenceResponse) -> int:
    size = 0
    for tensor in response.outputs:
        data = tensor.data
        if type(data) is list:
            for element in data:
                size += len(element)
        else:
            size += len(data)
    return size


def line_of(error: BaseException) -> str:
    """Return an exception as one line: its type and its text."""
    return f"{type(error).__name__}: {error}"


def load_failure_of(error: Exception, folder: Path) -> MooringError:
    """Return what a load raised as a ``MooringError``. ``folder`` has the model's files.

    A missing module is one sentence with the command that installs it. Call it while the exception is being handled.
    """
    detail = traceback.format_exc()
    cause = error.__cause__ if isinstance(error, ModelLoadFailed) else error
    if isinstance(cause, ModuleNotFoundError) and cause.name and not isinstance(error, PackageMissing):
        detail = error.detail if isinstance(error, MooringError) and error.detail else detail
        return PackageMissing(explain_missing_module(cause, folder), detail=detail)
    return error if isinstance(error, MooringError) else ModelLoadFailed(line_of(error), detail=detail)


def fails_again(error: BaseException, *, code: bool) -> bool:
    """Whether an error while a model was loaded will come again as long as its files are the same.

    True for what the server refuses, for a file that a library cannot read, and for code that cannot be imported. False
    for other errors of the model's own ``code``, which may be a network that does not answer, and for a lack of memory.
    """
    if isinstance(error, (OutOfResources, MemoryError)):
        return False
    if isinstance(error, (ImportError, SyntaxError)):
        return True
    cause = error.__cause__
    if isinstance(error, MooringError):
        return cause is None or (fails_again(cause, code=code) if code else not isinstance(cause, OSError))
    return False


def failure_of(error: Exception, client_errors: frozenset[str] = frozenset()) -> MooringError:
    """Return an exception of the model's code as a ``MooringError``.

    Of a class with one of the names ``client_errors`` it is the client's mistake.
    """
    if isinstance(error, MooringError):
        return _blame_client(error, client_errors)
    if mistake := find_client_error(error, client_errors):
        return mistake
    return to_model_failure(error)


def blame_clients(outcomes: Sequence[Outcome], client_errors: frozenset[str]) -> Sequence[Outcome]:
    """Return the outcomes, with the client's mistake in place of each failure whose exception has one of these names."""
    if not client_errors or all(type(outcome) is InferenceResponse for outcome in outcomes):
        return outcomes
    return [
        outcome if isinstance(outcome, InferenceResponse) else _blame_client(outcome, client_errors)
        for outcome in outcomes
    ]


def _blame_client(error: MooringError, client_errors: frozenset[str]) -> MooringError:
    """Return the client's mistake where a backend has made a failure of such an exception already."""
    cause = error.__cause__
    if not client_errors or not isinstance(error, ModelFailed) or cause is None:
        return error
    return find_client_error(cause, client_errors) or error
