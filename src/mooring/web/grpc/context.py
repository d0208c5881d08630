"""What the calls of one gRPC listener share."""

from collections.abc import Callable
from typing import Protocol

from mooring.observability.call_log import CallLog
from mooring.web.http2.context import Http2Context


class GrpcContext(Http2Context, Protocol):
    """A listener, as its calls see it. Sizes in bytes; 0 is no limit.

    ``max_message_bytes`` is for a message that is sent, ``max_request_bytes`` for one that comes, and ``max_request_key``
    the setting that says so.
    """

    max_message_bytes: int
    max_request_bytes: int
    max_request_key: str

    @property
    def calls(self) -> CallLog:
        """The log of calls; there is one where calls are observed."""
        ...

    def inflate(self, data: bytes, encoding: str, count: Callable[[int], None]) -> bytes:
        """Decompress a message, counted as it grows; called from threads, too. Raises ``StatusError``."""
        ...
