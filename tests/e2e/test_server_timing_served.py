"""Server-Timing at a real server, with one and with two processes that take connections: each part is what happened.

The durations of the model are asserted from below only: the model sleeps so long at least. A request is held back behind
another one by a file, and not by the clock.
"""

import http.client
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from e2e_kit import JSON, PATIENCE, ROOT, Server, Wire, request, until
from stream_kit import folder

from mooring.codecs.proto import inference_pb2 as v2
from mooring.codecs.proto import torchserve_inference_pb2 as ts

ASK = "server-timing: 1"
METADATA = [("server-timing", "1")]
TORCHSERVE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
V2 = "/inference.GRPCInferenceService/"
SLEEP = 0.05

# Waits while the file is there, then sleeps.
GATED = """
import os, time

def infer(inputs, parameters):
    while os.path.exists({gate!r}):
        time.sleep(0.005)
    time.sleep(0.05)
    return {{"y": inputs["x"] * 2}}
"""
GATED_CONFIG = """
entry = "gated.py:infer"
max_batch_size = 8
[workers]
min = 1
max = 1
[[inputs]]
name = "x"
datatype = "FP32"
shape = [-1, 1]
"""
FUNCTION = """
import asyncio, os, time
from collections.abc import Iterator

def slow(text: str) -> str:
    time.sleep(0.05)
    return text.upper()

async def waiting(text: str) -> str:
    await asyncio.sleep(0.05)
    return text.upper()

def failing(text: str) -> str:
    time.sleep(0.05)
    raise ValueError("no")

def stream(text: str) -> Iterator[str]:
    for word in text.split():
        time.sleep(0.05)
        yield word

def mortal(text: str) -> str:
    if not os.path.exists({died!r}):
        open({died!r}, "w").close()
        time.sleep(0.05)
        os._exit(1)
    return text
"""
EXPLAINED = """
class Model:
    def infer(self, text: str) -> str:
        return text

    def explain(self, text: str) -> dict[str, int]:
        return {text: 1}
"""
CHAIN = """
[[models]]
name = "first"
entry = "steps.py:first"
[[models]]
name = "second"
entry = "steps.py:second"
"""
STEPS = """
import time

def first(inputs, parameters):
    time.sleep(0.05)
    return {"x": inputs["x"]}

def second(inputs, parameters):
    time.sleep(0.1)
    return {"x": inputs["x"]}
"""
CACHED = """
name: "cached"
backend: "python"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }
response_cache { enable: true }
"""
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }
ensemble_scheduling { step {
  model_name: "cached" model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } }
"""
HANDLER = """
import time

def handle(data, context):
    if data is None:
        return None
    time.sleep(0.05)
    return ["done"] * len(data)
"""
ONCE = """
def handle(data, context):
    if data is None:
        return None
    context.stopping_criteria = [lambda result: None for _ in data]
    return ["once"] * len(data)
"""
TRITON = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.05)
        answers = []
        for request in requests:
            array = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            answer = pb_utils.InferenceResponse([pb_utils.Tensor("y", array)])
            if DECOUPLED:
                sender = request.get_response_sender()
                sender.send(answer)
                time.sleep(0.05)
                sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            answers.append(answer)
        return None if DECOUPLED else answers
"""
TRITON_CONFIG = """
backend: "python"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }
"""
DECOUPLED = "model_transaction_policy { decoupled: true }"
SEQUENCE = """
class Model:
    def infer(self, x, sequence_id, sequence_start, sequence_end):
        return {"y": x}
"""
SEQUENCE_CONFIG = """
max_batch_size = 2
[sequences]
[[inputs]]
name = "x"
datatype = "FP32"
shape = [-1, 1]
"""


@pytest.fixture(scope="module", params=["1", "2"])
def server(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("timing")
    gate = place / "gate"
    models = place / "models"

    def add(name, config, files, kind="config.toml"):
        (models / name / "1").mkdir(parents=True)
        (models / name / kind).write_text(config)
        for file, source in files.items():
            (models / name / "1" / file).write_text(source)

    add("gated", GATED_CONFIG, {"gated.py": GATED.format(gate=str(gate))})
    functions = {"functions.py": FUNCTION.format(died=str(place / "died"))}
    for name in ("slow", "waiting", "failing", "stream", "mortal"):
        add(name, f'entry = "functions.py:{name}"\n[workers]\nmin = 1\nmax = 1\n', functions)
    add("pair", CHAIN, {"steps.py": STEPS})
    cached = "def infer(x):\n    return {'y': x}\n".replace("infer(x)", "infer(inputs, parameters)").replace(
        "'y': x", "'y': inputs['x']"
    )
    add("cached", CACHED, {"model.py": cached}, "config.pbtxt")
    add("ensemble", ENSEMBLE, {}, "config.pbtxt")
    add("triton", TRITON_CONFIG, {"model.py": f"DECOUPLED = False\n{TRITON}"}, "config.pbtxt")
    decoupled = {"model.py": f"DECOUPLED = True\n{TRITON}"}
    add("decoupled", TRITON_CONFIG + DECOUPLED, decoupled, "config.pbtxt")
    add("explained", "", {"model.py": EXPLAINED})
    add("sequence", SEQUENCE_CONFIG, {"model.py": SEQUENCE})
    handlers = [
        folder(place, "plain", HANDLER),
        folder(place, "steps", ONCE, continuousBatching=True, batchSize=4),
    ]
    server = Server(
        place, *handlers, "--model-repository", models, f"--frontends={request.param}",
        "--cors-allowed-origin=*", "--response-cache-size=1000000",
    )  # fmt: skip
    server.gate = gate
    try:
        yield server.started()
        assert server.stop() == 0, server.log[-3000:]
        assert not server.faults(), server.log[-9000:]
    finally:
        server.kill()


def timing_of(text):
    """The milliseconds by name, and the description of the batch; their sum is not above the total."""
    found = {name: float(ms) for name, ms in re.findall(r"([^ ,;]+);dur=([0-9.]+)", text)}
    assert re.fullmatch(r'([^ ,;]+;dur=[0-9]+(\.[0-9]{1,3})?(;desc="[^"]*")?(, |$))*', text), text
    described = re.search(r'batch;dur=[0-9.]+;desc="([^"]*)"', text)
    if "total" in found:
        own = sum(ms for name, ms in found.items() if "." not in name and name != "total")
        assert own <= found["total"] + 0.0005, text
    return found, described and described[1]


PARTS = {"queue", "batch", "model", "encode", "total"}


def v2_body(name, datatype, *data):
    shape = [len(data), 1] if datatype == "FP32" else [len(data)]
    return json.dumps(
        {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}
    ).encode()


TEXT = v2_body("text", "BYTES", "a")
WAYS = {
    "/predictions/slow": b'{"text": "a"}',
    "/predictions/waiting": b'{"text": "a"}',
    "/predictions/plain": b"a",
    "/models/slow/invoke": b'{"text": "a"}',
    "/slow/predict": b'{"text": "a"}',
    "/v1/models/slow:predict": b'{"instances": ["a"]}',
    "/v2/models/slow/infer": TEXT,
    "/v2/models/waiting/infer": TEXT,
    "/v2/models/slow/versions/1/infer": TEXT,
    "/v2/models/slow/generate": b'{"text": "a"}',
}


@pytest.mark.parametrize("target", WAYS)
def test_every_protocol_tells_the_parts(server, target):
    kind = "text/plain" if "plain" in target else JSON
    answer = server.ask("POST", target, WAYS[target], f"content-type: {kind}", ASK)
    assert answer.code == 200, answer
    parts, rows = timing_of(answer.headers["server-timing"])
    assert parts.keys() == PARTS
    assert rows == "1 row"
    assert parts["model"] >= SLEEP * 1000
    # What is in none of the parts is the server's own work on the request's bytes.
    assert sum(ms for name, ms in parts.items() if name != "total") > parts["total"] / 2


def test_example_of_the_guide_is_what_is_answered(server):
    guide = (ROOT / "docs/guide-protocols.md").read_text()
    (shown,) = re.findall(r"```text\nserver-timing: (.*)\n```", guide)
    answer = server.ask("POST", "/v2/models/slow/generate", b'{"text": "hello"}', ASK)
    assert _without_numbers(shown) == _without_numbers(answer.headers["server-timing"])
    assert timing_of(shown)[0].keys() == PARTS


def _without_numbers(text):
    return re.sub(r"dur=[0-9.]+", "dur=", text)


def test_it_is_there_only_where_it_is_asked_for(server):
    with Wire(server.port) as wire:
        for line in ("a: b", ASK, "server-timing: 0", "a: b", ASK, ASK, ASK):
            wire.send(request("POST", "/predictions/slow", b'{"text": "a"}', f"content-type: {JSON}", line))
            assert ("server-timing" in wire.answer().headers) is (line == ASK)
    assert "server-timing" not in server.ask("GET", "/v2/models/slow", b"", ASK).headers


def test_pages_of_other_sites_may_see_it(server):
    answer = server.ask("POST", "/v2/models/slow/infer", TEXT, ASK, "Origin: http://page.example")
    assert answer.headers["timing-allow-origin"] == "*"
    plain = server.ask("POST", "/v2/models/slow/infer", TEXT, "Origin: http://page.example")
    assert "timing-allow-origin" not in plain.headers


def test_tensors_in_binary_too(server):
    head = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}],
         "parameters": {"binary_data_output": True}}
    ).encode()  # fmt: skip
    answer = server.ask(
        "POST",
        "/v2/models/gated/infer",
        head + bytes(4),
        f"Inference-Header-Content-Length: {len(head)}",
        ASK,
    )
    assert answer.code == 200, answer
    parts, rows = timing_of(answer.headers["server-timing"])
    assert (parts.keys(), rows) == (PARTS, "1 row")


def pending(server):
    """How many requests wait for the gated model, over all processes."""
    connection = http.client.HTTPConnection("127.0.0.1", server.ports[1], timeout=PATIENCE)
    connection.request("GET", "/models/gated")
    (described,) = json.loads(connection.getresponse().read())
    connection.close()
    return described["jobQueueStatus"]["pendingRequests"]


def test_queue_and_rows_of_requests_behind_another_one(server):
    def ask(number):
        return server.ask("POST", "/v2/models/gated/infer", v2_body("x", "FP32", number), ASK)

    server.gate.touch()
    held = 0.2
    try:
        with ThreadPoolExecutor(4) as pool:
            first = pool.submit(ask, 0.0)
            until(lambda: pending(server) == 0 and first.running())
            time.sleep(0.1)  # it is with the worker
            others = [pool.submit(ask, number) for number in (1.0, 2.0, 3.0)]
            until(lambda: pending(server) == 3)
            time.sleep(held)
            server.gate.unlink()
            answers = [each.result() for each in others]
    finally:
        server.gate.unlink(missing_ok=True)
    own, rows = timing_of(first.result().headers["server-timing"])
    assert rows == "1 row"
    assert own["model"] >= (held + 0.1 + SLEEP) * 1000
    told = [timing_of(answer.headers["server-timing"]) for answer in answers]
    shared = [int(rows.split()[0]) for _, rows in told]
    for parts, _ in told:
        assert parts["queue"] >= held * 1000
        assert parts["model"] >= SLEEP * 1000
        assert parts["batch"] < parts["queue"]
    # Three in one call; with two processes the requests may have come to both of them.
    assert max(shared) >= 2
    assert all(each in (1, 2, 3) for each in shared)


def test_request_that_is_split_counts_no_moment_twice(server):
    body = json.dumps({"instances": [[float(number)] for number in range(20)]}).encode()
    answer = server.ask("POST", "/v1/models/gated:predict", body, ASK)
    assert answer.code == 200, answer
    parts, rows = timing_of(answer.headers["server-timing"])
    assert rows == "20 rows in 3 calls"
    assert parts["model"] >= 3 * SLEEP * 1000


def test_chain_tells_every_node(server):
    answer = server.ask("POST", "/v2/models/pair/infer", v2_body("x", "FP32", 1.0), ASK)
    assert answer.code == 200, answer
    parts, _ = timing_of(answer.headers["server-timing"])
    nodes = {f"{node}.{part}" for node in ("first", "second") for part in PARTS - {"total"}}
    assert parts.keys() == nodes | {"total"}
    assert parts["first.model"] >= SLEEP * 1000
    assert parts["second.model"] >= 2 * SLEEP * 1000
    assert sum(parts[node] for node in nodes) <= parts["total"]


def test_answer_of_the_response_cache_says_so(server):
    def ask():
        # On one connection, so that one process is asked.
        wire.send(request("POST", "/v2/models/cached/infer", v2_body("x", "FP32", 7.0), ASK))
        return timing_of(wire.answer().headers["server-timing"])[0]

    with Wire(server.port) as wire:
        assert ask().keys() == PARTS
        assert ask().keys() == {"cache", "total"}


def test_ensemble_tells_its_steps(server):
    answer = server.ask("POST", "/v2/models/ensemble/infer", v2_body("x", "FP32", 8.0), ASK)
    assert answer.code == 200, answer
    parts, _ = timing_of(answer.headers["server-timing"])
    assert parts.keys() == {f"cached.{part}" for part in PARTS - {"total"}} | {"total"}


def test_sequence_and_continuous_batching(server):
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}],
         "parameters": {"sequence_id": 5, "sequence_start": True, "sequence_end": True}}
    ).encode()  # fmt: skip
    for answer in (
        server.ask("POST", "/v2/models/sequence/infer", body, ASK),
        server.predict("steps", "a", ASK),
    ):
        assert answer.code == 200, answer
        parts, rows = timing_of(answer.headers["server-timing"])
        assert (parts.keys(), rows) == (PARTS, "1 row")


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/explanations/explained", b'{"text": "a"}'),
        ("/v1/models/explained:explain", b'{"instances": ["a"]}'),
        ("/v2/models/explained/explain", TEXT),
    ],
)
def test_explanations_tell_the_parts(server, target, body):
    answer = server.ask("POST", target, body, f"content-type: {JSON}", ASK)
    assert answer.code == 200, answer
    assert timing_of(answer.headers["server-timing"])[0].keys() == PARTS


def test_deadline_that_passes_in_the_queue_tells_the_wait(server):
    server.gate.touch()
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(server.ask, "POST", "/v2/models/gated/infer", v2_body("x", "FP32", 1.0))
            until(lambda: pending(server) == 0 and first.running())
            time.sleep(0.1)  # it is with the worker
            late = server.ask(
                "POST", "/v2/models/gated/infer", v2_body("x", "FP32", 2.0), ASK, "x-request-timeout-ms: 100"
            )
            server.gate.unlink()
            assert first.result().code == 200
    finally:
        server.gate.unlink(missing_ok=True)
    assert late.code == 504
    parts, _ = timing_of(late.headers["server-timing"])
    assert parts.keys() == {"queue", "total"}
    assert parts["queue"] >= 100


def test_errors_tell_what_is_known(server):
    failed = server.ask("POST", "/v2/models/failing/infer", TEXT, ASK)
    assert failed.code == 500
    parts, _ = timing_of(failed.headers["server-timing"])
    assert parts.keys() == PARTS
    assert parts["model"] >= SLEEP * 1000
    missing = server.ask("POST", "/v2/models/missing/infer", TEXT, ASK)
    assert (missing.code, timing_of(missing.headers["server-timing"])[0].keys()) == (404, {"total"})
    wrong = server.ask("POST", "/v2/models/slow/infer", b"{", ASK)
    assert (wrong.code, timing_of(wrong.headers["server-timing"])[0].keys()) == (400, {"total"})


def test_request_that_is_run_again_has_waited(server):
    answer = server.ask("POST", "/v2/models/mortal/infer", TEXT, ASK)
    assert answer.code == 200, answer
    parts, _ = timing_of(answer.headers["server-timing"])
    assert parts.keys() == PARTS
    assert parts["queue"] >= SLEEP * 1000  # the try that failed is in it
    assert parts["model"] < parts["queue"]


def test_stream_has_a_trailer_where_the_client_takes_trailers(server):
    body = b'{"text": "a b c"}'
    lines = (f"content-type: {JSON}", ASK)
    with Wire(server.port) as wire:
        asked = request(
            "POST", "/v2/models/stream/generate_stream", body, *lines, "TE: trailers", "Connection: TE, close"
        )
        wire.send(asked)
        raw = wire.rest()
    head, _, content = raw.partition(b"\r\n\r\n")
    assert b"\r\ntrailer: server-timing" in head
    assert b"\r\nserver-timing" not in head
    assert content.count(b"data: ") == 3
    trailer = re.search(rb"\r\n0\r\nserver-timing: ([^\r]+)\r\n\r\n$", content)
    parts, _ = timing_of(trailer[1].decode())
    assert parts.keys() == PARTS
    assert parts["model"] >= 3 * SLEEP * 1000


def test_head_of_a_stream_has_no_trailer_and_the_connection_goes_on(server):
    lines = (f"content-type: {JSON}", ASK, "TE: trailers")
    with Wire(server.port) as wire:
        wire.send(request("HEAD", "/predictions/stream", b'{"text": "a b"}', *lines))
        answer = wire.answer(head=True)
        assert answer.code == 200
        assert "trailer" not in answer.headers
        assert timing_of(answer.headers["server-timing"])[0].keys() == {"queue", "batch"}
        wire.send(request("GET", "/ping"))
        assert wire.answer().code == 200


def test_stream_without_trailers_tells_what_is_known_at_its_head(server):
    for target in ("/v2/models/stream/generate_stream", "/predictions/stream"):
        answer = server.ask("POST", target, b'{"text": "a b"}', f"content-type: {JSON}", ASK)
        parts, rows = timing_of(answer.headers["server-timing"])
        assert (parts.keys(), rows) == ({"queue", "batch"}, "1 row")
        assert "trailer" not in answer.headers


def text_request(model, *, stream=False):
    text = "a b" if stream else "a"
    tensor = v2.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(text.encode())
    return v2.ModelInferRequest(model_name=model, inputs=[tensor])


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


def trailing(call):
    return dict(call.trailing_metadata() or ())


def test_grpc_tells_in_its_trailing_metadata(server, channel):
    infer = channel.unary_unary(f"{V2}ModelInfer")
    message = text_request("slow").SerializeToString()
    answer, call = infer.with_call(message, metadata=METADATA, timeout=PATIENCE)
    assert v2.ModelInferResponse.FromString(answer).model_name == "slow"
    parts, rows = timing_of(trailing(call)["server-timing"])
    assert (parts.keys(), rows) == (PARTS, "1 row")
    assert parts["model"] >= SLEEP * 1000
    _, call = infer.with_call(message, timeout=PATIENCE)
    assert "server-timing" not in trailing(call)


@pytest.mark.parametrize(
    ("method", "message", "known"),
    [
        (f"{V2}ModelInfer", text_request("failing"), PARTS),
        (f"{V2}ModelInfer", text_request("missing"), {"total"}),
        (f"{TORCHSERVE}Predictions", ts.PredictionsRequest(), {"total"}),
    ],
)
def test_grpc_errors_tell_what_is_known(server, channel, method, message, known):
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary(method)(message.SerializeToString(), metadata=METADATA, timeout=PATIENCE)
    assert timing_of(trailing(failed.value)["server-timing"])[0].keys() == known


def test_grpc_stream_adds_up_its_requests(server, channel):
    messages = [
        text_request("stream", stream=True).SerializeToString(),
        text_request("slow").SerializeToString(),
    ]
    call = channel.stream_stream(f"{V2}ModelStreamInfer")(iter(messages), metadata=METADATA, timeout=PATIENCE)
    assert len(list(call)) >= 3
    parts, rows = timing_of(trailing(call)["server-timing"])
    assert (parts.keys(), rows) == (PARTS, "2 rows in 2 calls")
    assert parts["model"] >= 1.5 * SLEEP * 1000  # they run at the same time, and a moment counts once


def test_models_of_tritons_python_backend_tell_the_parts(server, channel):
    answer = server.ask("POST", "/v2/models/triton/infer", v2_body("x", "FP32", 1.0, 2.0), ASK)
    assert answer.code == 200, answer
    parts, rows = timing_of(answer.headers["server-timing"])
    assert (parts.keys(), rows) == (PARTS, "2 rows")
    assert parts["model"] >= SLEEP * 1000
    tensor = v2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 1])
    tensor.contents.fp32_contents.append(1.0)
    message = v2.ModelInferRequest(model_name="decoupled", inputs=[tensor]).SerializeToString()
    call = channel.stream_stream(f"{V2}ModelStreamInfer")(
        iter([message]), metadata=METADATA, timeout=PATIENCE
    )
    assert len(list(call)) >= 2
    parts, rows = timing_of(trailing(call)["server-timing"])
    assert (parts.keys(), rows) == (PARTS, "1 row")
    assert parts["model"] >= 2 * SLEEP * 1000 - 1  # the clock of the sleep may be a little off


def test_torchserve_grpc_tells_in_its_trailing_metadata(server, channel):
    message = ts.PredictionsRequest(model_name="plain", input={"data": b"a"}).SerializeToString()
    _, call = channel.unary_unary(f"{TORCHSERVE}Predictions").with_call(
        message, metadata=METADATA, timeout=PATIENCE
    )
    stream = channel.unary_stream(f"{TORCHSERVE}StreamPredictions")(
        message, metadata=METADATA, timeout=PATIENCE
    )
    assert len(list(stream)) == 1
    for each in (call, stream):
        parts, _ = timing_of(trailing(each)["server-timing"])
        assert parts.keys() == PARTS
        assert parts["model"] >= SLEEP * 1000


def test_many_at_once_have_each_their_own(server):
    def ask(number):
        answer = server.ask("POST", "/v2/models/gated/infer", v2_body("x", "FP32", float(number)), *(
            (ASK,) if number % 2 else ()
        ))  # fmt: skip
        return number, answer

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    for number, answer in answers:
        assert answer.json()["outputs"][0]["data"] == [2.0 * number]
        assert ("server-timing" in answer.headers) is bool(number % 2)
        if number % 2:
            assert timing_of(answer.headers["server-timing"])[0].keys() == PARTS


def test_setting_has_every_answer_tell(tmp_path):
    (tmp_path / "plain.py").write_text("def infer(text: str) -> str:\n    return text\n")
    server = Server(tmp_path, "plain.py:infer", "--server-timing", "--access-log").started()
    try:
        with Wire(server.port) as wire:
            for _ in range(3):
                wire.send(request("POST", "/predictions/plain", b'{"text": "a"}', f"content-type: {JSON}"))
                assert timing_of(wire.answer().headers["server-timing"])[0].keys() == PARTS
        with grpc.insecure_channel(server.grpc) as channel:
            _, call = channel.unary_unary(f"{V2}ModelInfer").with_call(
                text_request("plain").SerializeToString(), timeout=PATIENCE
            )
            assert "server-timing" in trailing(call)
        missing = server.ask("POST", "/predictions/missing", b"x", "x-request-id: mine")
        assert timing_of(missing.headers["server-timing"])[0].keys() == {"total"}
        assert server.stop() == 0
        logged = [line for line in server.log.splitlines() if " request method=" in line and "plain" in line]
        assert len(logged) == 4
        assert "request=mine" in server.log
    finally:
        server.kill()
