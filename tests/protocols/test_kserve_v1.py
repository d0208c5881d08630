"""KServe's v1 protocol, byte for byte: docs/contracts/open_inference_protocol.md, section 7."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_wire import JSON, answered, elements, output, piece, refused

from mooring.codecs.bodies import decode_instances
from mooring.codecs.instances import split_instances
from mooring.core import errors
from mooring.core.buffers import LARGE
from mooring.core.errors import InvalidInput
from mooring.core.requests import (
    BodyKind,
    Form,
    InferenceRequest,
    InferenceResponse,
    Operation,
    ResponseHead,
    UndecodedBody,
)
from mooring.core.service import ModelState


def told(**document: object) -> bytes:
    return answered(json.dumps(document, indent=2).encode() + b"\n", JSON)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v1/models", told(models=["echo"])),
        ("/v1/models/", told(models=["echo"])),
        ("/v1/models/echo", told(name="echo", ready=True)),
        (
            "/v1/models/sleepy",
            refused(
                "503 Service Unavailable", "ServiceUnavailableException",
                'Model \\"sleepy\\" has no worker to serve inference request. Please use scale workers API to add '
                "workers. If this is a sequence inference, please check if it is closed, or expired; or exceeds "
                "maxSequenceJobQueueSize",
                error="Model with name sleepy is not ready.",
            ),
        ),
        (
            "/v1/models/nobody",
            refused(
                "404 Not Found", "ModelNotFoundException", "Model not found: nobody",
                error="Model with name nobody does not exist.",
            ),
        ),
    ],
)  # fmt: skip
async def test_models_and_their_readiness_are_told(inference, target, expected):
    assert (await inference.call("GET", target)).raw == expected


async def test_only_ready_default_versions_are_listed_and_each_name_once(inference):
    inference.service.states = [
        ModelState("b", "1", "READY", ready=True, is_default=True),
        ModelState("b", "2", "FAILED", ready=False, is_default=False),
        ModelState("c", "1", "FAILED", ready=False, is_default=True),
        ModelState("c", "2", "READY", ready=True, is_default=False),
        ModelState("a", "1", "READY", ready=True, is_default=True),
    ]
    assert (await inference.call("GET", "/v1/models")).raw == told(models=["a", "b"])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_a_model_without_a_verb_can_only_be_looked_at(inference, method):
    reply = await inference.call(method, "/v1/models/echo", b"{}")
    assert reply.status == 405
    assert reply.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("target", "operation", "key"),
    [
        ("/v1/models/echo:predict", Operation.INFER, b"predictions"),
        ("/v1/models/echo:explain", Operation.EXPLAIN, b"explanations"),
        ("/v1/models/echo%3Apredict", Operation.INFER, b"predictions"),
        ("/v1/models/echo:predict?a=b", Operation.INFER, b"predictions"),
    ],
)
async def test_every_instance_is_a_row_and_answers_come_back_in_order(inference, target, operation, key):
    inference.service.answer = lambda request: [elements(*request.inputs[0].data)]
    body = b'{"instances": [{"a": 1}, [2.50, 3], "x", null], "signature_name": "s"}'
    reply = await inference.call("POST", target, body)
    assert reply.raw == answered(b'{"' + key + b'":[{"a": 1},[2.50, 3],"x",null]}', JSON)
    (request,) = inference.service.requests
    (tensor,) = request.inputs
    assert (request.model, request.version, request.operation) == ("echo", "", operation)
    assert request.form is Form.INSTANCES
    assert (tensor.name, tensor.datatype, tensor.shape) == ("instances", "BYTES", [4])
    assert tensor.data == [b'{"a": 1}', b"[2.50, 3]", b'"x"', b"null"]
    assert request.id == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    "target", ["/v1/models/echo:predictfoo", "/v1/models/echo:", "/v1/models/echo:PREDICT"]
)
async def test_only_the_exact_verb_asks(inference, target):
    reply = await inference.call("POST", target, b'{"instances":[1]}')
    assert reply.status == 405
    assert inference.service.requests == []


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data"],
)
async def test_the_content_type_is_ignored(inference, content_type):
    inference.service.answer = lambda request: [elements(*request.inputs[0].data)]
    reply = await inference.call(
        "POST", "/v1/models/echo:predict", b'{"instances":[1]}', f"content-type: {content_type}"
    )
    assert reply.raw == answered(b'{"predictions":[1]}', JSON)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Unrecognized request format: "),
        (b"hello", "Unrecognized request format: "),
        (b'{"instances": [1]', "Unrecognized request format: "),
        (b'{"instances": ["\xff"]}', "Unrecognized request format: "),
        (b'{"instances": [01]}', "Unrecognized request format: "),
        (b"[" * 50_000, "Unrecognized request format: "),
        (b'{"instances": [' + b"[" * 30_000 + b"]" * 30_000 + b"]}", "Unrecognized request format: "),
        (b"{}", 'Expected "instances" to be a list'),
        (b"[1]", 'Expected "instances" to be a list'),
        (b"null", 'Expected "instances" to be a list'),
        (b'{"instances": {"a": 1}}', 'Expected "instances" to be a list'),
        (b'{"instances": "abc"}', 'Expected "instances" to be a list'),
        (b'{"inputs": 1}', 'Expected "inputs" to be a list of instances, or an object'),
        (b'{"inputs": {"x": 1}}', '"inputs" is an object, and then it holds columns: "x" must be a list'),
        (
            b'{"inputs": {"x": [1], "y": [1, 2]}}',
            'the columns of "inputs" must have one length, and have: "x" 1, "y" 2',
        ),
        (b'{"inputs": {}}', 'the columns of "inputs" must have one length'),
        (
            b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}',
            '"inputs" holds tensors',
        ),
    ],
    ids=range(17),
)
async def test_what_has_no_list_of_instances_is_a_400_in_both_forms(inference, body, message):
    reply = await inference.call("POST", "/v1/models/echo:predict", body)
    document = json.loads(reply.body)
    assert list(document) == ["code", "type", "message", "error"]
    assert (reply.status, document["code"], document["type"]) == (400, 400, "BadRequestException")
    assert document["message"].startswith(message)
    assert document["error"] == document["message"]
    assert inference.service.requests == []


@pytest.mark.parametrize(
    ("inputs", "rows"),
    [
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ([{"x": 1}, {"x": 2}], [{"x": 1}, {"x": 2}]),
        ({"x": [1, 2.5], "y": [[1], ["a"]]}, [{"x": 1, "y": [1]}, {"x": 2.5, "y": ["a"]}]),
        ({"x": [None, 1]}, [{"x": None}, {"x": 1}]),
        ([], []),
    ],
)
@pytest.mark.parametrize("size", [0, LARGE])
def test_inputs_are_another_name_of_instances_and_may_be_columns(inputs, rows, size):
    body = json.dumps({"inputs": inputs}).encode() + b" " * size
    assert [json.loads(each) for each in split_instances(body)] == rows
    undecoded = UndecodedBody(BodyKind.V1, body)
    found = decode_instances(InferenceRequest("m", "", "id", [], form=Form.INSTANCES, body=undecoded))
    assert [each.tolist() if isinstance(each, np.ndarray) else each for each in found] == rows


def test_of_both_names_instances_count():
    assert split_instances(b'{"inputs": 7, "instances": [1]}') == [b"1"]
    assert split_instances(b'{"inputs": [NaN]}') == [b"NaN"]


def test_numbers_reach_the_model_as_they_were_written():
    body = b'{"instances": [123456789012345678901234567890, 0.10000000000000000001, 1e400]}'
    assert split_instances(body) == [b"123456789012345678901234567890", b"0.10000000000000000001", b"1e400"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"instances": [NaN, Infinity, -Infinity]}', [b"NaN", b"Infinity", b"-Infinity"]),
        (b'{"x": NaN, "instances": [1]}', [b"1"]),
        (b'\xef\xbb\xbf{"instances": [1]}', [b"1"]),
        (b'{"instances": ["\\ud800"]}', [b'"\\ud800"']),
        ('{"instances": ["ü"]}'.encode(), ['"ü"'.encode()]),
        (b' {"instances" : [ 1 , 2 ] } ', [b"1", b"2"]),
    ],
)
def test_what_pythons_json_sends_is_understood(body, expected):
    assert split_instances(body) == expected


@given(st.binary(max_size=200))
def test_any_bytes_are_instances_or_invalid_input(body):
    try:
        found = split_instances(b'{"instances": [' + body + b"]}")
    except InvalidInput:
        return
    assert len(json.loads(b"[" + b",".join(found) + b"]")) == len(found)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.lists(JSONS))
def test_instances_are_what_the_client_meant(instances):
    found = split_instances(json.dumps({"instances": instances}).encode())
    assert [json.loads(each) for each in found] == instances


async def test_a_large_body_travels_undecoded(inference):
    inference.service.answer = lambda request: [elements(b"1", b"2")]
    body = b'{"instances": ["' + b"x" * LARGE + b'"]}'
    reply = await inference.call("POST", "/v1/models/echo:predict", body)
    assert reply.raw == answered(b'{"predictions":[1,2]}', JSON)
    (request,) = inference.service.requests
    assert (request.inputs, request.rows, request.body.kind) == ([], 1, BodyKind.V1)
    assert bytes(request.body.data) == body


async def test_no_instances_have_no_predictions_and_do_not_trouble_the_model(inference):
    reply = await inference.call("POST", "/v1/models/echo:explain", b'{"instances": []}')
    assert reply.raw == answered(b'{"explanations":[]}', JSON)
    assert (await inference.call("POST", "/v1/models/nobody:predict", b'{"instances": []}')).status == 404
    assert (await inference.call("POST", "/v1/models/sleepy:predict", b'{"instances": []}')).status == 503
    assert inference.service.requests == []


@pytest.mark.parametrize(
    ("error", "status", "kind", "message", "said"),
    [
        (errors.ModelFailed("ValueError: bad: row"), 500, "InternalServerException", "Prediction failed", "ValueError : bad: row"),
        (errors.ModelFailed("odd"), 500, "InternalServerException", "Prediction failed", "odd"),
        (errors.ModelRefused("no", code=422), 422, "InternalServerException", "no", "no"),
        (errors.OutOfResources("x"), 507, "InternalServerException", "Out of resources", "Out of resources"),
        (errors.InvalidInput("bad"), 400, "BadRequestException", "bad", "bad"),
        (errors.Unsupported("no explainer"), 501, "UnsupportedOperationException", "no explainer", "no explainer"),
        (errors.WorkerDied("x"), 500, "InternalServerException", "Worker died.", "Worker died."),
        (errors.DeadlineExceeded("late"), 504, "RequestTimeoutException", "late", "late"),
        (errors.ModelNotFound(), 404, "ModelNotFoundException", "Model not found: m", "Model with name m does not exist."),
    ],
)  # fmt: skip
async def test_errors_carry_both_forms(inference, error, status, kind, message, said):
    inference.service.answer = lambda _: [error]
    reply = await inference.call("POST", "/v1/models/m:predict", b'{"instances": [1]}')
    document = json.loads(reply.body)
    assert document == {"code": status, "type": kind, "message": message, "error": said}
    assert reply.status == status


async def test_a_full_queue_says_when_to_come_again(inference):
    inference.service.answer = lambda _: [errors.QueueFull("full")]
    reply = await inference.call("POST", "/v1/models/echo:predict", b'{"instances": [1]}')
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")


async def test_a_streamed_answer_has_no_place_in_v1(inference):
    inference.service.answer = lambda _: [piece(b"1"), output(b"2")]
    reply = await inference.call("POST", "/v1/models/echo:predict", b'{"instances": [1]}')
    assert reply.status == 501


async def test_a_handlers_status_and_headers_are_kept_and_the_answer_stays_json(inference):
    head = ResponseHead(202, "Later", "text/plain", [("X-Mine", "1")])
    response = InferenceResponse(elements(b"1").outputs, head=head)
    inference.service.answer = lambda _: [response]
    reply = await inference.call("POST", "/v1/models/echo:predict", b'{"instances": [1]}')
    assert reply.raw == answered(b'{"predictions":[1]}', JSON, first="202 Later", more=b"X-Mine: 1\r\n")
