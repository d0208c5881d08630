"""What a caller calls its request is what the request is called: in the answer, to the model and in the log."""

import re

import grpc
import numpy as np
import pytest
from grpc_kit import TensorService, serve
from protocol_wire import elements
from test_v2_grpc import infer_request
from v2_wire import infer_body, x

from mooring.codecs.proto import inference_pb2 as pb

MINE = "x-request-id: 4bf92f3577b34da6/a3ce929d0e0e4736"
ID = "4bf92f3577b34da6/a3ce929d0e0e4736"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TRACE = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("target", ["/predictions/echo", "/echo/predict", "/v1/models/echo:predict"])
async def test_the_callers_id_is_kept_and_answered_however_often_it_comes(inference, target, times):
    inference.service.answer = lambda request: [elements(*request.inputs[0].data)]
    for _ in range(times):
        reply = await inference.call("POST", target, b'{"instances": [1]}', MINE, TRACE)
        assert (reply.status, reply.headers["x-request-id"]) == (200, ID)
    assert {request.id for request in inference.service.requests} == {ID}
    assert all((b"traceparent", TRACE[13:].encode()) in each.headers for each in inference.service.requests)


@pytest.mark.parametrize("what", ["infer", "generate", "generate_stream"])
async def test_so_it_is_under_v2_where_the_body_may_name_another(v2, what):
    body = infer_body(x()) if what == "infer" else b'{"x": [1, 2]}'
    reply = await v2.call("POST", f"/v2/models/echo/{what}", body, MINE)
    assert (reply.status, reply.headers["x-request-id"]) == (200, ID)
    assert v2.service.requests[0].id == ID
    assert b'"id"' not in reply.body
    reply = await v2.call("POST", "/v2/models/echo/infer", infer_body(x(), id="own"), MINE)
    assert (v2.service.requests[1].id, reply.headers["x-request-id"]) == ("own", ID)


@pytest.mark.parametrize(
    "target", ["/ping", "/nowhere", "/v1/models", "/predictions/nobody", "/v1/models/nobody:predict", "/"]
)
async def test_every_answer_has_it_and_every_refusal(inference, target):
    reply = await inference.call("GET", target, b"", MINE)
    assert reply.headers["x-request-id"] == ID


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "t\xe4b"])
async def test_what_cannot_be_an_id_is_replaced_and_so_is_none(inference, given):
    for lines in ((f"x-request-id: {given}",), ()):
        reply = await inference.call("POST", "/predictions/echo", b"1", *lines)
        assert UUID.fullmatch(reply.headers["x-request-id"])
        assert inference.service.requests[-1].id == reply.headers["x-request-id"]


@pytest.fixture
async def channel():
    service = TensorService()
    server = await serve(service)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield service, channel
    await server.close()


INFER = "/inference.GRPCInferenceService/ModelInfer"
METADATA = (("x-request-id", ID), ("traceparent", "00-ab-cd-01"), ("tracestate", "a=b"))


@pytest.mark.parametrize("size", [4, 40_000])
async def test_over_grpc_it_is_in_the_metadata_both_ways(channel, size):
    service, channel = channel
    message = infer_request(np.zeros(size, np.float32))
    call = channel.unary_unary(
        INFER, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
    )(message, metadata=METADATA)
    answer = await call
    assert dict(await call.initial_metadata())["x-request-id"] == ID
    assert answer.id == ""
    (request,) = service.requests
    assert request.id == ID
    assert sorted(request.headers) == sorted((name.encode(), value.encode()) for name, value in METADATA)


async def test_a_refusal_over_grpc_has_it_too(channel):
    _, channel = channel
    message = infer_request()
    message.inputs[0].shape[:] = [77]
    call = channel.unary_unary(
        INFER, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
    )(message, metadata=METADATA)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    found = [*(caught.value.initial_metadata() or ()), *(caught.value.trailing_metadata() or ())]
    assert dict(found)["x-request-id"] == ID


async def test_an_answer_over_grpc_says_nothing_of_an_id_that_nobody_gave(channel):
    service, channel = channel
    call = channel.unary_unary(
        INFER, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
    )(infer_request())
    await call
    assert "x-request-id" not in dict(await call.initial_metadata())
    assert UUID.fullmatch(service.requests[0].id)
    assert not service.requests[0].headers
