"""The streams of one connection: those that are open, and what is known of those that are not (RFC 9113, 5.1.1)."""

from mooring.web.http2.errors import ErrorCode, Http2Error
from mooring.web.http2.streams import Stream

# Streams that the server ended first, of which frames may still be on their way.
_REMEMBERED = 1024


class StreamTable:
    """Open streams by id. ``last_id`` is the highest that the client has used; all above it are idle.

    A frame on a closed stream is the client's error, unless the server had ended that stream: the client may not have
    known. So the last streams that were ended here are remembered, and all that are older count as if they were.
    """

    __slots__ = ("_ended_here", "_forgotten_id", "by_id", "last_id")

    def __init__(self) -> None:
        self.by_id: dict[int, Stream] = {}
        self.last_id = 0
        self._ended_here: dict[int, None] = {}  # oldest first
        self._forgotten_id = 0

    def __len__(self) -> int:
        return len(self.by_id)

    def is_idle(self, number: int) -> bool:
        """Whether the client has never used this id, or never could: a client's streams are odd."""
        return not number or number > self.last_id or not number & 1

    def remember_ended_here(self, number: int) -> None:
        """Note that the server ended this stream while the client might be sending."""
        ended = self._ended_here
        ended[number] = None
        if len(ended) > _REMEMBERED:
            oldest = next(iter(ended))
            del ended[oldest]
            self._forgotten_id = max(self._forgotten_id, oldest)

    def check_late_frame(self, number: int) -> None:
        """Raise ``Http2Error`` for content or trailers on a stream that takes none, unless they were on their way."""
        if self.is_idle(number):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a frame for a stream that was not begun")
        if number in self.by_id or (number not in self._ended_here and number > self._forgotten_id):
            raise Http2Error(ErrorCode.STREAM_CLOSED, "a frame for a stream that its client has closed")
