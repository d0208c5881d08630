"""``pb_utils.TritonError`` and ``TritonModelException``, and which of our errors is which of Triton's codes."""

from collections.abc import Mapping

from mooring.core import errors
from mooring.core.errors import ModelRefused, MooringError


class _Codes:
    """Triton's codes of an error, by their names."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7


# The HTTP status of each code: Triton's own, but for the last two. Those are 400 there; here each code has its own status.
_STATUSES: Mapping[int, int] = {
    _Codes.UNKNOWN: 500,
    _Codes.INTERNAL: 500,
    _Codes.NOT_FOUND: 404,
    _Codes.INVALID_ARG: 400,
    _Codes.UNAVAILABLE: 503,
    _Codes.UNSUPPORTED: 501,
    _Codes.ALREADY_EXISTS: 409,
    _Codes.CANCELLED: 499,
}
_CODES: Mapping[type[MooringError], int] = {
    errors.InvalidInput: _Codes.INVALID_ARG,
    errors.ModelNotFound: _Codes.NOT_FOUND,
    errors.ModelNotReady: _Codes.UNAVAILABLE,
    errors.ModelExists: _Codes.ALREADY_EXISTS,
    errors.QueueFull: _Codes.UNAVAILABLE,
    errors.BodyMemoryFull: _Codes.UNAVAILABLE,
    errors.DeadlineExceeded: _Codes.UNAVAILABLE,
    errors.RequestCancelled: _Codes.CANCELLED,
    errors.Unsupported: _Codes.UNSUPPORTED,
    errors.ClusterUnavailable: _Codes.UNAVAILABLE,
    MooringError: _Codes.INTERNAL,
}


class TritonError(_Codes):
    """An error that is the answer to a request. ``code`` is one of the codes above."""

    def __init__(self, message: str = "", code: int = _Codes.INTERNAL) -> None:
        self._message = message
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code

    def __str__(self) -> str:
        return self._message


class TritonModelException(Exception):
    """The exception that ``pb_utils`` raises, and that models raise to fail all of their requests."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)

    def message(self) -> str:
        return str(self)


def to_refusal(error: TritonError) -> MooringError:
    """Return the error that a client gets for a model's own, with the status of its code."""
    return ModelRefused(
        error.message() or "the model gave an error without a text", code=_STATUSES.get(error.code(), 500)
    )


def to_triton_error(error: MooringError) -> TritonError:
    """Return the error of a model that was called, as the calling model's code sees it."""
    code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    if isinstance(error, ModelRefused):
        code = next((each for each, status in _STATUSES.items() if each and status == error.code), code)
    return TritonError(error.message, code)
