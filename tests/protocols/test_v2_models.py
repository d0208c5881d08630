"""v2 over REST from the socket to a real worker and back: nothing is lost on the way, and no memory stays behind."""

import asyncio
import gzip
import json

import numpy as np
import pytest
from model_kit import model_spec
from protocol_wire import Served

from mooring.codecs.v2_json import ALL_BINARY, JSON_ONLY, decode_response, encode_request
from mooring.core.buffers import view_of
from mooring.core.requests import InferenceRequest
from mooring.core.tensors import Tensor, TensorSpec
from mooring.engine.engine import Engine
from mooring.ipc.arena import Arena
from mooring.observability.metrics import Metrics
from mooring.protocols.application import Application
from mooring.protocols.inflater import Inflater
from mooring.protocols.kserve.generate import Generate
from mooring.protocols.kserve.v2 import KServeV2
from mooring.protocols.responses import Responses
from mooring.web.http1 import HttpServer, Limits

pytestmark = pytest.mark.processes

TWICE = """
def infer(inputs, parameters):
    return {name: value if value.dtype == object else value + value for name, value in inputs.items()}

def words(text_input: 'ndarray'):
    for word in text_input.item().split():
        yield {"text_output": [word]}

class Rows:
    def infer(self, x: 'ndarray'):
        return {"y": x.sum(axis=1)}
"""
HANDLER = """
import numpy as np
def handle(data, context):
    return data and [np.float32(row["x"]).sum(axis=-1) for row in data]
"""


@pytest.fixture
async def served(tmp_path):
    (tmp_path / "model.py").write_text(TWICE)
    (tmp_path / "handler.py").write_text(HANDLER)
    arena = Arena(64 << 20)
    metrics = Metrics()
    engine = Engine(arena, metrics)
    x, y = [TensorSpec("x", "FP32", [-1, 3])], [TensorSpec("y", "FP32", [-1])]
    common = {"backend": "function", "location": str(tmp_path), "version": "1"}
    for name, more in {
        "twice": {"entry": "model.py:infer"},
        "words": {"entry": "model.py:words"},
        "rows": {
            "entry": "model.py:Rows",
            "inputs": x,
            "outputs": y,
            "max_batch_size": 4,
            "labels": {"1": "b"},
        },
        "handler": {"backend": "handler", "entry": "handler.py:handle"},
        "documents": {
            "entry": "model.py:infer",
            "inputs": [TensorSpec("x", "BYTES", [1], content_type="application/json")],
        },
    }.items():
        await engine.deploy_version(model_spec(name=name, **(common | more)))
    responses = Responses(metrics.responses)
    v2 = KServeV2(engine, responses, version="1")
    generate = Generate(engine, responses, v2.bodies)
    limits = Limits(max_body_bytes=20_000_000)
    inflater = Inflater(responses, arena, limits)
    server = HttpServer(
        Application([*v2.endpoints(), *generate.endpoints()], responses, inflater=inflater),
        limits=limits,
        allocator=arena,
        render_error=responses.format_refusal,
    )
    await server.start("127.0.0.1", 0)
    yield Served(engine, metrics, server.port)
    for _ in range(100):
        if not arena.slots_in_use:
            break
        await asyncio.sleep(0.02)
    assert arena.slots_in_use == 0
    await server.close()
    await engine.close()


async def ask(served, model, request, wanted=JSON_ONLY, *headers, pack=bytes):
    pieces, size = encode_request(request, wanted)
    if size:
        headers = (*headers, f"Inference-Header-Content-Length: {size}")
    body = pack(b"".join(map(view_of, pieces)))
    reply = await served.call("POST", f"/v2/models/{model}/infer", body, *headers)
    if reply.status != 200:
        return reply.status, json.loads(reply.body)["error"]
    stated = reply.headers.get("inference-header-content-length")
    body = gzip.decompress(reply.body) if "content-encoding" in reply.headers else reply.body
    return decode_response(body, None if stated is None else int(stated))


def request(**arrays):
    return InferenceRequest("", "", "7", [Tensor.of(name, array) for name, array in arrays.items()])


async def test_an_input_of_json_text_says_so_in_the_metadata(served):
    reply = await served.call("GET", "/v2/models/documents")
    (described,) = json.loads(reply.body)["inputs"]
    assert described == {"name": "x", "datatype": "BYTES", "shape": [1], "content_type": "application/json"}


ARRAYS = [
    np.arange(6, dtype=np.int16).reshape(2, 3),
    np.uint64([2**63 - 1, 3]),
    np.arange(100_000, dtype=np.float32).reshape(10, 10_000),
    np.linspace(0, 1, 30_000),
    np.array([b"a" * 90_000, b"", b"b"], object),
    np.zeros((0, 3), np.float32),
]


@pytest.mark.parametrize("binary_output", [False, True])
@pytest.mark.parametrize("wanted", [JSON_ONLY, ALL_BINARY], ids=["json", "binary"])
async def test_every_kind_of_tensor_comes_back_right(served, wanted, binary_output):
    for array in ARRAYS:
        for headers, pack in (
            ((), bytes),
            (("content-encoding: gzip", "accept-encoding: gzip"), gzip.compress),
        ):
            for _ in range(3):  # the second large answer gets a slot of its own
                asked = request(x=array)
                asked.parameters = {"binary_data_output": binary_output}
                answer = await ask(served, "twice", asked, wanted, *headers, pack=pack)
                (output,) = answer.outputs
                assert (answer.id, answer.model, answer.version) == ("7", "twice", "1")
                assert (output.name, output.shape) == ("x", list(array.shape))
                expected = array if array.dtype == object else array + array
                np.testing.assert_array_equal(output.array(), expected)


async def test_faults_are_found_before_the_model_wherever_the_body_is_read(served):
    small, large = np.ones((1, 3), np.float32), np.ones((1, 20_000), np.float32)
    for wanted in (JSON_ONLY, ALL_BINARY):
        for wrong, said in (
            (request(x=large), "the model takes [-1, 3]"),
            (request(x=large.astype(np.int32)), "is INT32; the model takes FP32"),
            (request(q=large), "unexpected input 'q'"),
            (request(x=np.ones((5, 3), np.float32)), "batch-size must be <= 4 for 'rows'"),
            (request(x=small, q=large), "unexpected input 'q'"),
        ):
            status, error = await ask(served, "rows", wrong, wanted)
            assert status == 400
            assert said in error
            assert "'rows'" in error
    assert (await ask(served, "rows", request(x=small), ALL_BINARY)).outputs[0].array().tolist() == [3]


async def test_classes_come_with_labels(served):
    asked = {
        "inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}],
        "outputs": [{"name": "y", "parameters": {"classification": 2}}],
    }
    reply = await served.call("POST", "/v2/models/rows/infer", json.dumps(asked).encode())
    (output,) = json.loads(reply.body)["outputs"]
    assert output == {
        "name": "y", "datatype": "BYTES", "shape": [2], "data": ["15.000000:1:b", "6.000000:0"],
    }  # fmt: skip


@pytest.mark.parametrize("wanted", [JSON_ONLY, ALL_BINARY], ids=["json", "binary"])
@pytest.mark.parametrize("size", [3, 40_000])
async def test_a_handler_answers_whatever_the_size_of_the_body(served, wanted, size):
    answer = await ask(served, "handler", request(x=np.ones((2, size), np.float32)), wanted)
    assert answer.outputs[0].array().tolist() == [size, size]


async def test_a_model_that_streams_has_its_events(served):
    prompt = b'{"text_input": "one two", "id": "3"}'
    reply = await served.call("POST", "/v2/models/words/generate_stream", prompt)
    assert reply.body.count(b"data: ") == 2
    assert b'{"id":"3","model_name":"words","model_version":"1","text_output":"two"}' in reply.body
    reply = await served.call("POST", "/v2/models/words/generate", prompt)
    assert (reply.status, "generate_stream" in json.loads(reply.body)["error"]) == (400, True)
    reply = await served.call("POST", "/v2/models/words/generate", b'{"text_input": "one"}')
    assert json.loads(reply.body)["text_output"] == "one"


async def test_a_client_that_goes_away_leaves_nothing_behind(served):
    pieces, size = encode_request(request(x=np.ones(100_000, np.float32)))
    body = b"".join(map(view_of, pieces))
    head = (
        f"POST /v2/models/twice/infer HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n"
        f"Inference-Header-Content-Length: {size}\r\n\r\n"
    ).encode()
    for sent in (head + body, head + body[:-1]):
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(sent)
            await writer.drain()
            writer.transport.abort()
    await asyncio.sleep(0.1)
