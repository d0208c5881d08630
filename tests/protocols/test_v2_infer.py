"""Inference over v2's REST: what a body may say, how its answer looks, and that every fault of the caller is a 4xx."""

import asyncio
import gzip
import json
import time
import zlib

import numpy as np
import pytest
from protocol_wire import JSON
from v2_wire import LIMIT, echoed, infer_body, named, x

from mooring.codecs.open_inference import decode_v2_body
from mooring.codecs.requested_outputs import encode_outputs
from mooring.core.buffers import LARGE
from mooring.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidOutput,
    ModelFailed,
    ModelNotFound,
    ModelNotReady,
    ModelRefused,
    OutOfResources,
    QueueFull,
    Unsupported,
    VersionNotFound,
    WorkerDied,
)
from mooring.core.requests import BodyKind, InferenceRequest, InferenceResponse, UndecodedBody
from mooring.core.tensors import JsonOutput, Tensor, TensorSpec
from mooring.protocols.dialect import AMD

INFER = "/v2/models/echo/infer"
HEADER = "inference-header-content-length"


@pytest.fixture
def asked(v2):
    """Asks for an inference; the JSON of the answer, binary tensors behind it as ``raw``."""

    async def ask(body: bytes, *headers: str, target: str = INFER):
        reply = await v2.call("POST", target, body, *headers)
        assert reply.status == 200, reply.body
        size = int(reply.headers.get(HEADER, len(reply.body)))
        document = json.loads(reply.body[:size])
        document["raw"] = reply.body[size:]
        return document

    return ask


async def refused(v2, body, *headers, target=INFER):
    reply = await v2.call("POST", target, body, *headers)
    assert reply.headers["content-type"] == JSON
    document = json.loads(reply.body)
    assert list(document) == ["error"]
    return reply.status, document["error"]


async def test_a_json_request_is_answered_in_json(v2):
    reply = await v2.call("POST", INFER, infer_body(x()))
    assert reply.headers["content-type"] == JSON
    assert HEADER not in reply.headers
    assert reply.body == (
        b'{"model_name":"echo","model_version":"1.0","outputs":'
        b'[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1.0,2.0]}]}'
    )


@pytest.mark.parametrize(
    "content_type", [(), ("content-type: application/x-www-form-urlencoded",), ("content-type: image/png",)]
)
async def test_the_content_type_of_a_request_does_not_matter(asked, content_type):
    assert (await asked(infer_body(x()), *content_type))["outputs"][0]["data"] == [1.0, 2.0]


async def test_nested_data_is_as_good_as_flat(asked):
    assert (await asked(infer_body(x([[1, 2]]))))["outputs"][0]["data"] == [1.0, 2.0]


async def test_a_version_may_be_named(v2, asked):
    answer = await asked(infer_body(x()), target="/v2/models/echo/versions/2.0/infer")
    assert answer["model_version"] == "2.0"
    assert v2.service.requests[0].version == "2.0"


@pytest.mark.parametrize("given", ["7", "é", "\x00", 'a"\n', "x" * 500])
async def test_an_id_comes_back_as_it_was_sent(v2, asked, given):
    assert (await asked(infer_body(x(), id=given)))["id"] == given
    assert v2.service.requests[0].id == given


@pytest.mark.parametrize("more", [{}, {"id": ""}, {"id": None}])
async def test_without_an_id_the_answer_has_none(v2, asked, more):
    assert "id" not in await asked(infer_body(x(), **more))
    assert len(v2.service.requests[0].id) == 36


async def test_what_a_request_says_reaches_the_model(v2, asked):
    await asked(
        infer_body(
            x(parameters={"scale": 2}),
            parameters={"a": 1.5, "b": True, "c": "d", "sequence_id": 7},
            outputs=[{"name": "x", "parameters": {"binary_data": False}}],
            model_name="other",
            unknown=[1],
        )
    )
    (request,) = v2.service.requests
    assert request.model == "echo"
    assert request.parameters == {"a": 1.5, "b": True, "c": "d", "sequence_id": 7}
    assert request.inputs[0].parameters == {"scale": 2}
    assert [output.name for output in request.outputs] == ["x"]
    assert (request.priority, request.deadline) == (0, None)


async def test_priority_and_timeout_are_the_servers(v2, asked):
    before = time.monotonic()
    await asked(infer_body(x(), parameters={"priority": 3, "timeout": 2_000_000, "a": 1}))
    (request,) = v2.service.requests
    assert (request.priority, request.parameters) == (3, {"a": 1})
    assert before + 2 <= request.deadline <= time.monotonic() + 2


async def test_no_timeout_is_none(v2, asked):
    await asked(infer_body(x(), parameters={"timeout": 0, "priority": "2"}))
    (request,) = v2.service.requests
    assert (request.priority, request.deadline, request.parameters) == (2, None, None)


def with_binary(*tensors, **more):
    """A body with every tensor in binary, and the header that goes with it."""
    text = json.dumps(
        {
            "inputs": [
                {"name": name, "shape": list(array.shape), "datatype": datatype, "parameters": {"binary_data_size": len(raw)}}
                for name, datatype, array, raw in tensors
            ],
            **more,
        }
    ).encode()  # fmt: skip
    return text + b"".join(raw for *_, raw in tensors), f"Inference-Header-Content-Length: {len(text)}"


def floats(count=2):
    array = np.arange(count, dtype=np.float32).reshape(1, count)
    return "x", "FP32", array, array.tobytes()


async def test_binary_tensors_follow_the_json_both_ways(v2, asked):
    text = ("y", "BYTES", np.zeros(2), b"\2\0\0\0ab\0\0\0\0")
    body, header = with_binary(floats(), text, parameters={"binary_data_output": True})
    answer = await asked(body, header)
    assert [each["parameters"] for each in answer["outputs"]] == [
        {"binary_data_size": 8},
        {"binary_data_size": 10},
    ]
    assert all("data" not in each for each in answer["outputs"])
    assert answer["raw"] == floats()[3] + text[3]
    reply = await v2.call("POST", INFER, body, header)
    assert reply.headers["content-type"] == "application/octet-stream"
    assert v2.service.requests[0].inputs[1].data == [b"ab", b""]


async def test_outputs_in_json_and_in_binary_stand_side_by_side(asked):
    body = infer_body(
        x(),
        x() | {"name": "y"},
        outputs=[{"name": "x"}, {"name": "y", "parameters": {"binary_data": True}}],
    )
    answer = await asked(body)
    assert answer["outputs"][0]["data"] == [1.0, 2.0]
    assert answer["outputs"][1]["parameters"] == {"binary_data_size": 8}
    assert answer["raw"] == np.float32([1, 2]).tobytes()


async def test_no_elements_are_no_bytes(asked):
    body, header = with_binary(floats(0), parameters={"binary_data_output": True})
    answer = await asked(body, header)
    assert answer["outputs"][0]["parameters"] == {"binary_data_size": 0}
    assert answer["raw"] == b""


async def test_a_raw_request_is_the_only_input(v2, asked):
    answer = await asked(np.float32([[1, 2], [3, 4]]).tobytes(), "Inference-Header-Content-Length: 0")
    assert answer["outputs"][0]["shape"] == [2, 2]
    assert answer["raw"] == np.float32([1, 2, 3, 4]).tobytes()


async def test_a_raw_text_is_the_text_itself(v2, asked):
    v2.service.inputs["echo"] = [TensorSpec("t", "BYTES", [-1, 1])]
    answer = await asked(b"hello", "Inference-Header-Content-Length: 0")
    assert answer["outputs"][0]["shape"] == [1, 1]
    assert answer["raw"] == b"\5\0\0\0hello"


LARGE_FLOATS = np.arange(20_000, dtype=np.float32)


async def test_a_large_json_body_is_left_to_the_worker(v2, asked):
    seen = []

    def answer(request):
        seen.append(request.body is not None)
        decode_v2_body(request)
        return [named(request, encode_outputs(request, echoed(request), {}))]

    v2.service.answer = answer
    data = LARGE_FLOATS.tolist()
    found = await asked(infer_body(x(data, [1, 20_000]), id="7"))
    assert (found["id"], found["outputs"][0]["data"]) == ("7", data)
    found = await asked(infer_body(x(data, [1, 20_000]), parameters={"binary_data_output": True}))
    assert "id" not in found
    assert found["raw"] == LARGE_FLOATS.tobytes()
    outputs = [{"name": "y", "parameters": {"binary_data": True}}, {"name": "x"}]
    found = await asked(infer_body(x(data, [1, 20_000]), x() | {"name": "y"}, outputs=outputs))
    assert [each.get("data") for each in found["outputs"]] == [data, None]
    assert found["raw"] == np.float32([1, 2]).tobytes()
    assert seen == [True] * 3
    found = await asked(infer_body(x(), id="é" + "x" * LARGE))
    assert found["outputs"][0]["data"] == [1.0, 2.0]


async def test_a_large_binary_tensor_goes_both_ways(v2, asked):
    array = np.arange(60_000, dtype=np.float32)
    body, header = with_binary(("x", "FP32", array, array.tobytes()), parameters={"binary_data_output": True})
    assert (await asked(body, header))["raw"] == array.tobytes()


# Every row of the contract's table of faults (2.6) that no model has to see.
FAULTS = {
    "broken JSON": b'{"inputs":[',
    "a list": b"[]",
    "inputs is no array": b'{"inputs":3}',
    "an empty body": b"",
    "an input without a name": infer_body({"shape": [1], "datatype": "FP32", "data": [1]}),
    "an input without a shape": infer_body({"name": "x", "datatype": "FP32", "data": [1]}),
    "an input without a datatype": infer_body({"name": "x", "shape": [1], "data": [1]}),
    "an input without data": infer_body({"name": "x", "shape": [1], "datatype": "FP32"}),
    "an unknown datatype": infer_body(x(datatype="FP8")),
    "a shape that the elements do not fill": infer_body(x([1])),
    "a ragged tensor": infer_body(x([[1], [2, 3]], [1, 3])),
    "a wrong element": infer_body(x(["a", 1])),
    "null": infer_body(x([None, 1], datatype="INT8")),
    "an integer out of range": infer_body(x([300, 1], datatype="INT8")),
    "a number of 30 digits": infer_body(x([10**30, 1], datatype="INT64")),
    "a fraction where an integer should be": infer_body(x([1.5, 1], datatype="INT64")),
    "the same input twice": infer_body(x(), x()),
    "an id that is no string": infer_body(x(), id=7),
    "deep nesting": b'{"inputs":' + b"[" * 10_000,
    "bytes that are not UTF-8": b'{"inputs":"\xff"}',
    "reserved parameters": infer_body(x(), parameters={"triton_x": 1}),
    "a priority that is none": infer_body(x(), parameters={"priority": -1}),
    "a timeout that is none": infer_body(x(), parameters={"timeout": 1.5}),
    "a binary_data_output that is none": infer_body(x(), parameters={"binary_data_output": "yes"}),
    "a region of shared memory that is not there": infer_body(
        {"name": "x", "shape": [1], "datatype": "FP32",
         "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 4}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_the_caller_is_a_400(v2, fault):
    status, error = await refused(v2, FAULTS[fault])
    assert status == 400
    assert "echo" in error
    assert v2.service.requests == []


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InvalidInput("input 'x' is INT32; the model takes FP32"), 400, "takes FP32 (model 'echo')"),
        (ModelNotFound("model 'echo' is not loaded"), 404, "model 'echo' is not loaded"),
        (VersionNotFound(model="echo", version="9"), 404, "model 'echo' has no version '9'"),
        (ModelNotReady("model 'echo' version '1.0' is LOADING"), 503, "LOADING"),
        (QueueFull("model 'echo' has 100 requests waiting"), 503, "100 requests waiting"),
        (DeadlineExceeded("model 'echo' did not answer in time"), 504, "in time"),
        (Unsupported("no explanations"), 501, "no explanations (model 'echo')"),
        (ModelFailed("ValueError: it is broken"), 500, "ValueError: it is broken"),
        (ModelRefused("not today", code=418), 418, "not today"),
        (ModelRefused("not today", code=700), 500, "not today"),
        (InvalidOutput("output 'y' is missing"), 500, "output 'y' is missing"),
        (OutOfResources("MemoryError: no room"), 507, "no room"),
        (WorkerDied("worker 9000 died"), 500, "worker 9000 died (model 'echo')"),
    ],
)
async def test_every_error_has_its_status_and_says_what_happened(v2, error, status, said):
    v2.service.answer = lambda _: [error]
    found = await refused(v2, infer_body(x()))
    assert found[0] == status
    assert said in found[1]


async def test_a_full_queue_says_when_to_come_again(v2):
    v2.service.answer = lambda _: [QueueFull("full")]
    assert (await v2.call("POST", INFER, infer_body(x()))).headers["retry-after"] == "1"


@pytest.mark.parametrize("size", ["x", "-1", "1e2", "10000", "9" * 30, ""])
async def test_a_header_length_that_is_none_is_refused(v2, size):
    status, error = await refused(v2, infer_body(x()), f"Inference-Header-Content-Length: {size}")
    assert status == 400
    assert "Inference-Header-Content-Length" in error


@pytest.mark.parametrize(
    ("shape", "datatype", "body"),
    [
        ([-1, 2], "FP32", b"12345"),
        ([-1, 2], "FP32", b""),
        ([2, 2], "FP32", b"12345678"),
        ([2, -1, -1], "FP32", b"12345678"),
        ([2], "BYTES", b"text"),
    ],
)
async def test_a_raw_request_that_does_not_tell_its_shape_is_refused(v2, shape, datatype, body):
    v2.service.inputs["echo"] = [TensorSpec("x", datatype, shape)]
    status, error = await refused(v2, body, "Inference-Header-Content-Length: 0")
    assert status == 400
    assert "'x'" in error


async def test_a_raw_request_is_for_models_with_one_input(v2):
    v2.service.inputs["echo"] = []
    status, error = await refused(v2, b"1234", "Inference-Header-Content-Length: 0")
    assert (status, "declares 0" in error) == (400, True)
    assert (await refused(v2, b"1", f"{HEADER}: 0", target="/v2/models/no/infer"))[0] == 404


PACK = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("count", [2, 100_000])
async def test_a_compressed_request_is_read(v2, asked, coding, count):
    body, header = with_binary(floats(count), parameters={"binary_data_output": True})
    answer = await asked(PACK[coding](body), header, f"content-encoding: {coding}")
    assert answer["raw"] == floats(count)[3]


async def test_gzip_may_come_in_members_and_identity_is_no_coding(asked):
    body = infer_body(x())
    packed = gzip.compress(body[:20]) + gzip.compress(body[20:])
    for data, coding in ((packed, "gzip"), (gzip.compress(body), "X-Gzip"), (body, "identity")):
        assert (await asked(data, f"Content-Encoding: {coding}"))["outputs"][0]["data"] == [1.0, 2.0]


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "zstd"])
async def test_an_unknown_coding_is_415_and_names_those_that_are_known(v2, coding):
    reply = await v2.call("POST", INFER, infer_body(x()), f"content-encoding: {coding}")
    assert (reply.status, reply.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert list(json.loads(reply.body)) == ["error"]


RAW = zlib.compress(infer_body(x()))[2:-4]  # deflate without zlib's frame


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", b"not gzip"),
        ("gzip", gzip.compress(infer_body(x()))[:-3]),
        ("gzip", gzip.compress(infer_body(x())) + b"junk"),
        ("deflate", RAW),
        ("deflate", zlib.compress(infer_body(x())) * 2),
        ("gzip", gzip.compress(bytes(range(256)) * 400, 0)[:-9]),
    ],
    # Not of the data: gzip writes the time into it, and a test must be called the same in every process.
    ids=["none", "cut off", "more behind", "no frame", "twice", "end missing"],
)
async def test_corrupt_compression_is_a_400(v2, coding, data):
    status, error = await refused(v2, data, f"content-encoding: {coding}")
    assert (status, coding in error) == (400, True)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_bomb_is_a_413(v2, coding):
    status, error = await refused(v2, PACK[coding](bytes(LIMIT + 1)), f"content-encoding: {coding}")
    assert (status, f"more than {LIMIT} bytes" in error) == (413, True)


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip, br, zstd", "gzip"),
        ("gzip;q=0.2, deflate;q=0.5", "deflate"),
        ("gzip;q=0, *", "deflate"),
        ("gzip;q=0", ""),
        ("br", ""),
        ("identity", ""),
        ("identity, gzip;q=0.5", ""),
    ],
)
@pytest.mark.parametrize("count", [200, 60_000])
async def test_an_answer_is_compressed_as_the_client_likes_it(v2, accept, coding, count):
    body, header = with_binary(floats(count), parameters={"binary_data_output": True})
    reply = await v2.call("POST", INFER, body, header, f"accept-encoding: {accept}")
    assert reply.headers.get("content-encoding", "") == coding
    data = {"gzip": gzip.decompress, "deflate": zlib.decompress, "": bytes}[coding](reply.body)
    # The length is that of the JSON before it was compressed.
    assert data[int(reply.headers[HEADER]) :] == floats(count)[3]
    assert reply.headers.get("vary", "") == ("Accept-Encoding" if coding else "")


async def test_a_tiny_answer_is_not_worth_it(v2):
    reply = await v2.call("POST", INFER, infer_body(x()), "accept-encoding: gzip")
    assert "content-encoding" not in reply.headers


async def test_a_model_that_streams_one_response_may_be_asked(v2, asked):
    def one(request):
        piece = named(request, echoed(request))
        piece.final = False
        return [piece, named(request, InferenceResponse([]))]

    v2.service.answer = one
    assert (await asked(infer_body(x())))["outputs"][0]["data"] == [1.0, 2.0]


async def test_a_model_that_streams_more_has_no_form_here(v2):
    def two(request):
        pieces = [named(request, echoed(request)) for _ in range(2)]
        for piece in pieces:
            piece.final = False
        return pieces

    v2.service.answer = two
    status, error = await refused(v2, infer_body(x()))
    assert (status, "generate_stream" in error) == (501, True)


async def test_whoever_goes_away_withdraws_the_request(v2):
    v2.service.answer = lambda _: []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await v2.call("POST", INFER, infer_body(x()))
    await asyncio.wait_for(v2.service.tickets[0].cancelled.wait(), 5)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_other_methods_are_not_allowed(v2, method):
    reply = await v2.call(method, INFER)
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    assert json.loads(reply.body) == {"error": "Method Not Allowed"}


@pytest.mark.parametrize(
    "target", ["/v2/nothing", "/v2/models/echo/versions/1/nothing", "/v2/models/a/b/infer"]
)
async def test_a_path_that_is_not_there_is_v2s_404(v2, target):
    reply = await v2.call("POST", target)
    assert (reply.status, json.loads(reply.body)) == (404, {"error": "Not Found"})


async def test_what_the_front_refuses_is_in_v2s_words_under_v2_alone(v2):
    for target, keys in ((INFER, ["error"]), ("/v1/models", ["code", "type", "message"])):
        reply = await v2.send(
            f"POST {target} HTTP/1.1\r\nhost: a\r\ncontent-length: {LIMIT + 1}\r\n\r\n".encode()
        )
        assert (reply.status, list(json.loads(reply.body))) == (413, keys)
        reply = await v2.send(f"GET {target} HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".encode())
        assert (reply.status, list(json.loads(reply.body))) == (400, keys)
    reply = await v2.send(b"GET /v2/" + b"a" * 3000 + b" HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (reply.status, list(json.loads(reply.body))) == (414, ["error"])


async def test_a_fault_of_ours_is_a_500_without_its_text(v2):
    def fault(_):
        raise KeyError("secret")

    v2.service.answer = fault
    reply = await v2.call("POST", INFER, infer_body(x()))
    assert reply.status == 500
    assert list(json.loads(reply.body)) == ["error"]
    assert b"secret" not in reply.body


async def test_amds_clients_get_amds_keys(v2_as):
    served = await v2_as(dialect=AMD)
    reply = await served.call("POST", INFER, infer_body(x(["ab"], [1], "BYTES")))
    assert json.loads(reply.body) == {
        "id": "",
        "model_name": "echo",
        "outputs": [
            {"name": "x", "datatype": "BYTES", "shape": [2], "parameters": {}, "data": ["ab"]}
        ],
    }  # fmt: skip
    served.service.answer = lambda _: [ModelNotFound("gone", model="echo")]
    reply = await served.call("POST", INFER, infer_body(x()))
    assert (reply.status, json.loads(reply.body)) == (400, {"error": "Worker echo not found"})


def test_the_answer_of_a_worker_fits_what_the_front_expects():
    # The rule between the two: in the answer to an undecoded body, what is no JSON text is wanted in binary.
    request = named_request()
    decode_v2_body(request)
    outputs = encode_outputs(request, InferenceResponse([Tensor.of("x", np.float32([1, 2]))]), {}).outputs
    assert [type(each) for each in outputs] == [JsonOutput]


def named_request():
    return InferenceRequest("echo", "", "id", [], body=UndecodedBody(BodyKind.V2, infer_body(x())))
