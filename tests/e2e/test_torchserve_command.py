"""TorchServe's own start and stop commands, with its configuration, its snapshots and archives of its archiver."""

import json
import os
import re
import signal
import subprocess
import urllib.request
import zipfile
from pathlib import Path

import grpc
import psutil
import pytest
from e2e_kit import PATIENCE, SCRIPTS, Server, assert_gone, free_ports, pack, run_to_end, until

from mooring.codecs.proto import torchserve_management_pb2 as messages
from mooring.config.properties import parse_properties

# A configuration as people have it, every kind of key in it.
FORTY = """
# where
inference_address=http://127.0.0.1:{0}
management_address=http://127.0.0.1:{1}
metrics_address=http://127.0.0.1:{2}
grpc_inference_address=127.0.0.1
grpc_inference_port={3}
grpc_management_address=127.0.0.1
grpc_management_port={4}
grpc_inference_max_connection_age_ms=600000
grpc_inference_max_connection_age_grace_ms=5000
enable_metrics_api=true
metrics_mode=prometheus
metric_time_interval=30
disable_system_metrics=false
model_metrics_auto_detect=true
model_store=$$STORE$$
load_models=rows.mar,second=rows.mar
models={{"rows": {{"1.0": {{"defaultVersion": true, "marName": "rows.mar", "minWorkers": 1, "maxWorkers": 2,\\
    "batchSize": 3, "maxBatchDelay": 20, "responseTimeout": 60}}}}}}
default_workers_per_model=1
default_response_timeout=90
default_startup_timeout=80
unregister_model_timeout=20
number_of_gpu=0
job_queue_size=50
max_request_size=100000
max_response_size=6553500
limit_max_image_pixels=true
decode_input_request=true
install_py_dep_per_model=false
default_service_handler=environment_handler.py
blacklist_env_vars=SECRET_.*|TOKEN
initial_worker_port=9500
enable_model_api=true
disable_token_authorization=true
allowed_urls=https://models[.]example/.*
use_env_allowed_urls=false
number_of_netty_threads=4
netty_client_threads=2
prefer_direct_buffer=false
async_logging=true
vmargs=-Xmx1g -XX:+UseG1GC
enable_envvars_config=true
ts_open_inference_protocol=true
"""


GUIDE = Path(__file__).parents[2] / "docs" / "guide-torchserve.md"


class TorchServe:
    """The command in a folder of its own, as a user has it in a terminal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = free_ports(5)
        self._environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MOORING_", "TS_")) and name not in ("LOG_LOCATION", "TEMP")
        } | {"TMPDIR": str(folder), "STORE": str(folder / "store")}

    def __call__(self, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [SCRIPTS / "mooring", "torchserve", *arguments]
        return run_to_end(command, self.folder, self._environ | environ)

    def ask(self, method: str, path: str, body: bytes | None = None, *, port: int = 0):
        url = f"http://127.0.0.1:{self.ports[port]}{path}"
        with urllib.request.urlopen(
            urllib.request.Request(url, body, {"Content-Type": "x/y"}, method=method), timeout=PATIENCE
        ) as answer:
            return answer.read().decode()

    def manage(self, method: str, path: str):
        return json.loads(self.ask(method, path, port=1))

    def described(self, model: str, version: str = "") -> dict:
        return self.manage("GET", f"/models/{model}{f'/{version}' if version else ''}")[0]

    @property
    def pid(self) -> int:
        return int((self.folder / ".model_server.pid").read_text())

    @property
    def snapshots(self) -> list[Path]:
        return sorted((self.folder / "logs/config").glob("*.cfg"), key=lambda file: file.stat().st_mtime_ns)

    def family(self) -> list[psutil.Process]:
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """What torch-model-archiver makes: two versions of a model, and one that says what it sees of the environment."""
    folder = tmp_path_factory.mktemp("archives")
    for version in ("2.0", "1.0"):
        pack(folder, "rows", "rows_handler.py", "-v", version, "--force")
        if version == "2.0":
            (folder / "rows.mar").rename(folder / "rows2.mar")
    pack(folder, "environment", "environment_handler.py")
    return folder


@pytest.fixture
def torchserve(tmp_path, archives):
    (tmp_path / "store").mkdir()
    for archive in archives.iterdir():
        (tmp_path / "store" / archive.name).write_bytes(archive.read_bytes())
    command = TorchServe(tmp_path)
    (tmp_path / "config.properties").write_text(FORTY.format(*command.ports))
    yield command
    left = command.family() if (tmp_path / ".model_server.pid").exists() else []
    command("--stop")
    assert_gone(left)


def test_a_deployment_with_forty_keys_starts_answers_and_stops_unchanged(torchserve):
    assert len(parse_properties((torchserve.folder / "config.properties").read_text())) >= 40
    (torchserve.folder / "key_file.json").write_text("{}")
    done = torchserve("--start", "--ts-config", "config.properties", TS_JOB_QUEUE_SIZE="60", SECRET_A="x")
    assert done.returncode == 0, done.stderr
    assert "\nModel server started.\n" in done.stdout
    assert " [INFO ] main mooring." in done.stdout, "the log is on standard output, too"
    log = (torchserve.folder / "logs/ts_log.log").read_text()
    (idle,) = [line for line in log.splitlines() if "not applicable here" in line]
    for key in ("number_of_netty_threads", "netty_client_threads", "async_logging", "vmargs"):
        assert idle.count(f"{key} (") == 1
    assert "prefer_direct_buffer" not in idle
    for model in ("rows", "second"):
        assert torchserve.ask("POST", f"/predictions/{model}", b"x") == "{'body': bytearray(b'x')}"
    described = torchserve.described("rows")
    assert [described[key] for key in ("maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout")] == [
        2,
        3,
        20,
        60,
    ]
    assert torchserve.described("second")["responseTimeout"] == 90
    assert described["jobQueueStatus"]["remainingCapacity"] == 60
    assert {described["workers"][0]["id"], torchserve.described("second")["workers"][0]["id"]} == {
        "9500",
        "9501",
    }
    assert "ts_inference_requests_total" in torchserve.ask("GET", "/metrics", port=2)
    assert rpc_describes(torchserve.ports[4])
    second = torchserve("--start", "--model-store", "store")
    assert second.returncode == 1
    assert "TorchServe is already running" in second.stdout
    family = torchserve.family()
    assert torchserve("--stop").stdout == "TorchServe has stopped.\n"
    assert_gone(family)
    assert not (torchserve.folder / ".model_server.pid").exists()
    assert not (torchserve.folder / "key_file.json").exists()


def rpc_describes(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        describe = channel.unary_unary(
            "/org.pytorch.serve.grpc.management.ManagementAPIsService/DescribeModel",
            request_serializer=messages.DescribeModelRequest.SerializeToString,
            response_deserializer=messages.ManagementResponse.FromString,
        )
        return '"modelName": "rows"' in describe(messages.DescribeModelRequest(model_name="rows")).msg


def test_workers_see_neither_hidden_variables_nor_gpus(torchserve):
    (torchserve.folder / "store/bare.mar").mkdir()
    (torchserve.folder / "store/bare.mar/MAR-INF").mkdir()
    (torchserve.folder / "store/bare.mar/MAR-INF/MANIFEST.json").write_text(
        '{"model": {"modelName": "bare"}}'
    )
    code = Path(__file__).with_name("handlers") / "environment_handler.py"
    (torchserve.folder / "store/bare.mar/environment_handler.py").write_text(code.read_text())
    done = torchserve(
        "--start", "--ts-config", "config.properties", TS_LOAD_MODELS="bare.mar",
        SECRET_A="a", TOKEN="b", TOKENS="c", CUDA_VISIBLE_DEVICES="3,4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(
        torchserve.ask("POST", "/predictions/bare", b"SECRET_A,TOKEN,TOKENS,CUDA_VISIBLE_DEVICES")
    )
    assert seen == {"SECRET_A": None, "TOKEN": None, "TOKENS": "c", "CUDA_VISIBLE_DEVICES": ""}


def test_after_kill_9_the_next_start_goes_on_from_the_last_snapshot(torchserve):
    assert torchserve("--start", "--ts-config", "config.properties").returncode == 0
    registered = torchserve.manage(
        "POST", "/models?url=rows2.mar&initial_workers=1&synchronous=true&batch_size=5"
    )
    assert "registered with 1 initial workers" in registered["status"]
    torchserve.manage("PUT", "/models/rows/2.0?min_worker=2&max_worker=3&synchronous=true")
    torchserve.manage("PUT", "/models/rows/2.0/set-default")
    torchserve.manage("DELETE", "/models/second")
    assert [file.name.partition("-")[2] for file in torchserve.snapshots] == [
        "startup.cfg",
        *["snapshot.cfg"] * 4,
    ]
    family = torchserve.family()
    os.kill(torchserve.pid, signal.SIGKILL)
    assert_gone(family)
    done = torchserve("--start", "--models", "environment.mar")
    assert done.returncode == 0, done.stderr
    assert f"from {Path('logs/config') / torchserve.snapshots[4].name}" in done.stderr
    models = torchserve.manage("GET", "/models")["models"]
    assert models == [{"modelName": "rows", "modelUrl": "rows2.mar"}]
    described = torchserve.described("rows")
    assert described["modelVersion"] == "2.0"
    assert [described[key] for key in ("minWorkers", "maxWorkers", "batchSize")] == [2, 3, 5]
    until(lambda: len(torchserve.described("rows")["workers"]) == 2)
    assert torchserve.described("rows", "1.0")["batchSize"] == 3
    assert torchserve.ask("POST", "/predictions/rows", b"x") == "{'body': bytearray(b'x')}"
    assert "--models and load_models are ignored" in (torchserve.folder / "logs/ts_log.log").read_text()
    assert torchserve("--stop").returncode == 0
    assert torchserve.snapshots[-1].name.endswith("-shutdown.cfg")


def test_a_snapshot_that_torchserve_wrote_is_restored(torchserve):
    snapshot = {
        "name": "20231121094105123-snapshot.cfg", "modelCount": 1, "created": 1700559665123,
        "models": {"rows": {
            "1.0": {"defaultVersion": False, "marName": "rows.mar", "minWorkers": 1, "maxWorkers": 1, "batchSize": 1,
                    "maxBatchDelay": 100, "responseTimeout": 120, "startupTimeout": 120, "runtimeType": "python"},
            "2.0": {"defaultVersion": True, "marName": "rows2.mar", "minWorkers": 0, "maxWorkers": 4, "batchSize": 4,
                    "maxBatchDelay": 50, "responseTimeout": 30, "runtimeType": "python"},
        }},
    }  # fmt: skip
    text = FORTY.format(*torchserve.ports) + f"model_snapshot={json.dumps(snapshot, indent=1)}".replace(
        "\n", "\\\n"
    )
    text = f"#Saving snapshot\n#Wed Mar 25 13:50:47 UTC 2020\nNUM_WORKERS=4\ntsConfigFile=config.properties\n{text}"
    folder = torchserve.folder / "elsewhere/config"
    folder.mkdir(parents=True)
    (folder / "20231121094105123-snapshot.cfg").write_text(text.replace("http:", "http\\:"))
    done = torchserve("--start", LOG_LOCATION="elsewhere")
    assert done.returncode == 0, done.stderr
    assert "no keys of" not in (torchserve.folder / "elsewhere/ts_log.log").read_text()
    described = torchserve.described("rows")
    assert (described["modelVersion"], described["minWorkers"], described["maxWorkers"]) == ("2.0", 0, 4)
    assert (described["batchSize"], described["maxBatchDelay"], described["responseTimeout"]) == (4, 50, 30)
    assert torchserve.ask("POST", "/predictions/rows/1.0", b"x") == "{'body': bytearray(b'x')}"


def test_a_start_in_the_background_that_fails_says_why_in_the_terminal(torchserve):
    (torchserve.folder / "broken.properties").write_text("model_store=store\nload_models=nothing.mar")
    done = torchserve("--start", "--ts-config", "broken.properties", MOORING_REQUIRE_MODELS="true")
    assert done.returncode == 1
    assert "no 'nothing.mar' in" in done.stderr
    assert not (torchserve.folder / ".model_server.pid").exists()
    (torchserve.folder / "store/rows2.mar").unlink()
    gone = '{"models": {"rows": {"2.0": {"marName": "rows2.mar"}}}}'
    (torchserve.folder / "last.properties").write_text(f"model_store=store\nmodel_snapshot={gone}")
    done = torchserve("--start", "--ts-config", "last.properties")
    assert done.returncode == 1
    assert "model 'rows' version '2.0' of the snapshot: no 'rows2.mar' in" in done.stderr


FLOW = """
models:
  m1: {url: rows.mar}
dag:
  pre: [m1]
"""
FUNCTIONS = "def pre(data, context):\n    return None if data is None else [bytes(data[0]['body'])]\n"


def make_workflow(folder: Path, name: str) -> None:
    made = {"workflow": {"workflowName": name, "specFile": "wf.yaml", "handler": "fn.py"}}
    with zipfile.ZipFile(folder / f"{name}.war", "w") as archive:
        archive.writestr("WAR-INF/MANIFEST.json", json.dumps(made))
        archive.writestr("wf.yaml", FLOW)
        archive.writestr("fn.py", FUNCTIONS)


def test_what_is_missing_or_broken_is_left_out_and_the_rest_is_served_with_its_workflows(torchserve):
    store, flows = torchserve.folder / "store", torchserve.folder / "flows"
    flows.mkdir()
    (store / "broken.mar").write_bytes(b"junk")
    make_workflow(flows, "one")
    make_workflow(store, "two")
    named = ["gone.mar", "rows.mar", "broken.mar", "one.war", "second=two.war", "gone.war"]
    done = torchserve(
        "--ncs", "--ts-config", "config.properties", "--workflow-store", "flows", "--models", *named,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = (torchserve.folder / "logs/ts_log.log").read_text()
    for url, reason in (
        ("model: gone.mar", "there is broken.mar, environment.mar, rows.mar"), ("model: broken.mar", "zip"),
        ("workflow: gone.war", "there is one.war"),
    ):  # fmt: skip
        (line,) = [line for line in log.splitlines() if f"Failed to load {url}" in line]
        assert "WARN" in line
        assert reason in line
        assert url.partition(".")[0].partition(": ")[2] in done.stdout
    assert json.loads(torchserve.ask("GET", "/ping"))["status"] == "Healthy"
    assert torchserve.ask("POST", "/predictions/rows", b"x") == "{'body': bytearray(b'x')}"
    for workflow in ("one", "second"):
        assert "bytearray(b'x')" in torchserve.ask("POST", f"/wfpredict/{workflow}", b"x")
    assert [each["workflowName"] for each in torchserve.manage("GET", "/workflows")["workflows"]] == [
        "one",
        "second",
    ]
    registered = torchserve.manage(
        "POST", "/models?url=rows2.mar&model_name=gone&initial_workers=1&synchronous=true"
    )
    assert "registered with 1 initial workers" in registered["status"]


def test_a_workflow_that_is_required_and_missing_ends_the_start(tmp_path, archives):
    server = Server(tmp_path, "--model-store", archives, "--models", "gone.war")
    try:
        assert server.process.wait(PATIENCE) == 1
        assert "no 'gone.war' in" in server.log.splitlines()[-1]
    finally:
        server.kill()


def test_a_start_of_which_nothing_can_be_loaded_serves_all_the_same(torchserve):
    done = torchserve("--start", "--ncs", "--ts-config", "config.properties", "--models", "gone.mar")
    assert done.returncode == 0, done.stderr
    assert json.loads(torchserve.ask("GET", "/ping"))["status"] == "Healthy"
    assert torchserve.manage("GET", "/models")["models"] == []


def test_without_snapshots_none_is_written(torchserve):
    text = (torchserve.folder / "config.properties").read_text().replace("=prometheus", "=log")
    (torchserve.folder / "config.properties").write_text(text)
    done = torchserve("--start", "--ncs", "--ts-config", "config.properties", METRICS_LOCATION="figures")
    assert done.returncode == 0, done.stderr
    torchserve.ask("POST", "/predictions/rows", b"x")
    assert torchserve("--stop").returncode == 0
    assert torchserve.snapshots == []
    assert "ts_inference_requests_total" in (torchserve.folder / "figures/ts_metrics.log").read_text()


def test_the_greeting_names_the_ports_that_were_found(torchserve):
    text = FORTY.format(0, 0, 0, 0, 0)
    (torchserve.folder / "config.properties").write_text(text)
    done = torchserve("--start", "--ts-config", "config.properties")
    assert done.returncode == 0, done.stderr
    named = dict(re.findall(r"^  (\w+) +(?:http://)?127\.0\.0\.1:(\d+)", done.stdout, re.MULTILINE))
    (management,) = re.findall(r"management .*, gRPC 127\.0\.0\.1:(\d+)$", done.stdout, re.MULTILINE)
    torchserve.ports = [int(named[name]) for name in ("inference", "management", "metrics", "gRPC")]
    assert len({0, int(management), *torchserve.ports}) == 6
    assert torchserve.ask("POST", "/predictions/rows", b"x") == "{'body': bytearray(b'x')}"
    assert "models" in torchserve.manage("GET", "/models")
    assert "ts_inference_requests_total" in torchserve.ask("GET", "/metrics", port=2)
    assert rpc_describes(int(management))
    assert "inference_address=http\\://127.0.0.1\\:0" in torchserve.snapshots[-1].read_text()


def test_mooring_serve_writes_snapshots_and_goes_on_from_one_where_it_is_told_to(tmp_path, archives):
    start = ("--model-store", archives, "--snapshot-folder", "snapshots")
    first = Server(tmp_path, *start, "--models", "own=rows.mar")
    try:
        assert first.started().predict("own", "x").code == 200
        assert first.stop() == 0
    finally:
        first.kill()
    names = sorted(file.name for file in (tmp_path / "snapshots").iterdir())
    assert [name.partition("-")[2] for name in names] == ["startup.cfg", "shutdown.cfg"]
    second = Server(tmp_path, "--config", tmp_path / "snapshots" / names[-1])
    try:
        assert second.started().predict("own", "x").code == 200
        assert second.stop() == 0
    finally:
        second.kill()


def guide_table(first: str) -> list[str]:
    """The first column of the table of docs/guide-torchserve.md that begins with this cell."""
    text = GUIDE.read_text().split(f"| {first} |")[1].split("\n\n")[0]
    return [line.split("|")[1].strip(" `") for line in text.splitlines() if line.startswith("| `")]


def test_the_variables_and_the_files_of_the_guide_are_there(torchserve):
    places = {name: torchserve.folder / name.lower() for name in ("LOG_LOCATION", "METRICS_LOCATION", "TEMP")}
    places["TEMP"].mkdir()
    (torchserve.folder / "config.properties").rename(torchserve.folder / "named.properties")
    with (torchserve.folder / "named.properties").open("a") as file:
        file.write("\nenable_envvars_config=true\ndisable_token_authorization=false\nmetrics_mode=log\n")
    environ = {name: str(place) for name, place in places.items()}
    done = torchserve(
        "--start", TS_CONFIG_FILE="named.properties", TS_DEFAULT_RESPONSE_TIMEOUT="77", **environ
    )
    assert done.returncode == 0, done.stderr
    keys = json.loads((torchserve.folder / "key_file.json").read_text())
    authorize = {"Authorization": f"Bearer {keys['inference']['key']}"}
    url = f"http://127.0.0.1:{torchserve.ports[0]}/predictions/rows"
    with urllib.request.urlopen(urllib.request.Request(url, b"x", authorize), timeout=PATIENCE) as answer:
        assert answer.status == 200
    files = guide_table("file")
    assert len(files) == 8
    for file in files:
        head, _, rest = file.partition("/")
        place = places.get(head, torchserve.folder)
        pattern = rest if head in (*places, "TMPDIR") else file
        until(lambda place=place, pattern=pattern: any(place.glob(pattern)))
    shown = json.loads(
        urllib.request.urlopen(
            urllib.request.Request(
                f"http://127.0.0.1:{torchserve.ports[1]}/models/second",
                headers={"Authorization": f"Bearer {keys['management']['key']}"},
            ),
            timeout=PATIENCE,
        ).read()
    )
    assert shown[0]["responseTimeout"] == 77
    variables = guide_table("variable")
    assert variables == [
        "TS_CONFIG_FILE",
        "TS_ALLOWED_URLS`, and `TS_` with any key",
        "LOG_LOCATION",
        "METRICS_LOCATION",
        "TEMP",
    ]
