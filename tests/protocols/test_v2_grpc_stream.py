"""ModelStreamInfer: any number of requests and answers on one call."""

import asyncio

import grpc
import pytest
from grpc_kit import SERVICE, Talk, TensorService, serve, until

from mooring.codecs.proto import inference_pb2 as pb
from mooring.core.errors import ModelFailed, ModelNotFound, QueueFull
from mooring.core.requests import InferenceResponse
from mooring.core.tensors import Tensor


@pytest.fixture
async def talk():
    service = TensorService()
    server = await serve(service)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Talk(service, server, channel)
    await server.close()


class Stream:
    """One call, spoken by hand."""

    def __init__(self, talk, **metadata):
        self.call = talk.channel.stream_stream(f"{SERVICE}ModelStreamInfer")(metadata=tuple(metadata.items()))

    async def ask(self, name="", *, raw=None, **parameters):
        message = pb.ModelInferRequest(model_name="echo", id=name, raw_input_contents=[b"\x07"])
        message.inputs.add(name="x", datatype="UINT8", shape=[1])
        for key, value in parameters.items():
            message.parameters[key].bool_param = value
        await self.call.write(message.SerializeToString() if raw is None else raw)

    async def answer(self):
        message = await asyncio.wait_for(self.call.read(), 5)
        assert message is not grpc.aio.EOF, "the stream has ended"
        return pb.ModelStreamInferResponse.FromString(message)

    async def end(self):
        return await asyncio.wait_for(self.call.read(), 5) is grpc.aio.EOF


@pytest.fixture
async def stream(talk):
    stream = Stream(talk)
    yield stream
    stream.call.cancel()


def piece(value, *, final=False):
    tensors = [] if value is None else [Tensor("y", "UINT8", [1], bytes([value]))]
    return InferenceResponse(tensors, final=final, model="echo", version="1.0")


async def test_every_request_has_its_answer(stream):
    for name in "abc":
        await stream.ask(name)
    answers = [await stream.answer() for _ in "abc"]
    assert [answer.infer_response.id for answer in answers] == ["a", "b", "c"]
    assert all(list(answer.infer_response.raw_output_contents) == [b"\x07"] for answer in answers)
    assert all(answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers)
    await stream.call.done_writing()
    assert await stream.end()
    assert await stream.call.code() is grpc.StatusCode.OK


async def test_a_fast_answer_does_not_wait_for_a_slow_one(talk, stream):
    talk.service.answer = lambda _request: []
    await stream.ask("slow")
    await stream.ask("fast")
    await until(lambda: len(talk.service.dones) == 2)
    talk.service.dones[1](piece(2, final=True))
    assert (await stream.answer()).infer_response.id == "fast"
    await stream.call.done_writing()
    talk.service.dones[0](piece(1, final=True))
    assert (await stream.answer()).infer_response.id == "slow"
    assert await stream.end()


async def test_an_error_is_its_requests_alone(talk, stream):
    answers = iter([[ModelFailed("ValueError: no")], [ModelNotFound(model="echo")], [piece(1, final=True)]])
    talk.service.answer = lambda _request: next(answers)
    await stream.ask(raw=b"\xff")
    assert "is not a ModelInferRequest" in (await stream.answer()).error_message
    await stream.ask("a")
    failed = await stream.answer()
    assert (failed.error_message, failed.infer_response.id) == ("ValueError: no", "a")
    await stream.ask("b")
    assert (await stream.answer()).error_message == "model 'echo' is not found"
    await stream.ask("c")
    assert (await stream.answer()).error_message == ""


async def test_who_asks_for_it_gets_an_error_as_the_status_of_the_call_after_the_pieces_before_it(talk):
    stream = Stream(talk, triton_grpc_error="true")
    full = QueueFull("later")
    full.retry_after = 2.0
    talk.service.answer = lambda _request: [piece(1), full]
    await stream.ask("a")
    assert (await stream.answer()).infer_response.id == "a"
    with pytest.raises(grpc.RpcError):
        await stream.answer()
    assert await stream.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "later" in await stream.call.details()
    assert ("grpc-retry-pushback-ms", "2000") in list(await stream.call.trailing_metadata())


async def test_a_fault_of_ours_is_its_requests_alone(talk, stream):
    def broken(_request):
        talk.service.answer = lambda _request: [piece(1, final=True)]
        raise ZeroDivisionError("secret")

    talk.service.answer = broken
    await stream.ask("a")
    answer = await stream.answer()
    assert answer.error_message == "ZeroDivisionError: internal server error, see the server's log"
    await stream.ask("b")
    assert (await stream.answer()).infer_response.id == "b"


@pytest.mark.parametrize("wanted", [True, False])
async def test_pieces_come_one_by_one_and_the_empty_end_to_whom_asked_for_it(talk, stream, wanted):
    talk.service.answer = lambda _request: [piece(1), piece(2), piece(None, final=True)]
    await stream.ask("a", triton_enable_empty_final_response=wanted)
    await stream.call.done_writing()
    found = []
    for _ in range(3 if wanted else 2):
        answer = (await stream.answer()).infer_response
        found.append(
            (list(answer.raw_output_contents), answer.parameters["triton_final_response"].bool_param)
        )
    assert found == [([b"\x01"], False), ([b"\x02"], False), ([], True)][: len(found)]
    assert await stream.end()
    assert talk.service.requests[0].parameters is None


@pytest.mark.parametrize("wanted", [True, False])
async def test_an_answer_without_a_response_is_only_for_whom_asked_for_the_end(talk, stream, wanted):
    talk.service.answer = lambda _request: [piece(None, final=True)]
    await stream.ask("a", triton_enable_empty_final_response=wanted)
    await stream.call.done_writing()
    if wanted:
        answer = (await stream.answer()).infer_response
        assert (answer.id, list(answer.outputs)) == ("a", [])
        assert answer.parameters["triton_final_response"].bool_param
    assert await stream.end()


async def test_an_error_after_pieces_ends_the_request_and_not_the_stream(talk, stream):
    talk.service.answer = lambda _request: [piece(1), ModelFailed("gone")]
    await stream.ask("a")
    assert (await stream.answer()).infer_response.raw_output_contents[0] == b"\x01"
    assert (await stream.answer()).error_message == "gone"
    await stream.call.done_writing()
    assert await stream.end()


async def test_a_client_that_goes_away_takes_its_requests_with_it(talk, stream):
    talk.service.answer = lambda _request: []
    await stream.ask("a")
    await stream.ask("b")
    await until(lambda: len(talk.service.tickets) == 2)
    stream.call.cancel()
    for ticket in talk.service.tickets:
        await asyncio.wait_for(ticket.cancelled.wait(), 5)


async def test_a_stream_that_asks_and_asks_is_read_no_further_than_it_takes_answers(talk, stream):
    talk.service.answer = lambda _request: []

    async def ask():
        for _ in range(1000):
            await stream.ask()

    asking = asyncio.ensure_future(ask())
    await until(lambda: len(talk.service.dones) == 256)
    await asyncio.sleep(0.1)
    assert len(talk.service.dones) == 256
    talk.service.dones[0](piece(1, final=True))
    await stream.answer()
    await until(lambda: len(talk.service.dones) == 257)
    asking.cancel()


async def test_a_draining_server_answers_what_it_read_and_ends_the_stream(talk, stream):
    talk.service.answer = lambda _request: []
    await stream.ask("a")
    await until(lambda: talk.service.dones)
    idle = Stream(talk)
    await idle.ask("b")
    await until(lambda: len(talk.service.dones) == 2)
    talk.service.dones[1](piece(1, final=True))
    await idle.answer()
    draining = asyncio.ensure_future(talk.server.drain(30))
    assert await idle.call.code() is grpc.StatusCode.UNAVAILABLE
    talk.service.dones[0](piece(2, final=True))
    assert (await stream.answer()).infer_response.id == "a"
    assert await stream.call.code() is grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(draining, 5)
