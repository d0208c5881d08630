"""``mooring tritonserver`` with several repositories, in its three modes of control, and with models that do not load."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import requests
import tritonclient.grpc
from e2e_kit import PATIENCE, Server, free_ports, until
from tritonclient.utils import InferenceServerException

GOOD = "def infer(x):\n    return {'y': x}\n"
BROKEN = "raise ValueError('no weights here')\n"
CONFIG = """
backend: "python"
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""


def add(repository, name, source=GOOD):
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(CONFIG)
    (repository / name / "1" / "model.py").write_text(source)


@pytest.fixture
def repositories(tmp_path):
    """Two repositories with one model each of their own, and one of the same name."""
    first, second = tmp_path / "first", tmp_path / "second"
    add(first, "one")
    add(second, "two")
    for each in (first, second):
        add(each, "both")
    return first, second


@contextmanager
def triton(folder, *repositories, flags=(), status=0):
    http, rpc, metrics = free_ports(3)
    server = Server(
        folder, *(f"--model-repository={each}" for each in repositories), "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1", f"--http-port={http}", f"--grpc-port={rpc}", f"--metrics-port={metrics}",
        *flags, command="tritonserver", ports=(http, rpc, metrics),
    )  # fmt: skip
    try:
        until(
            lambda: "Started HTTPService" in server.log or server.process.poll() is not None,
            within=3 * PATIENCE,
        )
        yield server
        assert server.stop() == status
    finally:
        server.kill()


def index(server):
    found = requests.post(f"{server.url}/v2/repository/index", timeout=PATIENCE).json()
    return {each["name"]: (each["state"], each["reason"]) for each in found}


def load(server, name):
    return requests.post(f"{server.url}/v2/repository/models/{name}/load", timeout=PATIENCE)


def test_several_repositories_are_served_and_a_name_in_both_is_not(tmp_path, repositories):
    with triton(tmp_path, *repositories, flags=["--exit-on-error=false"]) as server:
        found = index(server)
        assert (found["one"][0], found["two"][0], found["both"][0]) == ("READY", "READY", "UNAVAILABLE")
        assert "is in several model repositories" in found["both"][1]
        refused = load(server, "one")
        assert (refused.status_code, "explicit model load / unload is not allowed" in refused.text) == (
            503,
            True,
        )
        with (
            tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.ports[1]}") as client,
            pytest.raises(InferenceServerException) as error,
        ):
            client.unload_model("one")
        assert "UNAVAILABLE" in error.value.status()


def test_a_model_that_does_not_load_ends_the_start_with_status_1(tmp_path):
    add(tmp_path / "models", "good")
    add(tmp_path / "models", "broken", BROKEN)
    with triton(tmp_path, tmp_path / "models", status=1) as server:
        assert server.process.wait(PATIENCE) == 1
        assert "not loaded: broken; with exit_on_error false the others are served" in server.log
        assert "no weights here" in server.log
        assert "Started HTTPService" not in server.log


def test_clients_load_and_unload_from_every_repository_where_that_is_allowed(tmp_path, repositories):
    flags = ["--model-control-mode=explicit", "--load-model=two"]
    with triton(tmp_path, *repositories, flags=flags) as server:
        assert {name: state for name, (state, _) in index(server).items()} == {
            "one": "UNAVAILABLE", "two": "READY", "both": "UNAVAILABLE",
        }  # fmt: skip
        assert load(server, "one").status_code == 200
        assert load(server, "both").status_code == 400
        missing = load(server, "nobody")
        assert missing.json()["error"].startswith(
            "failed to load 'nobody', failed to poll from model repository"
        )
        unloaded = requests.post(f"{server.url}/v2/repository/models/two/unload", timeout=PATIENCE)
        assert unloaded.status_code == 200
        assert index(server)["two"][0] == "UNAVAILABLE"


def test_a_model_of_the_start_that_is_in_no_repository_ends_it(tmp_path, repositories):
    flags = ["--model-control-mode=explicit", "--load-model=nobody"]
    with triton(tmp_path, *repositories, flags=flags, status=1) as server:
        assert server.process.wait(PATIENCE) == 1
        assert "there is no folder 'nobody' in the model repository" in server.log


TELLS = {
    "model": """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("y", np.array([request.parameters()], object))])
            for request in requests
        ]
""",
    "function": """
import json

def infer(x, parameters):
    return {"y": [json.dumps(parameters)]}
""",
}


def test_headers_that_match_a_pattern_become_parameters(tmp_path):
    for name, source in TELLS.items():
        add(tmp_path / "models", name, source)
        config = CONFIG.replace('"y" data_type: TYPE_FP32', '"y" data_type: TYPE_STRING').replace(
            "[ 1 ]", "[ -1 ]"
        )
        (tmp_path / "models" / name / "config.pbtxt").write_text(config)
    flags = ["--http-header-forward-pattern=x-own.*"]
    with triton(tmp_path, tmp_path / "models", flags=flags) as server:
        for name in TELLS:
            for size in (1, 100_000):  # a large body is decoded in the worker
                given = {"name": "x", "shape": [size], "datatype": "FP32", "data": [1.5] * size}
                answer = requests.post(
                    f"{server.url}/v2/models/{name}/infer", timeout=PATIENCE, headers={"X-Own-Tenant": "a", "other": "b"},
                    json={"inputs": [given], "parameters": {"mine": 3}},
                ).json()  # fmt: skip
                (told,) = answer["outputs"][0]["data"]
                assert {key.lower(): value for key, value in json.loads(told).items()} == {
                    "x-own-tenant": "a",
                    "mine": 3,
                }
            tensor = tritonclient.grpc.InferInput("x", [1], "FP32")
            tensor.set_data_from_numpy(np.float32([1]))
            with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.ports[1]}") as client:
                result = client.infer(name, [tensor], headers={"x-own-tenant": "c"})
            assert json.loads(result.as_numpy("y")[0]) == {"x-own-tenant": "c"}


def test_the_log_goes_to_its_file(tmp_path):
    add(tmp_path / "models", "good")
    with triton(tmp_path, tmp_path / "models", flags=[f"--log-file={tmp_path / 'triton.log'}"]) as server:
        assert "model ready model=good" in (tmp_path / "triton.log").read_text()
        assert "model ready" not in server.log
        settings = requests.get(f"{server.url}/v2/logging", timeout=PATIENCE).json()
        assert settings["log_file"] == str(tmp_path / "triton.log")


def test_every_repository_is_followed_with_poll(tmp_path, repositories):
    first, second = repositories
    flags = ["--model-control-mode=poll", "--exit-on-error=false"]
    with triton(tmp_path, first, second, flags=flags) as server:
        add(second, "late")
        until(lambda: index(server).get("late", ("",))[0] == "READY")
        assert load(server, "late").status_code == 503
        (second / "late").rename(tmp_path / "gone")
        until(lambda: "late" not in index(server))
