"""A gRPC call with a timing says it once, at its end, if its method has taken the timing."""

import re

import pytest
from fake_http2 import parse_frames
from grpc_fakes import Called, FakeGrpcContext, message
from test_grpc_calls import ended, fields

from mooring.core.timing import RequestTiming
from mooring.observability.call_log import CallLog
from mooring.web.grpc.calls import StreamingCall, UnaryCall
from mooring.web.grpc.headers import CallHead, parse_head
from mooring.web.grpc.status import Status
from mooring.web.grpc.timed_calls import (
    ObservedTimedStreamingCall,
    ObservedTimedUnaryCall,
    TimedStreamingCall,
    TimedUnaryCall,
)
from mooring.web.http2 import frames

UNARY = [TimedUnaryCall, ObservedTimedUnaryCall]
STREAMING = [TimedStreamingCall, ObservedTimedStreamingCall]
PATTERN = re.compile(r"total;dur=[0-9.]+")


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    seen = []

    class Seen:
        def add(self, _name, call):
            seen.append(call)

    monkeypatch.setattr(FakeGrpcContext, "calls", CallLog(Seen(), access=True, metrics=None), raising=False)
    return seen


@pytest.mark.parametrize("kind", UNARY)
async def test_answer_ends_with_the_timing(kind):
    called = Called(kind)
    called.feed(message(b"x"), end=True)
    assert isinstance(called.call.timing, RequestTiming)
    assert called.call.timing is called.call.timing
    released = []
    called.call.respond([b"answer"], lambda: released.append(1))
    assert called.sender.queued == [called.call]
    assert PATTERN.fullmatch(called.call.timing_fields()[0][1].decode())


@pytest.mark.parametrize("kind", UNARY + STREAMING)
async def test_status_ends_with_the_timing(kind):
    called = Called(kind)
    assert called.call.timing is not None
    called.call.end(Status.NOT_FOUND, "no model")
    found = ended(called)
    assert PATTERN.fullmatch(found["server-timing"])
    assert (found["grpc-status"], found["grpc-message"]) == ("5", "no model")


@pytest.mark.parametrize("kind", UNARY)
async def test_timing_that_no_method_took_is_not_sent(kind):
    called = Called(kind)
    called.feed(message(b"x"), end=True)
    called.call.respond([b"answer"])
    ((_, data),) = called.sender.sent
    assert all(b"server-timing" not in frame[3] for frame in parse_frames(data))
    last = parse_frames(data)[-1]
    assert last[0] == frames.HEADERS
    assert fields(last[3]) == {"grpc-status": "0"}


@pytest.mark.parametrize("kind", UNARY)
async def test_answer_that_is_too_large_is_refused_with_the_timing(kind):
    called = Called(kind, max_message_bytes=3)
    called.feed(message(b"x"), end=True)
    assert called.call.timing is not None
    called.call.respond([b"answer"])
    assert ended(called)["grpc-status"] == str(int(Status.RESOURCE_EXHAUSTED))
    assert "server-timing" in ended(called)


async def test_observed_call_is_told_of_once(calls):
    called = Called(ObservedTimedUnaryCall)
    called.feed(message(b"x"), end=True)
    assert called.call.timing is not None
    called.call.respond([b"answer"])
    assert [call.status for call in calls] == [0]


@pytest.mark.parametrize("kind", [UnaryCall, StreamingCall])
async def test_other_calls_have_no_timing(kind):
    assert Called(kind).call.timing is None


@pytest.mark.parametrize(("value", "timed"), [(b"1", True), (b"0", False), (None, False)])
def test_head_says_whether_it_asks(value, timed):
    own = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/a.B/C"),
        (b"content-type", b"application/grpc"),
    ]
    head = parse_head([*own, *([] if value is None else [(b"server-timing", value)])])
    assert head.timed is timed
    assert not CallHead().timed
