"""Answers that a handler dresses, that come in pieces, that come too late, or that cannot be sent."""

import asyncio
import gc
import json
import logging
import weakref

import pytest
from protocol_wire import (
    COMMON,
    JSON,
    FakeService,
    Served,
    answered,
    elements,
    listening,
    output,
    piece,
    read_reply,
)

from mooring.core import errors
from mooring.core.buffers import Buffer, Slot
from mooring.core.requests import InferenceResponse
from mooring.core.tensors import Tensor
from mooring.protocols.responses import encode_json
from mooring.web.http1 import Exchange

REQUEST = b"POST /predictions/echo HTTP/1.1\r\nhost: here\r\ncontent-length: 1\r\n\r\nx"


def streamed(*pieces: bytes, first: str = "200 OK", kind: bytes = b"", more: bytes = b"") -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"
    return (
        b"HTTP/1.1 " + first.encode() + b"\r\nx-request-id: ID\r\n" + kind + COMMON + more
        + b"ts_stream_next: true\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n" + chunks
    )  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (output(b"x"), answered(b"x")),
        (output(b"{}", content_type=JSON), answered(b"{}", JSON)),
        (output(b"", content_type="text/plain; charset=utf-8"), answered(b"", "text/plain; charset=utf-8")),
        (InferenceResponse([]), answered(b"")),
        (output(b"x", status=201), answered(b"x", first="201 Created")),
        (output(b"x", status=201, reason="Made"), answered(b"x", first="201 Made")),
        (output(b"x", reason="Fine"), answered(b"x", first="200 Fine")),
        (output(b"no", status=404), answered(b"no", first="404 Not Found")),
        (output(b"no", status=418), answered(b"no", first="418 Client Error (418)")),
        (output(b"no", status=503, reason="Tired"), answered(b"no", first="503 Tired")),
        (output(b"x", headers=[("X-Mine", "1")]), answered(b"x", more=b"X-Mine: 1\r\n")),
        (output(b"x", headers=[("X-Mine", "1"), ("x-mine", "2")]), answered(b"x", more=b"x-mine: 2\r\n")),
        (output(b"x", headers=[("X-Request-Id", "1")]), answered(b"x")),
        (output(b"x", headers=[("Content-Length", "9"), ("Transfer-Encoding", "chunked")]), answered(b"x")),
        (output(b"x", headers=[("Connection", "close"), ("Cache-Control", "max-age=9")]), answered(b"x")),
        (output(b"x", headers=[("Content-Type", "text/html")]), answered(b"x", "text/html")),
        (
            output(b"x", content_type=JSON, headers=[("content-type", "text/html")]),
            answered(b"x", JSON),
        ),
    ],
)
async def test_the_head_is_what_the_handler_set_and_the_framing_is_ours(inference, outcome, expected):
    inference.service.answer = lambda _: [outcome]
    assert (await inference.send(REQUEST)).raw == expected


@pytest.mark.parametrize(
    "head",
    [
        {"headers": [("X-Mine", "a\r\nSet-Cookie: b")]},
        {"headers": [("X-Mine", "a\nb")]},
        {"headers": [("X Mine", "a")]},
        {"headers": [("", "a")]},
        {"content_type": "text/plain\r\nSet-Cookie: b"},
        {"reason": "OK\r\nSet-Cookie: b"},
        {"status": 100},
        {"status": 7},
        {"status": 1000},
        {"status": -1},
    ],
)
async def test_a_head_that_would_break_the_answer_apart_is_a_500_with_the_reason_in_the_log(
    inference, head, caplog
):
    inference.service.answer = lambda _: [output(b"x", **head)]
    reply = await inference.send(REQUEST)
    assert reply.status == 500
    assert b"Set-Cookie" not in reply.raw
    assert "answer failed" in caplog.text
    assert "ValueError" in caplog.text


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([piece(b"one "), piece(b"two "), output(b"three")], streamed(b"one ", b"two ", b"three")),
        ([piece(b"one"), output(b"")], streamed(b"one")),
        ([piece(b""), output(b"one")], streamed(b"one")),
        (
            [piece(b"a", status=202, content_type="text/plain", headers=[("X-Mine", "1")]), output(b"b", status=500)],
            streamed(
                b"a", b"b", first="202 Accepted", kind=b"content-type: text/plain\r\n", more=b"X-Mine: 1\r\n"
            ),
        ),
    ],
)  # fmt: skip
async def test_pieces_are_chunks(inference, outcomes, expected):
    inference.service.answer = lambda _: outcomes
    assert (await inference.send(REQUEST)).raw == expected
    assert inference.metrics.responses.classes[2] == 1


async def test_an_error_before_the_first_piece_is_an_answer(inference):
    inference.service.answer = lambda _: [errors.ModelFailed("E: x")]
    assert (await inference.send(REQUEST)).status == 503


async def test_an_error_after_the_first_piece_ends_the_connection_and_is_in_the_log(inference, caplog):
    caplog.set_level(logging.ERROR)
    inference.service.answer = lambda _: [
        piece(b"one"),
        errors.ModelFailed("ValueError: broke"),
        piece(b"late"),
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", inference.port)
    writer.write(REQUEST)
    received = b""
    try:
        while more := await asyncio.wait_for(reader.read(1000), 5):
            received += more
    except ConnectionResetError:
        pass
    writer.close()
    assert b"0\r\n\r\n" not in received
    assert b"ValueError" not in received
    assert "stream broken off" in caplog.text
    assert "ValueError: broke" in caplog.text


async def test_a_client_that_leaves_cancels_its_request(inference):
    inference.service.answer = lambda _: []
    _, writer = await asyncio.open_connection("127.0.0.1", inference.port)
    writer.write(REQUEST)
    await asyncio.wait_for(inference.service.arrived.wait(), 5)
    writer.transport.abort()
    await asyncio.wait_for(inference.service.tickets[0].cancelled.wait(), 5)


@pytest.mark.parametrize(
    ("target", "first", "status"),
    [
        (b"/predictions/echo", piece(b"x", status=7), 500),
        (b"/v1/models/echo:predict", piece(b"x"), 501),
    ],
)
async def test_a_stream_that_cannot_be_sent_is_refused_and_cancelled(inference, target, first, status):
    inference.service.answer = lambda _: []
    reader, writer = await asyncio.open_connection("127.0.0.1", inference.port)
    body = b'{"instances":[1]}'
    writer.write(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (target, len(body), body))
    await asyncio.wait_for(inference.service.arrived.wait(), 5)
    inference.service.dones[0](first)
    assert inference.service.tickets[0].cancelled.is_set()
    inference.service.dones[0](output(b"late"))
    assert (await read_reply(reader)).status == status
    writer.close()
    assert await reader.read() == b""


async def test_a_fault_after_the_answer_does_not_reach_the_engine(inference, monkeypatch, caplog):
    inference.service.answer = lambda _: []
    reader, writer = await asyncio.open_connection("127.0.0.1", inference.port)
    writer.write(REQUEST)
    await asyncio.wait_for(inference.service.arrived.wait(), 5)

    def written_and_then_broken(exchange, *args, **kwargs):
        answer(exchange, *args, **kwargs)
        raise OSError("odd")

    answer = Exchange.respond_ok
    monkeypatch.setattr(Exchange, "respond_ok", written_and_then_broken)
    inference.service.dones[0](output(b"x"))
    assert (await read_reply(reader)).raw == answered(b"x")
    assert "OSError: odd" in caplog.text
    writer.close()


async def test_an_answer_may_come_later_and_only_once(inference):
    inference.service.answer = lambda _: []
    reader, writer = await asyncio.open_connection("127.0.0.1", inference.port)
    writer.write(REQUEST)
    await asyncio.wait_for(inference.service.arrived.wait(), 5)
    inference.service.dones[0](output(b"first"))
    inference.service.dones[0](output(b"second"))
    assert (await read_reply(reader)).raw == answered(b"first")
    writer.close()
    assert await reader.read() == b""


def lent(content: bytes, given_back: list[Slot]) -> Tensor:
    buffer = Buffer(memoryview(content), Slot(0, 0, len(content)), given_back.append)
    return Tensor("output", "BYTES", [1], [buffer])


@pytest.mark.parametrize("target", [b"/predictions/echo", b"/v1/models/echo:predict"])
async def test_a_borrowed_answer_is_given_back_once(inference, target):
    given_back: list[Slot] = []
    inference.service.answer = lambda _: [
        InferenceResponse([lent(b"1" * 100_000, given_back)]),
        InferenceResponse([lent(b"too late", given_back)]),
    ]
    body = b'{"instances":[1]}'
    reply = await inference.send(
        b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (target, len(body), body)
    )
    assert b"1" * 100_000 in reply.body
    assert sorted(slot.size for slot in given_back) == [8, 100_000]


async def test_a_fault_of_ours_is_a_500_that_names_its_class_and_is_logged(inference, caplog):
    def fail(_):
        raise ZeroDivisionError("our secret")

    inference.service.answer = fail
    reply = await inference.send(REQUEST)
    assert reply.status == 500
    assert b'"type": "ZeroDivisionError"' in reply.body
    assert b"our secret" not in reply.raw
    assert "ZeroDivisionError: our secret" in caplog.text


async def test_responses_are_counted_by_class(inference):
    service = inference.service
    for outcome in (output(b"x"), errors.InvalidInput("no"), errors.WorkerDied(), output(b"", status=404)):
        service.answer = lambda _, outcome=outcome: [outcome]
        await inference.send(REQUEST)
    service.answer = lambda _: [elements(b"1")]
    await inference.call("POST", "/v1/models/echo:predict", b'{"instances":[1]}')
    await inference.call("GET", "/nowhere")
    await inference.call("GET", "/ping")
    await inference.send(b"BREW / HTTP/1.1\r\n\r\n")
    classes = inference.metrics.responses.classes
    assert (classes[2], classes[4], classes[5]) == (3, 4, 1)


async def test_cors_headers_are_on_every_response_once_configured():
    lines = b"access-control-allow-origin: *\r\naccess-control-allow-methods: GET, POST\r\n"
    service = FakeService()
    cors = {"access-control-allow-origin": "*", "access-control-allow-methods": "GET, POST"}
    server, metrics = await listening(service, "inference", cors)
    served = Served(service, metrics, server.port)
    service.answer = lambda _: [output(b"x", headers=[("Access-Control-Allow-Origin", "theirs")])]
    for reply in (
        await served.send(REQUEST),
        await served.call("GET", "/nowhere"),
        await served.call("OPTIONS", "/predictions/echo"),
        await served.send(b"BREW / HTTP/1.1\r\n\r\n"),
    ):
        assert lines in reply.raw
        assert b"theirs" not in reply.raw
    preflight = await served.call(
        "OPTIONS", "/v1/models/echo:predict", b"", "origin: here", "access-control-request-method: POST"
    )
    assert preflight.raw == answered(b"").replace(COMMON, COMMON + lines)
    assert len(service.requests) == 1
    await server.close()


@pytest.mark.parametrize("outcomes", [[output(b"x")], [piece(b"x"), output(b"y")], [errors.WorkerDied()]])
async def test_an_answered_request_leaves_nothing_to_the_garbage_collector(inference, outcomes):
    inference.service.answer = lambda _: []
    reader, writer = await asyncio.open_connection("127.0.0.1", inference.port)
    writer.write(REQUEST)
    await asyncio.wait_for(inference.service.arrived.wait(), 5)
    ticket, done = inference.service.tickets.pop(), inference.service.dones.pop()
    ticket.done = done  # as the engine's tickets do
    remembered = weakref.ref(ticket)
    gc.disable()
    try:
        for outcome in outcomes:
            done(outcome)
        del ticket, done
        await read_reply(reader)
        assert remembered() is None
    finally:
        gc.enable()
    writer.close()


def test_a_name_that_utf8_cannot_hold_is_escaped_in_the_json_of_every_protocol():
    for target in (b"/v2/repository/index", b"/models"):
        assert json.loads(encode_json([{"name": "a\udcff"}], target)) == [{"name": "a\udcff"}]
