"""The two kinds of calls: when their methods start, what they may send, and what ends them."""

import asyncio
import gzip
import time

import hpack
import pytest
from fake_http2 import FakeConnection, parse_frames
from grpc_fakes import Called, message, settle, streaming

from mooring.web.grpc.headers import CallHead
from mooring.web.grpc.status import Status, StatusError
from mooring.web.http2 import frames
from mooring.web.http2.errors import ErrorCode
from mooring.web.http2.streams import END_STREAM_SENT
from mooring.web.listener import Limits


def fields(block):
    return dict(hpack.Decoder().decode(block))


def ended(called):
    """The fields of a call that ended with nothing but a status."""
    ((size, data),) = called.sender.sent
    assert size == 0
    (frame,) = parse_frames(data)
    assert frame[:2] == (frames.HEADERS, frames.END_HEADERS | frames.END_STREAM)
    return fields(frame[3])


def status(called):
    found = ended(called)
    return Status(int(found["grpc-status"])), found.get("grpc-message", "")


# Heads


def test_what_is_no_grpc_gets_a_status_of_http_and_starts_nothing():
    called = Called(head=CallHead(http_status=b"415"))
    assert ended(called) == {":status": "415", "content-length": "0"}
    assert called.started == []


def test_a_head_with_an_error_is_answered_with_the_encodings_that_are_read():
    called = Called(head=CallHead(error=(Status.UNIMPLEMENTED, "no br"), request_id=b"my-id"))
    found = ended(called)
    assert (found["grpc-status"], found["grpc-message"]) == ("12", "no br")
    assert found["grpc-accept-encoding"] == "identity,deflate,gzip"
    assert found["x-request-id"] == "my-id"


@pytest.mark.parametrize("make", [Called, streaming])
def test_a_call_that_is_not_admitted_starts_nothing(make):
    def admit(_call):
        raise StatusError(Status.UNAUTHENTICATED, "no token")

    called = make(admit=admit)
    assert status(called) == (Status.UNAUTHENTICATED, "no token")
    assert called.started == []


def test_headers_are_found_by_name_and_the_last_one_counts():
    metadata = [(b"x", b"1"), (b"x", b"2"), (b"x-bin", b"AAE"), (b"bad-bin", b"!")]
    call = Called(head=CallHead(b"/t.T/M", metadata)).call
    assert call.header(b"x") == b"2"
    assert call.header(b"x-bin") == b"\0\1"
    assert call.header(b"bad-bin") is None
    assert call.header(b"y") is None


# Unary calls


def test_a_unary_method_starts_when_its_message_is_complete():
    called = Called()
    called.feed(message(b"hello"))
    assert called.started == []
    called.call.end_received()
    assert called.started == [called.call]
    assert called.call.message == b"hello"
    assert called.call.take_message() == b"hello"


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"", "the request has no message"), (b"\0\0", "the request ends inside a message"),
     (message(b"hello")[:7], "the request ends inside a message")],
)  # fmt: skip
def test_a_request_without_a_whole_message_is_refused(content, text):
    called = Called()
    called.feed(content, end=True)
    assert status(called) == (Status.INVALID_ARGUMENT, text)
    assert called.started == []


def test_messages_that_cannot_be_end_the_call_and_are_charged_to_the_client():
    called = Called()
    called.feed(message(b"one") + message(b"two"))
    assert status(called)[0] is Status.INVALID_ARGUMENT
    assert called.connection.charged == 1
    assert called.cancelled == 1


def test_a_message_without_room_ends_the_call_and_is_nobodys_fault():
    called = Called(memory=10)
    called.feed(message(bytes(100))[:50])
    assert status(called)[0] is Status.RESOURCE_EXHAUSTED
    assert called.connection.charged == 0


async def test_a_compressed_message_is_inflated_before_the_method_starts():
    called = Called(head=CallHead(b"/t.T/M", encoding="gzip"))
    called.feed(message(gzip.compress(b"hello"), compressed=1), end=True)
    assert called.started == []
    await settle()
    assert called.started == [called.call]
    assert called.call.take_message() == b"hello"


async def test_a_message_that_is_no_gzip_ends_the_call():
    called = Called(head=CallHead(b"/t.T/M", encoding="gzip"))
    called.feed(message(b"hello", compressed=1), end=True)
    await settle()
    assert status(called) == (Status.INVALID_ARGUMENT, "no gzip")


async def test_a_call_that_is_reset_while_its_message_is_inflated_starts_nothing():
    called = Called(head=CallHead(b"/t.T/M", encoding="gzip"))
    called.feed(message(gzip.compress(b"hello"), compressed=1), end=True)
    called.call.reset_received()
    await settle()
    assert called.started == []


def asked(**options):
    called = Called(**options)
    called.feed(message(b"hello"), end=True)
    called.call.take_message()
    return called


def test_a_small_answer_leaves_in_one_write():
    called, released = asked(), []
    called.call.respond([b"abc", b"def"], lambda: released.append(True))
    ((size, data),) = called.sender.sent
    assert size == 6 + 5
    assert [frame[0] for frame in parse_frames(data)] == [frames.HEADERS, frames.DATA, frames.HEADERS]
    assert released == [True]


@pytest.mark.parametrize("reason", ["large", "windows"])
def test_another_answer_is_queued_and_its_memory_kept(reason):
    called, released = asked(), []
    called.sender.open = reason == "large"
    called.call.respond([bytes(20_000 if reason == "large" else 5)], lambda: released.append(True))
    assert called.sender.sent == []
    assert called.sender.queued == [called.call]
    assert called.call.end_queued
    assert released == []
    parts = []
    size, due = called.call.take_frames(1 << 30, parts)
    assert size == (20_005 if reason == "large" else 10)
    assert len(due) == 1


def test_an_answer_above_the_limit_is_a_status_and_its_memory_is_given_back():
    called, released = asked(max_message_bytes=10), []
    called.call.respond([bytes(11)], lambda: released.append(True))
    assert status(called) == (Status.RESOURCE_EXHAUSTED, "the answer is larger than 10 bytes")
    assert released == [True]
    called = asked(max_message_bytes=10)
    called.call.respond([bytes(10)])
    assert called.sender.sent[0][0] == 15


def test_an_answer_that_nobody_waits_for_is_dropped_and_its_memory_given_back():
    called, released = asked(), []
    called.call.advance(END_STREAM_SENT)
    called.call.respond([b"x"], lambda: released.append(True))
    assert called.sender.sent == called.sender.queued == []
    assert released == [True]


def test_a_call_ends_once():
    called = asked()
    called.call.end(Status.NOT_FOUND, "no such model")
    called.call.end(Status.INTERNAL)
    assert status(called) == (Status.NOT_FOUND, "no such model")


def test_an_answer_that_waits_to_be_sent_keeps_its_status():
    called = asked()
    called.sender.open = False
    called.call.respond([b"x"])
    called.call.end(Status.INTERNAL, "too late")
    parts = []
    called.call.take_frames(1 << 30, parts)
    assert fields(parse_frames(b"".join(parts))[-1][3]) == {"grpc-status": "0"}


def test_a_call_that_ends_before_its_request_drops_the_rest():
    called = Called()
    called.feed(message(bytes(100_000))[:50_000])
    assert called.context.allocator.live
    called.call.end(Status.INTERNAL)
    assert called.connection.detached == [called.call]
    assert called.context.allocator.live == {}
    called.feed(bytes(50_005), end=True)
    assert called.started == []


def test_a_client_that_goes_away_is_told_to_the_method_once():
    called = asked()
    called.call.reset_received()
    called.call.reset_received()
    assert called.cancelled == 1


# Time


def test_a_call_past_its_deadline_ends_and_its_method_hears_of_it():
    called = asked(head=CallHead(b"/t.T/M", timeout=5.0))
    assert called.call.deadline == pytest.approx(time.monotonic() + 5, abs=1)
    called.context.now = called.call.deadline
    called.sweep(0)
    assert called.sender.sent == []
    called.sweep(0.1)
    assert status(called) == (Status.DEADLINE_EXCEEDED, "the deadline is over")
    assert called.cancelled == 1


def test_an_answer_that_is_not_taken_before_the_deadline_is_dropped():
    called = asked(head=CallHead(b"/t.T/M", timeout=5.0))
    called.sender.open = False
    called.call.respond([b"x"])
    called.context.now = called.call.deadline
    called.sweep(0.1)
    assert called.connection.resets == [ErrorCode.CANCEL]


def test_a_request_that_does_not_come_is_not_waited_for():
    called = Called(limits=Limits(body_timeout=60.0))
    called.sweep(60)
    assert called.sender.sent == []
    called.sweep(1)
    assert status(called) == (Status.DEADLINE_EXCEEDED, "the request took too long to come")


def test_a_message_that_trickles_is_given_up():
    called = Called(limits=Limits(body_timeout=60.0, min_body_rate=500, body_window=30.0))
    called.feed(message(bytes(100_000))[:1000])
    for _ in range(4):
        called.sweep(10)
        called.feed(bytes(100))
        called.call.last_progress = called.context.now
    assert status(called)[0] is Status.DEADLINE_EXCEEDED
    assert "min_body_rate" in status(called)[1]


def test_an_answer_that_is_not_taken_is_dropped_after_the_write_timeout():
    called = asked(limits=Limits(write_timeout=60.0))
    called.sweep(100)  # an answer may take its time to be found
    assert called.connection.resets == []
    called.sender.open = False
    called.call.respond([b"x"])
    called.call.last_progress = called.context.now
    called.sweep(60)
    assert called.connection.resets == []
    called.sweep(1)
    assert called.connection.resets == [ErrorCode.CANCEL]


def test_a_stream_may_be_silent_between_its_messages_and_not_within_one():
    called = streaming(limits=Limits(body_timeout=60.0))
    called.sweep(1000)
    assert called.sender.sent == []
    called.feed(message(b"hello")[:7])
    called.call.last_progress = called.context.now
    called.sweep(61)
    assert status(called)[0] is Status.DEADLINE_EXCEEDED


# Streaming calls


async def test_a_streaming_method_starts_at_once_and_reads_messages_as_they_come():
    called = streaming()
    assert called.started == [called.call]
    called.feed(message(b"one") + message(b"two"))
    assert await called.call.read_message() == b"one"
    assert await called.call.read_message() == b"two"
    reading = asyncio.ensure_future(called.call.read_message())
    await settle()
    assert not reading.done()
    called.feed(message(b"three"))
    assert await reading == b"three"
    called.call.end_received()
    assert await called.call.read_message() is None


async def test_a_method_that_waits_hears_of_the_end():
    called = streaming()
    reading = asyncio.ensure_future(called.call.read_message())
    await settle()
    called.call.end_received()
    assert await reading is None


def test_a_stream_that_ends_inside_a_message_is_refused():
    called = streaming()
    called.feed(message(b"hello")[:7], end=True)
    assert status(called) == (Status.INVALID_ARGUMENT, "the request ends inside a message")


async def test_what_is_read_lets_the_client_send_on():
    called = streaming(stream_window=1000, connection=FakeConnection(receive_window=1000))
    called.feed(message(bytes(595)))
    called.call.receive_window -= 600
    assert called.connection.granted == []
    await called.call.read_message()
    assert called.connection.granted == [600]


async def test_the_first_message_that_is_written_brings_the_head_and_each_waits_for_room():
    called = streaming()
    writing = asyncio.ensure_future(called.call.write_message(b"one"))
    await settle()
    assert not writing.done()
    parts = []
    called.call.take_frames(1 << 30, parts)
    assert [frame[0] for frame in parse_frames(b"".join(parts))] == [frames.HEADERS, frames.DATA]
    called.call.queue_drained()
    await writing
    writing = asyncio.ensure_future(called.call.write_message(b"two"))
    await settle()
    parts = []
    called.call.take_frames(1 << 30, parts)
    assert [frame[0] for frame in parse_frames(b"".join(parts))] == [frames.DATA]
    writing.cancel()


async def test_a_status_comes_after_what_was_written_and_without_a_second_head():
    called = streaming()
    writing = asyncio.ensure_future(called.call.write_message(b"one"))
    await settle()
    called.call.end(Status.OK)
    parts = []
    called.call.take_frames(1 << 30, parts)
    _head, data, end = parse_frames(b"".join(parts))
    assert fields(end[3]) == {"grpc-status": "0"}
    assert data[3] == message(b"one")
    writing.cancel()


async def test_a_message_above_the_limit_is_not_written():
    called = streaming(max_message_bytes=10)
    with pytest.raises(StatusError) as raised:
        await called.call.write_message(bytes(11))
    assert raised.value.status is Status.RESOURCE_EXHAUSTED


async def test_a_method_that_waits_is_cancelled_with_its_call():
    for wait in (lambda call: call.read_message(), lambda call: call.write_message(b"x")):
        called = streaming()
        waiting = asyncio.ensure_future(wait(called.call))
        await settle()
        called.call.reset_received()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_what_is_written_to_a_call_that_is_over_is_dropped():
    called = streaming()
    called.call.advance(END_STREAM_SENT)
    await called.call.write_message(b"x")
    assert called.sender.queued == []
    assert await called.call.read_message() is None


async def test_a_compressed_message_of_a_stream_is_inflated_when_it_is_read():
    called = streaming(head=CallHead(b"/t.T/M", encoding="gzip"))
    called.feed(message(gzip.compress(b"hello"), compressed=1))
    assert await called.call.read_message() == b"hello"
