"""One client's HTTP/2 connection (RFC 9113): frames in, streams to the host, their answers out as the client lets them.

    PREFACE ──▶ FRAMES ◀──▶ CONTENT     a DATA frame of which only a part has come; the rest may go where it belongs
                   └──────▶ DEAF        nothing that follows is looked at

There is no task and no timer here. The listener's sweep calls ``check_timeouts`` about once a second; everything else happens
in the callbacks of the transport and of the streams.
"""

import asyncio
import enum
import functools
import math
import random
import struct
from typing import Any, Protocol, cast

import msgspec

from mooring.observability.logs import get_logger
from mooring.web.http2 import frames
from mooring.web.http2.frames import Code, Setting
from mooring.web.http2.hpack import Decoder, Field, Garbled, Oversized
from mooring.web.http2.sender import Sender
from mooring.web.http2.streams import Stream
from mooring.web.listener import ListenerContext, register

log = get_logger(__name__)

_ALIVE, _LEAVING = b"mooring?", b"mooring!"
# Streams that were ended here, of which something may still be on its way.
_REMEMBERED = 1024
_NOT_HTTP2 = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-length: 30\r\nconnection: close\r\n\r\n"
    b"this port speaks HTTP/2 alone\n"
)
# Seconds that a client has to see that no more streams are taken, before that is held against its next one.
_NOTICE = 2.0
# A client that was told that its connection is over may still be sending. That is read and dropped, for this many
# seconds of silence and in all.
_LINGER_SILENCE, _LINGER = 2.0, 30.0


class Http2Limits(msgspec.Struct, frozen=True):
    """What one client of HTTP/2 may cost, beside what ``Limits`` says. Sizes in bytes, times in seconds.

    ``stream_window`` is how much may lie here of what nobody has read yet, per stream. ``patience`` is how many frames
    that ask for nothing a client may send between two sweeps; a stream that it resets, or has the server reset, counts as
    four. Who exhausts it gets no new streams, and is cut off the next time or when its streams are over. A client that says
    nothing for ``keepalive`` seconds is asked whether it is there, and has ``keepalive_timeout`` for an answer. After
    ``max_age`` a connection takes no new streams, and ``max_age_grace`` later it ends.
    """

    max_streams: int = 1024
    stream_window: int = 1 << 20
    connection_window: int = 1 << 26
    max_frame_bytes: int = 1 << 20
    patience: int = 10_000
    keepalive: float = 300.0
    keepalive_timeout: float = 20.0
    max_age: float = float("inf")
    max_age_grace: float = float("inf")


class Http2Host(ListenerContext, Protocol):
    """What the connections of one listener share beside that."""

    http2: Http2Limits

    def read_head(self, fields: list[Field]) -> Any:
        """What ``open`` needs of a header block, which may be one of trailers; kept for as long as the block returns."""
        ...

    def trailer_fault(self, head: Any) -> str:
        """What is wrong with a header block at the end of a request; empty where nothing is."""
        ...

    def open(self, carrier: "Http2Connection", number: int, head: Any) -> Stream | None:
        """A new stream. None where what was sent is no request (8.1.1)."""
        ...


class _Mode(enum.IntEnum):
    PREFACE = 0
    FRAMES = 1
    CONTENT = 2
    DEAF = 3


class _Broken(Exception):
    """The client breaks the rules of the connection."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class Http2Connection(Sender):
    """One client. All connections of a listener receive into the same memory, one at a time, so an idle one is small."""

    __slots__ = (
        "_allowed",
        "_block",
        "_block_size",
        "_block_stream",
        "_broken",
        "_calm",
        "_calmed",
        "_decoder",
        "_end_by",
        "_final",
        "_forgotten",
        "_host",
        "_into",
        "_last",
        "_leaving",
        "_left",
        "_limits",
        "_mode",
        "_moved",
        "_padding",
        "_pinged",
        "_receiving",
        "_receiving_ends",
        "_refused",
        "_rest",
        "_retire_at",
        "_room",
        "_since",
        "_streams",
        "_unsent",
        "peer",
    )

    def __init__(self, host: Http2Host) -> None:
        super().__init__()
        self._host = host
        self._limits = host.http2
        self._into = self._room = host.receive_buffer
        self._mode = _Mode.PREFACE
        self.peer = ""
        self._rest = b""  # of a frame that is not complete
        self._decoder: Decoder[Any] = Decoder(host.read_head, host.limits.max_header_bytes)
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._refused: dict[int, None] = {}  # streams ended here, oldest first
        self._forgotten = 0
        self._calm = self._limits.patience
        self._calmed = False  # whether that was exhausted once
        # A header block that goes on in the next frame: its stream with the flags that it began with.
        self._block: list[bytes] = []
        self._block_size = 0
        self._block_stream = (0, 0)
        # A DATA frame of which a part has come.
        self._receiving: Stream | None = None
        self._receiving_ends = False
        self._left = self._padding = 0
        self._allowed = frames.FIRST_WINDOW  # what the client may still send
        self._unsent = 0
        # The connection's end.
        self._since = self._moved = host.now
        self._pinged = 0.0
        self._broken = 0.0
        self._leaving = 0.0
        self._final = False
        # Not all at once where all were made at once.
        self._retire_at = host.now + self._limits.max_age * random.uniform(0.9, 1.1)  # noqa: S311
        self._end_by = math.inf

    # Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.peer = register(self._host, self, self._transport)

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._into

    def buffer_updated(self, nbytes: int) -> None:
        self._since = self._host.now
        try:
            if self._mode is _Mode.FRAMES:
                rest = self._rest
                self._read(rest + self._room[:nbytes] if rest else bytes(self._room[:nbytes]))
            elif self._mode is _Mode.CONTENT:
                self._fill(nbytes)
            elif self._mode is _Mode.PREFACE:
                self._begin(self._rest + self._room[:nbytes])
        except _Broken as broken:
            self._break(broken.code, str(broken))
        except Exception:
            log.exception("connection failed in the server's own code")
            self._break(Code.INTERNAL_ERROR, "")

    def eof_received(self) -> bool:
        """A client that closes its sending side can not even open a window: nothing more can reach it."""
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        self._mode = _Mode.DEAF
        self._host.remove(self)
        self._abandon_all()
        self._let_go()

    # Receiving

    def _begin(self, data: bytes) -> None:
        size = len(frames.PREFACE)
        if data[:size] != frames.PREFACE[: len(data)]:
            self._mode, self._broken = _Mode.DEAF, self._host.now
            self._transport.write(_NOT_HTTP2)
            self._leave()
        elif len(data) < size + frames.HEAD_SIZE:
            self._rest = data
        elif data[size + 3] != frames.SETTINGS or data[size + 4] & frames.ACK:
            raise _Broken(Code.PROTOCOL_ERROR, "the first frame is no SETTINGS")
        else:
            self._mode = _Mode.FRAMES
            self._greet()
            self._read(data[size:])

    def _greet(self) -> None:
        """Say what is allowed here. Not before the client has begun: to one of HTTP/1 it would be no answer."""
        limits = self._limits
        allowed = {
            Setting.MAX_CONCURRENT_STREAMS: limits.max_streams,
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_FRAME_SIZE: limits.max_frame_bytes,
            Setting.MAX_HEADER_LIST_SIZE: self._host.limits.max_header_bytes,
        }
        more = limits.connection_window - self._allowed
        self._allowed += more
        self._transport.write(frames.settings(allowed) + frames.window_update(0, more))

    def _read(self, data: bytes) -> None:
        """Every frame of the data that is complete, and of a DATA frame what is there."""
        at, size = 0, len(data)
        while size - at >= frames.HEAD_SIZE and self._mode is _Mode.FRAMES:
            length, flags, number = frames.HEAD.unpack_from(data, at)
            kind, length, number = length & 0xFF, length >> 8, number & frames.ID_MASK
            at += frames.HEAD_SIZE
            end = at + length
            if self._block_stream[0] and kind != frames.CONTINUATION:
                raise _Broken(Code.PROTOCOL_ERROR, "a header block is interrupted")
            if kind == frames.DATA:
                if length > self._limits.max_frame_bytes:
                    raise _Broken(Code.FRAME_SIZE_ERROR, "a frame is too large")
                if flags & frames.PADDED and at == size and length:
                    at -= frames.HEAD_SIZE  # how much padding there is comes with the next bytes
                    break
                at = self._read_data(data, at, length, flags, number)
                continue
            if length > frames.FIRST_FRAME and length > min(
                self._limits.max_frame_bytes, self._host.limits.max_header_bytes
            ):
                raise _Broken(Code.FRAME_SIZE_ERROR, "a frame is too large")
            if end > size:
                at -= frames.HEAD_SIZE
                break
            if kind == frames.HEADERS:
                self._read_headers(data[at:end], flags, number)
            else:
                self._read_other(kind, flags, number, data[at:end])
            at = end
        self._rest = data[at:] if at < size else b""

    def _read_data(self, data: bytes, at: int, length: int, flags: int, number: int) -> int:
        """A DATA frame, or as much of it as has come: where the next one begins."""
        stream = self._admit_data(length, number)
        after, ends, padding = at + length, bool(flags & frames.END_STREAM), 0
        if flags & frames.PADDED:
            if not length or data[at] >= length:
                raise _Broken(Code.PROTOCOL_ERROR, "a frame has more padding than content")
            padding = data[at]
            at += 1
        stop = after - padding
        here = min(stop, len(data))
        if at >= stop and not ends:
            self._charge(1)  # it has no content
        if stream is not None and at < here:
            stream.receive(data, at, here)
            if self._mode is _Mode.DEAF:
                return len(data)
        if after <= len(data):
            if ends and stream is not None and not stream.closed:
                self._end(stream)
            return after
        self._mode, self._left, self._padding = _Mode.CONTENT, stop - here, after - max(stop, len(data))
        self._receiving, self._receiving_ends = stream, ends
        self._aim()
        return len(data)

    def _admit_data(self, length: int, number: int) -> Stream | None:
        """Hold a DATA frame against the windows: its stream, None where that is gone."""
        self._allowed -= length
        if self._allowed < self._limits.connection_window >> 1:
            if self._allowed < 0:
                raise _Broken(Code.FLOW_CONTROL_ERROR, "more content than the connection's window")
            self._transport.write(frames.window_update(0, self._limits.connection_window - self._allowed))
            self._allowed = self._limits.connection_window
        stream = self._streams.get(number)
        if stream is None or stream.ended:
            self._check_gone(number, stream)
            return None
        stream.allowed -= length
        stream.since = self._since
        if stream.allowed < 0:
            self._reset_for_fault(stream, Code.FLOW_CONTROL_ERROR)
            return None
        return stream

    def _fill(self, size: int) -> None:
        """More of a DATA frame has come, where it belongs or in the room of all, there with what follows."""
        stream = self._receiving
        if self._into is not self._room:
            self._left -= size
            if stream is not None:
                stream.since = self._since
                stream.filled(size)
            rest = b""
        else:
            used = min(self._left, size)
            self._left -= used
            data = bytes(self._room[:size])
            if stream is not None and used:
                stream.since = self._since
                stream.receive(data, 0, used)
            padded = min(self._padding, size - used)
            self._padding -= padded
            rest = data[used + padded :]
        if self._mode is _Mode.DEAF:
            return
        if self._left or self._padding:
            self._aim()
            return
        self._mode, self._into = _Mode.FRAMES, self._room
        stream, self._receiving = self._receiving, None  # it may be gone by now
        if stream is not None and self._receiving_ends:
            self._end(stream)
        if rest:
            self._read(rest)

    def _aim(self) -> None:
        """Choose where the next bytes are received."""
        room = self._receiving.room() if self._left and self._receiving is not None else None
        self._into = self._room if room is None else room[: self._left]

    def _end(self, stream: Stream) -> None:
        stream.ended = True
        stream.finish()

    def _read_headers(self, payload: bytes, flags: int, number: int) -> None:
        if flags & frames.PADDED:
            if not payload or payload[0] >= len(payload):
                raise _Broken(Code.PROTOCOL_ERROR, "a frame has more padding than content")
            payload = payload[1 : len(payload) - payload[0]]
        if flags & frames.PRIORITIZED:
            if len(payload) < 5:
                raise _Broken(Code.FRAME_SIZE_ERROR, "a frame is too small")
            payload = payload[5:]
        if flags & frames.END_HEADERS:
            self._open(number, payload, flags)
        else:
            self._block, self._block_size, self._block_stream = [payload], len(payload), (number, flags)

    def _read_continuation(self, payload: bytes, flags: int, number: int) -> None:
        if not number or self._block_stream[0] != number:
            raise _Broken(Code.PROTOCOL_ERROR, "a header block goes on that has not begun")
        self._charge(1)
        self._block.append(payload)
        self._block_size += len(payload)
        if self._block_size > self._host.limits.max_header_bytes:
            raise _Broken(Code.ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & frames.END_HEADERS:
            (number, first), self._block_stream = self._block_stream, (0, 0)
            block, self._block = b"".join(self._block), []
            self._open(number, block, first)

    def _open(self, number: int, block: bytes, flags: int) -> None:
        """A complete header block: the head of a new stream, or the trailers of one."""
        try:
            head = self._decoder.decode(block)
        except Oversized:
            head = None
        except Garbled as error:
            raise _Broken(Code.COMPRESSION_ERROR, str(error)) from None
        if number <= self._last:
            self._read_trailers(number, flags, head)
            return
        if not number & 1:
            raise _Broken(Code.PROTOCOL_ERROR, "a stream of a client has an even number")
        self._last = number
        host = self._host
        if len(self._streams) >= self._limits.max_streams or self._final:
            self._charge(1)
            self._refuse(number, Code.REFUSED_STREAM)
            return
        # Too large a head is a stream's own fault; the connection's other streams go on.
        stream = None if head is None else host.open(self, number, head)
        if stream is None:
            self._charge(4)
            self._refuse(number, Code.PROTOCOL_ERROR if head is not None else Code.ENHANCE_YOUR_CALM)
        elif not stream.closed:
            self._streams[number] = stream
            if flags & frames.END_STREAM:
                self._end(stream)

    def _read_trailers(self, number: int, flags: int, head: object) -> None:
        stream = self._streams.get(number)
        if stream is None or stream.ended:
            self._check_gone(number, stream)
        elif not flags & frames.END_STREAM or head is None or self._host.trailer_fault(head):
            self._reset_for_fault(stream, Code.PROTOCOL_ERROR)
        else:
            self._end(stream)

    def _check_gone(self, number: int, stream: Stream | None) -> None:
        """What a client sends on a stream that was ended here may have been on its way; other streams are closed."""
        if not number or number > self._last or not number & 1:
            raise _Broken(Code.PROTOCOL_ERROR, "a frame for a stream that was not begun")
        if stream is not None or (number not in self._refused and number > self._forgotten):
            raise _Broken(Code.STREAM_CLOSED, "a frame for a stream that its client has closed")

    def _read_other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._read_window(number, payload)
        elif kind == frames.CONTINUATION:
            self._read_continuation(payload, flags, number)
        elif kind == frames.RST_STREAM:
            self._read_reset(number, payload)
        elif kind == frames.PRIORITY:
            self._charge(1)
            if not number:
                raise _Broken(Code.PROTOCOL_ERROR, "a priority of no stream")
            if len(payload) != 5:
                raise _Broken(Code.FRAME_SIZE_ERROR, "a frame has the wrong size")
        elif kind == frames.PUSH_PROMISE:
            raise _Broken(Code.PROTOCOL_ERROR, "a client promises nothing")
        else:
            self._charge(1)
            if kind not in {frames.SETTINGS, frames.PING, frames.GOAWAY}:
                return  # an extension that was not agreed on (5.5)
            if number:
                raise _Broken(Code.PROTOCOL_ERROR, "a frame of the connection names a stream")
            if kind == frames.SETTINGS:
                self._read_settings(flags, payload)
            elif kind == frames.PING:
                self._read_ping(flags, payload)

    def _read_window(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _Broken(Code.FRAME_SIZE_ERROR, "a frame has the wrong size")
        more = int.from_bytes(payload, "big") & frames.ID_MASK
        if not number:
            self._window += more
            if not more or self._window > frames.MOST_WINDOW:
                code = Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR
                raise _Broken(code, "the connection's window cannot be so large, or grow by nothing")
            if self._pushing:
                self._pump()
            return
        stream = self._streams.get(number)
        if stream is None:
            if number > self._last or not number & 1:
                raise _Broken(Code.PROTOCOL_ERROR, "a window of a stream that was not begun")
            return  # it crossed the end of the stream
        stream.window += more
        if not more or stream.window > frames.MOST_WINDOW:
            self._reset_for_fault(stream, Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR)
        elif stream.waiting:
            self.push(stream)

    def _read_reset(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _Broken(Code.FRAME_SIZE_ERROR, "a frame has the wrong size")
        if not number or number > self._last or not number & 1:
            raise _Broken(Code.PROTOCOL_ERROR, "the end of a stream that was not begun")
        self._charge(4)  # beginning streams and ending them costs a client nothing (CVE-2023-44487)
        stream = self._streams.get(number)
        if stream is not None:
            self._forget(stream)
            self._guard(stream.abandon)

    def _read_settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            if payload:
                raise _Broken(Code.FRAME_SIZE_ERROR, "a frame has the wrong size")
            return
        if len(payload) % 6:
            raise _Broken(Code.FRAME_SIZE_ERROR, "a frame has the wrong size")
        for setting, value in struct.iter_unpack(">HI", payload):
            if setting == Setting.INITIAL_WINDOW_SIZE:
                self._change_windows(value)
            elif setting == Setting.MAX_FRAME_SIZE:
                if not frames.FIRST_FRAME <= value <= frames.MOST_FRAME:
                    raise _Broken(Code.PROTOCOL_ERROR, "no frame can be so large, or so small")
                self.max_frame = value
            elif setting == Setting.ENABLE_PUSH and value > 1:
                raise _Broken(Code.PROTOCOL_ERROR, "a setting has a value that it cannot have")
        self._transport.write(frames.ACK_SETTINGS)
        self._pump()

    def _change_windows(self, value: int) -> None:
        if value > frames.MOST_WINDOW:
            raise _Broken(Code.FLOW_CONTROL_ERROR, "no window can be so large")
        more, self._first_window = value - self._first_window, value
        for stream in self._streams.values():
            stream.window += more
            if stream.window > frames.MOST_WINDOW:
                raise _Broken(Code.FLOW_CONTROL_ERROR, "a stream's window becomes too large")
            if stream.waiting:
                self._pushing[stream] = None

    def _read_ping(self, flags: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise _Broken(Code.FRAME_SIZE_ERROR, "a frame has the wrong size")
        if not flags & frames.ACK:
            self._transport.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _LEAVING and self._leaving:
            self._say_last()
        elif payload == _ALIVE:
            self._pinged = 0.0

    def _charge(self, cost: int) -> None:
        """A frame that asks for nothing, or takes back what was asked. More so where the answers are not even read."""
        self._calm -= cost * 10 if self._choked else cost
        if self._calm < 0:
            self._calm_down()

    def _calm_down(self) -> None:
        """Take no new streams of a client that makes nothing but work, and answer those that it has.

        They may be others': a proxy has the calls of many clients on one connection, and one of them cancels all of its.
        """
        if self._mode is _Mode.DEAF:
            return
        text = "too many frames that ask for nothing, or streams that are reset"
        if self._calmed or not self._streams:
            raise _Broken(Code.ENHANCE_YOUR_CALM, text)
        self._calmed = self._final = True
        self._leaving = self._leaving or self._host.now
        self._calm = self._limits.patience
        self._transport.write(frames.goaway(self._last, Code.ENHANCE_YOUR_CALM, text))

    def _reset_for_fault(self, stream: Stream, code: Code) -> None:
        """Reset a stream for what its client did: that costs it nothing either (CVE-2025-8671)."""
        self.reset(stream, code)
        self._charge(4)

    # For streams

    def first_window(self) -> tuple[int, int, float]:
        """What a new stream begins with: what may be sent, what the client may send, and the time."""
        return self._first_window, self._limits.stream_window, self._since

    def grant(self, stream: Stream, more: int) -> None:
        if not stream.closed and not stream.ended:
            stream.allowed += more
            self._transport.write(frames.window_update(stream.id, more))

    def blame(self) -> None:
        self._charge(4)

    def reset(self, stream: Stream, code: Code) -> None:
        if not stream.closed:
            self._forget(stream)
            self._refuse(stream.id, code)
            self._guard(stream.abandon)

    def _now(self) -> float:
        return self._host.now

    # The end

    def _close(self, stream: Stream) -> None:
        # A client that is still speaking is told to stop (8.1).
        stream.closed = True
        self._streams.pop(stream.id, None)
        if not stream.ended:
            self.mute(stream)
            self._refuse(stream.id, Code.NO_ERROR)
        if self._final:
            self._end_if_over()

    def _forget(self, stream: Stream) -> None:
        """A stream ends before its time."""
        stream.closed = True
        self._streams.pop(stream.id, None)
        self._pushing.pop(stream, None)
        self.mute(stream)
        if over := stream.drop():
            self._write([], over)
        if self._final:
            self._end_if_over()

    def _end_if_over(self) -> None:
        """End a connection that takes no new streams once it has none."""
        if self._streams:
            return
        if self._calmed:  # it is still sending: see ``_leave``
            self._mode, self._broken = _Mode.DEAF, self._host.now
            self._receiving, self._into = None, self._room
            self._leave()
        else:
            self._transport.close()

    def mute(self, stream: Stream) -> None:
        if self._receiving is stream:
            self._receiving, self._into = None, self._room

    def _refuse(self, number: int, code: Code) -> None:
        refused = self._refused
        refused[number] = None
        if len(refused) > _REMEMBERED:
            oldest = next(iter(refused))
            del refused[oldest]
            self._forgotten = max(self._forgotten, oldest)
        self._transport.write(frames.rst_stream(number, code))

    def _break(self, code: Code, text: str) -> None:
        """End the connection and say why; what was asked on it is dropped."""
        self._mode, self._broken = _Mode.DEAF, self._host.now
        self._receiving, self._into = None, self._room
        if not self._transport.is_closing():
            self._transport.write(frames.goaway(self._last, code, text))
            self._leave()
        self._abandon_all()

    def _leave(self) -> None:
        """Closing while the client still sends would make the kernel throw away what it is told."""
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _abandon_all(self) -> None:
        streams, self._streams, self._pushing = self._streams, {}, {}
        for stream in streams.values():
            stream.closed = True
            self._held += stream.drop()
            self._guard(stream.abandon)

    def close(self) -> None:
        self._transport.abort()

    def drain(self) -> None:
        """Take no new streams, in two steps: those that are on their way when the client hears of it are still taken."""
        if self._mode is _Mode.PREFACE:
            self._transport.close()
        elif not self._leaving and self._mode is not _Mode.DEAF:
            self._leaving = self._host.now
            self._transport.write(
                frames.goaway(frames.ID_MASK, Code.NO_ERROR) + frames.frame(frames.PING, 0, 0, _LEAVING)
            )

    def _say_last(self) -> None:
        if not self._final:
            self._final = True
            self._transport.write(frames.goaway(self._last, Code.NO_ERROR))
            if not self._streams:
                self._transport.close()

    def check_timeouts(self, now: float) -> None:
        limits, settings = self._host.limits, self._limits
        self._calm = settings.patience
        unsent = self._transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._moved = now
        elif now - self._moved > limits.write_timeout:
            self._transport.abort()
        self._unsent = unsent
        silence = now - self._since
        if self._mode is _Mode.DEAF:
            if silence > _LINGER_SILENCE or now - self._broken > _LINGER:
                self._transport.abort()
            return
        if self._mode is _Mode.PREFACE or self._block_stream[0]:
            if silence > limits.header_timeout:
                self._break(Code.NO_ERROR, "")
            return
        for stream in tuple(self._streams.values()):
            self._guard(functools.partial(stream.expire, now))
        self._keep_alive(now, silence)
        self._age(now)

    def _keep_alive(self, now: float, silence: float) -> None:
        if silence < self._limits.keepalive:
            self._pinged = 0.0
        elif not self._pinged:
            self._pinged = now
            self._transport.write(frames.frame(frames.PING, 0, 0, _ALIVE))
        elif now - self._pinged > self._limits.keepalive_timeout:
            self._transport.abort()

    def _age(self, now: float) -> None:
        if self._leaving:
            if now - self._leaving > _NOTICE:
                self._say_last()
            if now > self._end_by:
                self._break(Code.NO_ERROR, "the connection has lived as long as it may")
        elif now > self._retire_at:
            self._end_by = now + self._limits.max_age_grace
            self.drain()
