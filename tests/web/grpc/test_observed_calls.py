"""A gRPC call that is observed tells its status once, however it ends."""

import pytest
from grpc_fakes import Called, FakeGrpcContext, message

from mooring.observability.call_log import CallLog
from mooring.web.grpc.headers import CallHead
from mooring.web.grpc.observed_calls import ObservedStreamingCall, ObservedUnaryCall
from mooring.web.grpc.status import Status, StatusError

KINDS = [ObservedUnaryCall, ObservedStreamingCall]


@pytest.fixture
def calls(monkeypatch):
    seen = []

    class Seen:
        def add(self, _name, call):
            seen.append(call)

    monkeypatch.setattr(FakeGrpcContext, "calls", CallLog(Seen(), access=True, metrics=None), raising=False)
    return seen


def told(calls):
    return [(call.method, call.target, call.protocol, call.status, call.broken_off) for call in calls]


def line(status, *, broken_off=False):
    return [("gRPC", b"t.T/M", "HTTP/2.0", status, broken_off)]


async def test_an_answer_ends_the_call_with_ok(calls):
    called = Called(ObservedUnaryCall)
    called.feed(message(b"x"), end=True)
    assert calls == []
    called.call.respond([b"answer"])
    assert told(calls) == line(0)


async def test_an_answer_that_is_too_large_has_its_own_status(calls):
    called = Called(ObservedUnaryCall, max_message_bytes=3)
    called.feed(message(b"x"), end=True)
    called.call.respond([b"answer"])
    assert told(calls) == line(Status.RESOURCE_EXHAUSTED)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_status_ends_the_call_and_a_second_one_does_not(calls, kind):
    called = Called(kind)
    called.call.end(Status.NOT_FOUND, "no model")
    called.call.end(Status.OK)
    called.call.reset_received()
    assert told(calls) == line(Status.NOT_FOUND)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_gives_up_ends_the_call(calls, kind):
    called = Called(kind)
    called.call.reset_received()
    assert told(calls) == line(Status.CANCELLED, broken_off=True)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_is_refused_at_its_head_is_told_of(calls, kind):
    def admit(_call):
        raise StatusError(Status.UNAUTHENTICATED, "no token")

    Called(kind, admit=admit)
    assert told(calls) == line(Status.UNAUTHENTICATED)
    Called(kind, head=CallHead(b"/t.T/M", http_status=b"415"))
    assert told(calls[1:]) == line(415)
