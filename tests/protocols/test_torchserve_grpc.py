"""TorchServe's inference service over gRPC, with a plain client against a service to order."""

import asyncio

import grpc
import pytest
from grpc_kit import Talk, TensorService, serve, until
from protocol_wire import output, piece

from mooring.codecs.proto import torchserve_inference_pb2 as pb
from mooring.core import errors
from mooring.core.buffers import Buffer
from mooring.core.requests import Form, InferenceResponse
from mooring.core.tensors import Tensor

SERVICE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"


@pytest.fixture
async def talk():
    service = TensorService()
    service.answer = lambda request: [output(bytes(request.inputs[0].data[0]) if request.inputs else b"{}")]
    server = await serve(service)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Talk(service, server, channel)
    await server.close()


def asking(model="echo", version="", sequence=None, **fields):
    return pb.PredictionsRequest(
        model_name=model, model_version=version, input=fields or {"data": b"\x00x"}, sequence_id=sequence
    )


async def predicted(talk, message) -> pb.PredictionResponse:
    return await talk.call("Predictions", message, kind=pb.PredictionResponse, service=SERVICE)


async def refusal(talk, message) -> tuple[str, str]:
    return await talk.refused("Predictions", message, kind=pb.PredictionResponse, service=SERVICE)


async def streamed(talk, message) -> list[bytes]:
    call = talk.channel.unary_stream(f"{SERVICE}StreamPredictions")(message.SerializeToString(), timeout=5)
    return [pb.PredictionResponse.FromString(each).prediction async for each in call]


async def conversed(talk, *messages) -> list[pb.PredictionResponse]:
    sent = iter([message.SerializeToString() for message in messages])
    call = talk.channel.stream_stream(f"{SERVICE}StreamPredictions2")(sent, timeout=5)
    return [pb.PredictionResponse.FromString(each) async for each in call]


@pytest.mark.parametrize(("alive", "state"), [(True, "Healthy"), (False, "Unhealthy")])
async def test_ping_says_how_it_is_as_a_text(talk, alive, state):
    talk.service.alive = alive
    answer = await talk.call("Ping", b"", kind=pb.TorchServeHealthResponse, service=SERVICE)
    assert answer.health == f'{{\n  "status": "{state}"\n}}'


async def test_every_entry_of_the_map_is_a_field_that_nobody_decodes(talk):
    await predicted(talk, asking("echo", "2.0", data=b'{"a": 1}', more=b"\xff"))
    (request,) = talk.service.requests
    assert (request.model, request.version, request.form) == ("echo", "2.0", Form.BODY)
    assert {each.name: each.data for each in request.inputs} == {"data": [b'{"a": 1}'], "more": [b"\xff"]}
    assert {each.parameters["content_type"] for each in request.inputs} == {""}
    assert request.deadline is not None
    assert len(request.id) == 36


async def test_the_answer_is_what_http_would_have_as_its_body(talk):
    answer = await predicted(talk, asking())
    assert answer.prediction == b"\x00x"
    assert not answer.HasField("sequence_id")
    assert not answer.HasField("status")


async def test_large_bytes_go_and_come_whole_and_are_given_back(talk):
    seen = []

    def answer(request):
        (value,) = request.inputs[0].data
        seen.append(value)
        return [InferenceResponse([Tensor("output", "BYTES", [1], [value])])]

    talk.service.answer = answer
    assert (await predicted(talk, asking(data=b"z" * 100_000))).prediction == b"z" * 100_000
    assert isinstance(seen[0], Buffer)


async def test_the_pieces_of_a_streamed_answer_come_together_to_who_asks_for_one(talk):
    talk.service.answer = lambda _: [piece(b"one "), piece(b"two "), output(b"three")]
    assert (await predicted(talk, asking())).prediction == b"one two three"


async def test_a_streamed_answer_comes_piece_by_piece(talk):
    talk.service.answer = lambda _: [piece(b"one"), piece(b"two")]
    call = talk.channel.unary_stream(f"{SERVICE}StreamPredictions")(asking().SerializeToString(), timeout=5)
    first, second = [pb.PredictionResponse.FromString(await call.read()).prediction for _ in range(2)]
    assert (first, second) == (b"one", b"two")  # the last one is not made yet
    talk.service.dones[0](output(b"three"))
    assert pb.PredictionResponse.FromString(await call.read()).prediction == b"three"
    assert await call.read() is grpc.aio.EOF


async def test_an_empty_end_of_a_stream_is_no_piece(talk):
    talk.service.answer = lambda _: [piece(b"one"), output(b"")]
    assert await streamed(talk, asking()) == [b"one"]


@pytest.mark.parametrize("answer", [b"whole", b""])
async def test_a_plain_handler_answers_a_stream_with_one_message(talk, answer):
    talk.service.answer = lambda _: [output(answer)]
    assert await streamed(talk, asking()) == [answer]


async def test_a_stream_that_breaks_off_says_why_after_its_pieces(talk):
    talk.service.answer = lambda _: [piece(b"one"), errors.WorkerDied("killed", model="echo")]
    call = talk.channel.unary_stream(f"{SERVICE}StreamPredictions")(asking().SerializeToString(), timeout=5)
    assert pb.PredictionResponse.FromString(await call.read()).prediction == b"one"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "Worker died.\norg.pytorch.serve.http.InternalServerException"


@pytest.mark.parametrize("method", ["Predictions", "StreamPredictions"])
async def test_a_client_that_goes_away_takes_its_request_with_it(talk, method):
    talk.service.answer = lambda _: []
    kind = talk.channel.unary_stream if method.startswith("Stream") else talk.channel.unary_unary
    call = kind(SERVICE + method)(asking().SerializeToString())
    await until(lambda: talk.service.tickets)
    call.cancel()
    await asyncio.wait_for(talk.service.tickets[0].cancelled.wait(), 5)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (errors.ModelNotFound(), "NOT_FOUND", "Model not found: echo\n{model}ModelNotFoundException"),
        (
            errors.VersionNotFound(),
            "NOT_FOUND",
            "Model version: 7.0 does not exist for model: echo\n{model}ModelVersionNotFoundException",
        ),
        (errors.ModelFailed("boom"), "INTERNAL", "Prediction failed\n{http}InternalServerException"),
        (errors.OutOfResources(), "INTERNAL", "Out of resources\n{http}InternalServerException"),
        (errors.InvalidInput("no"), "INVALID_ARGUMENT", "no\n{http}BadRequestException"),
        (errors.ModelRefused("who?", code=401), "UNAUTHENTICATED", "who?\n{http}InternalServerException"),
        (errors.ModelRefused("less", code=418), "INVALID_ARGUMENT", "less\n{http}InternalServerException"),
        (errors.DeadlineExceeded("late"), "DEADLINE_EXCEEDED", "late\n{http}RequestTimeoutException"),
    ],
)
async def test_errors_have_torchserves_text_and_class_and_the_status_that_fits(talk, error, status, text):
    talk.service.answer = lambda _: [error]
    said = text.format(model="org.pytorch.serve.archive.model.", http="org.pytorch.serve.http.")
    assert await refusal(talk, asking(version="7.0")) == (status, said)


@pytest.mark.parametrize(
    ("error", "begin"),
    [
        (errors.ModelNotReady(), 'Model "echo" has no worker to serve inference request.'),
        (errors.QueueFull("the queue is full"), "the queue is full\n"),
    ],
)
async def test_what_another_try_may_mend_is_unavailable(talk, error, begin):
    talk.service.answer = lambda _: [error]
    status, text = await refusal(talk, asking())
    assert status == "UNAVAILABLE"
    assert text.startswith(begin)
    assert text.endswith("\norg.pytorch.serve.http.ServiceUnavailableException")


async def test_a_model_must_be_named(talk):
    assert await refusal(talk, asking("")) == (
        "INVALID_ARGUMENT",
        "Parameter model_name is required.\norg.pytorch.serve.http.BadRequestException",
    )
    assert not talk.service.requests


async def test_bytes_that_are_no_message_are_the_clients_fault(talk):
    assert (await refusal(talk, b"\xff\xff\xff"))[0] == "INVALID_ARGUMENT"


async def test_the_steps_of_a_sequence_are_asked_and_answered_in_order(talk):
    waiting = []

    def answer(request):
        waiting.append(len(talk.service.requests))
        return [output(b"%d" % len(talk.service.requests))]

    talk.service.answer = answer
    answers = await conversed(talk, *(asking(sequence="s") for _ in range(50)))
    assert [int(each.prediction) for each in answers] == [*range(1, 51)]
    assert {each.sequence_id for each in answers} == {"s"}
    assert talk.service.requests[0].headers == [(b"ts_request_sequence_id", b"s")]


async def test_a_step_waits_for_the_one_before_it(talk):
    talk.service.answer = lambda _: []
    call = talk.channel.stream_stream(f"{SERVICE}StreamPredictions2")(timeout=5)
    for _ in range(2):
        await call.write(asking(sequence="s").SerializeToString())
    await until(lambda: talk.service.requests)
    await asyncio.sleep(0.05)
    assert len(talk.service.requests) == 1
    talk.service.answer = lambda _: [output(b"2")]
    talk.service.dones[0](output(b"1"))
    answers = [pb.PredictionResponse.FromString(await call.read()).prediction for _ in range(2)]
    assert answers == [b"1", b"2"]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("sequence", [None, ""])
async def test_a_step_without_a_sequence_is_refused_in_its_answer_and_the_next_one_read(talk, sequence):
    refused, answered = await conversed(talk, asking(sequence=sequence), asking(sequence="s"))
    assert (refused.status.code, refused.status.message) == (13, "Parameter sequenceId is required.")
    (detail,) = refused.status.details
    assert detail.type_url == "type.googleapis.com/google.rpc.ErrorInfo"
    reason = pb.ErrorInfo.FromString(detail.value).reason
    assert reason == "org.pytorch.serve.http.InternalServerException"
    assert answered.prediction == b"\x00x"


async def test_a_step_that_fails_is_told_so_in_its_answer_and_the_next_one_read(talk):
    outcomes = [[errors.ModelNotFound()], [output(b"fine")]]
    talk.service.answer = lambda _: outcomes.pop(0)
    failed, answered = await conversed(talk, asking(sequence="s"), asking(sequence="s"))
    assert (failed.status.code, failed.status.message) == (5, "Model not found: echo")
    assert failed.sequence_id == "s"
    assert not answered.HasField("status")
    assert answered.prediction == b"fine"


async def test_a_server_that_stops_ends_a_sequence_and_says_so(talk):
    call = talk.channel.stream_stream(f"{SERVICE}StreamPredictions2")(timeout=5)
    await call.write(asking(sequence="s").SerializeToString())
    assert pb.PredictionResponse.FromString(await call.read()).prediction == b"\x00x"
    await talk.server.drain(5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
