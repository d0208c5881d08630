"""Handlers that get and give objects of generated classes, and streams that are read until the server stops."""

import asyncio

import pytest

from mooring.codecs.proto import health_pb2 as pb
from mooring.core.buffers import Buffer
from mooring.core.errors import InvalidInput
from mooring.protocols.grpc_messages import (
    StoppableReader,
    async_handler,
    copy_bytes,
    parse_message,
    run_to_end,
    sync_handler,
)

SERVING = pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)


class FakeCall:
    def __init__(self, *messages):
        self.messages = list(messages)
        self.answers = []

    def take_message(self):
        return self.messages.pop(0)

    async def read_message(self):
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)

    def respond(self, parts):
        self.answers.append(b"".join(parts))


def test_a_message_is_parsed_or_is_invalid_input():
    asked = pb.HealthCheckRequest(service="me")
    assert parse_message(pb.HealthCheckRequest, asked.SerializeToString()) == asked
    with pytest.raises(InvalidInput, match="the message is not a HealthCheckRequest"):
        parse_message(pb.HealthCheckRequest, b"\xff")


def test_a_borrowed_message_is_copied_and_given_back():
    released = []
    buffer = Buffer(memoryview(b"large"), None, lambda _: released.append(True))
    assert copy_bytes(buffer) == b"large"
    assert released == [True]
    assert copy_bytes(b"small") == b"small"


async def test_handlers_answer_at_once_or_when_they_are_done():
    seen = []

    def answer(asked):
        seen.append(asked.service)
        return SERVING

    async def answer_later(asked):
        await asyncio.sleep(0)
        return answer(asked)

    message = pb.HealthCheckRequest(service="me").SerializeToString()
    call, later = FakeCall(message), FakeCall(message)
    assert sync_handler(pb.HealthCheckRequest, answer)(call) is None
    await async_handler(pb.HealthCheckRequest, answer_later)(later)
    assert call.answers == later.answers == [SERVING.SerializeToString()]
    assert seen == ["me", "me"]


async def test_work_goes_on_when_its_caller_is_cancelled():
    go, done = asyncio.Event(), []

    async def work():
        await go.wait()
        done.append(True)

    waiting = asyncio.ensure_future(run_to_end(work()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert done == [True]


async def test_a_stream_is_read_until_the_server_stops():
    reader, call = StoppableReader(), FakeCall(b"one", None)
    assert await reader.read_bytes(call) == b"one"
    assert await reader.read_bytes(call) is None  # the client has no more
    reading = asyncio.ensure_future(reader.read_bytes(call))
    await asyncio.sleep(0.01)
    assert not reading.done()
    reader.stop()
    assert await reading is None
    call.messages.append(b"late")
    assert await reader.read_bytes(call) is None
    assert call.messages == [b"late"]
