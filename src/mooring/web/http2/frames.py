"""HTTP/2 frames (RFC 9113, 4 and 6): what they are called, and how those look that a server sends. No state, no I/O."""

import enum
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Length and kind, flags, stream: the head of every frame.
HEAD = struct.Struct(">IBI")
HEAD_SIZE = 9
ID_MASK = 0x7FFF_FFFF
MOST_WINDOW = 0x7FFF_FFFF
# What both sides begin with (6.5.2, 6.9.2).
FIRST_WINDOW, FIRST_FRAME = 65_535, 16_384
MOST_FRAME = 0xFF_FFFF

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITIZED = 0x4, 0x8, 0x20


class Code(enum.IntEnum):
    """Why a stream or a connection ends (7)."""

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


class Setting(enum.IntEnum):
    """Those that are told or heeded here (6.5.2)."""

    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame, whole."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """What this side allows."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *item) for item in values.items()))


def window_update(stream: int, more: int) -> bytes:
    """Leave to send so many bytes more, on a stream or with 0 on the connection."""
    return frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


def rst_stream(stream: int, code: Code) -> bytes:
    """The end of a stream before its time."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int, code: Code, text: str = "") -> bytes:
    """The end of a connection: of streams after ``last`` nothing has been done."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + text.encode())


def headers(stream: int, block: bytes, most: int, *, last: bool) -> bytes:
    """A header block, in as many frames as it takes where each has ``most`` bytes."""
    flags = END_STREAM if last else 0
    if len(block) <= most:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    parts = [frame(HEADERS, flags, stream, block[:most])]
    for at in range(most, len(block), most):
        end = END_HEADERS if at + most >= len(block) else 0
        parts.append(frame(CONTINUATION, end, stream, block[at : at + most]))
    return b"".join(parts)


ACK_SETTINGS = frame(SETTINGS, ACK, 0)
