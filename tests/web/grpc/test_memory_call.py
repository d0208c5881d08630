"""Calls without a connection: what their methods see, and what comes back."""

import pytest

from mooring.web.grpc.headers import parse_head
from mooring.web.grpc.memory_call import MemoryCall
from mooring.web.grpc.status import Status

METADATA = [
    (b"content-type", b"application/grpc"),
    (b"x-request-id", b"id-7"),
    (b"own", b"first"),
    (b"own", b"last"),
    (b"own-bin", b"AAE"),
]


class Answer:
    """What the other process is sent."""

    def __init__(self):
        self.messages, self.statuses = [], []

    def end(self, status, text):
        self.statuses.append((status, text))


@pytest.fixture
def answer():
    return Answer()


@pytest.fixture
def call(answer):
    head = parse_head([(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a.B/C"), *METADATA])
    return MemoryCall(head, b"message", 12.5, answer.messages.append, answer.end)


def test_a_method_sees_what_the_client_sent(call):
    assert (call.path, call.deadline, call.request_id, call.message) == ("/a.B/C", 12.5, "id-7", b"message")
    assert call.header(b"own") == b"last"
    assert call.header(b"own-bin") == b"\x00\x01"
    assert call.header(b"another") is None
    assert (b"own", b"first") in call.custom_metadata
    assert not any(name == b"content-type" for name, _ in call.custom_metadata)
    assert call.take_message() == b"message"


def test_a_unary_answer_is_one_message_and_ok_whatever_comes_after(call, answer):
    released = []
    call.respond([b"an ", memoryview(b"answer")], lambda: released.append(True))
    call.respond([b"another"], lambda: released.append(True))
    call.end(Status.INTERNAL, "too late")
    call.cancel()
    assert answer.messages == [b"an answer"]
    assert answer.statuses == [(Status.OK, "")]
    assert released == [True, True]


async def test_a_stream_has_one_message_and_any_number_of_answers(call, answer):
    assert await call.read_message() == b"message"
    assert await call.read_message() is None
    await call.write_message(b"one")
    await call.write_message(b"two")
    call.end(Status.NOT_FOUND, "no more")
    await call.write_message(b"three")
    assert answer.messages == [b"one", b"two"]
    assert answer.statuses == [(Status.NOT_FOUND, "no more")]


def test_whoever_cancels_hears_nothing_more_and_the_method_is_told_once(call, answer):
    cancelled = []
    call.on_cancelled = lambda: cancelled.append(True)
    call.cancel()
    call.cancel()
    call.respond([b"answer"])
    assert (answer.messages, answer.statuses, cancelled) == ([], [], [True])
