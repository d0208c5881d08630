"""Why a stream or a connection of HTTP/2 ends before its time (RFC 9113, 5.4 and 7)."""

import enum


class ErrorCode(enum.IntEnum):
    """The codes of RST_STREAM and GOAWAY that are sent or looked at here (7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Http2Error(Exception):
    """A connection error (5.4.1): the client broke a rule of the connection, which ends with GOAWAY and this code.

    An error of one stream (5.4.2) is no exception: ``StreamMultiplexer.reset`` ends that stream alone.
    """

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class NotHttp2(Exception):
    """The first bytes are not HTTP/2's connection preface (3.4): the client speaks something else."""
