"""The Open Inference Protocol over gRPC, with a plain client against a service to order."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from grpc_kit import Talk, TensorService, serve, until

from mooring import __version__
from mooring.codecs.proto import health_pb2 as health
from mooring.codecs.proto import inference_pb2 as pb
from mooring.config.settings import Config
from mooring.core import errors
from mooring.core.buffers import Buffer, HeapAllocator, Slot
from mooring.core.requests import InferenceResponse
from mooring.core.tensors import Tensor
from mooring.protocols.dialect import TRITON, V2, dialect_for
from mooring.protocols.grpc_server import ConnectionAge, GrpcServer
from mooring.protocols.kserve.grpc_infer import Inference
from mooring.protocols.kserve.v2_grpc import KServeV2Grpc

HEALTH = "/grpc.health.v1.Health/"
ALIAS = "/org.pytorch.serve.grpc.openinference.GRPCInferenceService/"


@asynccontextmanager
async def talking(dialect=V2):
    service = TensorService()
    server = await serve(service, dialect=dialect)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Talk(service, server, channel)
    await server.close()


@pytest.fixture
async def talk():
    async with talking() as talk:
        yield talk


def infer_request(array=None, **fields):
    array = np.arange(4, dtype=np.float32) if array is None else array
    message = pb.ModelInferRequest(**{"model_name": "echo", "raw_input_contents": [array.tobytes()]} | fields)
    message.inputs.add(name="x", datatype="FP32", shape=array.shape)
    return message


async def test_a_request_reaches_the_service_and_its_answer_the_client(talk):
    message = infer_request(model_version="1.0", id="i")
    message.parameters["threshold"].double_param = 0.5
    message.outputs.add(name="x")
    answer = await talk.call("ModelInfer", message)
    assert (answer.model_name, answer.model_version, answer.id) == ("echo", "1.0", "i")
    assert list(answer.raw_output_contents) == list(message.raw_input_contents)
    (request,) = talk.service.requests
    assert (request.model, request.version, request.id) == ("echo", "1.0", "i")
    assert request.parameters == {"threshold": 0.5}
    assert [output.name for output in request.outputs] == ["x"]
    assert request.deadline is not None


async def test_an_id_is_echoed_only_where_one_was_given(talk):
    answer = await talk.call("ModelInfer", infer_request())
    assert answer.id == ""
    assert len(talk.service.requests[0].id) == 36  # a handler counts on one of its own


def typed_request():
    message = pb.ModelInferRequest(model_name="echo")
    message.inputs.add(name="x", datatype="INT32", shape=[2]).contents.int_contents.extend([1, -2])
    return message


async def test_typed_contents_are_answered_with_raw_contents(talk):
    answer = await talk.call("ModelInfer", typed_request())
    assert list(answer.raw_output_contents) == [np.int32([1, -2]).tobytes()]
    assert not answer.outputs[0].HasField("contents")


@pytest.mark.parametrize("kind", ["raw", "typed"])
async def test_torchserves_name_of_the_service_answers_in_the_form_of_the_request(talk, kind):
    message = typed_request() if kind == "typed" else infer_request()
    call = talk.channel.unary_unary(
        f"{ALIAS}ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    answer = await call(message)
    assert bool(answer.raw_output_contents) == (kind == "raw")
    assert answer.outputs[0].HasField("contents") == (kind == "typed")


@pytest.mark.parametrize("settings", [{"dialect": "amd"}, {"grpc_typed_outputs": True}])
async def test_typed_contents_are_answered_with_typed_contents_where_that_is_set(settings):
    async with talking(dialect_for(Config(**settings))) as talk:
        answer = await talk.call("ModelInfer", typed_request())
    assert list(answer.outputs[0].contents.int_contents) == [1, -2]
    assert not answer.raw_output_contents


async def test_a_message_larger_than_grpcs_default_limit_goes_both_ways(talk):
    array = np.arange(5_000_000, dtype=np.float32)
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(talk.address, options) as channel:
        answer = await talk._replace(channel=channel).call("ModelInfer", infer_request(array))
    assert answer.raw_output_contents[0] == array.tobytes()


async def test_a_limit_on_messages_can_be_set():
    v2 = KServeV2Grpc(Inference(TensorService(), HeapAllocator()), version="1")
    server = GrpcServer(v2.services(), max_message_bytes=1000)
    await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        code, _ = await Talk(None, server, channel).refused(
            "ModelInfer", infer_request(np.zeros(300, np.float32))
        )
        assert code == "RESOURCE_EXHAUSTED"
    await server.close()


async def test_the_memory_of_an_answer_is_given_back(talk):
    released = []
    data = memoryview(bytearray(100_000))

    def answer(_request):
        buffer = Buffer(data, Slot(0, 0, len(data)), released.append)
        return [InferenceResponse([Tensor("y", "UINT8", [len(data)], buffer)])]

    talk.service.answer = answer
    await talk.call("ModelInfer", infer_request())
    assert len(released) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInput("input 'x' is FP32"), "INVALID_ARGUMENT"),
        (errors.ModelNotFound(model="echo"), "NOT_FOUND"),
        (errors.VersionNotFound(model="echo", version="9"), "NOT_FOUND"),
        (errors.ModelNotReady("model 'echo' is loading"), "UNAVAILABLE"),
        (errors.QueueFull("as many requests wait as may"), "RESOURCE_EXHAUSTED"),
        (errors.DeadlineExceeded("waited too long"), "DEADLINE_EXCEEDED"),
        (errors.Unsupported("no explanations"), "UNIMPLEMENTED"),
        (errors.ModelFailed("ValueError: no\nsecond line — ü"), "INTERNAL"),
        (errors.ModelRefused("not for you", code=403), "PERMISSION_DENIED"),
        (errors.ModelRefused("odd", code=418), "INVALID_ARGUMENT"),
        (errors.OutOfResources("MemoryError: "), "RESOURCE_EXHAUSTED"),
        (errors.WorkerDied("worker ended"), "INTERNAL"),
    ],
)
async def test_every_error_has_its_status_and_its_text(talk, error, code):
    talk.service.answer = lambda _request: [error]
    found, text = await talk.refused("ModelInfer", infer_request(model_version="9"))
    assert found == code
    assert error.message in text
    assert text


@pytest.mark.parametrize(
    ("version", "code"), [("7", "NOT_FOUND"), ("7.0", "NOT_FOUND"), ("latest", "INVALID_ARGUMENT")]
)
async def test_a_version_that_is_no_number_is_a_fault_of_the_request(talk, version, code):
    talk.service.answer = lambda _request: [
        errors.VersionNotFound(f"no '{version}'", model="echo", version=version)
    ]
    assert (await talk.refused("ModelInfer", infer_request(model_version=version)))[0] == code


async def test_a_text_too_long_for_a_header_is_shortened(talk):
    talk.service.answer = lambda _request: [errors.ModelFailed("ü" * 100_000)]
    code, text = await talk.refused("ModelInfer", infer_request())
    assert code == "INTERNAL"
    assert text.startswith("üüü")
    assert text.endswith("…")


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x7f", b"\x0b", b"\x00", b"\x0a\x01\xff"])
async def test_bytes_that_are_no_message_are_the_callers_fault(talk, message):
    for method in ("ModelInfer", "ModelReady"):
        code, text = await talk.refused(method, message)
        assert code == "INVALID_ARGUMENT"
        assert "is not a Model" in text
    assert not talk.service.requests


async def test_a_fault_of_ours_is_internal_and_says_no_more_than_its_kind(talk):
    def broken(_request):
        raise ZeroDivisionError("secret")

    talk.service.answer = broken
    assert await talk.refused("ModelInfer", infer_request()) == (
        "INTERNAL", "ZeroDivisionError: internal server error, see the server's log",
    )  # fmt: skip


async def test_a_model_that_answers_in_pieces_is_refused_and_stopped(talk):
    talk.service.answer = lambda _request: [InferenceResponse([], final=False)] * 2
    code, text = await talk.refused("ModelInfer", infer_request())
    assert code == "UNIMPLEMENTED"
    assert "ModelStreamInfer" in text
    await asyncio.wait_for(talk.service.tickets[0].cancelled.wait(), 5)


async def test_a_client_that_goes_away_takes_its_request_with_it(talk):
    talk.service.answer = lambda _request: []
    call = talk.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
        infer_request().SerializeToString()
    )
    await until(lambda: talk.service.tickets)
    call.cancel()
    await asyncio.wait_for(talk.service.tickets[0].cancelled.wait(), 5)


async def test_a_clients_deadline_ends_its_request(talk):
    talk.service.answer = lambda _request: []
    code, _ = await talk.refused("ModelInfer", infer_request(), timeout=0.1)
    assert code == "DEADLINE_EXCEEDED"
    await asyncio.wait_for(talk.service.tickets[0].cancelled.wait(), 5)


async def test_priority_and_timeout_are_the_queues_and_not_the_models(talk):
    message = infer_request()
    message.parameters["priority"].uint64_param = 2
    message.parameters["timeout"].int64_param = 1_000_000
    message.parameters["beam"].int64_param = 3
    await talk.call("ModelInfer", message, timeout=60)
    (request,) = talk.service.requests
    assert request.priority == 2
    assert request.parameters == {"beam": 3}
    remaining = request.deadline - asyncio.get_running_loop().time()
    assert 0.5 < remaining <= 1.0


async def test_reserved_parameters_are_refused(talk):
    message = infer_request()
    message.parameters["triton_x"].bool_param = True
    code, text = await talk.refused("ModelInfer", message)
    assert code == "INVALID_ARGUMENT"
    assert "reserved" in text


async def test_the_server_says_what_it_is(talk):
    about = await talk.call("ServerMetadata")
    assert (about.name, about.version, list(about.extensions)) == (
        "mooring",
        __version__,
        ["binary_tensor_data"],
    )
    assert (await talk.call("ServerLive")).live
    assert (await talk.call("ServerReady")).ready
    talk.service.alive = False
    assert not (await talk.call("ServerReady")).ready


async def test_models_say_what_they_are(talk):
    about = await talk.call("ModelMetadata", pb.ModelMetadataRequest(name="echo"))
    assert (about.name, list(about.versions), about.platform) == ("echo", ["1.0", "2.0"], "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in about.inputs] == [("x", "FP32", [-1, 4])]
    assert [(t.name, t.datatype, list(t.shape)) for t in about.outputs] == [("y", "BYTES", [-1])]
    unknown = pb.ModelMetadataRequest(name="nobody")
    assert await talk.refused("ModelMetadata", unknown) == ("NOT_FOUND", "model 'nobody' is not found")


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("echo", "", True),
        ("echo", "2.0", True),
        ("echo", "9", False),
        ("sleepy", "", False),
        ("nobody", "", False),
    ],
)
async def test_a_model_is_ready_or_not_but_never_an_error(talk, name, version, ready):
    assert (await talk.call("ModelReady", pb.ModelReadyRequest(name=name, version=version))).ready is ready


async def test_torchserves_name_for_the_service_answers_too(talk):
    assert (await talk.call("ServerLive", service=ALIAS)).live
    answer = await talk.call("ModelInfer", infer_request(), service=ALIAS)
    assert answer.model_name == "echo"


async def test_what_is_not_offered_is_unimplemented(talk):
    code, _ = await talk.refused("Sing", kind=pb.ServerLiveResponse)
    assert code == "UNIMPLEMENTED"


async def test_health_is_what_readiness_is(talk):
    async def status(name=""):
        message = health.HealthCheckRequest(service=name)
        return (await talk.call("Check", message, kind=health.HealthCheckResponse, service=HEALTH)).status

    assert await status() == health.HealthCheckResponse.SERVING
    assert await status("inference.GRPCInferenceService") == health.HealthCheckResponse.SERVING
    talk.service.alive = False
    assert await status() == health.HealthCheckResponse.NOT_SERVING
    unknown = health.HealthCheckRequest(service="x")
    code, _ = await talk.refused("Check", unknown, kind=health.HealthCheckResponse, service=HEALTH)
    assert code == "NOT_FOUND"


async def test_a_watcher_hears_of_changes_and_of_the_end(talk):
    call = talk.channel.unary_stream(f"{HEALTH}Watch")(b"")

    async def status():
        return health.HealthCheckResponse.FromString(await asyncio.wait_for(call.read(), 5)).status

    assert await status() == health.HealthCheckResponse.SERVING
    talk.service.alive = False
    assert await status() == health.HealthCheckResponse.NOT_SERVING
    talk.service.alive = True
    assert await status() == health.HealthCheckResponse.SERVING
    draining = asyncio.ensure_future(talk.server.drain(30))
    assert await status() == health.HealthCheckResponse.NOT_SERVING
    assert await asyncio.wait_for(call.read(), 5) is grpc.aio.EOF
    await asyncio.wait_for(draining, 5)


async def test_a_port_in_use_is_refused(talk):
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already in use$"):
        await serve_at(talk.server.port)


async def serve_at(port):
    server = GrpcServer([])
    try:
        await server.start("127.0.0.1", port)
    finally:
        await server.close()


async def test_a_connection_that_is_old_enough_is_made_anew():
    age = ConnectionAge(max_age=0.05, grace=20)
    assert (age.limits().max_age, age.limits().max_age_grace) == (0.05, 20)
    server = GrpcServer([], age=age)
    await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        states = [channel.get_state(try_to_connect=True)]
        while grpc.ChannelConnectivity.IDLE not in states[1:]:  # where the server's goodbye leads
            await asyncio.wait_for(channel.wait_for_state_change(states[-1]), 20)
            states.append(channel.get_state())
    assert grpc.ChannelConnectivity.READY in states
    await server.close()


async def test_a_unix_socket_serves_too(tmp_path):
    v2 = KServeV2Grpc(Inference(TensorService(), HeapAllocator()), version="1")
    server = GrpcServer(v2.services())
    await server.start_unix(str(tmp_path / "grpc.sock"))
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/grpc.sock") as channel:
        assert (await Talk(None, server, channel).call("ServerLive")).live
    await server.close()


async def test_a_draining_server_answers_what_it_took_and_takes_nothing_new(talk):
    talk.service.answer = lambda _request: []
    call = asyncio.ensure_future(talk.call("ModelInfer", infer_request(id="late")))
    await until(lambda: talk.service.dones)
    draining = asyncio.ensure_future(talk.server.drain(10))
    await asyncio.sleep(0.05)
    code, _ = await talk.refused("ServerLive")
    assert code == "UNAVAILABLE"
    talk.service.dones[0](InferenceResponse([Tensor("y", "UINT8", [1], b"\x01")], model="echo"))
    assert (await call).id == "late"
    await asyncio.wait_for(draining, 5)


async def test_a_wrong_message_for_a_model_that_is_not_there_is_not_found(talk):
    for model, code in (("nobody", "NOT_FOUND"), ("echo", "INVALID_ARGUMENT")):
        message = infer_request(model_name=model)
        message.inputs[0].shape[:] = [77]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await talk.call("ModelInfer", message)
        assert caught.value.code().name == code


async def test_tritons_dialect_has_the_words_that_its_clients_look_for():
    async with talking(TRITON) as talk:
        about = await talk.call("ServerMetadata", pb.ServerMetadataRequest())
        assert about.name == "triton"
        unknown = pb.ModelMetadataRequest(name="nobody")
        code, text = await talk.refused("ModelMetadata", unknown)
        assert (code, text) == ("NOT_FOUND", "Request for unknown model: 'nobody' is not found")
        load = pb.RepositoryModelLoadRequest(model_name="nobody")
        code, text = await talk.refused("RepositoryModelLoad", load)
        assert text == "failed to load 'nobody', failed to poll from model repository"
