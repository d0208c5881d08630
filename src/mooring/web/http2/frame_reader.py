"""From bytes to HTTP/2 frames (RFC 9113, 4 to 6): sizes, padding and header blocks are checked here. No transport.

PREFACE ──▶ FRAMES ◀──▶ CONTENT     a DATA frame of which only a part has come
└──────▶ DISCARDING  nothing that follows is looked at
"""

import enum
import struct
from typing import Protocol

from mooring.web.http2.context import Http2Context
from mooring.web.http2.errors import ErrorCode, Http2Error, NotHttp2
from mooring.web.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME_SIZE,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEAD,
    HEAD_SIZE,
    HEADERS,
    ID_MASK,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from mooring.web.http2.streams import Stream


class FrameHandler(Protocol):
    """What is done about each frame. Any of these may raise ``Http2Error``."""

    def preface_received(self) -> None:
        """Answer a client that speaks HTTP/2, before its first frame."""
        ...

    def headers_received(self, number: int, block: bytes, *, end_stream: bool) -> None:
        """Take a whole header block, still compressed."""
        ...

    def admit_data(self, number: int, length: int) -> Stream | None:
        """Count a DATA frame; the stream that its content goes to, None where it is dropped."""
        ...

    def window_update_received(self, number: int, increment: int) -> None: ...

    def rst_stream_received(self, number: int) -> None: ...

    def settings_received(self, settings: list[tuple[int, int]]) -> None: ...

    def ping_received(self, payload: bytes, *, ack: bool) -> None: ...

    def charge(self, cost: int) -> None:
        """Count a frame that asks for nothing."""
        ...


class ReaderState(enum.Enum):
    """What the next bytes are."""

    PREFACE = enum.auto()
    FRAMES = enum.auto()
    CONTENT = enum.auto()
    DISCARDING = enum.auto()


_PREFACE, _FRAMES, _CONTENT, _DISCARDING = ReaderState

_PADDED_OR_PRIORITY = PADDED | HAS_PRIORITY


class FrameReader:
    """Reads one client's frames and hands each to a ``FrameHandler``.

    How this works. Bytes lie in ``receive_buffer`` when ``bytes_received`` is called: as a rule the listener's, which all
    connections share, one at a time. A frame is handed on when all of it is there; the beginning of one is kept for the
    next bytes. Only DATA is handed on in parts, as it comes, to the stream that the handler names. While a stream offers
    memory of its own, ``receive_buffer`` is that memory, and nothing is copied.
    """

    __slots__ = (
        "_block",
        "_block_end_stream",
        "_block_size",
        "_block_stream",
        "_content_ends_stream",
        "_content_left",
        "_context",
        "_handler",
        "_max_control_size",
        "_max_data_size",
        "_padding_left",
        "_stream",
        "_unparsed",
        "receive_buffer",
        "state",
    )

    def __init__(self, handler: FrameHandler, context: Http2Context) -> None:
        self._handler = handler
        self._context = context
        self._max_data_size = context.http2.max_frame_bytes
        self._max_control_size = max(
            DEFAULT_FRAME_SIZE, min(self._max_data_size, context.limits.max_header_bytes)
        )
        self.receive_buffer = context.receive_buffer
        self.state = ReaderState.PREFACE
        self._unparsed = b""  # of a frame that is not complete
        # A header block that goes on in the next frame, on this stream; 0 is none.
        self._block: list[bytes] = []
        self._block_size = self._block_stream = 0
        self._block_end_stream = False
        # A DATA frame of which a part has come.
        self._stream: Stream | None = None
        self._content_ends_stream = False
        self._content_left = self._padding_left = 0

    @property
    def inside_head(self) -> bool:
        """Whether the client has begun the preface or a header block, and not finished it."""
        return self.state is _PREFACE or self._block_stream > 0

    def discard(self) -> None:
        """Look at nothing that follows."""
        self.state = _DISCARDING
        self._stream, self.receive_buffer = None, self._context.receive_buffer

    def detach(self, stream: Stream) -> None:
        """Give a stream nothing more: what still comes of its frame is dropped."""
        if self._stream is stream:
            self._stream, self.receive_buffer = None, self._context.receive_buffer

    def bytes_received(self, size: int) -> None:
        """Read ``size`` bytes of ``receive_buffer``. Raises ``Http2Error``, and ``NotHttp2`` for the first ones."""
        if self.state is _FRAMES:
            chunk = self._context.receive_buffer[:size]
            self._read_frames(self._unparsed + chunk if self._unparsed else bytes(chunk))
        elif self.state is _CONTENT:
            self._continue_content(size)
        elif self.state is _PREFACE:
            self._read_preface(self._unparsed + self._context.receive_buffer[:size])

    def _read_preface(self, data: bytes) -> None:
        size = len(PREFACE)
        if data[:size] != PREFACE[: len(data)]:
            self.discard()
            raise NotHttp2
        if len(data) < size + HEAD_SIZE:
            self._unparsed = data
        elif data[size + 3] != SETTINGS or data[size + 4] & ACK:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        else:
            self.state = _FRAMES
            self._handler.preface_received()
            self._read_frames(data[size:])

    def _read_frames(self, data: bytes) -> None:
        """Read every frame that is complete, and of a DATA frame what is there."""
        at, size = 0, len(data)
        while size - at >= HEAD_SIZE and self.state is _FRAMES:
            length, flags, number = HEAD.unpack_from(data, at)
            kind, length, number = length & 0xFF, length >> 8, number & ID_MASK
            at += HEAD_SIZE
            end = at + length
            if self._block_stream and kind != CONTINUATION:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
            if kind == DATA:
                if length > self._max_data_size:
                    raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "a frame is too large")
                if flags & PADDED and at == size and length:
                    at -= HEAD_SIZE  # how much padding there is comes with the next bytes
                    break
                at = self._read_data(data, at, length, flags, number)
                continue
            if length > self._max_control_size:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "a frame is too large")
            if end > size:
                at -= HEAD_SIZE
                break
            if kind == HEADERS:
                self._read_headers(data[at:end], flags, number)
            elif kind == WINDOW_UPDATE:  # here, because clients send as many as requests
                if length != 4:
                    raise _wrong_size()
                increment = int.from_bytes(data[at:end], "big") & ID_MASK
                self._handler.window_update_received(number, increment)
            else:
                self._read_control(kind, flags, number, data[at:end])
            at = end
        self._unparsed = data[at:] if at < size else b""

    # DATA

    def _read_data(self, data: bytes, at: int, length: int, flags: int, number: int) -> int:
        """Read a DATA frame, or as much of it as is there; where the next frame begins."""
        stream = self._handler.admit_data(number, length)
        size, after, end_stream, padding = len(data), at + length, flags & END_STREAM != 0, 0
        if flags & PADDED:
            if not length or data[at] >= length:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a frame has more padding than content")
            padding = data[at]
            at += 1
        stop = after - padding
        here = min(stop, size)
        if at >= stop and not end_stream:
            self._handler.charge(1)  # it has no content
        if stream is not None and at < here:
            stream.receive_content(data, at, here)
            if self.state is _DISCARDING:
                return size
        if after <= size:
            if end_stream and stream is not None and stream.state.server_sends:
                stream.end_received()
            return after
        if stream is not None and not stream.state.server_sends:
            stream = None  # its first bytes were enough for an answer
        self.state = _CONTENT
        self._content_left, self._padding_left = stop - here, after - max(stop, size)
        self._stream, self._content_ends_stream = stream, end_stream
        self._choose_buffer()
        return size

    def _continue_content(self, size: int) -> None:
        """More of a DATA frame has come: in the stream's memory, or in the listener's, there with what follows."""
        stream, shared = self._stream, self._context.receive_buffer
        if self.receive_buffer is not shared:
            self._content_left -= size
            if stream is not None:
                stream.last_progress = self._context.now
                stream.buffer_filled(size)
            rest = b""
        else:
            used = min(self._content_left, size)
            self._content_left -= used
            data = bytes(shared[:size])
            if stream is not None and used:
                stream.last_progress = self._context.now
                stream.receive_content(data, 0, used)
            padding = min(self._padding_left, size - used)
            self._padding_left -= padding
            rest = data[used + padding :]
        if self.state is _DISCARDING:
            return
        if self._content_left or self._padding_left:
            self._choose_buffer()
            return
        self.state, self.receive_buffer = _FRAMES, shared
        stream, self._stream = self._stream, None  # ``detach`` may have taken it away by now
        if stream is not None and self._content_ends_stream:
            stream.end_received()
        if rest:
            self._read_frames(rest)

    def _choose_buffer(self) -> None:
        """Choose where the next bytes are received."""
        own = self._stream.receive_buffer if self._content_left and self._stream is not None else None
        self.receive_buffer = self._context.receive_buffer if own is None else own[: self._content_left]

    # Header blocks

    def _read_headers(self, payload: bytes, flags: int, number: int) -> None:
        if flags & _PADDED_OR_PRIORITY:
            payload = _header_fragment(payload, flags)
        end_stream = flags & END_STREAM != 0
        if flags & END_HEADERS:
            self._handler.headers_received(number, payload, end_stream=end_stream)
        else:
            self._block, self._block_size = [payload], len(payload)
            self._block_stream, self._block_end_stream = number, end_stream

    def _read_continuation(self, payload: bytes, flags: int, number: int) -> None:
        if not number or self._block_stream != number:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a header block goes on that has not begun")
        self._handler.charge(1)
        self._block.append(payload)
        self._block_size += len(payload)
        if self._block_size > self._context.limits.max_header_bytes:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & END_HEADERS:
            block, self._block, self._block_stream = b"".join(self._block), [], 0
            self._handler.headers_received(number, block, end_stream=self._block_end_stream)

    # Everything else

    def _read_control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        handler = self._handler
        if kind == CONTINUATION:
            self._read_continuation(payload, flags, number)
        elif kind == RST_STREAM:
            _check_size(payload, 4)
            handler.rst_stream_received(number)
        elif kind == PRIORITY:
            handler.charge(1)
            if not number:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a priority of no stream")
            _check_size(payload, 5)
        elif kind == PUSH_PROMISE:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a client promises nothing")
        else:
            handler.charge(1)
            if kind not in {SETTINGS, PING, GOAWAY}:
                return  # an extension that was not agreed on (5.5)
            if number:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a frame of the connection names a stream")
            if kind == SETTINGS:
                self._read_settings(flags, payload)
            elif kind == PING:
                _check_size(payload, 8)
                handler.ping_received(payload, ack=bool(flags & ACK))

    def _read_settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            _check_size(payload, 0)
            return
        if len(payload) % 6:
            raise _wrong_size()
        self._handler.settings_received(list(struct.iter_unpack(">HI", payload)))


def _header_fragment(payload: bytes, flags: int) -> bytes:
    """A HEADERS frame's payload without padding and priority (RFC 9113, 6.2)."""
    if flags & PADDED:
        if not payload or payload[0] >= len(payload):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a frame has more padding than content")
        payload = payload[1 : len(payload) - payload[0]]
    if flags & HAS_PRIORITY:
        if len(payload) < 5:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "a frame is too small")
        payload = payload[5:]
    return payload


def _check_size(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise _wrong_size()


def _wrong_size() -> Http2Error:
    return Http2Error(ErrorCode.FRAME_SIZE_ERROR, "a frame has the wrong size")
