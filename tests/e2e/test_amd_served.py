"""``mooring amdinfer-server`` in a process of its own, asked on the wire as AMD's Python client asks."""

import json
import os
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection

import pytest
from e2e_kit import PATIENCE, free_ports
from websockets.sync.client import connect

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
    http, grpc = free_ports(2)
    process = subprocess.Popen(
        [sys.executable, "-m", "mooring", "amdinfer-server", f"--model-repository={repository}",
         "--repository-load-existing", f"--http-port={http}", f"--grpc-port={grpc}"],
        env={name: value for name, value in os.environ.items() if not name.startswith("MOORING_")},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == f"gRPC server starting at port {grpc}\n"
        assert process.stdout.readline() == f"HTTP server starting at port {http}\n"
        with socket.create_connection(("127.0.0.1", grpc), timeout=PATIENCE):
            pass
        yield HttpClient(http)
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
