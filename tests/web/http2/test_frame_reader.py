"""From bytes to frames, with a handler that keeps them: no connection, no socket."""

import pytest
from fake_http2 import FakeHttp2Context, FakeStream
from hypothesis import given
from hypothesis import strategies as st

from mooring.web.http2 import frames
from mooring.web.http2.errors import ErrorCode, Http2Error, NotHttp2
from mooring.web.http2.frame_reader import FrameReader, ReaderState
from mooring.web.http2.frames import pack_frame
from mooring.web.http2.streams import RESET
from mooring.web.listener import Limits

START = frames.PREFACE + pack_frame(frames.SETTINGS, 0, 0)
END_HEADERS, END_STREAM, PADDED = frames.END_HEADERS, frames.END_STREAM, frames.PADDED


class Handler:
    """Notes what it is called with. ``streams`` are those that take content."""

    def __init__(self):
        self.seen = []
        self.streams = {}
        self.charged = 0

    def preface_received(self):
        self.seen.append("preface")

    def headers_received(self, number, block, *, end_stream):
        self.seen.append(("headers", number, block, end_stream))

    def admit_data(self, number, length):
        self.seen.append(("data", number, length))
        return self.streams.get(number)

    def window_update_received(self, number, increment):
        self.seen.append(("window", number, increment))

    def rst_stream_received(self, number):
        self.seen.append(("reset", number))

    def settings_received(self, settings):
        self.seen.append(("settings", settings))

    def ping_received(self, payload, *, ack):
        self.seen.append(("ping", payload, ack))

    def charge(self, cost):
        self.charged += cost


class Reading:
    """A reader, fed as a transport would."""

    def __init__(self, *streams, start=True, **options):
        self.context = FakeHttp2Context(**options)
        self.handler = Handler()
        self.handler.streams = {stream.id: stream for stream in streams}
        self.reader = FrameReader(self.handler, self.context)
        if start:
            self.feed(START)
            self.handler.seen.clear()
            self.handler.charged = 0

    def feed(self, data):
        while data:
            buffer = self.reader.receive_buffer
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            self.reader.bytes_received(size)
            data = data[size:]

    def error(self, data):
        with pytest.raises(Http2Error) as raised:
            self.feed(data)
        return raised.value.code


EVERY_KIND = [
    pack_frame(frames.HEADERS, END_HEADERS, 1, b"block"),
    pack_frame(frames.DATA, 0, 1, b"hello"),
    pack_frame(frames.WINDOW_UPDATE, 0, 0, b"\x80\0\0\x07"),
    pack_frame(frames.DATA, PADDED, 1, b"\x03 world" + bytes(3)),
    pack_frame(frames.PING, 0, 0, b"12345678"),
    pack_frame(0xFA, 0xFF, 1, b"an extension"),
    pack_frame(frames.HEADERS, 0, 3, b"a"),
    pack_frame(frames.CONTINUATION, 0, 3, b"b"),
    pack_frame(frames.CONTINUATION, END_HEADERS, 3, b"c"),
    pack_frame(frames.SETTINGS, 0, 0, b"\0\x04\0\0\0\x63"),
    pack_frame(frames.RST_STREAM, 0, 3, bytes(4)),
    pack_frame(frames.DATA, END_STREAM, 1),
    pack_frame(frames.PING, 1, 0, b"87654321"),
]
SEEN = [
    ("headers", 1, b"block", False), ("data", 1, 5), ("window", 0, 7), ("data", 1, 10), ("ping", b"12345678", False),
    ("headers", 3, b"abc", False), ("settings", [(4, 99)]), ("reset", 3), ("data", 1, 0), ("ping", b"87654321", True),
]  # fmt: skip


@given(st.lists(st.integers(1, 40), max_size=60))
def test_the_frames_are_the_same_however_the_bytes_are_cut(sizes):
    stream = FakeStream(1)
    reading = Reading(stream, start=False)
    data, at = START + b"".join(EVERY_KIND), 0
    for size in [*sizes, len(data)]:
        reading.feed(data[at : at + size])
        at += size
    assert reading.handler.seen == ["preface", ("settings", []), *SEEN]
    assert stream.content == b"hello world"
    assert stream.complete
    assert reading.reader.state is ReaderState.FRAMES


@given(st.lists(st.integers(1, 40), max_size=60))
def test_content_goes_to_the_streams_own_memory_where_it_offers_any(sizes):
    stream = FakeStream(1, own=bytearray(100))
    reading = Reading(stream)
    content = bytes(range(100))
    data = pack_frame(frames.DATA, PADDED | END_STREAM, 1, b"\x04" + content + bytes(4)) + EVERY_KIND[4]
    at = 9 + 1 + 1
    reading.feed(data[:at])  # the first byte of content lies in everybody's memory
    assert stream.content == content[:1]
    for size in [*sizes, len(data)]:
        reading.feed(data[at : at + size])
        at += size
    assert stream.content == content
    assert stream.complete
    assert reading.handler.seen[-1] == ("ping", b"12345678", False)


def test_own_memory_is_offered_to_the_socket_and_no_longer_than_the_frame():
    stream = FakeStream(1, own=bytearray(100))
    reading = Reading(stream)
    reading.feed(frames.HEAD.pack(30 << 8 | frames.DATA, 0, 1))
    assert len(reading.reader.receive_buffer) == 30
    assert reading.reader.receive_buffer is not reading.context.receive_buffer
    reading.feed(b"x" * 30)
    assert reading.reader.receive_buffer is reading.context.receive_buffer


def test_a_stream_that_is_detached_gets_no_more_and_what_follows_is_read():
    stream = FakeStream(1, own=bytearray(100))
    reading = Reading(stream)
    data = pack_frame(frames.DATA, END_STREAM, 1, b"x" * 50) + EVERY_KIND[4]
    reading.feed(data[:20])
    reading.reader.detach(FakeStream(3))  # another's
    assert reading.reader.receive_buffer is not reading.context.receive_buffer
    reading.reader.detach(stream)
    reading.feed(data[20:])
    assert stream.content == b"x" * 11
    assert not stream.complete
    assert reading.handler.seen[-1] == ("ping", b"12345678", False)


def test_a_stream_that_is_answered_by_its_first_bytes_gets_no_more():
    class Early(FakeStream):
        __slots__ = ()

        def receive_content(self, data, start, end):
            super().receive_content(data, start, end)
            self.advance(RESET)

    stream = Early(1)
    reading = Reading(stream)
    data = pack_frame(frames.DATA, END_STREAM, 1, b"x" * 50) + EVERY_KIND[4]
    reading.feed(data[:20])
    reading.feed(data[20:])
    assert stream.content == b"x" * 11
    assert reading.handler.seen[-1] == ("ping", b"12345678", False)


def test_a_request_is_complete_with_its_last_byte():
    stream = FakeStream(1)
    reading = Reading(stream)
    reading.feed(pack_frame(frames.DATA, END_STREAM, 1, b"x"))
    assert stream.complete


@pytest.mark.parametrize(
    "data",
    [
        EVERY_KIND[6] + EVERY_KIND[4],  # another frame within a header block
        EVERY_KIND[6] + pack_frame(frames.CONTINUATION, END_HEADERS, 5, b"x"),
        EVERY_KIND[7],
        pack_frame(frames.DATA, PADDED, 1, b"\x02\0"),
        pack_frame(frames.HEADERS, PADDED | END_HEADERS, 1, b"\x02a"),
        pack_frame(frames.PUSH_PROMISE, 0, 1, bytes(4)),
        pack_frame(frames.SETTINGS, 0, 1),
        pack_frame(frames.PRIORITY, 0, 0, bytes(5)),
    ],
)
def test_frames_that_cannot_be_break_the_connection(data):
    assert Reading(FakeStream(1)).error(data) is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "data",
    [
        pack_frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)),
        pack_frame(frames.RST_STREAM, 0, 1, bytes(5)),
        pack_frame(frames.PRIORITY, 0, 1, bytes(4)),
        pack_frame(frames.PING, 0, 0, bytes(7)),
        pack_frame(frames.SETTINGS, 0, 0, bytes(5)),
        pack_frame(frames.SETTINGS, frames.ACK, 0, bytes(6)),
        pack_frame(frames.HEADERS, END_HEADERS | frames.HAS_PRIORITY, 1, bytes(4)),
    ],
)
def test_frames_of_the_wrong_size_break_the_connection(data):
    assert Reading().error(data) is ErrorCode.FRAME_SIZE_ERROR


def test_every_part_of_content_counts_as_progress():
    stream = FakeStream(1)
    reading = Reading(stream)
    data = pack_frame(frames.DATA, 0, 1, b"x" * 50)
    reading.feed(data[:20])
    for now in (2000.0, 3000.0):
        reading.context.now = now
        reading.feed(b"x" * 5)
        assert stream.last_progress == now


def test_who_does_not_begin_with_the_preface_is_looked_at_no_further():
    reading = Reading(start=False)
    with pytest.raises(NotHttp2):
        reading.feed(b"GET")
    reading.feed(START)
    assert reading.handler.seen == []


def test_the_reader_says_whether_a_head_is_incomplete():
    reading = Reading(start=False)
    assert reading.reader.inside_head
    reading.feed(START)
    assert not reading.reader.inside_head
    reading.feed(EVERY_KIND[6])
    assert reading.reader.inside_head
    reading.feed(EVERY_KIND[7] + EVERY_KIND[8])
    assert not reading.reader.inside_head


def test_nothing_is_looked_at_once_the_reader_discards():
    stream = FakeStream(1, own=bytearray(100))
    reading = Reading(stream)
    reading.feed(frames.HEAD.pack(30 << 8 | frames.DATA, 0, 1))
    reading.handler.seen.clear()
    reading.reader.discard()
    assert reading.reader.receive_buffer is reading.context.receive_buffer
    reading.feed(b"x" * 30 + EVERY_KIND[4])
    assert reading.handler.seen == []
    assert stream.content == b""


@pytest.mark.parametrize(
    ("data", "cost"),
    [
        (pack_frame(frames.PRIORITY, 0, 1, bytes(5)), 1),
        (pack_frame(frames.PING, 0, 0, bytes(8)), 1),
        (pack_frame(frames.SETTINGS, 0, 0), 1),
        (pack_frame(0xFA, 0, 1), 1),
        (pack_frame(frames.DATA, 0, 1), 1),
        (pack_frame(frames.DATA, PADDED, 1, b"\x02\0\0"), 1),
        (pack_frame(frames.HEADERS, 0, 1, b"a") + pack_frame(frames.CONTINUATION, END_HEADERS, 1), 1),
        (pack_frame(frames.DATA, END_STREAM, 1), 0),
        (pack_frame(frames.DATA, 0, 1, b"x"), 0),
        (pack_frame(frames.WINDOW_UPDATE, 0, 1, b"\0\0\0\1"), 0),
        (pack_frame(frames.HEADERS, END_HEADERS, 1, b"a"), 0),
    ],
)
def test_frames_that_ask_for_nothing_are_charged_for(data, cost):
    reading = Reading(FakeStream(1))
    reading.feed(data)
    assert reading.handler.charged == cost


def test_a_header_block_is_no_larger_than_headers_may_be():
    reading = Reading(limits=Limits(max_header_bytes=1000))
    reading.feed(
        pack_frame(frames.HEADERS, 0, 1, bytes(600)) + pack_frame(frames.CONTINUATION, 0, 1, bytes(400))
    )
    code = reading.error(pack_frame(frames.CONTINUATION, END_HEADERS, 1, b"x"))
    assert code is ErrorCode.ENHANCE_YOUR_CALM


def test_a_frame_is_refused_for_its_size_before_it_comes():
    reading = Reading(max_frame_bytes=20_000)
    assert reading.error(frames.HEAD.pack(20_001 << 8 | frames.DATA, 0, 1)) is ErrorCode.FRAME_SIZE_ERROR
    reading = Reading(limits=Limits(max_header_bytes=20_000))
    assert reading.error(frames.HEAD.pack(20_001 << 8 | frames.HEADERS, 0, 1)) is ErrorCode.FRAME_SIZE_ERROR
    reading = Reading(limits=Limits(max_header_bytes=1000))
    reading.feed(frames.HEAD.pack(16_384 << 8 | frames.HEADERS, 0, 1))  # less no peer may be held to (4.2)
