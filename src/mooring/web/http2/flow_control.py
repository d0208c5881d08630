"""Flow control (RFC 9113, 5.2 and 6.9): how many bytes of content each side may still send. No I/O."""

from collections.abc import Iterable

from mooring.web.http2 import frames
from mooring.web.http2.errors import ErrorCode, Http2Error
from mooring.web.http2.streams import Stream


class FlowControl:
    """The windows of one connection, in bytes, and the rules for those of its streams.

    ``send_window`` is what the client takes on all streams together, ``initial_send_window`` what it takes on a new one.
    ``receive_window`` is what the client may still send on all streams together. It is opened again when half of it is
    used: streams hold the client back by windows of their own, so that one which is not read stops no other.
    """

    __slots__ = (
        "_full_window",
        "initial_receive_window",
        "initial_send_window",
        "receive_window",
        "send_window",
    )

    def __init__(self, connection_window: int, stream_window: int) -> None:
        self.send_window = self.initial_send_window = frames.DEFAULT_WINDOW
        self.receive_window = frames.DEFAULT_WINDOW
        self.initial_receive_window = stream_window
        self._full_window = connection_window

    def refill_receive_window(self) -> int:
        """Open the connection's window in full; the increment that the client must be told."""
        increment = self._full_window - self.receive_window
        self.receive_window = self._full_window
        return increment

    def count_received(self, length: int) -> int:
        """Count a DATA frame, padding and all; the increment that the client must be told, mostly 0.

        Raises ``Http2Error`` where the client has sent more than it may.
        """
        self.receive_window -= length
        if self.receive_window >= self._full_window >> 1:
            return 0
        if self.receive_window < 0:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "more content than the connection's window")
        return self.refill_receive_window()

    def grow_send_window(self, increment: int) -> None:
        """Heed the connection's WINDOW_UPDATE. Raises ``Http2Error``."""
        self.send_window += increment
        if not increment or self.send_window > frames.MAX_WINDOW:
            code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
            raise Http2Error(code, "the connection's window cannot be so large, or grow by nothing")

    def set_initial_send_window(self, value: int, streams: Iterable[Stream]) -> None:
        """Heed SETTINGS_INITIAL_WINDOW_SIZE, which moves the windows of open streams, too (6.9.2). Raises ``Http2Error``."""
        if value > frames.MAX_WINDOW:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "no window can be so large")
        change, self.initial_send_window = value - self.initial_send_window, value
        for stream in streams:
            stream.send_window += change
            if stream.send_window > frames.MAX_WINDOW:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window becomes too large")


def grow_stream_window(stream: Stream, increment: int) -> ErrorCode | None:
    """Heed a stream's WINDOW_UPDATE; the code to reset the stream with where it cannot be."""
    stream.send_window += increment
    if not increment:
        return ErrorCode.PROTOCOL_ERROR
    return ErrorCode.FLOW_CONTROL_ERROR if stream.send_window > frames.MAX_WINDOW else None
