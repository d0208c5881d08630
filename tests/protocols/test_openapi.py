"""The OpenAPI documents: valid, complete, and true of what is mounted."""

import json

import pytest
from openapi_spec_validator import validate
from protocol_wire import JSON

from mooring.observability.metrics import Metrics
from mooring.protocols.access import Gate
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.openapi import ApiDescription
from mooring.protocols.responses import Responses
from mooring.protocols.torchserve.operations import RENEW
from mooring.tokens import Access, Tokens


async def document(served, method: str = "OPTIONS", target: str = "/") -> dict:
    reply = await served.call(method, target)
    assert (reply.status, reply.headers["content-type"]) == (200, JSON)
    return json.loads(reply.body)


@pytest.fixture(params=["inference", "management", "metrics"])
def served(request):
    return request.getfixturevalue(request.param)


async def test_every_ports_document_is_valid(served):
    found = await document(served)
    validate(found)
    assert found["openapi"] == "3.0.1"
    assert found["info"]["title"] == "Mooring"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_the_older_path_has_the_same_document(served, method):
    assert await document(served, method, "/api-description") == await document(served)


@pytest.mark.parametrize("target", ["/openapi.json", "/v2/docs/dataplane.json"])
async def test_the_document_is_also_where_other_servers_clients_look_for_it(served, target):
    assert await document(served, "GET", target) == await document(served)


async def test_operation_ids_are_unique(served):
    operations = [
        call["operationId"] for path in (await document(served))["paths"].values() for call in path.values()
    ]
    assert len(operations) == len(set(operations))


async def test_the_inference_port_promises_torchserves_paths_and_more(inference):
    paths = (await document(inference))["paths"]
    ids = {
        f"{method} {path}": call["operationId"]
        for path, calls in paths.items()
        for method, call in calls.items()
    }
    assert ids == {
        "options /": "apiDescription",
        "get /": "alive",
        "get /api-description": "olderApiDescription",
        "get /openapi.json": "openapiFile",
        "get /v2/docs/dataplane.json": "dataplaneFile",
        "get /ping": "ping",
        "post /predictions/{model_name}": "predictions",
        "put /predictions/{model_name}": "put_predictions",
        "put /predictions/{model_name}/{model_version}": "put_version_predictions",
        "post /predictions/{model_name}/{model_version}": "version_predictions",
        "post /explanations/{model_name}": "explanations",
        "post /explanations/{model_name}/{model_version}": "version_explanations",
        "post /invocations": "invocations",
        "post /models/{model_name}/invoke": "invoke",
        "post /{model_name}/predict": "predict",
        "post /{model_name}/{model_version}/predict": "version_predict",
        "get /v1/models": "v1Models",
        "get /v1/models/{model_name}": "v1Ready",
        "post /v1/models/{model_name}:predict": "v1Predict",
        "post /v1/models/{model_name}:explain": "v1Explain",
    }


async def test_every_promised_call_has_a_handler(served):
    for path, calls in (await document(served))["paths"].items():
        target = path.replace("{model_name}", "echo").replace("{model_version}", "1.0")
        for method in calls:
            body = b'{"instances": []}' if ":" in path else b""
            reply = await served.call(method.upper(), target, body)
            assert reply.status in (200, 202) or b" is required" in reply.body


async def test_a_prediction_has_one_body_of_bytes(inference):
    found = await document(inference)
    call = found["paths"]["/predictions/{model_name}"]["post"]
    named, asking = call["parameters"]
    assert named["name"] == "model_name"
    assert asking == {"$ref": "#/components/parameters/serverTiming"}
    header = found["components"]["parameters"]["serverTiming"]
    assert (header["in"], header["name"]) == ("header", "server-timing")
    assert len(found["paths"]["/ping"]["get"]["parameters"]) == 0
    assert call["requestBody"]["content"] == {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
    }


@pytest.mark.parametrize(
    "target", ["/predictions/echo", "/predictions/echo/2.0", "/explanations/echo", "/predictions/sleepy"]
)
async def test_a_model_has_a_document_of_its_own(inference, target):
    name = target.split("/")[2]
    found = await document(inference, "OPTIONS", target)
    validate(found)
    assert found["info"]["title"] == f"RESTful API for: {name}"
    assert f"/predictions/{name}" in found["paths"]
    assert f"/v1/models/{name}:explain" in found["paths"]
    assert all(name in path for path in found["paths"])
    assert inference.service.requests == []


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/predictions/nobody", "ModelNotFoundException"),
        ("/explanations/nobody", "ModelNotFoundException"),
        ("/predictions/echo/9", "ModelVersionNotFoundException"),
    ],
)
async def test_a_model_that_is_not_there_has_no_document(inference, target, kind):
    reply = await inference.call("OPTIONS", target)
    assert (reply.status, json.loads(reply.body)["type"]) == (404, kind)


async def test_the_management_port_describes_a_models_calls(management):
    validate(await document(management, "OPTIONS", "/models/echo"))


async def test_the_server_is_described_with_and_without_a_slash(v2):
    paths = (await document(v2))["paths"]
    assert paths["/v2/"]["get"]["responses"] == paths["/v2"]["get"]["responses"]
    assert (await v2.call("GET", "/v2/")).body == (await v2.call("GET", "/v2")).body


@pytest.mark.parametrize("status", [401, 400])
def test_a_refused_token_is_in_the_document_with_the_status_that_it_has_here(status):
    gate = Gate(Tokens(fixed={Access.MANAGEMENT: b"a-management-token"}), status=status)
    description = ApiDescription(Responses(Metrics().responses), "1", gate=gate)
    description.add_endpoints([Endpoint("/it", lambda *_: None, Access.MANAGEMENT, RENEW)])
    document = json.loads(description.to_json())
    assert str(status) in document["paths"]["/it"]["get"]["responses"]
    assert ("401" in document["paths"]["/it"]["get"]["responses"]) == (status == 401)
