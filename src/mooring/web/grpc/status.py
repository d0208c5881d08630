"""How a gRPC call ends: statuses, and the exception that names one."""

import enum


class Status(enum.IntEnum):
    """The status codes of gRPC, as ``grpc-status`` carries them."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class StatusError(Exception):
    """Ends a call with a status and a text; ``retry_after`` are seconds, 0 where the client is told none."""

    def __init__(self, status: Status, text: str, *, retry_after: int = 0) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


class MalformedMessages(StatusError):
    """Ends a call for messages that cannot be, which counts against the client's frame budget."""
