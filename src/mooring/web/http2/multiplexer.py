"""Frames of one HTTP/2 client to streams, and the rules between them (RFC 9113, 5 and 6)."""

import asyncio
from typing import Any, Protocol

from mooring.web.http2 import frames
from mooring.web.http2.context import Http2Context
from mooring.web.http2.errors import ErrorCode, Http2Error
from mooring.web.http2.flow_control import FlowControl, grow_stream_window
from mooring.web.http2.frame_budget import FrameBudget
from mooring.web.http2.frame_reader import FrameReader, ReaderState
from mooring.web.http2.frames import Setting
from mooring.web.http2.hpack import Decoder, HeadersTooLarge, HpackError
from mooring.web.http2.sender import Sender, run_callback
from mooring.web.http2.stream_table import StreamTable
from mooring.web.http2.streams import HALF_CLOSED_LOCAL, RESET, Stream

# What a reset stream costs a client of its frame budget: beginning streams and ending them is nearly free for it.
_RESET_COST = 4
_FLOOD = "too many frames that ask for nothing, or streams that are reset"


class MultiplexerOwner(Protocol):
    """The connection, as far as its multiplexer needs it."""

    def ping_acknowledged(self, payload: bytes) -> None:
        """Note that the client has answered a PING."""
        ...

    def flood_noticed(self) -> None:
        """Note that the client has been told to open no more streams, for the work it makes."""
        ...

    def last_stream_ended(self) -> None:
        """End a connection that has no streams and takes no new ones."""
        ...


class StreamMultiplexer:
    """The streams of one connection.

    How this works. The ``reader`` hands over each frame. A header block becomes a new stream, which the listener's
    context makes, or the trailers of one; DATA is counted in the windows and goes to its stream; the other frames move
    windows or end streams. A stream answers through ``sender``. It leaves the table when its answer has been sent or it
    is reset, whichever side does that. Errors of one stream end it with RST_STREAM, and count against the client's
    ``budget``; errors of the connection are raised as ``Http2Error``, and the connection ends itself.
    """

    __slots__ = (
        "_context",
        "_decoder",
        "_flow",
        "_owner",
        "_transport",
        "accepting",
        "budget",
        "flooding",
        "peer",
        "reader",
        "sender",
        "streams",
    )

    def __init__(
        self, context: Http2Context, transport: asyncio.Transport, owner: MultiplexerOwner, peer: str
    ) -> None:
        limits = context.http2
        self._context = context
        self._transport = transport
        self._owner = owner
        self.peer = peer
        self.streams = StreamTable()
        self.accepting = True  # new streams
        self.flooding = False  # the budget was exceeded once
        self.budget = FrameBudget(limits.frame_budget)
        self.reader = FrameReader(self, context)
        self._flow = FlowControl(limits.connection_window, limits.stream_window)
        self.sender = Sender(transport, self._flow, context, on_end_sent=self._end_sent)
        self._decoder: Decoder[Any] = Decoder(context.parse_head, context.limits.max_header_bytes)

    # Frames

    def preface_received(self) -> None:
        """Say what is allowed here. Not before the client has begun: to one that speaks HTTP/1 it would be no answer."""
        limits = self._context.http2
        settings = {
            Setting.MAX_CONCURRENT_STREAMS: limits.max_streams,
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_FRAME_SIZE: limits.max_frame_bytes,
            Setting.MAX_HEADER_LIST_SIZE: self._context.limits.max_header_bytes,
        }
        increment = self._flow.refill_receive_window()
        self.sender.send_control(frames.pack_settings(settings) + frames.pack_window_update(0, increment))

    def headers_received(self, number: int, block: bytes, *, end_stream: bool) -> None:
        """Begin a stream, or end a request with trailers."""
        try:
            head = self._decoder.decode(block)
        except HeadersTooLarge:
            head = None
        except HpackError as error:
            raise Http2Error(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        streams, context = self.streams, self._context
        if number <= streams.last_id:
            self._end_with_trailers(number, head, end_stream=end_stream)
            return
        if not number & 1:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a stream of a client has an even number")
        streams.last_id = number
        if len(streams.by_id) >= context.http2.max_streams or not self.accepting:
            self.charge(1)
            self._send_reset(number, ErrorCode.REFUSED_STREAM)
            return
        # Too large a head is a stream's own fault; the connection's other streams go on.
        stream = None if head is None else context.start_stream(self, number, head)
        if stream is None:
            self.charge(_RESET_COST)
            code = ErrorCode.PROTOCOL_ERROR if head is not None else ErrorCode.ENHANCE_YOUR_CALM
            self._send_reset(number, code)
        elif stream.state.server_sends:
            streams.by_id[number] = stream
            if end_stream:
                stream.end_received()

    def _end_with_trailers(self, number: int, head: object, *, end_stream: bool) -> None:
        stream = self.streams.by_id.get(number)
        if stream is None or not stream.state.client_sends:
            self.streams.check_late_frame(number)
        elif not end_stream or head is None or self._context.trailers_error(head):
            self._reset_for_fault(stream, ErrorCode.PROTOCOL_ERROR)
        else:
            stream.end_received()

    def admit_data(self, number: int, length: int) -> Stream | None:
        """Count a DATA frame in both windows; its stream, None where that takes no more."""
        if increment := self._flow.count_received(length):
            self.sender.send_control(frames.pack_window_update(0, increment))
        stream = self.streams.by_id.get(number)
        if stream is None or not stream.state.client_sends:
            self.streams.check_late_frame(number)
            return None
        stream.receive_window -= length
        stream.last_progress = self._context.now
        if stream.receive_window < 0:
            self._reset_for_fault(stream, ErrorCode.FLOW_CONTROL_ERROR)
            return None
        return stream

    def window_update_received(self, number: int, increment: int) -> None:
        """Let more be sent, on a stream or with 0 on the connection."""
        if not number:
            self._flow.grow_send_window(increment)
            if self.sender.queued:
                self.sender.flush()
            return
        stream = self.streams.by_id.get(number)
        if stream is None:
            if self.streams.is_idle(number):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a window of a stream that was not begun")
            return  # it crossed the end of the stream
        if code := grow_stream_window(stream, increment):
            self._reset_for_fault(stream, code)
        elif stream.has_queued:
            self.sender.send_queued(stream)

    def rst_stream_received(self, number: int) -> None:
        """End a stream for which its client does not wait any more."""
        if self.streams.is_idle(number):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "the end of a stream that was not begun")
        self.charge(_RESET_COST)
        stream = self.streams.by_id.get(number)
        if stream is not None:
            self._remove(stream)
            run_callback(stream.reset_received)

    def settings_received(self, settings: list[tuple[int, int]]) -> None:
        """Heed what the client allows, and say so."""
        for setting, value in settings:
            if setting == Setting.INITIAL_WINDOW_SIZE:
                streams = self.streams.by_id.values()
                self._flow.set_initial_send_window(value, streams)
                for stream in streams:
                    if stream.has_queued:
                        self.sender.enqueue(stream)
            elif setting == Setting.MAX_FRAME_SIZE:
                if not frames.DEFAULT_FRAME_SIZE <= value <= frames.MAX_FRAME_SIZE:
                    raise Http2Error(ErrorCode.PROTOCOL_ERROR, "no frame can be so large, or so small")
                self.sender.max_frame_size = value
            elif setting == Setting.ENABLE_PUSH and value > 1:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a setting has a value that it cannot have")
        self.sender.send_control(frames.SETTINGS_ACK)
        self.sender.flush()

    def ping_received(self, payload: bytes, *, ack: bool) -> None:
        """Answer a PING; the answer to one of ours is the connection's."""
        if ack:
            self._owner.ping_acknowledged(payload)
        else:
            self.sender.send_control(frames.pack_frame(frames.PING, frames.ACK, 0, payload))

    def charge(self, cost: int) -> None:
        """Count a frame that asks for nothing, or takes back what was asked. Raises ``Http2Error`` for a flood.

        It counts tenfold from a client that does not even read the answers.
        """
        if self.budget.charge(cost * 10 if self.sender.paused else cost):
            self._stop_flood()

    def _stop_flood(self) -> None:
        """Take no new streams of a client that makes nothing but work, and answer those that it has.

        They may be others': a proxy has the calls of many clients on one connection, and one of them cancels all of its.
        """
        if self.reader.state is ReaderState.DISCARDING:
            return
        if self.flooding or not self.streams.by_id:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, _FLOOD)
        self.flooding = True
        self.budget.refill()
        self._owner.flood_noticed()
        self.refuse_new_streams(ErrorCode.ENHANCE_YOUR_CALM, _FLOOD)

    # For streams

    def initial_windows(self) -> tuple[int, int]:
        """Bytes that a new stream may send, and that its client may."""
        return self._flow.initial_send_window, self._flow.initial_receive_window

    def grant_window(self, stream: Stream, increment: int) -> None:
        """Let the client send ``increment`` bytes more, unless it has sent everything or nobody waits for it."""
        if stream.state.client_sends and stream.state.server_sends:
            stream.receive_window += increment
            self.sender.send_control(frames.pack_window_update(stream.id, increment))

    def detach_buffer(self, stream: Stream) -> None:
        """Write nothing more to the stream's receive buffer: the memory may soon be another's."""
        self.reader.detach(stream)

    def charge_reset(self) -> None:
        """Count against the client a stream that ends early for what it sent. Raises ``Http2Error`` for a flood."""
        self.charge(_RESET_COST)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream with RST_STREAM; one that is closed stays as it is."""
        if stream.state.server_sends:
            self._remove(stream)
            self._send_reset(stream.id, code)
            run_callback(stream.reset_received)

    def _reset_for_fault(self, stream: Stream, code: ErrorCode) -> None:
        """Reset a stream for what its client did, which costs it as much as if it had reset it (CVE-2025-8671)."""
        self.reset(stream, code)
        self.charge(_RESET_COST)

    # The end

    def refuse_new_streams(self, code: ErrorCode, text: str = "") -> None:
        """Tell the client which of its streams was the last, and refuse those that come all the same."""
        self.accepting = False
        self.sender.send_control(frames.pack_goaway(self.streams.last_id, code, text))

    def abandon_all(self) -> None:
        """Give up every stream: the connection is over."""
        streams, self.streams.by_id = self.streams.by_id, {}
        for stream in streams.values():
            stream.advance(RESET)
            self.sender.abandon(stream)
            run_callback(stream.reset_received)

    def _end_sent(self, stream: Stream) -> None:
        """A stream has its answer. A client that is still sending the request is told to stop (8.1)."""
        self.streams.by_id.pop(stream.id, None)
        if stream.state is HALF_CLOSED_LOCAL:
            stream.advance(RESET)
            self.reader.detach(stream)
            self._send_reset(stream.id, ErrorCode.NO_ERROR)
        if not self.accepting:
            self._end_if_empty()

    def _remove(self, stream: Stream) -> None:
        """Take away a stream that ends before its time."""
        stream.advance(RESET)
        self.streams.by_id.pop(stream.id, None)
        self.reader.detach(stream)
        self.sender.drop(stream)
        if not self.accepting:
            self._end_if_empty()

    def _end_if_empty(self) -> None:
        if not self.streams.by_id:
            self._owner.last_stream_ended()

    def _send_reset(self, number: int, code: ErrorCode) -> None:
        self.streams.remember_ended_here(number)
        self.sender.send_control(frames.pack_rst_stream(number, code))
