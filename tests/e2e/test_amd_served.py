"""``mooring amdinfer-server`` in a process of its own, asked on the wire as AMD's Python client asks."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection

import grpc
import pytest
from e2e_kit import PATIENCE, free_ports
from PIL import Image
from websockets.sync.client import connect

from mooring.codecs.proto import inference_pb2 as pb

CONTENT = {"content-type": "application/json; charset=utf-8"}


class BadStatus(Exception):
    """What the client raises; its text is the body as it came."""


class HttpClient:
    """AMD's client: its methods, its paths, its bodies."""

    def __init__(self, port):
        self.port = port

    def send(self, method, path, body=None):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, CONTENT if body is not None else {})
            response = connection.getresponse()
            assert response.headers["access-control-allow-origin"] == "*"
            return response.status, response.read().decode()
        finally:
            connection.close()

    def ask(self, method, path, body=None):
        status, text = self.send(method, path, body)
        if status != 200:
            raise BadStatus(text)
        return text

    def metadata(self):
        return json.loads(self.ask("GET", "/v2"))

    def live(self):
        return self.send("GET", "/v2/health/live")[0] == 200

    def ready(self):
        return self.send("GET", "/v2/health/ready")[0] == 200

    def list(self):
        return sorted(json.loads(self.ask("GET", "/v2/models"))["models"])

    def has_hardware(self, name, number):
        return self.send("POST", "/v2/hardware", json.dumps({"name": name, "num": number}))[0] == 200

    def model_ready(self, model):
        return self.send("GET", f"/v2/models/{model}/ready")[0] == 200

    def model_metadata(self, model):
        return json.loads(self.ask("GET", f"/v2/models/{model}"))

    def model_load(self, model, **parameters):
        self.ask("POST", f"/v2/repository/models/{model}/load", json.dumps(parameters))

    def model_unload(self, model):
        self.ask("POST", f"/v2/repository/models/{model}/unload", "null")

    def worker_load(self, worker, **parameters):
        return self.ask("POST", f"/v2/workers/{worker}/load", json.dumps(parameters))

    def worker_unload(self, endpoint):
        self.ask("POST", f"/v2/workers/{endpoint}/unload", "null")

    def infer(self, model, *inputs, id_=""):
        body = {"id": id_, "inputs": list(inputs), "parameters": {}}
        return json.loads(self.ask("POST", f"/v2/models/{model}/infer", json.dumps(body)))


def tensor(datatype, shape, data, name="input0"):
    return {"data": data, "datatype": datatype, "name": name, "parameters": {}, "shape": shape}


TEXTS = """
name = "texts"
platform = "amdinfer_cpp"
id = "base64_decode.so"
inputs = [{ name = "image_in", datatype = "STRING", shape = [1048576] }]
outputs = [{ name = "image_out", datatype = "Uint8", shape = [4, 4, 3] }]
"""
# A chain is asked by the name of its first stage.
FLIP = """
[[models]]
name = "flip"
platform = "amdinfer_cpp"
id = "base64_decode.so"
inputs = [{ name = "image_in", datatype = "String", shape = [1048576], id = "" }]
outputs = [{ name = "image_out", datatype = "Uint8", shape = [4, 4, 3], id = "decoded" }]

[[models]]
name = "flip-encode"
platform = "amdinfer_cpp"
id = "base64_encode.so"
inputs = [{ name = "image_in", datatype = "Uint8", shape = [4, 4, 3], id = "decoded" }]
outputs = [{ name = "image_out", datatype = "STRING", shape = [1048576], id = "" }]
"""
TEXT_PROTO = """
name: "proto"
platform: "amdinfer_cpp"
inputs [ { name: "image_in" datatype: "STRING" shape: [1048576] } ]
outputs [ { name: "image_out" datatype: "Uint8" shape: [4, 4, 3] } ]
"""


@pytest.fixture(scope="module")
def spelled(tmp_path_factory):
    """A repository whose configurations spell datatypes as AMD's do."""
    folder = tmp_path_factory.mktemp("spelled")
    for name, file, text in (
        ("texts", "config.toml", TEXTS),
        ("flip", "config.toml", FLIP),
        ("proto", "config.pbtxt", TEXT_PROTO),
    ):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / file).write_text(text)
        (folder / name / "1" / "base64_decode.so").touch()
        (folder / name / "1" / "base64_encode.so").touch()
    yield from serve(folder)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    for name in ("plus", "invert-it"):
        (folder / name / "1").mkdir(parents=True)
    (folder / "plus" / "config.toml").write_text('name = "plus"\nplatform = "builtin"\nentry = "echo"\n')
    (folder / "invert-it" / "config.toml").write_text('platform = "builtin"\nentry = "invert_image"\n')
    return folder


@pytest.fixture(scope="module")
def client(repository):
    yield from serve(repository)


def serve(repository):
    http, rpc = free_ports(2)
    process = subprocess.Popen(
        [sys.executable, "-m", "mooring", "amdinfer-server", f"--model-repository={repository}",
         "--repository-load-existing", f"--http-port={http}", f"--grpc-port={rpc}"],
        env={name: value for name, value in os.environ.items() if not name.startswith("MOORING_")},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == f"gRPC server starting at port {rpc}\n"
        assert process.stdout.readline() == f"HTTP server starting at port {http}\n"
        with socket.create_connection(("127.0.0.1", rpc), timeout=PATIENCE):
            pass
        client = HttpClient(http)
        client.grpc = f"127.0.0.1:{rpc}"
        yield client
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()


def test_the_server_says_what_it_is(client):
    assert client.live()
    assert client.ready()
    found = client.metadata()
    assert found["name"] == "amdinfer"
    assert "migraphx" in found["extensions"]


def test_the_hardware_is_told(client):
    cores = len(os.sched_getaffinity(0))
    assert client.has_hardware("CPU", cores)
    assert not client.has_hardware("CPU", cores + 1)
    assert not client.has_hardware("DPUCADF8H", 1)


def test_models_of_the_repository_are_there_and_come_and_go(client):
    assert client.list() == ["invert-it", "plus"]
    assert client.model_metadata("plus")["inputs"] == [{"name": "", "datatype": "UINT32", "shape": [1]}]
    answer = client.infer("plus", tensor("UINT32", [1], [41]))
    assert answer == {
        "id": "",
        "model_name": "echo",
        "outputs": [{"name": "", "datatype": "UINT32", "shape": [1], "parameters": {}, "data": [42]}],
    }
    client.model_unload("plus")
    assert not client.model_ready("plus")
    client.model_unload("plus")
    client.model_load("plus", batch_size=2)
    assert client.model_ready("plus")
    with pytest.raises(BadStatus, match=r'^\{"error":'):
        client.model_load("nonesuch")


def test_workers_come_and_go(client):
    endpoint = client.worker_load("CPlusPlus", model="echo_multi")
    assert endpoint == "cplusplus"
    assert client.worker_load("cplusplus", model="echo_multi", share=False) == endpoint
    answer = client.infer(
        endpoint, tensor("UINT32", [1], [3]), tensor("UINT32", [2], [2, 7], "input1"), id_="mine"
    )
    assert (answer["id"], answer["model_name"]) == ("mine", "echo_multi")
    assert [output["data"] for output in answer["outputs"]] == [[3], [2, 7, 3, 2], [7, 3, 2]]
    client.worker_unload(endpoint)
    assert client.model_ready(endpoint)
    client.worker_unload(endpoint)
    assert not client.model_ready(endpoint)
    client.worker_unload(endpoint)
    with pytest.raises(BadStatus, match="No model specified"):
        client.worker_load("cplusplus")


def test_an_image_of_base64_goes_both_ways_in_amds_form_of_text(client):
    decoder, encoder = (
        client.worker_load("cplusplus", model="base64_decode"),
        client.worker_load("cplusplus", model="base64_encode"),
    )
    pixels = tensor("UINT8", [64, 64, 3], [120] * (64 * 64 * 3))
    (text,) = client.infer(encoder, pixels)["outputs"]
    assert text["datatype"] == "BYTES"
    assert text["shape"] == [len(text["data"][0])]
    (image,) = client.infer(decoder, tensor("BYTES", text["shape"], text["data"]))["outputs"]
    assert image["shape"] == [64, 64, 3]
    assert max(abs(value - 120) for value in image["data"]) < 3
    # Above what is decoded before the worker sees it.
    large = "\n" * 70_000 + text["data"][0]
    (image,) = client.infer(decoder, tensor("BYTES", [len(large)], [large]))["outputs"]
    assert image["shape"] == [64, 64, 3]
    for endpoint in (decoder, encoder):
        client.worker_unload(endpoint)


def test_what_ended_amds_server_is_a_bad_request_here(client):
    endpoint = client.worker_load("cplusplus", model="echo")
    path = f"/v2/models/{endpoint}/infer"
    for body in (
        None,
        "",
        "{",
        "NaN",
        "null",
        '{"inputs":[]}',
        json.dumps({"inputs": [tensor("FP32", [1], [1.5])]}),
    ):
        status, text = client.send("POST", path, body)
        assert status == 400
        assert json.loads(text)["error"]
    with pytest.raises(BadStatus, match="Worker nope not found"):
        client.infer("nope", tensor("UINT32", [1], [1]))
    assert client.infer(endpoint, tensor("UINT32", [1], [0xFFFF_FFFF]))["outputs"][0]["data"] == [0]
    client.worker_unload(endpoint)


def test_the_websocket_answers_with_bare_data(client):
    with connect(f"ws://127.0.0.1:{client.port}/models/infer") as socket:
        for number in (65, 66):
            socket.send(json.dumps({"model": "plus", "inputs": [tensor("UINT32", [1], [number])]}))
        assert [socket.recv(PATIENCE) for _ in range(2)] == ["B\0\0\0", "C\0\0\0"]


def test_the_metrics_have_amds_names(client):
    before = client.ask("GET", "/metrics")
    client.infer("plus", tensor("UINT32", [1], [1]))
    after = client.ask("GET", "/metrics")

    def count(text):
        line = next(
            line
            for line in text.splitlines()
            if line.startswith('amdinfer_requests_ingress_total{api="rest",method="POST"}')
        )
        return float(line.rpartition(" ")[2])

    assert count(after) == count(before) + 1
    assert 'amdinfer_request_latency{quantile="0.99"}' in after


def test_datatypes_may_be_spelled_as_amds_are(spelled):
    pixels = Image.new("RGB", (4, 4), (10, 20, 30))
    file = io.BytesIO()
    pixels.save(file, "png")
    text = base64.b64encode(file.getvalue()).decode()
    assert spelled.list() == ["flip", "flip-encode", "proto", "texts"]
    for datatype in ("STRING", "String", "BYTES"):
        for model in ("texts", "proto"):
            (output,) = spelled.infer(model, tensor(datatype, [len(text)], [text]))["outputs"]
            assert (output["datatype"], output["shape"]) == ("UINT8", [4, 4, 3])
            assert output["data"][:3] == [30, 20, 10]
    answer = spelled.infer("flip", tensor("STRING", [len(text)], [text]))
    assert answer["model_name"] == "base64_decode"  # what the first stage's code is called
    assert base64.b64decode(answer["outputs"][0]["data"][0])[:2] == b"\xff\xd8"


def test_a_chain_of_its_first_stages_name_leaves_nothing_behind(spelled):
    assert spelled.model_ready("flip")
    assert not any(name.startswith("flip-0") for name in spelled.list())
    spelled.model_unload("FLIP")  # AMD's server lower-cases the name
    assert not spelled.model_ready("flip")
    assert not spelled.model_ready("flip-0")
    spelled.model_load("flip")
    assert spelled.model_ready("flip")


def test_an_id_may_be_a_number(client):
    assert client.infer("invert-it", tensor("UINT8", [1, 1, 3], [1, 2, 3]), id_=42)["id"] == "42"


@pytest.mark.parametrize("names", [("", ""), ("a", "a"), ("x", ""), ("input1", "input0")])
def test_inputs_are_taken_by_position_whatever_their_names(client, names):
    endpoint = client.worker_load("cplusplus", model="echo_multi")
    try:
        inputs = [tensor("Uint32", [1], [3], names[0]), tensor("Uint32", [2], [2, 7], names[1])]
        outputs = client.infer(endpoint, *inputs)["outputs"]
        assert [output["data"] for output in outputs] == [[3], [2, 7, 3, 2], [7, 3, 2]]
        request = pb.ModelInferRequest(model_name=endpoint)
        for name, data in zip(names, ([3], [2, 7]), strict=True):
            given = request.inputs.add(name=name, datatype="UINT32", shape=[len(data)])
            given.contents.uint_contents.extend(data)
        with grpc.insecure_channel(client.grpc) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            found = pb.ModelInferResponse.FromString(call(request.SerializeToString(), timeout=PATIENCE))
        assert len(found.outputs) == 3
    finally:
        client.worker_unload(endpoint)


@pytest.mark.parametrize(
    "parameters", [{"batch_size": "2"}, {"batch_size": 0}, {"timeout": "x"}, {"timeout": True}]
)
def test_a_load_parameter_of_a_wrong_type_is_refused(client, parameters):
    (name,) = parameters
    with pytest.raises(BadStatus, match=f"parameter '{name}' must be a whole number"):
        client.model_load("invert-it", **parameters)
    assert client.model_ready("invert-it")


def test_the_platform_is_what_the_model_runs_on(client):
    assert client.model_metadata("invert-it")["platform"] == "CPU"


def test_readiness_of_an_unknown_model_is_not_found_over_grpc(client):
    with grpc.insecure_channel(client.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
        with pytest.raises(grpc.RpcError) as refused:
            call(pb.ModelReadyRequest(name="nonesuch").SerializeToString(), timeout=PATIENCE)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused.value.details() == "Worker nonesuch not found"
