"""HTTP/2 frames (RFC 9113, 4 and 6): their numbers, and the bytes of those that a server sends. No state, no I/O."""

import enum
import struct

from mooring.web.http2.errors import ErrorCode

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# The head of every frame (4.1): length and type in one number of 32 bits, then flags, then the stream's id.
HEAD = struct.Struct(">IBI")
HEAD_SIZE = 9
ID_MASK = 0x7FFF_FFFF
MAX_WINDOW = 0x7FFF_FFFF
# What both sides begin with, until SETTINGS say otherwise (6.5.2, 6.9.2).
DEFAULT_WINDOW, DEFAULT_FRAME_SIZE = 65_535, 16_384
MAX_FRAME_SIZE = 0xFF_FFFF

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20


class Setting(enum.IntEnum):
    """The settings that are sent or heeded here (6.5.2)."""

    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


def pack_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def pack_settings(values: dict[Setting, int]) -> bytes:
    """SETTINGS: what this side allows."""
    return pack_frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *item) for item in values.items()))


def pack_window_update(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE: the other side may send ``increment`` bytes more, on a stream or with 0 on the connection."""
    return pack_frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def pack_rst_stream(stream: int, code: ErrorCode) -> bytes:
    """RST_STREAM: the stream ends now."""
    return pack_frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def pack_goaway(last: int, code: ErrorCode, text: str = "") -> bytes:
    """GOAWAY: no new streams are taken, and nothing was done for those after ``last``."""
    return pack_frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + text.encode())


def pack_headers(stream: int, block: bytes, max_size: int, *, end_stream: bool) -> bytes:
    """HEADERS, and CONTINUATION where the block has more than ``max_size`` bytes, which is the most of one frame."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_size:
        return pack_frame(HEADERS, flags | END_HEADERS, stream, block)
    parts = [pack_frame(HEADERS, flags, stream, block[:max_size])]
    for at in range(max_size, len(block), max_size):
        end = END_HEADERS if at + max_size >= len(block) else 0
        parts.append(pack_frame(CONTINUATION, end, stream, block[at : at + max_size]))
    return b"".join(parts)


SETTINGS_ACK = pack_frame(SETTINGS, ACK, 0)
