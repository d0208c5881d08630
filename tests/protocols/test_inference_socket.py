"""AMD's websocket ``/models/infer``, with a real client: requests in, bare data out, in order."""

import asyncio
import json

import pytest
import websockets
from amd_wire import FakeAdministration, listening, request
from protocol_wire import Served
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mooring.core.errors import InvalidInput, ModelFailed, ModelNotFound, QueueFull
from mooring.core.requests import InferenceResponse
from mooring.core.tensors import Tensor
from mooring.protocols.dialect import AMD, V2


def text(*pieces, final=True):
    return InferenceResponse([Tensor("out", "BYTES", [len(pieces)], list(pieces))], final=final)


def asking(model="echo", **more):
    return request(1, model=model, **more).decode()


async def _served(dialect):
    service = FakeAdministration()
    server, metrics = await listening(service, dialect)
    return server, Served(service, metrics, server.port)


@pytest.fixture
async def amd():
    server, served = await _served(AMD)
    yield served
    await server.close()


@pytest.fixture
async def talk(amd):
    async with connect(f"ws://127.0.0.1:{amd.port}/models/infer", close_timeout=5) as client:
        yield amd.service, client


async def heard(client):
    return await asyncio.wait_for(client.recv(), 5)


async def closed(client):
    with pytest.raises(ConnectionClosed) as caught:
        await heard(client)
    return caught.value.rcvd.code, caught.value.rcvd.reason


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (text(b"hi"), "hi"),
        (text(b"one", b"two"), "onetwo"),
        (InferenceResponse([Tensor("", "UINT32", [1], b"B\0\0\0")]), "B\0\0\0"),
        (InferenceResponse([Tensor("", "UINT8", [2], b"\xff\xfe")]), b"\xff\xfe"),
        (
            InferenceResponse([Tensor("", "BYTES", [1], [b"first"]), Tensor("", "BYTES", [1], [b"second"])]),
            "first",
        ),
    ],
)
async def test_a_reply_is_the_bytes_of_the_first_output(talk, answer, reply):
    service, client = talk
    service.answer = lambda _: [answer]
    await client.send(asking())
    assert await heard(client) == reply


async def test_the_request_reaches_the_model_with_its_parameters(talk):
    service, client = talk
    service.answer = lambda _: [text(b"")]
    inputs = [
        {"name": "in", "shape": [5], "datatype": "BYTES", "data": ["a.mp4"], "parameters": {"count": 3}}
    ]
    await client.send(json.dumps({"model": "Echo", "id": "7", "inputs": inputs, "parameters": {"key": "0"}}))
    assert await heard(client) == ""
    (request,) = service.requests
    assert (request.model, request.version, request.id, request.parameters) == ("echo", "", "7", {"key": "0"})
    (tensor,) = request.inputs
    assert (tensor.shape, tensor.data, tensor.parameters) == ([1], [b"a.mp4"], {"count": 3})


async def test_a_streaming_model_sends_many_replies(talk):
    service, client = talk
    service.answer = lambda _: [text(b"1", final=False), text(b"2", final=False), InferenceResponse([])]
    await client.send(asking())
    await client.send(asking())
    assert [await heard(client) for _ in range(4)] == ["1", "2", "1", "2"]


async def test_replies_leave_in_the_order_of_the_requests(talk):
    service, client = talk
    service.answer = lambda _: []
    for _ in range(3):
        await client.send(asking())
    await until(lambda: len(service.dones) == 3)
    service.dones[2](text(b"third"))
    service.dones[1](text(b"second", final=False))
    service.dones[0](text(b"first"))
    assert [await heard(client) for _ in range(2)] == ["first", "second"]
    service.dones[1](text(b"more"))
    assert [await heard(client) for _ in range(2)] == ["more", "third"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("no json", "No JSON could be parsed in the request"),
        ("", "No JSON could be parsed in the request"),
        (b"\xff", "No JSON could be parsed in the request"),
        ("[" * 10_000, "No JSON could be parsed in the request"),
        ("{}", "No model found in request"),
        ("[]", "No model found in request"),
        ('{"model": 7}', "No model found in request"),
        (asking("nobody"), "Worker nobody not found"),
        (asking("x" * 500), f"Worker {'x' * 500} not found"[:123]),
    ],
)
async def test_what_makes_no_sense_closes_with_1003_and_the_reason(talk, message, reason):
    service, client = talk
    await client.send(message)
    assert await closed(client) == (1003, reason)
    assert service.requests == []


async def test_what_makes_no_sense_waits_for_the_answers_before_it(talk):
    service, client = talk
    service.answer = lambda _: []
    await client.send(asking())
    await client.send("no json")
    await client.send(asking())
    await until(lambda: service.dones)
    service.dones[0](text(b"done"))
    assert await heard(client) == "done"
    assert (await closed(client))[0] == 1003
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"inputs": [{"name": "in", "shape": [2], "datatype": "UINT32", "data": [1]}]},
        {"inputs": 7},
    ],
)
async def test_a_request_with_a_fault_is_a_reply_and_the_next_one_is_served(talk, broken):
    service, client = talk
    service.answer = lambda _: [text(b"fine")]
    await client.send(json.dumps({"model": "echo", **broken}))
    await client.send(asking())
    assert "input" in await heard(client)
    assert await heard(client) == "fine"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModelFailed("ValueError: too dark"), "too dark"),
        (QueueFull("the queue is full"), "queue is full"),
        (InvalidInput("wrong shape"), "wrong shape"),
        (ModelNotFound(), "'echo' is not found"),
    ],
)
async def test_what_goes_wrong_with_a_request_is_a_reply(talk, error, said):
    service, client = talk
    service.answer = lambda _: [error]
    await client.send(asking())
    assert said in await heard(client)
    assert client.state is websockets.State.OPEN


async def test_a_client_that_goes_away_cancels_what_it_asked(talk):
    service, client = talk
    service.answer = lambda _: []
    for _ in range(2):
        await client.send(asking())
    await until(lambda: len(service.tickets) == 2)
    service.dones[0](text(b"done"))
    await client.close()
    await asyncio.wait_for(service.tickets[1].cancelled.wait(), 5)
    assert not service.tickets[0].cancelled.is_set()


async def test_no_more_is_read_while_many_requests_are_under_way(talk):
    service, client = talk
    service.answer = lambda _: []
    for _ in range(40):
        await client.send(asking())
    await until(lambda: len(service.dones) == 16)
    await asyncio.sleep(0.05)
    assert len(service.dones) == 16
    answered = 0
    while answered < 40:
        await until(lambda: len(service.dones) > answered)  # noqa: B023 - waited for at once
        service.dones[answered](text(b"%d" % answered))
        assert await heard(client) == str(answered)
        answered += 1


async def test_a_server_that_stops_answers_what_was_asked():
    server, served = await _served(AMD)
    served.service.answer = lambda _: []
    async with connect(f"ws://127.0.0.1:{served.port}/models/infer", close_timeout=5) as client:
        await client.send(asking())
        await until(lambda: served.service.dones)
        draining = asyncio.ensure_future(server.drain(5))
        await asyncio.sleep(0.02)
        assert not draining.done()
        served.service.dones[0](text(b"last"))
        assert await heard(client) == "last"
        assert (await closed(client))[0] == 1001
    await asyncio.wait_for(draining, 5)


async def test_a_fault_of_ours_ends_the_connection_and_is_logged(talk, caplog):
    service, client = talk
    service.answer = lambda _: [InferenceResponse([Tensor("out", "BYTES", [1], [7])])]
    await client.send(asking())
    with pytest.raises(ConnectionClosed):
        await heard(client)
    assert "reply failed" in caplog.text


async def test_pages_of_other_sites_are_refused_but_under_amd(amd):
    server, ours = await _served(V2)
    origin = "http://evil.example"
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://127.0.0.1:{ours.port}/models/infer", origin=origin)
    assert refused.value.response.status_code == 403
    async with connect(f"ws://127.0.0.1:{ours.port}/models/infer", origin=f"http://127.0.0.1:{ours.port}"):
        pass
    async with connect(f"ws://127.0.0.1:{amd.port}/models/infer", origin=origin):
        pass
    await server.close()


async def test_a_plain_request_is_told_what_is_spoken_there(amd):
    reply = await amd.call("GET", "/models/infer")
    assert (reply.status, reply.headers["upgrade"]) == (426, "websocket")
    assert "websocket" in json.loads(reply.body)["error"]
