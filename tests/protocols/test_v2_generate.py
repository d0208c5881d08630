"""generate and generate_stream: JSON objects in, one out or a stream of events."""

import json

import numpy as np
import pytest
from v2_wire import named

from mooring.core.errors import InvalidInput, ModelFailed, ModelNotFound
from mooring.core.requests import InferenceResponse
from mooring.core.tensors import JsonOutput, Tensor, TensorSpec

GENERATE, STREAM = "/v2/models/echo/generate", "/v2/models/echo/generate_stream"
PROMPT = {"text_input": "hello", "id": "7", "temperature": 0.5, "parameters": {"seed": 3, "stream": False}}


@pytest.fixture
def llm(v2):
    v2.service.inputs["echo"] = [TensorSpec("text_input", "BYTES", [-1, 1])]
    v2.service.answer = lambda request: [piece(request, "a b", final=True)]
    return v2


def piece(request, *texts, final=False):
    data = [text.encode() for text in texts]
    response = InferenceResponse([Tensor("text_output", "BYTES", [len(data)], data)] if data else [])
    response.final = final
    return named(request, response)


async def call(served, target, document):
    return await served.call("POST", target, json.dumps(document).encode())


def events(reply):
    text = reply.body if "content-length" in reply.headers else unchunked(reply.body)
    assert text.endswith(b"\n\n")
    return [json.loads(each.removeprefix(b"data: ")) for each in text.split(b"\n\n")[:-1]]


def unchunked(raw):
    found = b""
    while raw:
        size, _, rest = raw.partition(b"\r\n")
        found, raw = found + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return found


async def test_a_prompt_is_answered_with_an_object(llm):
    reply = await call(llm, GENERATE, PROMPT)
    assert json.loads(reply.body) == {
        "id": "7", "model_name": "echo", "model_version": "1.0", "text_output": "a b",
    }  # fmt: skip
    (request,) = llm.service.requests
    (tensor,) = request.inputs
    assert (tensor.name, tensor.datatype, tensor.shape, tensor.data) == (
        "text_input", "BYTES", [1, 1], [b"hello"],
    )  # fmt: skip
    assert request.parameters == {"temperature": 0.5, "seed": 3, "stream": False}


async def test_values_are_shaped_as_the_model_declares(llm):
    llm.service.inputs["echo"] = [TensorSpec("a", "FP32", [-1, 3]), TensorSpec("b", "INT64", [])]
    await call(llm, GENERATE, {"a": [1, 2, 3], "b": [4]})
    found = llm.service.requests[0].inputs
    assert [(each.shape, each.array().tolist()) for each in found] == [([1, 3], [[1, 2, 3]]), ([], 4)]


async def test_a_model_that_declares_nothing_takes_every_key(llm):
    llm.service.inputs["echo"] = []
    await call(llm, GENERATE, {"prompt": "x", "n": 3, "parameters": {"t": 1}})
    (request,) = llm.service.requests
    assert [(each.name, each.datatype) for each in request.inputs] == [("prompt", "BYTES"), ("n", "INT64")]
    assert request.parameters == {"t": 1}


async def test_an_output_of_several_elements_is_a_list_and_of_a_worker_its_text(llm):
    outputs = [
        Tensor.of("a", np.float32([1, 2])),
        JsonOutput("b", "INT8", [2], b"[1,2]"),
        JsonOutput("c", "INT8", [1], b"[1]"),
        Tensor.of("d", np.float32([[np.nan]])),
    ]
    llm.service.answer = lambda request: [named(request, InferenceResponse(outputs))]
    reply = await call(llm, GENERATE, {"text_input": "x"})
    assert reply.body.endswith(b'"a":[1.0,2.0],"b":[1,2],"c":1,"d":NaN}')
    assert b'"id"' not in reply.body


async def test_a_stream_has_an_event_for_every_response(llm):
    llm.service.answer = lambda request: [
        piece(request, "a"), piece(request, "b", "c"), piece(request, final=True),
    ]  # fmt: skip
    reply = await call(llm, STREAM, PROMPT)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert [(each["id"], each["text_output"]) for each in events(reply)] == [("7", "a"), ("7", ["b", "c"])]


async def test_a_model_that_does_not_stream_has_one_event(llm):
    assert [each["text_output"] for each in events(await call(llm, STREAM, PROMPT))] == ["a b"]


async def test_what_goes_wrong_after_the_first_event_is_an_event(llm):
    llm.service.answer = lambda request: [piece(request, "a"), ModelFailed("ValueError: it broke")]
    reply = await call(llm, STREAM, PROMPT)
    assert reply.status == 200
    assert events(reply)[1] == {"error": "ValueError: it broke"}


async def test_a_model_that_fails_at_once_fails_in_the_streams_form(llm):
    llm.service.answer = lambda _: [ModelFailed("ValueError: it broke")]
    reply = await call(llm, STREAM, PROMPT)
    assert (reply.status, reply.headers["content-type"]) == (500, "text/event-stream; charset=utf-8")
    assert events(reply) == [{"error": "ValueError: it broke"}]


async def test_one_response_and_the_end_of_its_stream_are_one_answer(llm):
    llm.service.answer = lambda request: [piece(request, "a"), piece(request, final=True)]
    assert json.loads((await call(llm, GENERATE, PROMPT)).body)["text_output"] == "a"


@pytest.mark.parametrize("final", [True, False])
async def test_more_than_one_response_is_for_the_stream(llm, final):
    llm.service.answer = lambda request: [piece(request, "a"), piece(request, "b", final=final)]
    reply = await call(llm, GENERATE, PROMPT)
    assert (reply.status, "generate_stream" in json.loads(reply.body)["error"]) == (400, True)


@pytest.mark.parametrize("target", [GENERATE, STREAM])
@pytest.mark.parametrize(
    ("document", "status", "said"),
    [
        ({}, 400, "'text_input' is missing"),
        ({"text_input": 3}, 400, "not BYTES"),
        ({"text_input": [["a"]]}, 400, "flat list"),
        ({"text_input": "a", "id": [1]}, 400, '"id"'),
        ({"text_input": "a", "parameters": 3}, 400, '"parameters"'),
        ([1], 400, "JSON object"),
    ],
)
async def test_a_fault_of_the_caller_is_json_whatever_was_asked_for(llm, target, document, status, said):
    reply = await call(llm, target, document)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
    assert said in json.loads(reply.body)["error"]


@pytest.mark.parametrize("error", [InvalidInput("wrong"), ModelNotFound("gone")])
async def test_what_fails_before_the_model_runs_is_json(llm, error):
    llm.service.answer = lambda _: [error]
    reply = await call(llm, STREAM, PROMPT)
    assert (reply.status, reply.headers["content-type"]) == (
        400 if type(error) is InvalidInput else 404, "application/json",
    )  # fmt: skip
    assert (await call(llm, "/v2/models/nobody/generate", PROMPT)).status == 404


async def test_a_body_with_inputs_is_an_infer_request(llm):
    tensor = {"name": "x", "shape": [1], "datatype": "INT32", "data": [5]}
    document = {"id": "a", "inputs": [tensor], "parameters": {"k": 1}}
    answer = json.loads((await call(llm, GENERATE, document)).body)
    assert (answer["id"], answer["outputs"][0]["data"]) == ("a", ["a b"])
    assert llm.service.requests[0].parameters == {"k": 1}
    (event,) = events(await call(llm, STREAM, document))
    assert event["outputs"][0]["data"] == ["a b"]


async def test_keys_that_are_no_inputs_are_parameters_of_any_json_and_null_says_nothing(llm):
    await call(llm, GENERATE, {"text_input": "a", "stop": ["x", "y"], "logit_bias": {"7": -1}, "top_p": None})
    assert llm.service.requests[0].parameters == {"stop": ["x", "y"], "logit_bias": {"7": -1}}


async def test_no_response_is_an_empty_stream_and_no_answer_to_generate(llm):
    llm.service.answer = lambda request: [piece(request, final=True)]
    reply = await call(llm, STREAM, PROMPT)
    assert (reply.status, unchunked(reply.body)) == (200, b"")
    reply = await call(llm, GENERATE, PROMPT)
    assert (reply.status, "gave no response" in json.loads(reply.body)["error"]) == (400, True)


@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
async def test_a_key_that_is_sent_twice_is_refused(llm, verb):
    twice = b'{"text_input": "a", "id": "1", "text_input": "b"}'
    reply = await llm.call("POST", f"/v2/models/echo/{verb}", twice)
    assert reply.status == 400
    assert "the key 'text_input' is sent twice" in json.loads(reply.body)["error"]
    once = b'{"text_input": "text_input: \\"text_input\\"", "stop": ["text_input"]}'
    assert (await llm.call("POST", f"/v2/models/echo/{verb}", once)).status == 200
