"""Compressed request bodies, on every route that takes one: inflated before a handler sees them, or refused by name."""

import gzip
import json
import zlib

import pytest
from amd_wire import FakeAdministration
from amd_wire import listening as listening_amd
from protocol_wire import Served, elements
from v2_wire import LIMIT

from mooring.core.buffers import LARGE
from mooring.core.requests import INSTANCES
from mooring.protocols.dialect import AMD

PACK = {"gzip": gzip.compress, "deflate": zlib.compress}
ROUTES = [
    "/predictions/echo",
    "/predictions/echo/2.0",
    "/explanations/echo",
    "/models/echo/invoke",
    "/echo/predict",
    "/invocations?model_name=echo",
]


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("coding", PACK)
@pytest.mark.parametrize("size", [5, 20_000, LARGE + 7])
async def test_a_model_gets_the_body_that_was_compressed(inference, target, coding, size):
    body = bytes(range(251)) * (size // 251 + 1)
    reply = await inference.call("POST", target, PACK[coding](body), f"Content-Encoding: {coding}")
    (request,) = inference.service.requests
    assert (reply.status, bytes(request.inputs[-1].data[0])) == (200, body)
    headers = {name.lower(): value for name, value in request.headers}
    assert b"content-encoding" not in headers
    assert headers[b"content-length"] == str(len(body)).encode()


@pytest.mark.parametrize("times", [1, 4])
async def test_it_is_inflated_however_often_the_same_head_comes(inference, times):
    for number in range(times):
        body = gzip.compress(b"%d" % number)
        reply = await inference.call("POST", "/predictions/echo", body, "Content-Encoding: x-gzip")
        assert reply.body == b"%d" % number


@pytest.mark.parametrize("verb", ["predict", "explain"])
async def test_instances_may_be_compressed(inference, verb):
    inference.service.answer = lambda request: [elements(*map(bytes, request.inputs[0].data))]
    body = gzip.compress(b'{"instances":[[1],[2]]}')
    reply = await inference.call("POST", f"/v1/models/echo:{verb}", body, "content-encoding: gzip")
    assert list(json.loads(reply.body).values()) == [[[1], [2]]]
    assert inference.service.requests[0].form is INSTANCES


async def test_a_field_of_a_compressed_form_is_as_it_was_sent(inference):
    """A part's own Content-Encoding is the part's: it says what is in the file, not how the request travelled."""
    packed = gzip.compress(b"a file")
    form = (
        b'--b\r\nContent-Disposition: form-data; name="data"; filename="a.gz"\r\nContent-Encoding: gzip\r\n\r\n'
        + packed
        + b"\r\n--b--\r\n"
    )
    lines = ("content-type: multipart/form-data; boundary=b", "content-encoding: deflate")
    reply = await inference.call("POST", "/predictions/echo", zlib.compress(form), *lines)
    assert (reply.status, reply.body) == (200, packed)


@pytest.mark.parametrize("target", [*ROUTES, "/v1/models/echo:predict"])
async def test_an_unknown_coding_is_a_415_that_names_it(inference, target):
    reply = await inference.call("POST", target, b"abc", "content-encoding: br")
    assert (reply.status, reply.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert "Content-Encoding" in json.loads(reply.body)["message"]
    assert not inference.service.requests


async def test_what_is_no_compressed_data_is_a_400_in_the_protocols_own_form(inference):
    for target in ("/predictions/echo", "/v1/models/echo:predict"):
        reply = await inference.call("POST", target, b"abc", "content-encoding: gzip")
        assert (reply.status, json.loads(reply.body)["type"]) == (400, "BadRequestException")
    assert "error" in json.loads(reply.body)


async def test_a_body_is_held_to_the_limit_of_its_route_as_it_is_inflated(v2):
    bomb = gzip.compress(bytes(LIMIT + 1))
    for target in ("/v2/models/echo/generate", "/v2/repository/index", "/v2/logging"):
        reply = await v2.call("POST", target, bomb, "content-encoding: gzip")
        assert (reply.status, list(json.loads(reply.body))) == (413, ["error"])


async def test_models_are_registered_by_a_compressed_body(management):
    body = gzip.compress(b'{"url": "echo.mar", "batch_size": 3}')
    lines = ("content-type: application/json", "content-encoding: gzip")
    assert (await management.call("POST", "/models", body, *lines)).status == 200
    assert management.service.changes[0][1].batch_size == 3


async def test_amds_routes_take_compressed_bodies():
    service = FakeAdministration()
    server, metrics = await listening_amd(service, AMD)
    body = gzip.compress(b'{"name": "CPU", "num": 1}')
    reply = await Served(service, metrics, server.port).call(
        "POST", "/v2/hardware", body, "content-encoding: gzip"
    )
    assert reply.status == 200
    await server.close()


@pytest.mark.parametrize("lines", [("content-encoding: gzip",), ("content-encoding: identity",)])
async def test_no_body_is_no_compressed_one(inference, lines):
    assert (await inference.call("GET", "/ping", b"", *lines)).status == 200
