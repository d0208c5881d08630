"""Every query of every dashboard, asked of a Prometheus that scrapes a server with models of many kinds under load.

Prometheus has the configuration of deploy/prometheus for TLS and a token, with its rules; only addresses, files and
intervals are others.
"""

import json
import math
import os
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
import types
import urllib.error
import urllib.parse
import urllib.request
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import yaml
from board_kit import BOARDS, ROOT, fill_in, load, queries, variables
from e2e_kit import JSON, PATIENCE, Server, free_ports, until
from tls_kit import Authority

import mooring
from mooring.observability.gpus import Gpu
from mooring.observability.metrics import CONTENT_TYPE, Metrics

PROMETHEUS = shutil.which("prometheus")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus on this machine"),
]

SCRAPE_INTERVAL = 0.5  # seconds
# What has to be 0 where all is well, and cannot be made to happen here.
ZERO = {"Servers down"}

ADDER = "def infer(inputs, parameters):\n    return {'y': inputs['x'] + 1}\n"
SLOW = "import time\n\ndef infer(inputs, parameters):\n    time.sleep(0.25)\n    return {'y': inputs['x']}\n"
FAULTY = "def infer(inputs, parameters):\n    raise RuntimeError('never')\n"
BROKEN = "raise RuntimeError('this model cannot be loaded')\n"
TOTALS = """
class Model:
    def infer(self, x, sequence_id, sequence_start, sequence_end):
        return {"y": x}
"""
HANDLER = """
from ts.torch_handler.base_handler import BaseHandler

class Lengths(BaseHandler):
    def initialize(self, context):
        self.context = context

    def preprocess(self, data):
        return [len(row["body"]) for row in data]

    def inference(self, data):
        return data

    def postprocess(self, data):
        return [str(length) for length in data]
"""
WORDS = "def count(text: str) -> dict:\n    return {'letters': len(text)}\n"
MODELS = {
    "adder": ("max_batch_size = 8\n[workers]\nmin = 2\nmax = 2\nmax_requests = 40\n", ADDER),
    "slow": (
        "queue_size = 4\n[workers]\nmin = 1\nmax = 2\n[scaling]\ntarget_queue_ms = 100\nwindow = 1\n",
        SLOW,
    ),
    # Without a worker between two requests.
    "rare": (
        "[workers]\nmin = 0\nmax = 2\n[scaling]\ntarget_queue_ms = 100\nwindow = 0.3\ncool_down = 0.3\n",
        ADDER,
    ),
    "faulty": ("", FAULTY),
    "broken": ("", BROKEN),
    "cached": ("response_cache = true\n", ADDER),
    "keeper": ("[sequences]\n", TOTALS),
}


class Load:
    """Asks every model again and again, over HTTP and gRPC, until it is stopped. Errors are answers, too."""

    def __init__(self, server: Server, token: str) -> None:
        self._server = server
        self._token = token
        self._stop = threading.Event()
        sequence = {"sequence_id": 7, "sequence_start": True}
        asked = [
            ("/v2/models/adder/infer", *tensor()),
            ("/v2/models/faulty/infer", *tensor()),
            ("/v2/models/cached/infer", *tensor()),
            ("/v2/models/keeper/infer", *tensor(parameters=sequence)),
            ("/v2/models/nowhere/infer", *tensor()),
            ("/predictions/lengths", b"four", {"Content-Type": "text/plain"}),
            ("/predictions/words", b'"seven"', {"Content-Type": JSON}),
            # More than the arena has room for, and than may wait.
            *[("/v2/models/slow/infer", *tensor(65_536))] * 8,
        ]
        self._threads = [threading.Thread(target=self._ask, args=each) for each in asked]
        self._threads.append(threading.Thread(target=self._call))
        rare = ("/v2/models/rare/infer", *tensor(), 2.0)
        self._threads.append(threading.Thread(target=self._ask, args=rare))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _ask(self, path: str, body: bytes, headers: dict[str, str], pause: float = 0.05) -> None:
        asked = urllib.request.Request(self._server.url + path, body, headers)
        asked.add_header("Authorization", f"Bearer {self._token}")
        while not self._stop.wait(pause):
            with suppress(OSError), urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
                answer.read()

    def _call(self) -> None:
        with mooring.Client(f"grpc://{self._server.grpc}", token=self._token) as client:
            while not self._stop.wait(0.1):
                client.infer("adder", {"x": np.ones((1, 1), np.float32)})


def tensor(elements: int = 1, **more: object) -> tuple[bytes, dict[str, str]]:
    """The body of a v2 request with one row in binary, and its headers."""
    size = {"binary_data_size": 4 * elements}
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, elements], "parameters": size}]
    head = json.dumps({"inputs": inputs, **more}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return head + bytes(4 * elements), headers


class Prometheus:
    """A process of Prometheus, and what it answers."""

    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self.process = process
        self.started = time.time()
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, what: str, **parameters: object) -> object:
        """The data of an answer. AssertionError with Prometheus' text where it refuses the query."""
        url = f"{self._url}/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {json.load(error)['error']}") from None

    def values(self, expr: str) -> list[float]:
        """All values of a query since the start, of all its series, without those that are no number."""
        shown = self.ask("query_range", query=expr, start=self.started, end=time.time(), step=1)
        numbers = [float(value) for series in shown["result"] for _, value in series["values"]]
        return [number for number in numbers if math.isfinite(number)]

    def options(self, query: str) -> list[str]:
        """What Grafana offers for a variable with this query, which is label_values(METRIC, LABEL)."""
        metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()
        return self.ask(f"label/{label}/values", **{"match[]": metric})


@pytest.fixture(scope="module")
def token_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secrets")
    for name in ("inference", "management"):
        (folder / f"{name}.token").write_text(f"the-{name}-token")
    return folder


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(tmp_path_factory, token_files, authority):
    """A server with a model of each kind, one of which fails. Its metrics need TLS and a token; two processes take requests."""
    folder = tmp_path_factory.mktemp("server")
    for name, (declared, code) in MODELS.items():
        (folder / f"models/{name}/1").mkdir(parents=True)
        (folder / f"models/{name}/config.toml").write_text(f'name = "{name}"\n{declared}')
        (folder / f"models/{name}/1/model.py").write_text(code)
    archive = folder / "lengths"
    (archive / "MAR-INF").mkdir(parents=True)
    (archive / "handler.py").write_text(HANDLER)
    manifest = {"modelName": "lengths", "modelVersion": "1.0", "handler": "handler.py"}
    (archive / "MAR-INF/MANIFEST.json").write_text(json.dumps({"model": manifest}))
    (folder / "words.py").write_text(WORDS)
    ports = free_ports(3)
    server = Server(
        folder, archive, f"words={folder / 'words.py'}:count", "--model-repository", folder / "models",
        f"--inference-address=http://127.0.0.1:{ports[0]}", f"--management-address=http://127.0.0.1:{ports[1]}",
        f"--metrics-address=https://127.0.0.1:{ports[2]}", *authority.issue().flags, "--protect-metrics",
        f"--inference-token-file={token_files / 'inference.token'}",
        f"--management-token-file={token_files / 'management.token'}", f"--arena-size={2**20}", "--frontends=2",
        ports=ports,
    )  # fmt: skip
    try:
        yield server.started(ping=500)
        assert server.stop() == 0
        assert not [fault for fault in server.faults() if "model=broken" not in fault]
    finally:
        server.kill()


@pytest.fixture(scope="module")
def gpu_page():
    """The port of a page with the GPUs of a driver that is made up: most machines have none."""
    metrics = Metrics()
    gpus = [(0, Gpu(70.0, 50.0, 2.0**30)), (1, Gpu(10.0, 5.0, 2.0**28))]
    metrics.host.machine._gpus = types.SimpleNamespace(read_all=lambda: iter(gpus))

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.end_headers()
            self.wfile.write(metrics.render_text())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield httpd.server_address[1]
        httpd.shutdown()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory, server, gpu_page, token_files, authority):
    """A Prometheus that scrapes the server while it is under load, and has seen a worker die."""
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copytree(ROOT / "deploy/prometheus", folder, dirs_exist_ok=True)
    shutil.copy(authority.ca, folder / "ca.pem")
    shutil.copy(token_files / "inference.token", folder)
    config = yaml.safe_load((folder / "prometheus-secured.yml").read_text())
    config["global"] = {"scrape_interval": f"{SCRAPE_INTERVAL * 1000:.0f}ms", "evaluation_interval": "1s"}
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{server.ports[2]}"]}]
    config["scrape_configs"].append(
        {"job_name": "gpus", "static_configs": [{"targets": [f"127.0.0.1:{gpu_page}"]}]}
    )
    (folder / "prometheus-secured.yml").write_text(json.dumps(config))
    (port,) = free_ports(1)
    log = folder / "log"
    with ExitStack() as stack:
        process = subprocess.Popen(
            [PROMETHEUS, f"--config.file={folder / 'prometheus-secured.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=subprocess.DEVNULL, stderr=stack.enter_context(log.open("wb")),
        )  # fmt: skip
        stack.callback(lambda: (process.kill(), process.wait()))
        until(lambda: b"Server is ready" in log.read_bytes())
        prometheus = Prometheus(process, port)
        stack.enter_context(Load(server, "the-inference-token"))
        selector = 'mooring_requests_total{model_name="adder",outcome="answered"} > 10'
        until(lambda: prometheus.values(selector))
        os.kill(worker_of(server, "adder"), signal.SIGKILL)
        yield prometheus


def worker_of(server: Server, model: str) -> int:
    """The process id of a worker of a model."""
    url = f"http://127.0.0.1:{server.ports[1]}/models/{model}"
    asked = urllib.request.Request(url, headers={"Authorization": "Bearer the-management-token"})
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
        (described,) = json.load(answer)
    return next(worker["pid"] for worker in described["workers"] if worker["status"] == "READY")


def choices(prometheus, server, gpu_page, **chosen: str) -> dict[str, str]:
    """The values of the variables, as Grafana puts them into queries where All is chosen but for ``chosen``."""
    instances = "|".join(
        re.escape(f"127.0.0.1:{port}").replace("\\", "\\\\") for port in (server.ports[2], gpu_page)
    )
    values = {
        "job": "(mooring|gpus)",
        "instance": f"({instances})",
        "model_name": ".+",
        "model_version": ".+",
    }
    return values | {"__rate_interval": f"{max(4 * SCRAPE_INTERVAL, 4):.0f}s"} | chosen


ASKED = [
    pytest.param(file.stem, asked, id=f"{file.stem}-{asked.panel}-{index}")
    for file in BOARDS
    for index, asked in enumerate(queries(load(file)))
]


@pytest.mark.parametrize(("board", "asked"), ASKED)
def test_each_query_of_each_board_shows_something(prometheus, server, gpu_page, board, asked):
    if board == "mooring-model":
        names = [*MODELS, "lengths", "words"]
        filled = [
            fill_in(asked.expr, choices(prometheus, server, gpu_page, model_name=name)) for name in names
        ]
    else:
        filled = [fill_in(asked.expr, choices(prometheus, server, gpu_page))]

    def has_data() -> bool:
        values = [value for expr in filled for value in prometheus.values(expr)]
        return bool(values) and (asked.panel in ZERO or max(values) > 0)

    try:
        until(has_data, within=10)
    except AssertionError:
        shown = {expr: prometheus.values(expr) for expr in filled}
        pytest.fail(f"{asked.panel}: no value above 0: {shown}")


@pytest.mark.parametrize(
    "query",
    [
        "sum by (model_name) (rate(ts_inference_requests_total[5s]))",
        'rate(ts_inference_requests_total{model_name="adder",model_version="default"}[5s])',
        "rate(ts_inference_latency_microseconds[5s]) / rate(ts_inference_requests_total[5s]) / 1000",
        "rate(ts_queue_latency_microseconds[5s]) / rate(ts_inference_requests_total[5s]) / 1000",
        'sum by (Hostname) (rate(Requests2XX{Level="Host"}[5s]))',
        'sum by (Hostname) (rate(Requests4XX{Level="Host"}[5s]))',
        'sum by (Hostname) (rate(Requests5XX{Level="Host"}[5s]))',
        'avg by (Hostname) (CPUUtilization{Level="Host"})',
        "MemoryUsed / (MemoryUsed + MemoryAvailable)",
        "DiskUtilization",
        'GPUUtilization{DeviceId="0"}',
        "QueueTime",
        "WorkerThreadTime",
        'WorkerLoadTime{WorkerName=~"W-9.*"}',
        'PredictionTime{ModelName="lengths",Level="Model"}',
        'HandlerTime{ModelName="lengths",Level="Model"}',
    ],
)
def test_queries_of_dashboards_for_torchserve_show_something(prometheus, query):
    until(lambda: max(prometheus.values(query), default=0) > 0)


@pytest.mark.parametrize("file", BOARDS, ids=lambda file: file.stem)
def test_each_variable_has_choices(prometheus, server, gpu_page, file):
    offered = {}
    for variable in variables(load(file)):
        if variable["type"] == "query":
            query = fill_in(
                variable["query"]["query"], choices(prometheus, server, gpu_page, model_name="adder")
            )
            offered[variable["name"]] = set(prometheus.options(query))
    expected = {
        "job": {"mooring", "gpus"},
        "instance": {f"127.0.0.1:{server.ports[2]}", f"127.0.0.1:{gpu_page}"},
        "model_name": {*MODELS, "lengths", "words"},
        "model_version": {"1"},
    }
    assert offered == {name: expected[name] for name in offered}


def test_the_rules_are_evaluated_and_the_alert_of_the_failed_model_is_raised(prometheus):
    def alerts():
        return {
            (each["labels"]["alertname"], each["labels"].get("model_name"))
            for each in prometheus.ask("alerts")["alerts"]
        }

    until(lambda: ("MooringModelFailed", "broken") in alerts())
    groups = prometheus.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {group["name"] for group in groups} == {"mooring-recording", "mooring-servers", "mooring-models"}
    until(
        lambda: all(
            rule["health"] == "ok" for group in prometheus.ask("rules")["groups"] for rule in group["rules"]
        )
    )
    assert not {rule.get("lastError") for rule in rules} - {None}
    for rule in rules:
        if rule["type"] == "recording":
            until(lambda name=rule["name"]: prometheus.values(name))


def test_metrics_are_not_read_without_the_token(server, authority):
    context = ssl.create_default_context(cafile=authority.ca)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(
            f"https://localhost:{server.ports[2]}/metrics", context=context, timeout=PATIENCE
        )


def scaling_queries() -> dict[str, str]:
    """What the autoscalers of deploy/kubernetes ask, without the labels that only a cluster gives."""
    folder = ROOT / "deploy/kubernetes/overlays"
    scaled = yaml.safe_load((folder / "keda/scaledobject.yaml").read_text())
    found = {each["name"]: each["metadata"]["query"] for each in scaled["spec"]["triggers"]}
    (rule,) = yaml.safe_load((folder / "hpa/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    found["adapter"] = rule["metricsQuery"]
    labels = {',namespace="mooring"': "", "<<.LabelMatchers>>": 'job="mooring"', "<<.GroupBy>>": "instance"}
    for label, value in labels.items():
        found = {name: query.replace(label, value) for name, query in found.items()}
    return found


@pytest.mark.parametrize("name", ["work-per-worker", "oldest-wait", "adapter"])
def test_an_autoscaler_gets_one_number_from_its_query(prometheus, name):
    query = scaling_queries()[name]
    until(lambda: any(value > 0 for value in prometheus.values(query)), within=10)
    assert len(prometheus.ask("query", query=query)["result"]) == 1
