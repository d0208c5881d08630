"""Turn the exceptions of handlers into the server's errors."""

import traceback

from mooring.backends.client_errors import find_client_error
from mooring.core.errors import ModelFailed, ModelRefused, MooringError, OutOfResources
from mooring.core.missing_packages import install_hint


class PredictionException(Exception):
    """Raised by a handler to refuse a request with a text and a status of its choice."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"message : {self.message} error_code : {self.error_code}"


def fault_of(error: Exception, client_errors: frozenset[str] = frozenset()) -> MooringError:
    """Return the server's error for an exception of a handler. Call it while the exception is being handled.

    Of a class with one of the names ``client_errors`` it is the client's mistake.
    """
    if isinstance(error, MooringError):
        return error
    if mistake := find_client_error(error, client_errors):
        return mistake
    detail = traceback.format_exc()
    if isinstance(error, PredictionException):
        return ModelRefused(str(error.message), code=error.error_code, detail=detail)
    text = summarize_error(error) + install_hint(error)
    # TorchServe answers 507 for out of memory, which it knows by this word, and clients test for it.
    kind = OutOfResources if isinstance(error, MemoryError) or "CUDA" in text else ModelFailed
    return kind(text, detail=detail)


def summarize_error(error: BaseException) -> str:
    """Return an exception as one line: its type and its text."""
    try:
        text = str(error)
    except Exception:  # the handler's own exception class is at fault
        text = "its text cannot be had"
    name = type(error).__name__
    return f"{name}: {text}" if text else name
