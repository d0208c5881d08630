"""What is worked out once for a head changes no answer: the first request of it and the tenth are told the same."""

import asyncio

import pytest
from msgspec.structs import replace
from protocol_wire import FakeService, Served, elements, output, piece, read_reply
from v2_wire import infer_body, x

from mooring.core.buffers import HeapAllocator
from mooring.core.errors import ModelFailed, ModelNotFound, QueueFull
from mooring.observability.metrics import Metrics
from mooring.protocols.application import Application
from mooring.protocols.cors import Cors
from mooring.protocols.dialect import AMD, V2
from mooring.protocols.openapi import ApiDescription
from mooring.protocols.responses import Responses
from mooring.protocols.torchserve.inference import TorchServeInference
from mooring.web.http1 import HttpServer, Limits

TIMES = 5


def written(method, target, body, *headers):
    lines = [f"{method} {target} HTTP/1.1", "host: here", *headers, f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


async def told_again(port, request):
    """The answers to the same request, one after the other on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = request.startswith(b"HEAD ")
    replies = []
    for _ in range(TIMES):
        writer.write(request)
        replies.append(await asyncio.wait_for(read_reply(reader, head=head), 5))
    writer.close()
    await writer.wait_closed()
    return replies


async def same_every_time(served, request):
    """Whether the tenth request and its answer are those of the first, on whichever connection."""
    alone = await served.send(request)
    replies = [*await told_again(served.port, request), *await told_again(served.port, request)]
    assert {reply.raw for reply in replies} == {alone.raw}
    first, *others = served.service.requests or [None]
    for other in others:
        if first.deadline is not None:  # it begins to run with each request
            assert other.deadline > first.deadline
        assert replace(other, id=first.id, deadline=first.deadline) == first
    return alone


@pytest.mark.parametrize("method", ["POST", "PUT", "GET", "HEAD"])
@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("content-type: application/json; charset=utf-8", "X-Mine: a", "x-mine: b"),
        ("content-type: application/x-www-form-urlencoded",),
        ("x-request-timeout-ms: 30000",),
        ("x-request-timeout-ms: soon",),
        ("accept-encoding: gzip",),
    ],
)
@pytest.mark.parametrize(
    "target",
    [
        "/predictions/echo",
        "/predictions/echo/2.0",
        "/predictions/echo/2.0/more",
        "/v1/models/echo:predict",
        "/no",
    ],
)
async def test_torchserves_clients_are_told_the_same_every_time(inference, method, target, headers):
    reply = await same_every_time(inference, written(method, target, b'{"instances": [1]}', *headers))
    assert reply.status in {200, 400, 404}


@pytest.mark.parametrize(
    "outcomes",
    [
        [ModelNotFound("no model", model="echo")],
        [QueueFull("too many", model="echo")],
        [ModelFailed("it raised", detail="Traceback")],
        [output(b"x", status=418, reason="Teapot")],
        [output(b"x", content_type="text/plain", headers=[("X-A", "1")])],
        [output(b"x", content_type="text/plain")],
        [output(b"x", content_type="a\r\nb")],
        [output(b"x" * 20_000)],
        [output(b"")],
        [piece(b"a"), output(b"b")],
    ],
)
async def test_whatever_becomes_of_a_request_is_told_the_same_every_time(inference, outcomes):
    inference.service.answer = lambda _: [
        replace(each) if hasattr(each, "outputs") else each for each in outcomes
    ]
    await same_every_time(inference, written("POST", "/predictions/echo", b"abc"))


async def test_a_fault_of_ours_is_told_the_same_every_time(inference):
    def broken(_request):
        raise OSError("odd")

    inference.service.answer = broken
    assert (await same_every_time(inference, written("POST", "/predictions/echo", b"abc"))).status == 500


async def test_a_large_body_with_a_known_head_is_the_requests_own(inference):
    replies = await told_again(inference.port, written("POST", "/predictions/echo", b"L" * 100_000))
    assert {reply.body for reply in replies} == {b"L" * 100_000}


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [1, {"x": 1e400}]}',
        b'{"instances": []}',
        b'{"instances": 1}',
        b'{"instances": [NaN]}',
        b'{"instances": ["\xff"]}',
        b"[",
    ],
)
@pytest.mark.parametrize("headers", [(), ("ce-specversion: 1.0", "ce-id: 1", "ce-source: a", "ce-type: b")])
@pytest.mark.parametrize("verb", ["predict", "explain"])
async def test_v1s_clients_are_told_the_same_every_time(inference, body, headers, verb):
    inference.service.answer = lambda request: [elements(*request.inputs[0].data)]
    request = written("POST", f"/v1/models/echo:{verb}", body, *headers)
    if headers:  # the answer has the time in it
        assert len({reply.status for reply in await told_again(inference.port, request)}) == 1
    else:
        await same_every_time(inference, request)


BODIES = [
    infer_body(x()),
    infer_body(x([1, 2], datatype="INT8")),
    infer_body(x(), id="7"),
    infer_body(x(), outputs=[{"name": "x", "parameters": {"binary_data": True}}]),
    infer_body(x(), parameters={"priority": 2, "timeout": 10_000_000}),
    infer_body(x([[1.0, 2.0]])),
    infer_body(x([1.0])),
    infer_body(x(["a", "b"], datatype="BYTES")),
    infer_body(x(), {**x(), "name": "y"}),
    b'{"inputs": []}',
    b"[",
]


@pytest.mark.parametrize("dialect", [V2, AMD])
@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("accept-encoding: gzip",),
        ("x-request-timeout-ms: 30000",),
        ("inference-header-content-length: 9",),
    ],
)
@pytest.mark.parametrize("body", BODIES)
async def test_v2s_clients_are_told_the_same_every_time(v2_as, dialect, headers, body):
    served = await v2_as(dialect=dialect)
    for target in ("/v2/models/echo/infer", "/v2/models/nobody/versions/2/infer"):
        served.service.requests.clear()
        await same_every_time(served, written("POST", target, body, *headers))


async def test_v2s_compressed_bodies_are_told_the_same_every_time(v2):
    body = written("POST", "/v2/models/echo/infer", infer_body(x()), "content-encoding: gzip")
    assert (await same_every_time(v2, body)).status == 400


async def test_pages_of_named_sites_are_told_so_every_time():
    """What depends on who asks is no part of what a head has made known."""
    service, metrics = FakeService(), Metrics()
    responses, cors = Responses(metrics.responses), Cors(["http://a", "http://b"])
    endpoints = TorchServeInference(service, responses, ApiDescription(responses, "1")).endpoints()
    server = HttpServer(
        cors.wrap_app(Application(endpoints, responses)),
        limits=Limits(),
        allocator=HeapAllocator(),
        render_error=responses.format_refusal,
    )
    await server.start("127.0.0.1", 0)
    request = written("POST", "/predictions/echo", b"abc", "origin: http://b")
    reply = await same_every_time(Served(service, metrics, server.port), request)
    assert reply.headers["access-control-allow-origin"] == "http://b"
    await server.close()
