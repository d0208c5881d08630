"""A line for every request: in the files of a drop-in start in TorchServe's form, in our log with ``--access-log``."""

import json
import os
import re
import subprocess
import time

import grpc
import pytest
from drop_in_kit import ACCESS, MODEL_METRIC, TS_METRIC, configure, drop_in, page
from e2e_kit import PATIENCE, SCRIPTS, Wire, pack, request, serving, until
from websockets.sync.client import connect

from mooring.codecs.proto import torchserve_inference_pb2 as messages

GRPC = "gRPC org.pytorch.serve.grpc.inference.InferenceAPIsService"
BY_MODEL = {
    "ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    pack(folder, "measured", "measured_handler.py")
    (folder / "pairs.yaml").write_text("batchSize: 2\nmaxBatchDelay: 2000\nexactBatchDelay: true\n")
    pack(folder, "pairs", "measured_handler.py", "--config-file", folder / "pairs.yaml")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, store):
    server = drop_in(tmp_path_factory.mktemp("server"), store, "max_request_size=1000")
    try:
        yield server
    finally:
        server.kill()


def manage(server, method, target):
    with Wire(server.ports[1]) as wire:
        wire.send(request(method, target))
        return wire.answer().code


def test_a_request_leaves_its_lines_in_each_file_and_fills_the_page(server):
    server.predict("measured", "x", "x-request-id: mine")
    server.told("POST /predictions/measured HTTP/1.1", 200)
    until(lambda: BY_MODEL | {"QueueTime"} <= {each[0] for each in server.lines("ts_metrics", TS_METRIC)})
    lines = {each[0]: each[1:] for each in server.lines("ts_metrics", TS_METRIC)}
    assert lines["Requests2XX"] == ("Count", "1.0", "Level:Host")
    for name, unit in (("QueueTime", "Milliseconds"), ("WorkerThreadTime", "Milliseconds")):
        assert (lines[name][0], lines[name][2]) == (unit, "Level:Host")
    assert lines["WorkerLoadTime"][2] == "WorkerName:W-9000-measured_1.0,Level:Host"
    for name in BY_MODEL:
        assert lines[name][2] == "model_name:measured,model_version:default"
    assert lines.keys() >= {"CPUUtilization", "MemoryUsed", "DiskAvailable"}
    own = "ModelName:measured,Level:Model"
    until(lambda: any(each[0] == "PredictionTime" for each in recorded(server, "mine")))
    found = {each[0]: each[1:] for each in recorded(server, "mine")}
    assert found["Rows"] == ("Count", "1.0", own, "mine")
    assert found["Payload"] == ("Kilobytes", "3.0", own, "mine")
    assert (found["PredictionTime"][0], found["PredictionTime"][2:]) == ("ms", (own, "mine"))
    (odd,) = [each for each in server.lines("model_metrics", MODEL_METRIC) if each[0] == "Odd"][:1]
    assert odd[1:] == ("unit", "1.0", "Level:Error", "null")
    text = page(server)
    for name in (*BY_MODEL, "Requests2XX", "PredictionTime", "Payload", "MemoryUsed"):
        assert re.search(rf"^{name}{{.+}} \S+$", text, re.MULTILINE)


def test_every_prediction_has_a_line_and_not_one_a_second(server):
    for number in range(5):
        server.predict("measured", "x", f"x-request-id: each-{number}")
    names = ["Payload", "PredictionTime", "Rows"]
    until(lambda: sorted(each[0] for each in recorded(server, "each-")) == sorted(names * 5))


def recorded(server, request):
    return [each for each in server.lines("model_metrics", MODEL_METRIC) if each[4].startswith(request)]


def test_what_fails_and_what_is_managed_has_a_line(server):
    assert server.predict("nothing", "x").code == 404
    server.told("POST /predictions/nothing HTTP/1.1", 404)
    assert server.predict("measured", "fail").code == 503
    server.told("POST /predictions/measured HTTP/1.1", 503)
    assert server.ask("POST", "/predictions/measured", b"x" * 2000).code == 413
    server.told("POST /predictions/measured HTTP/1.1", 413)
    assert server.ask("GET", "/nowhere").code == 404
    server.told("GET /nowhere HTTP/1.1", 404)
    assert manage(server, "GET", "/models/measured") == 200
    server.told("GET /models/measured HTTP/1.1", 200)
    page(server)
    server.told("GET /metrics HTTP/1.1", 200)
    assert server.raw(b"nonsense\r\n\r\n").code == 400
    until(lambda: any(status == "400" for _, status, _ in ACCESS.findall(server.log_of("access_log"))))


def test_the_signature_of_an_archives_url_is_in_no_line(server):
    manage(server, "POST", "/models?url=https://me:secret@127.0.0.1:1/a.mar?signature=secret&more=secret")
    until(lambda: "POST /models?url=https://127.0.0.1:1/a.mar HTTP" in server.log_of("access_log"))
    assert "secret" not in server.log_of("access_log")


def test_a_stream_has_its_line_at_its_end_and_a_client_that_leaves_has_one(server):
    assert server.predict("measured", "stream").code == 200
    until(lambda: any(int(ms) >= 400 for call, _, ms in server.accessed() if "/predictions/measured" in call))
    with Wire(server.port) as wire:
        wire.send(request("POST", "/predictions/measured", b"slow"))
    server.told("POST /predictions/measured HTTP/1.1", 499)


def test_requests_that_share_a_connection_have_a_line_each(server):
    with Wire(server.port) as wire:
        wire.send(request("GET", "/ping?own=1") * 3)
        assert [wire.answer().code for _ in range(3)] == [200] * 3
        for _ in range(3):  # a head that is known by then
            wire.send(request("POST", "/predictions/measured?own=1", b"x"))
            assert wire.answer().code == 200
    until(lambda: sum("?own=1" in each[0] for each in server.accessed()) == 6)


def test_a_grpc_call_that_its_client_gives_up_has_the_status_cancelled(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[3]}") as channel:
        call = channel.unary_unary("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions")
        asked = messages.PredictionsRequest(model_name="measured", input={"data": b"slow"})
        with pytest.raises(grpc.RpcError):
            call(asked.SerializeToString(), timeout=0.1)
    until(lambda: {"1", "4"} & {status for called, status, _ in server.accessed() if GRPC in called})


def test_grpc_calls_have_lines_in_torchserves_form(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[3]}") as channel:
        call = channel.unary_unary("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions")
        asked = messages.PredictionsRequest(model_name="measured", input={"data": b"x"})
        call(asked.SerializeToString())
        asked.model_name = "nothing"
        with pytest.raises(grpc.RpcError) as caught:
            call(asked.SerializeToString())
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        stream = channel.unary_stream(
            "/org.pytorch.serve.grpc.inference.InferenceAPIsService/StreamPredictions"
        )
        sent = messages.PredictionsRequest(model_name="measured", input={"data": b"stream"})
        assert len(list(stream(sent.SerializeToString()))) == 3
    for method, status in (("Predictions", 0), ("Predictions", 5), ("StreamPredictions", 0)):
        took = server.told(f"{GRPC}/{method} HTTP/2.0", status)
    assert took >= 400


@pytest.mark.parametrize("mode", ["prometheus", "legacy", "log"])
def test_a_metrics_mode_of_a_file_means_what_it_means_there(tmp_path, store, mode):
    server = drop_in(tmp_path, store, f"metrics_mode={mode}")
    try:
        server.predict("measured", "x")
        server.told("POST /predictions/measured HTTP/1.1", 200)
        if mode == "prometheus":
            assert {"Requests2XX", "PredictionTime"} <= named(page(server))
        else:
            assert named(page(server)) == (BY_MODEL if mode == "legacy" else set())
            until(lambda: any(each[0] == "QueueTime" for each in server.lines("ts_metrics", TS_METRIC)))
        assert server.stop() == 0
        lines = {each[0] for each in server.lines("ts_metrics", TS_METRIC)}
        assert lines & BY_MODEL == (BY_MODEL if mode == "log" else set())
        assert ({"QueueTime", "Requests2XX", "CPUUtilization"} <= lines) == (mode != "prometheus")
        named_there = {each[0] for each in server.lines("model_metrics", MODEL_METRIC)}
        assert ("PredictionTime" in named_there) == (mode != "prometheus")
    finally:
        server.kill()


def named(text):
    return {line.split("{")[0] for line in text.splitlines() if line and not line.startswith("#")}


def facts(line):
    return dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))


def requests_in(server, **expected):
    found = [facts(line) for line in server.log.splitlines() if " request method=" in line]
    return [each for each in found if expected.items() <= each.items()]


def test_our_own_log_has_a_line_per_request_with_times_batch_and_ids(tmp_path, store):
    with (
        serving(tmp_path, "--access-log", store / "pairs.mar") as server,
        Wire(server.port) as one,
        Wire(server.port) as two,
    ):
        for number, wire in enumerate((one, two)):
            wire.send(request("POST", "/predictions/pairs", b"x", f"x-request-id: id-{number}"))
        assert [wire.answer().code for wire in (one, two)] == [200, 200]
        until(lambda: len(requests_in(server, model="pairs")) == 2)
        for number in (0, 1):
            (line,) = requests_in(server, request=f"id-{number}")
            assert line["path"] == "/predictions/pairs"
            assert line["protocol"] == "HTTP/1.1"
            assert (line["status"], line["version"], line["rows"], line["batch_rows"]) == (
                "200",
                "1.0",
                "1",
                "2",
            )
            assert float(line["ms"]) >= float(line["queue_ms"]) >= 0
            assert float(line["inference_ms"]) >= 0
            assert re.fullmatch(r"127\.0\.0\.1:\d+", line["client"])
        server.ask("GET", "/nowhere", b"", "x-request-id: lost")
        until(lambda: requests_in(server, path="/nowhere", status="404", request="lost"))


def test_all_processes_write_to_the_one_log_and_json_is_an_object_per_line(tmp_path, store):
    flags = ["--access-log", "--log-format=json", "--frontends=2", "--deal-connections=evenly"]
    with serving(tmp_path, *flags, store / "measured.mar") as server:
        ports = set()
        for _ in range(40):
            with Wire(server.port) as wire:
                wire.send(request("POST", "/predictions/measured", b"x"))
                assert wire.answer().code == 200
                ports.add(f"127.0.0.1:{wire.socket.getsockname()[1]}")

        def seen():
            found = [json.loads(line) for line in server.log.splitlines() if '"message":"request"' in line]
            return {each["fields"]["client"] for each in found if each["fields"].get("model") == "measured"}

        until(lambda: seen() == ports)


def test_a_websocket_has_one_line_when_it_ends(tmp_path):
    (tmp_path / "echo.py").write_text("def echo(x: 'ndarray'):\n    return x\n")
    with serving(tmp_path, "--access-log", "--dialect=amd", "echo.py:echo") as server:
        with connect(f"ws://127.0.0.1:{server.port}/models/infer", compression=None) as socket_:
            for _ in range(2):
                inputs = [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]
                socket_.send(json.dumps({"model": "echo", "id": "a", "inputs": inputs}))
                socket_.recv()
            assert not requests_in(server, path="/models/infer")
        until(lambda: requests_in(server, path="/models/infer", status="101"))
        (line,) = requests_in(server, path="/models/infer")
        assert (line["model"], line["requests"]) == ("echo", "2")


def test_without_the_setting_no_request_has_a_line(tmp_path, store):
    with serving(tmp_path, store / "measured.mar") as server:
        for _ in range(3):
            assert server.predict("measured", "x").code == 200
        assert server.predict("measured", "fail").code == 500
        until(lambda: "prediction failed" in server.log)
    assert "request method=" not in server.log
    assert "predictions/measured" not in server.log.partition("Try:")[2].partition("prediction failed")[2]


def test_standard_output_that_nobody_reads_holds_no_request_up(tmp_path, store):
    (port, *_), flags = configure(tmp_path, store)
    process = subprocess.Popen(
        [SCRIPTS / "mooring", "torchserve", *flags], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    try:
        for line in process.stdout:
            if line == b"Model server started.\n":
                break
        with Wire(port) as wire:
            for _ in range(400):  # some 300 KB of lines, which is more than a pipe holds
                began = time.monotonic()
                wire.send(request("POST", "/predictions/measured", b"x"))
                assert wire.answer().code == 200
                assert time.monotonic() - began < 0.9, "it waits for a second for the reader"
        log = tmp_path / "logs/access_log.log"
        until(lambda: log.read_text().count("/predictions/measured") == 400)
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
