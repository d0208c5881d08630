"""How errors end gRPC calls: the status and the text that a client gets."""

from mooring.core.errors import MooringError, OutOfResources
from mooring.observability.logs import get_logger
from mooring.protocols.dialect import V2, Dialect
from mooring.protocols.status import Target, grpc_v2, retry_seconds
from mooring.web.grpc.headers import percent_encode
from mooring.web.grpc.rpc import Rpc
from mooring.web.grpc.status import Status, StatusError

log = get_logger(__name__)

# The text of a status travels percent-encoded in a header, and clients take 8 KB of headers by default.
_MAX_TEXT_BYTES = 4096


def status_error(code: str, text: str) -> StatusError:
    """An exception that ends a call with a status, given by name, and with a text that fits a header."""
    return StatusError(Status[code], shorten_text(text))


def to_status_error(error: MooringError, target: Target | None = None, dialect: Dialect = V2) -> StatusError:
    """An exception that ends a call with an error of the server, as v2 names it and the dialect words it."""
    named = status_error(*describe_error(error, target or Target(error.model, error.version), dialect))
    named.retry_after = retry_seconds(error)
    return named


def describe_error(error: MooringError, target: Target, dialect: Dialect) -> tuple[str, str]:
    """The name of an error's status in v2, and its text in the dialect's words."""
    code, text = grpc_v2(error, target)
    refusal = dialect.override_refusal(error, target)
    return code, text if refusal is None else refusal.message


def shorten_text(text: str) -> str:
    """A text cut to what a header takes."""
    if len(text) * 12 > _MAX_TEXT_BYTES:  # a character takes twelve bytes at most
        while len(percent_encode(text)) > _MAX_TEXT_BYTES:
            text = text[: len(text) * 3 // 4] + "…"
    return text


def internal_error_text(error: Exception) -> str:
    """The text that a client gets for a fault of the server's own: its kind, and where the rest is."""
    return f"{type(error).__name__}: internal server error, see the server's log"


def end_with_error(call: Rpc, service: str, method: str, error: Exception, dialect: Dialect) -> None:
    """End a call with what its method has raised; what is not an error of ours is logged."""
    if isinstance(error, MemoryError) and not isinstance(error, MooringError):
        error = OutOfResources("there is no memory for this request")
    if isinstance(error, MooringError):
        error = to_status_error(error, dialect=dialect)
    if isinstance(error, StatusError):
        call.end(error.status, str(error), retry_after=error.retry_after)
        return
    log.error("request failed", exc_info=error, service=service, method=method)
    call.end(Status.INTERNAL, internal_error_text(error))
