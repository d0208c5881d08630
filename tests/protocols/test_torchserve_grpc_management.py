"""TorchServe's management service over gRPC, with a plain client against a service to order."""

import json

import grpc
import pytest
from grpc_kit import Talk
from protocol_wire import FakeService, output

from mooring.codecs.proto import torchserve_management_pb2 as pb
from mooring.core import errors
from mooring.core.requests import Operation
from mooring.core.service import Registration, Scaled
from mooring.mount.grpc import management_service
from mooring.protocols.grpc_server import GrpcServer

SERVICE = "/org.pytorch.serve.grpc.management.ManagementAPIsService/"
HTTP = "org.pytorch.serve.http."
MODEL = "org.pytorch.serve.archive.model."


@pytest.fixture
def start():
    """Makes a server with the service, as a test wants it, and a channel to it."""
    running = []

    async def start(**how) -> Talk:
        service = FakeService()
        server = GrpcServer([management_service(service, service, **{"model_api": True} | how)])
        await server.start("127.0.0.1", 0)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
        running.append((server, channel))
        return Talk(service, server, channel)

    return start, running


@pytest.fixture
async def talk_as(start):
    begin, running = start
    yield begin
    for server, channel in running:
        await channel.close()
        await server.close()


@pytest.fixture
async def talk(talk_as):
    return await talk_as()


async def said(talk, method, **fields) -> str:
    message = getattr(pb, f"{method}Request")(**fields)
    return (await talk.call(method, message, kind=pb.ManagementResponse, service=SERVICE)).msg


async def refusal(talk, method, **fields) -> tuple[str, str]:
    message = getattr(pb, f"{method}Request")(**fields)
    return await talk.refused(method, message, kind=pb.ManagementResponse, service=SERVICE)


@pytest.mark.parametrize(
    ("fields", "token", "names"),
    [
        ({}, None, ["echo", "sleepy"]),
        ({"limit": 1}, "1", ["echo"]),
        ({"limit": 1, "next_page_token": 1}, "2", ["sleepy"]),
        ({"limit": -3}, None, ["echo", "sleepy"]),
        ({"limit": 101}, None, ["echo", "sleepy"]),
        ({"next_page_token": 7}, None, []),
    ],
)
async def test_models_are_listed_by_page_and_no_limit_is_https(talk, fields, token, names):
    page = json.loads(await said(talk, "ListModels", **fields))
    assert page.get("nextPageToken") == token
    assert [(each["modelName"], each["modelUrl"]) for each in page["models"]] == [
        (name, f"{name}.mar") for name in names
    ]


@pytest.mark.parametrize(("version", "found"), [("", ["1.0"]), ("2.0", ["2.0"]), ("all", ["1.0", "2.0"])])
async def test_a_model_is_described_as_over_http(talk, version, found):
    text = await said(talk, "DescribeModel", model_name="echo", model_version=version)
    assert text.startswith('[\n  {\n    "modelName": "echo",\n')
    described = json.loads(text)
    assert [each["modelVersion"] for each in described] == found
    assert "customizedMetadata" not in described[0]


@pytest.mark.parametrize(
    ("answer", "metadata"),
    [(output(b'{"a": 1}'), {"a": 1}), (output(b"words"), {}), (errors.Unsupported("no handler"), {})],
)
async def test_a_handler_may_describe_its_model(talk, answer, metadata):
    talk.service.answer = lambda _: [answer]
    (described,) = json.loads(await said(talk, "DescribeModel", model_name="echo", customized=True))
    assert described["customizedMetadata"] == metadata
    assert talk.service.requests[0].operation is Operation.DESCRIBE


async def test_what_a_message_leaves_open_is_left_to_the_model_and_the_settings(talk):
    talk.service.outcome = Scaled("m", "1.0", 1)
    text = await said(talk, "RegisterModel", url="m.mar", synchronous=True)
    assert text == 'Model "m" Version: 1.0 registered with 1 initial workers'
    assert talk.service.changes == [("register", Registration(url="m.mar"), True)]


async def test_everything_a_registration_may_say_reaches_the_server(talk):
    talk.service.outcome = Scaled("m", "1.0", 2)
    text = await said(
        talk, "RegisterModel", url="a.mar", model_name="m", handler="h.py", runtime="python3", batch_size=4,
        max_batch_delay=50, initial_workers=2, response_timeout=7, startup_timeout=8,
    )  # fmt: skip
    assert text == "Processing worker updates..."
    ((_, registration, wait),) = talk.service.changes
    assert registration == Registration(
        url="a.mar", name="m", handler="h.py", runtime="python3", batch_size=4, max_delay=0.05, workers=2,
        response_timeout=7, startup_timeout=8,
    )  # fmt: skip
    assert not wait


async def test_workers_are_scaled(talk):
    talk.service.outcome = Scaled("echo", "1.0", 3)
    fields = {"model_name": "echo", "min_worker": 3}
    assert (
        await said(talk, "ScaleWorker", **fields, synchronous=True) == "Workers scaled to 3 for model: echo"
    )
    assert await said(talk, "ScaleWorker", **fields, model_version="1.0") == "Processing worker updates..."
    assert await said(talk, "ScaleWorker", model_name="echo") == "Processing worker updates..."
    assert talk.service.changes == [
        ("scale", "echo", "", 3, 3, True), ("scale", "echo", "1.0", 3, 3, False), ("scale", "echo", "", 1, 1, False),
    ]  # fmt: skip


async def test_fewer_at_most_than_at_least_is_refused(talk):
    found = await refusal(talk, "ScaleWorker", model_name="echo", min_worker=3, max_worker=2)
    text = f"max_worker cannot be less than min_worker.\n{HTTP}BadRequestException"
    assert found == ("INVALID_ARGUMENT", text)
    assert not talk.service.changes


async def test_the_default_is_set_and_a_model_unregistered(talk):
    named = {"model_name": "echo", "model_version": "2.0"}
    text = 'Default version successfully updated for model "echo" to "2.0"'
    assert await said(talk, "SetDefault", **named) == text
    assert await said(talk, "UnregisterModel", **named) == 'Model "echo" unregistered'
    assert talk.service.changes == [("set default", "echo", "2.0"), ("unregister", "echo", "2.0")]


NAMED = {"model_name": "m", "model_version": "7.0"}


@pytest.mark.parametrize(
    ("method", "fields", "error", "status", "text"),
    [
        ("RegisterModel", {"url": "m.mar"}, errors.ModelExists(model="m", version="1.0"), "ABORTED",
         f"Model version 1.0 is already registered for model m\n{HTTP}ConflictStatusException"),
        ("RegisterModel", {"url": "m.mar"}, errors.ModelNotFound(), "NOT_FOUND",
         f"Model not found at: m.mar\n{MODEL}ModelNotFoundException"),
        ("RegisterModel", {"url": "../m.mar"}, errors.SourceRefused("Relative path is not allowed in url: ../m.mar"),
         "NOT_FOUND", f"Relative path is not allowed in url: ../m.mar\n{MODEL}ModelNotFoundException"),
        ("RegisterModel", {"url": "m.mar"}, errors.WorkersFailed("no torch", model="m", version="1.0"), "INTERNAL",
         f"Failed to start workers for model m version: 1.0\n{HTTP}InternalServerException\nno torch"),
        ("RegisterModel", {}, None, "INVALID_ARGUMENT", f"Parameter url is required.\n{HTTP}BadRequestException"),
        ("ScaleWorker", NAMED, errors.VersionNotFound(), "NOT_FOUND",
         f"Model version: 7.0 does not exist for model: m\n{MODEL}ModelVersionNotFoundException"),
        ("SetDefault", NAMED, errors.VersionNotFound(), "NOT_FOUND",
         f"Model version 7.0 does not exist for model m\n{MODEL}ModelVersionNotFoundException"),
        ("UnregisterModel", NAMED, errors.VersionIsDefault(), "PERMISSION_DENIED",
         f"Cannot remove default version for model m\n{HTTP}InvalidModelVersionException"),
        ("DescribeModel", NAMED, None, "NOT_FOUND", f"Model not found: m\n{MODEL}ModelNotFoundException"),
    ],
)  # fmt: skip
async def test_errors_have_torchserves_text_and_class_and_the_status_that_fits(
    talk, method, fields, error, status, text
):
    talk.service.outcome = error
    assert await refusal(talk, method, **fields) == (status, text)


async def test_without_the_model_api_nothing_is_registered_or_unregistered(talk_as):
    talk = await talk_as(model_api=False)
    for method in ("RegisterModel", "UnregisterModel"):
        assert await refusal(talk, method) == ("PERMISSION_DENIED", "Model API disabled")
    await said(talk, "ScaleWorker", model_name="echo")
    assert len(talk.service.changes) == 1
