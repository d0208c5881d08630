"""TorchServe's management port, as far as it changes what is served: every row of its contract, against a fake."""

import json

import pytest
from protocol_wire import JSON, FakeService, Served, answered, listening, output, refused

from mooring.core.errors import (
    FetchFailed,
    InvalidInput,
    ModelExists,
    ModelLoadFailed,
    ModelNotFound,
    ModelNotReady,
    SourceRefused,
    Unsupported,
    VersionIsDefault,
    VersionNotFound,
    WorkersFailed,
)
from mooring.core.requests import Operation
from mooring.core.service import Registration, Scaled


def said(text: str, first: str = "200 OK") -> bytes:
    return answered(json.dumps({"status": text}, indent=2).encode() + b"\n", JSON, first=first)


@pytest.mark.parametrize(
    ("query", "scaled", "expected"),
    [
        (
            "", Scaled("m", "1.0", 0),
            said('Model "m" Version: 1.0 registered with 0 initial workers. Use scale workers API to add workers for the '
                 "model."),
        ),
        ("", Scaled("m", "1.0", 2), said('Model "m" Version: 1.0 registered with 2 initial workers')),
        ("&synchronous=false", Scaled("m", "1.0", 2, done=False),
         said("Processing worker updates...", "202 Accepted")),
        ("&synchronous=FALSE", Scaled("m", "2", 0),
         said('Model "m" Version: 2 registered with 0 initial workers. Use scale workers API to add workers for the '
              "model.")),
    ],
)  # fmt: skip
async def test_a_registration_is_answered_in_torchserves_words(management, query, scaled, expected):
    management.service.outcome = scaled
    assert (await management.call("POST", f"/models?url=m.mar{query}")).raw == expected


NUMBERS = "batch_size=4&max_batch_delay=50&initial_workers=2&response_timeout=9&startup_timeout=8"
EVERYTHING = Registration(
    url="m.mar", name="n", handler="h.py:f", runtime="python3", batch_size=4, max_delay=0.05, workers=2,
    response_timeout=9, startup_timeout=8,
)  # fmt: skip


@pytest.mark.parametrize(
    ("query", "registration", "wait"),
    [
        ("url=m.mar", Registration(url="m.mar"), True),
        ("url=a%2Fm.mar&synchronous=false", Registration(url="a/m.mar"), False),
        ("url=m.mar&synchronous=yes", Registration(url="m.mar"), False),
        (
            f"url=m.mar&model_name=n&handler=h.py%3Af&runtime=python3&{NUMBERS}",
            EVERYTHING,
            True,
        ),
        (
            "url=m.mar&batch_size=0&max_batch_delay=-1&initial_workers=-1&startup_timeout=-1&response_timeout=",
            Registration(url="m.mar"),
            True,
        ),
        (
            "url=m.mar&max_batch_delay=0&initial_workers=0",
            Registration(url="m.mar", max_delay=0, workers=0),
            True,
        ),
        ("url=", Registration(url=""), True),
    ],
)
async def test_a_query_says_what_to_register(management, query, registration, wait):
    assert (await management.call("POST", f"/models?{query}")).status in (200, 202)
    assert management.service.changes == [("register", registration, wait)]


@pytest.mark.parametrize(
    ("body", "query", "registration", "wait"),
    [
        (
            {
                "url": "m.mar", "model_name": "n", "handler": "h.py:f", "runtime": "python3", "batch_size": 4,
                "max_batch_delay": 50, "initial_workers": 2, "synchronous": False, "response_timeout": 9,
                "startup_timeout": "8", "s3_sse_kms": False,
            },
            "", EVERYTHING, False,
        ),
        ({"url": "m.mar"}, "?url=other.mar&batch_size=3", Registration(url="m.mar", batch_size=3), True),
        ({"batch_size": 4}, "?url=m.mar&batch_size=3", Registration(url="m.mar", batch_size=4), True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [JSON, "application/json; charset=utf-8"])
async def test_a_json_body_says_it_too(management, kind, body, query, registration, wait):
    text = json.dumps(body).encode()
    await management.call("POST", f"/models{query}", text, f"content-type: {kind}")
    assert management.service.changes == [("register", registration, wait)]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("batch_size=x", "batch_size must be a whole number, not 'x'."),
        ("response_timeout=1.5", "response_timeout must be a whole number, not '1.5'."),
        ("batch_size=-2", "batch_size cannot be less than 1."),
        ("initial_workers=-2", "initial_workers cannot be less than 0."),
        ("startup_timeout=0", "startup_timeout must be at least 1 second."),
        ("response_timeout=0", "response_timeout must be at least 1 second."),
    ],
)
async def test_a_registration_with_a_number_that_makes_no_sense_is_refused(management, query, message):
    reply = await management.call("POST", f"/models?url=m.mar&{query}")
    assert reply.raw == refused("400 Bad Request", "BadRequestException", message)
    assert management.service.changes == []


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"url": 3}', b'{"url": "m", "batch_size": "x"}', b"\xff"])
async def test_a_json_body_that_makes_no_sense_is_the_clients_fault(management, body):
    reply = await management.call("POST", "/models", body, f"content-type: {JSON}")
    document = json.loads(reply.body)
    assert (reply.status, document["type"]) == (400, "BadRequestException")
    assert document["message"].startswith("Failed to parse the JSON body: ")
    assert management.service.changes == []


@pytest.mark.parametrize("body", [b"", b'{"url": "m.mar"}', b"url=m.mar"])
async def test_a_registration_names_a_url(management, body):
    reply = await management.call("POST", "/models", body)
    assert reply.raw == refused("400 Bad Request", "BadRequestException", "Parameter url is required.")


@pytest.mark.parametrize(
    ("url", "error", "first", "kind", "message", "more"),
    [
        ("", ModelNotFound(), "404 Not Found", "ModelNotFoundException", "empty url", ""),
        ("x.mar", ModelNotFound(), "404 Not Found", "ModelNotFoundException", "Model not found at: x.mar", ""),
        (
            "../x.mar", SourceRefused(), "404 Not Found", "ModelNotFoundException",
            "Relative path is not allowed in url: ../x.mar", "",
        ),
        (
            "http://x/y", SourceRefused("put it into the store"), "404 Not Found", "ModelNotFoundException",
            "Given URL http://x/y does not match any allowed URL(s)", "put it into the store",
        ),
        (
            "http://x/y", FetchFailed("it broke off"), "400 Bad Request", "DownloadArchiveException",
            "Failed to download archive from: http://x/y", "it broke off",
        ),
        ("x", ModelLoadFailed("no zip"), "400 Bad Request", "InvalidModelException", "no zip", ""),
        (
            "x", InvalidInput("Invalid RuntimeType value: python4"), "400 Bad Request", "BadRequestException",
            "Invalid RuntimeType value: python4", "",
        ),
        (
            "x", ModelExists(model="m", version="1.0"), "409 Conflict", "ConflictStatusException",
            "Model version 1.0 is already registered for model m", "",
        ),
        (
            "x", WorkersFailed("No module named 'gone'", model="m", version="1.0"), "500 Internal Server Error",
            "InternalServerException", "Failed to start workers for model m version: 1.0", "No module named 'gone'",
        ),
    ],
)  # fmt: skip
async def test_what_cannot_be_registered_is_told_in_torchserves_words(
    management, url, error, first, kind, message, more
):
    management.service.outcome = error
    reply = await management.call("POST", f"/models?url={url}")
    assert reply.raw == refused(first, kind, message, error=more)


@pytest.mark.parametrize(
    ("target", "scaled", "change", "expected"),
    [
        ("/models/echo", None, ("echo", "", 1, 1, False), said("Processing worker updates...", "202 Accepted")),
        ("/models/echo?min_worker=3", None, ("echo", "", 3, 3, False),
         said("Processing worker updates...", "202 Accepted")),
        ("/models/echo?min_worker=0&synchronous=true", Scaled("echo", "1.0", 0), ("echo", "", 0, 0, True),
         said("Workers scaled to 0 for model: echo")),
        ("/models/echo/2.0?min_worker=2&max_worker=4&synchronous=TRUE", Scaled("echo", "2.0", 3),
         ("echo", "2.0", 2, 4, True), said("Workers scaled to 3 for model: echo, version: 2.0")),
        ("/models/echo?max_worker=4&synchronous=true&number_gpu=1&timeout=3", Scaled("echo", "1.0", 1, done=False),
         ("echo", "", 1, 4, True), said("Workers scaling in progress...", "206 Partial Content")),
        ("/models/echo?min_worker=&max_worker=", None, ("echo", "", 1, 1, False),
         said("Processing worker updates...", "202 Accepted")),
    ],
)  # fmt: skip
async def test_scaling_is_answered_in_torchserves_words(management, target, scaled, change, expected):
    management.service.outcome = scaled or Scaled("echo", "1.0", 1, done=False)
    assert (await management.call("PUT", target)).raw == expected
    assert management.service.changes == [("scale", *change)]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("min_worker=2&max_worker=1", "max_worker cannot be less than min_worker."),
        ("max_worker=0", "max_worker cannot be less than min_worker."),
        ("max_worker=-1", "max_worker cannot be less than min_worker."),
        ("min_worker=-1", "min_worker cannot be less than 0."),
        ("min_worker=-1&max_worker=3", "min_worker cannot be less than 0."),
        ("min_worker=x&max_worker=", "min_worker must be a whole number, not 'x'."),
        ("max_worker=1.5", "max_worker must be a whole number, not '1.5'."),
        ("min_worker=100000", "max_worker cannot be more than 1024."),
    ],
)
async def test_a_number_of_workers_that_cannot_be_changes_nothing(management, query, message):
    reply = await management.call("PUT", f"/models/echo?{query}")
    assert reply.raw == refused("400 Bad Request", "BadRequestException", message)
    assert management.service.changes == []


@pytest.mark.parametrize(
    ("target", "error", "first", "kind", "message"),
    [
        ("/models/m", ModelNotFound(), "404 Not Found", "ModelNotFoundException", "Model not found: m"),
        (
            "/models/m/9", VersionNotFound(), "404 Not Found", "ModelVersionNotFoundException",
            "Model version: 9 does not exist for model: m",
        ),
        (
            "/models/m", WorkersFailed("why", version="1.0"), "500 Internal Server Error", "InternalServerException",
            "Failed to start workers for model m version: 1.0",
        ),
        ("/models/m", Unsupported("a chain"), "501 Not Implemented", "UnsupportedOperationException", "a chain"),
    ],
)  # fmt: skip
async def test_what_cannot_be_scaled_is_told_in_torchserves_words(
    management, target, error, first, kind, message
):
    management.service.outcome = error
    assert (await management.call("PUT", target)).raw == refused(first, kind, message)


@pytest.mark.parametrize(
    ("target", "change"), [("/models/echo", ("echo", "")), ("/models/echo/2.0?timeout=1", ("echo", "2.0"))]
)
async def test_a_version_is_unregistered(management, target, change):
    assert (await management.call("DELETE", target)).raw == said('Model "echo" unregistered')
    assert management.service.changes == [("unregister", *change)]


@pytest.mark.parametrize(
    ("target", "error", "first", "kind", "message"),
    [
        ("/models/m", ModelNotFound(), "404 Not Found", "ModelNotFoundException", "Model not found: m"),
        (
            "/models/m/9", VersionNotFound(), "404 Not Found", "ModelVersionNotFoundException",
            "Model version: 9 does not exist for model: m",
        ),
        (
            "/models/m", VersionIsDefault(), "403 Forbidden", "InvalidModelVersionException",
            "Cannot remove default version for model m",
        ),
    ],
)  # fmt: skip
async def test_what_cannot_be_unregistered_is_told_in_torchserves_words(
    management, target, error, first, kind, message
):
    management.service.outcome = error
    assert (await management.call("DELETE", target)).raw == refused(first, kind, message)


async def test_another_version_becomes_the_default(management):
    reply = await management.call("PUT", "/models/echo/2.0/set-default")
    text = 'Default version successfully updated for model "echo" to "2.0"'
    assert reply.raw == said(text)
    assert management.service.changes == [("set default", "echo", "2.0")]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ModelNotFound(), "ModelNotFoundException", "Model not found: m"),
        (VersionNotFound(), "ModelVersionNotFoundException", "Model version 7.0 does not exist for model m"),
    ],
)
async def test_a_version_that_is_not_there_becomes_no_default(management, error, kind, message):
    management.service.outcome = error
    reply = await management.call("PUT", "/models/m/7.0/set-default")
    assert reply.raw == refused("404 Not Found", kind, message)


async def test_looking_where_the_default_is_set_describes_the_version(management):
    reply = await management.call("GET", "/models/echo/2.0/set-default")
    assert [model["modelVersion"] for model in json.loads(reply.body)] == ["2.0"]
    assert management.service.changes == []


@pytest.mark.parametrize(
    ("target", "text", "metadata"),
    [
        ("/models/echo?customized=true", b'{"inputs": [1]}', {"inputs": [1]}),
        ("/models/echo/2.0?customized=True", b'["a"]', ["a"]),
        ("/models/echo?customized=true", b"plain text", {}),
        ("/models/echo?customized=true", b"", {}),
    ],
)
async def test_the_handler_says_of_its_model_what_the_server_cannot(management, target, text, metadata):
    management.service.answer = lambda request: [output(text)]
    (model,) = json.loads((await management.call("GET", target)).body)
    names = list(model)
    assert model["customizedMetadata"] == metadata
    assert names.index("customizedMetadata") == names.index("jobQueueStatus") + 1
    (request,) = management.service.requests
    assert (request.operation, request.version) == (Operation.DESCRIBE, model["modelVersion"])


@pytest.mark.parametrize(
    "target", ["/models/echo", "/models/echo?customized=false", "/models/echo/all?customized=true"]
)
async def test_the_handler_is_asked_only_where_the_client_asks_for_it(management, target):
    models = json.loads((await management.call("GET", target)).body)
    assert all("customizedMetadata" not in model for model in models)
    assert management.service.requests == []


async def test_a_model_without_a_handler_says_nothing_of_its_own(management):
    management.service.answer = lambda request: [Unsupported("it has none")]
    (model,) = json.loads((await management.call("GET", "/models/echo?customized=true")).body)
    assert model["customizedMetadata"] == {}


async def test_a_model_without_a_worker_cannot_say_anything_of_its_own(management):
    management.service.answer = lambda request: [ModelNotReady()]
    reply = await management.call("GET", "/models/echo?customized=true")
    assert (reply.status, json.loads(reply.body)["type"]) == (503, "ServiceUnavailableException")


@pytest.fixture
async def fixed():
    """A management port whose model API is switched off."""
    service = FakeService()
    server, metrics = await listening(service, "management", model_api=False)
    yield Served(service, metrics, server.port)
    await server.close()


@pytest.mark.parametrize(
    ("method", "target"),
    [("POST", "/models?url=m.mar"), ("DELETE", "/models/echo"), ("DELETE", "/models/echo/1.0")],
)
async def test_without_the_model_api_nothing_is_registered_or_unregistered(fixed, method, target):
    message = "Requested method is not allowed, please refer to API document."
    assert (await fixed.call(method, target)).raw == refused(
        "405 Method Not Allowed", "MethodNotAllowedException", message
    )
    assert fixed.service.changes == []


async def test_without_the_model_api_models_are_scaled_and_described_all_the_same(fixed):
    assert (await fixed.call("PUT", "/models/echo?min_worker=2")).status == 202
    assert (await fixed.call("GET", "/models/echo")).status == 200


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/models?url=m.mar"), ("PUT", "/models/echo"), ("PUT", "/models/echo/1.0"),
        ("DELETE", "/models/echo"), ("DELETE", "/models/echo/1.0"), ("PUT", "/models/echo/1.0/set-default"),
    ],
)  # fmt: skip
async def test_no_page_of_another_site_changes_a_model(management, method, target):
    reply = await management.call(method, target, b"", "origin: https://evil.example")
    assert reply.status == 403
    assert management.service.changes == []
