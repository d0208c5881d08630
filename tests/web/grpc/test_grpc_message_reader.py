"""Messages out of content: what is read, where it lies, what it counts, and when more may come."""

import gzip

import pytest
from grpc_fakes import FakeGrpcContext, message
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.buffers import LARGE, Buffer
from mooring.web.grpc.messages import CompressedMessage, MessageReader
from mooring.web.grpc.responses import MESSAGE_PREFIX
from mooring.web.grpc.status import MalformedMessages, Status, StatusError
from mooring.web.http2 import frames


def reading(*, unary=False, encoding="identity", **options):
    return MessageReader(FakeGrpcContext(**options), encoding, unary=unary)


def feed(reader, data):
    """As a connection does: into the reader's own memory where it offers some."""
    while data and not reader.discarding:
        own = reader.receive_buffer
        if own is None:
            reader.feed(data, 0, len(data))
            return
        size = min(len(own), len(data))
        own[:size] = data[:size]
        reader.buffer_filled(size)
        data = data[size:]


def taken(reader):
    """Everything that is there, and its memory given back."""
    found = []
    while reader.messages:
        payload = reader.take()
        found.append(bytes(payload))
        if isinstance(payload, Buffer):
            payload.release()
    return found


@given(
    st.lists(st.sampled_from([0, 1, 5, 300, LARGE, LARGE + 1, 200_000]), max_size=5),
    st.lists(st.sampled_from([1, 2, 3, 4, 5, 7, 1000, 70_000, 150_000]), max_size=20),
)
def test_the_messages_are_the_same_however_their_bytes_are_cut(sizes, cuts):
    reader = reading()
    contents = [bytes([number]) * size for number, size in enumerate(sizes)]
    data, at = b"".join(map(message, contents)), 0
    for cut in [*cuts, len(data)]:
        feed(reader, data[at : at + cut])
        at += cut
    assert not reader.incomplete
    assert taken(reader) == contents
    assert reader.unread == 0
    assert reader._context.allocator.live == {}
    assert reader._context.allocator.memory.used == 0


def test_bytes_before_and_after_the_content_are_not_read():
    reader = reading()
    reader.feed(b"head" + message(b"hello") + b"tail", 4, 14)
    assert taken(reader) == [b"hello"]
    assert not reader.incomplete


def test_a_large_message_is_received_where_it_stays_and_its_end_is_aligned():
    reader = reading()
    size = LARGE + 8
    feed(reader, message(bytes(size))[:10])
    assert len(reader.receive_buffer) == size - 5
    (memory,) = reader._context.allocator.live.values()
    assert len(memory) % 64 == 0
    feed(reader, bytes(size - 5))
    payload = reader.take()
    assert isinstance(payload, Buffer)
    assert len(payload) == size
    payload.release()
    assert reader._context.allocator.live == {}


def test_a_message_of_which_a_part_has_come_is_incomplete():
    reader = reading()
    for part, incomplete in ((b"\0\0", True), (b"\0\0\x02", True), (b"a", True), (b"b", False)):
        feed(reader, part)
        assert reader.incomplete is incomplete


@pytest.mark.parametrize(
    ("options", "data", "status", "text"),
    [
        ({"max_request_bytes": 9}, message(b"x" * 10), Status.RESOURCE_EXHAUSTED,
         "the message has 10 bytes, and 9 are allowed (grpc_max_request_size)"),
        ({}, message(b"x", compressed=1), Status.INTERNAL, "compressed"),
        ({"encoding": "gzip"}, message(b"x", compressed=2), Status.INTERNAL, "compressed"),
        ({"unary": True}, message(b"x") * 2, Status.INVALID_ARGUMENT, "one message, and a second came"),
    ],
)  # fmt: skip
def test_a_message_that_cannot_be_is_refused_at_its_prefix(options, data, status, text):
    with pytest.raises(MalformedMessages) as raised:
        feed(reading(**options), data)
    assert raised.value.status is status
    assert text in str(raised.value)


def test_a_limit_is_the_largest_message_that_may_come():
    reader = reading(max_request_bytes=10)
    feed(reader, message(b"x" * 10))
    assert taken(reader) == [b"x" * 10]


def test_the_small_message_of_a_unary_call_counts_nothing():
    reader = reading(unary=True, memory=1)
    feed(reader, message(b"x" * 1000))
    assert reader._context.allocator.memory.used == 0


def test_messages_of_a_stream_count_until_they_are_taken():
    reader = reading(memory=1000)
    for _ in range(3):
        feed(reader, message(b"x" * 300))
    assert reader._context.allocator.memory.used == 900
    with pytest.raises(StatusError) as raised:
        feed(reader, message(b"x" * 300))
    assert raised.value.status is Status.RESOURCE_EXHAUSTED
    assert not isinstance(raised.value, MalformedMessages)  # no fault of this client's
    reader.take()
    assert reader._context.allocator.memory.used <= 600


def test_a_message_that_comes_in_pieces_counts_as_it_comes():
    reader = reading(unary=True)
    feed(reader, message(bytes(1000))[:505])
    assert reader._context.allocator.memory.used == 500
    feed(reader, bytes(500))
    assert reader._context.allocator.memory.used == 0  # whole: it is read at once


def test_what_is_discarded_gives_its_memory_back_and_nothing_more_is_read():
    reader = reading()
    feed(reader, message(bytes(100)) + message(bytes(100_000)) + message(bytes(100_000))[:50_000])
    assert len(reader._context.allocator.live) == 2
    reader.discard()
    assert reader._context.allocator.live == {}
    assert reader._context.allocator.memory.used == 0
    assert reader.receive_buffer is None
    feed(reader, message(b"x"))
    assert not reader.messages
    assert reader.window_increment(0) == 0


def test_no_more_is_allowed_before_half_a_window_has_been_read():
    window = 100_000
    reader = reading(stream_window=window)
    content = message(bytes(995))
    left = window
    for _ in range(50):
        feed(reader, content)
        left -= len(content)
    assert left == window // 2
    assert reader.window_increment(left) == 0
    feed(reader, content)
    assert reader.window_increment(left - 1000) == 0  # it is all unread
    for _ in range(10):
        reader.take()
    assert reader.window_increment(left - 1000) == 0  # it would be too little
    while reader.messages:
        reader.take()
    assert reader.window_increment(left - 1000) == window - (left - 1000)


def test_all_of_a_message_that_has_begun_is_allowed_and_half_a_window_more():
    reader = reading(stream_window=1000)
    feed(reader, message(bytes(50_000))[:605])
    assert reader.window_increment(395) == 50_000 - 600 + 500 - 395


def test_of_a_message_beyond_2_gb_no_more_is_allowed_than_a_window_can_be():
    reader = reading(stream_window=1000, encoding="gzip")
    feed(reader, MESSAGE_PREFIX.pack(1, 3 << 30))  # compressed: it is collected, and costs no memory yet
    assert reader.window_increment(995) == frames.MAX_WINDOW - 995


def test_a_unary_call_that_has_its_message_is_allowed_nothing_more():
    reader = reading(unary=True, stream_window=100)
    feed(reader, message(bytes(80)))
    assert reader.window_increment(15) == 0


async def test_a_compressed_message_is_inflated_when_it_is_read():
    reader = reading(encoding="gzip")
    feed(reader, message(gzip.compress(b"hello"), compressed=1) + message(b"plain"))
    first, second = reader.take(), reader.take()
    assert isinstance(first, CompressedMessage)
    assert await reader.inflate(first) == b"hello"
    assert second == b"plain"
    assert reader._context.allocator.memory.used == 0


async def test_a_message_that_becomes_large_lies_in_the_allocators_memory():
    reader = reading(unary=True, encoding="gzip")
    content = bytes(range(256)) * 1000
    feed(reader, message(gzip.compress(content), compressed=1))
    await reader.inflate_first()
    payload = reader.take()
    assert isinstance(payload, Buffer)
    assert bytes(payload) == content
    payload.release()
    assert reader._context.allocator.live == {}
    assert reader._context.allocator.memory.used == 0


async def test_a_message_that_is_inflated_to_more_than_there_is_room_for_is_refused():
    reader = reading(encoding="gzip", memory=10_000)
    feed(reader, message(gzip.compress(bytes(20_000)), compressed=1))
    with pytest.raises(StatusError) as raised:
        await reader.inflate(reader.take())
    assert raised.value.status is Status.RESOURCE_EXHAUSTED
    assert reader._context.allocator.memory.used == 0
