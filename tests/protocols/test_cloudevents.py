"""Events to a v1 model, in both modes of CloudEvents' HTTP binding."""

import base64
import json

import pytest
from protocol_wire import JSON, elements

from mooring.core.requests import BodyKind

EVENT = {"specversion": "1.0", "id": "e-1", "source": "/sensors/7", "type": "com.example.reading"}
HEADERS = [f"ce-{name}: {value}" for name, value in EVENT.items()]
STRUCTURED = "application/cloudevents+json"
BODY = b'{"instances": [1, [2.50]]}'


@pytest.fixture
def echo(inference):
    inference.service.answer = lambda request: [elements(*map(bytes, request.inputs[0].data))]
    return inference


@pytest.mark.parametrize(("verb", "key"), [("predict", "predictions"), ("explain", "explanations")])
async def test_a_binary_event_is_answered_by_one(echo, verb, key):
    reply = await echo.call(
        "POST", f"/v1/models/echo:{verb}", BODY, *HEADERS, "content-type: application/json"
    )
    assert (reply.status, reply.headers["content-type"]) == (200, JSON)
    assert reply.body == b'{"%s":[1,[2.50]]}' % key.encode()
    assert reply.headers["ce-specversion"] == "1.0"
    assert reply.headers["ce-type"] == "io.kserve.inference.response"
    assert reply.headers["ce-source"] == "io.kserve.inference.echo"
    assert reply.headers["ce-id"] == reply.headers["x-request-id"]
    assert reply.headers["ce-time"].endswith("+00:00")


@pytest.mark.parametrize("kind", [STRUCTURED, STRUCTURED + "; charset=utf-8"])
@pytest.mark.parametrize(
    "data", [{"data": json.loads(BODY)}, {"data_base64": base64.b64encode(BODY).decode()}]
)
async def test_a_structured_event_is_answered_by_one(echo, kind, data):
    event = json.dumps(EVENT | {"datacontenttype": JSON, "mine": 1} | data).encode()
    reply = await echo.call("POST", "/v1/models/echo:predict", event, f"content-type: {kind}")
    assert (reply.status, reply.headers["content-type"]) == (200, STRUCTURED)
    assert "ce-id" not in reply.headers
    answer = json.loads(reply.body)
    assert answer.pop("time")
    assert answer == {
        "specversion": "1.0",
        "id": reply.headers["x-request-id"],
        "source": "io.kserve.inference.echo",
        "type": "io.kserve.inference.response",
        "datacontenttype": JSON,
        "data": {"predictions": [1, [2.5]]},
    }


async def test_no_instances_are_answered_by_an_event_too(echo):
    reply = await echo.call("POST", "/v1/models/echo:predict", b'{"instances": []}', *HEADERS)
    assert reply.body == b'{"predictions":[]}'
    assert reply.headers["ce-source"] == "io.kserve.inference.echo"
    assert echo.service.requests == []


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        (HEADERS[:1], BODY, "no id and no source and no type"),
        (["ce-specversion: 2.0", *HEADERS[1:]], BODY, "specversion '2.0'"),
        (HEADERS, b"temperature=7", "Unrecognized request format"),
        ([f"content-type: {STRUCTURED}"], b"{", "not a CloudEvent in JSON"),
        ([f"content-type: {STRUCTURED}"], b"[]", "not a CloudEvent in JSON"),
        ([f"content-type: {STRUCTURED}"], b"[" * 10_000, "not a CloudEvent in JSON"),
        ([f"content-type: {STRUCTURED}"], BODY, "specversion ''"),
        ([f"content-type: {STRUCTURED}"], json.dumps(EVENT).encode(), "Unrecognized request format"),
        ([f"content-type: {STRUCTURED}"], json.dumps(EVENT | {"data": {}}).encode(), "to be a list"),
        ([f"content-type: {STRUCTURED}"], json.dumps(EVENT | {"data_base64": "?"}).encode(), "base64"),
        ([f"content-type: {STRUCTURED}"], json.dumps(EVENT | {"id": 7}).encode(), "not a CloudEvent in JSON"),
        (
            ["content-type: application/cloudevents-batch+json"],
            json.dumps([EVENT]).encode(),
            "a batch of CloudEvents (application/cloudevents-batch+json) is not served; send each event by itself",
        ),
    ],
)
async def test_events_that_lack_something_are_refused_and_no_model_is_asked(echo, headers, body, said):
    reply = await echo.call("POST", "/v1/models/echo:predict", body, *headers)
    assert reply.status == 400
    assert said in json.loads(reply.body)["error"]
    assert echo.service.requests == []


async def test_an_event_for_nobody_is_an_error_and_no_event(inference):
    inference.service.states = []
    reply = await inference.call("POST", "/v1/models/nobody:predict", b'{"instances": []}', *HEADERS)
    assert reply.status == 404
    assert "ce-id" not in reply.headers


async def test_large_events_travel_whole(echo):
    echo.service.answer = lambda request: [elements(b"%d" % len(request.body.data))]
    data = b'{"instances": [%s]}' % b",".join([b"1"] * 60_000)
    event = json.dumps(EVENT)[:-1].encode() + b', "data": ' + data + b"}"
    reply = await echo.call("POST", "/v1/models/echo:predict", event, f"content-type: {STRUCTURED}")
    assert json.loads(reply.body)["data"] == {"predictions": [len(data)]}
    assert echo.service.requests[0].body.kind is BodyKind.V1
