"""The metrics API of a running server, with a handler that records what it likes."""

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

import pytest
from e2e_kit import HANDLERS, Server, Wire, free_ports, request, until

HOST = socket.gethostname()
BY_MODEL = {
    "ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds",
}  # fmt: skip
HOSTS = {
    "Requests2XX", "Requests4XX", "Requests5XX", "QueueTime", "WorkerThreadTime", "CPUUtilization", "MemoryUsed",
    "MemoryAvailable", "MemoryUtilization", "DiskUsage", "DiskAvailable", "DiskUtilization",
}  # fmt: skip
COUNTERS = BY_MODEL | {"Requests2XX", "Requests4XX", "Requests5XX"}
METRICS_YAML = """
dimensions:
  - &kind "Kind"
model_metrics:
  gauge:
    - name: Declared
      unit: things
      dimensions: [*kind]
  histogram:
    - name: HandlerTime
      unit: ms
      dimensions: [ModelName, Level]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An unpacked archive of the counting handler, profiled, that declares metrics."""
    folder = tmp_path_factory.mktemp("counting") / "counting"
    (folder / "MAR-INF").mkdir(parents=True)
    shutil.copy(HANDLERS / "counting_handler.py", folder)
    described = {"modelName": "counting", "modelVersion": "1.0", "handler": "counting_handler.py",
                 "configFile": "model-config.yaml"}  # fmt: skip
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": described}))
    (folder / "model-config.yaml").write_text("handler: {profile: true}")
    (folder / "metrics.yaml").write_text(METRICS_YAML)
    return folder


@pytest.fixture
def serve(tmp_path, model):
    servers = []

    def start(*flags, ports=()):
        servers.append(Server(tmp_path, model, *flags, ports=ports))
        return servers[-1].started()

    yield start
    for server in servers:
        server.kill()


def page(port, target="/metrics"):
    with Wire(port) as wire:
        wire.send(request("GET", target))
        answer = wire.answer()
    assert answer.status == "200 OK"
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.body.decode()


def samples(text, name):
    """Labels and value of every sample of this name."""
    found = re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
    return [(dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for labels, value in found]


def test_every_name_of_torchserve_is_served_with_its_labels_and_type(serve):
    server = serve()
    assert server.predict("counting", "four").body == b"4"
    text = page(server.ports[2])
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    own = {"ModelName": "counting", "Level": "Model", "Hostname": HOST}
    for name in HOSTS:
        ((labels, value),) = samples(text, name)
        assert (labels, types[name]) == (
            {"Level": "Host", "Hostname": HOST},
            "counter" if name in COUNTERS else "gauge",
        )
        assert value >= 0
    for name in BY_MODEL:
        ((labels, value),) = samples(text, name)
        assert labels == {"model_name": "counting", "model_version": "default", "hostname": HOST}
        assert (types[name], value > 0) == ("counter", True)
    ((labels, value),) = samples(text, "WorkerLoadTime")
    assert labels == {"WorkerName": "W-9000-counting_1.0", "Level": "Host", "Hostname": HOST}
    assert value > 1
    for name in ("PredictionTime", "ts_handler_preprocess", "ts_handler_inference", "ts_handler_postprocess"):
        ((labels, value),) = samples(text, name)
        assert (labels, types[name]) == (own, "gauge")
    # The archive's metrics.yaml makes a histogram of it, so that every request is in it.
    assert types["HandlerTime"] == "histogram"
    for _ in range(4):
        server.predict("counting", "four")
    ((labels, value),) = samples(page(server.ports[2]), "HandlerTime_count")
    assert (labels, value) == (own, 5)
    assert server.stop() == 0


def test_what_a_handler_records_is_served_as_soon_as_it_has_answered(serve):
    server = serve()
    for _ in range(3):
        server.predict("counting", "four")
    text = page(server.ports[2], "/metrics?name[]=Rows&name[]=Loads&name[]=Lengths&name[]=Declared")
    own = {"ModelName": "counting", "Level": "Model", "Hostname": HOST}
    assert samples(text, "Rows") == [({"Kind": "whole"} | own, 3)]
    assert samples(text, "Loads") == [(own, 1)]
    assert samples(text, "Declared") == [({"Kind": "x", "Hostname": HOST}, 11)]
    assert samples(text, "Lengths_sum") == [({"Kind": "body", "Hostname": HOST}, 12)]
    assert "Requests2XX" not in text
    for said in (
        'metric refused metric="not a name"',
        "a counter cannot go down",
        "it is not a finite number",
    ):
        until(lambda said=said: said in server.log)
        assert server.log.count(said) == 1
    # A worker that dies takes nothing along, and the one after it goes on from there.
    (before,) = server.workers("counting")
    os.kill(before, signal.SIGKILL)
    until(lambda: server.workers("counting") not in ([before], []))
    server.predict("counting", "four")
    text = page(server.ports[2])
    assert [value for _, value in samples(text, "Rows")] == [4]
    assert [value for _, value in samples(text, "Loads")] == [2]


def test_one_port_shows_everything(serve):
    port, metrics = free_ports(2)
    flags = [f"--{name}-address=http://127.0.0.1:{port}" for name in ("inference", "management")]
    serve(*flags, f"--metrics-address=http://127.0.0.1:{metrics}", ports=(port, port, metrics))
    for each in (port, metrics):
        assert samples(page(each), "MemoryUsed")


def test_the_page_is_compressed_for_who_takes_it(serve):
    server = serve()
    with Wire(server.ports[2]) as wire:
        wire.send(request("GET", "/metrics", b"", "accept-encoding: gzip;q=1.0,*;q=0.5"))
        answer = wire.answer()
    assert answer.headers["content-encoding"] == "gzip"
    text = gzip.decompress(answer.body)
    assert len(answer.body) < len(text) / 3
    assert b"# TYPE mooring_requests_total counter" in text
    assert b"# TYPE mooring_requests_total counter" in page(server.ports[2]).encode()


def test_nothing_is_served_where_the_metrics_api_is_off(serve):
    server = serve("--no-enable-metrics-api")
    with pytest.raises(ConnectionRefusedError):
        Wire(server.ports[2])
    assert server.ask("GET", "/metrics").code == 404
    assert "metrics  " not in server.log


def test_log_mode_writes_what_is_not_served(serve):
    server = serve("--metrics-mode=log", "--metric-time-interval=0.2")
    server.predict("counting", "four")
    assert page(server.ports[2]) == ""
    until(lambda: "TS_METRICS - ts_inference_requests_total.Count:1.0|#model_name:counting" in server.log)
    assert (
        f"MODEL_METRICS - Rows.Count:1.0|#Kind:whole,ModelName:counting,Level:Model|#hostname:{HOST}"
        in server.log
    )
    assert server.stop() == 0
    assert server.faults() == []


def test_a_metrics_config_that_declares_nothing_is_refused_at_the_start(tmp_path, model):
    (tmp_path / "metrics.yaml").write_text("model_metrics: {counter: [{unit: ms}]}")
    server = Server(tmp_path, model, "--metrics-config=metrics.yaml")
    assert server.process.wait(30) == 1
    assert "metrics_config: metrics.yaml: a metric has no 'name'" in server.log


PROMETHEUS = shutil.which("prometheus")


@pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus on this machine")
def test_prometheus_scrapes_it_and_answers_queries_on_its_names(serve, tmp_path):
    server = serve()
    server.predict("counting", "four")
    (port,) = free_ports(1)
    config = tmp_path / "prometheus.yml"
    job = {"job_name": "m", "scrape_interval": "1s",
           "static_configs": [{"targets": [f"127.0.0.1:{server.ports[2]}"]}]}  # fmt: skip
    config.write_text(json.dumps({"scrape_configs": [job]}))
    process = subprocess.Popen(
        [PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
         f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def asked(query):
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/api/v1/query?query={query}", timeout=5
            ) as answer:
                return [each["value"][1] for each in json.load(answer)["data"]["result"]]
        except OSError:
            time.sleep(0.2)
            return []

    try:
        until(lambda: asked("ts_inference_requests_total") == ["1"])
        assert asked("Rows") == ["1"]
        assert len(asked("MemoryUtilization")) == 1
    finally:
        process.kill()
        process.wait()
