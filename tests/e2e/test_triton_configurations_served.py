"""Configurations written for Triton at a real server: what they ask for is what clients get, or the load says why not."""

import concurrent.futures
import json
import threading
import time

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.utils
from e2e_kit import PATIENCE, Server, free_ports
from google.protobuf.json_format import ParseDict
from tritonclient.grpc.model_config_pb2 import ModelConfig

QUEUE = """
max_batch_size: 1
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
dynamic_batching { default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 300000 max_queue_size: 2 } }
"""
MODELS = {
    "queue": ("import time\ndef infer(x):\n    time.sleep(float(x[0, 0]))\n    return {'y': x}\n", QUEUE),
    "shapes": (
        (
            "import numpy as np\n"
            "def infer(n, k=None):\n"
            "    return {'shape': np.array([str(n.shape)] * len(n), object), 'k': n[:, 0] * 0 + (k is not None)}\n"
        ),
        """
        max_batch_size: 4
        input [
          { name: "n" data_type: TYPE_FP32 dims: [ 4 ] format: FORMAT_NONE reshape { shape: [ 2, 2 ] } },
          { name: "k" data_type: TYPE_FP32 dims: [ 1 ] optional: true }
        ]
        output [
          { name: "shape" data_type: TYPE_STRING dims: [ 1 ] reshape { shape: [ ] } },
          { name: "k" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "k.txt" }
        ]
        optimization { graph { level: 1 } }
        """,
    ),
    "nothing": (
        "def infer(x):\n    for each in x:\n        yield {'y': [each]}\n",
        """
        input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
        output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
        model_transaction_policy { decoupled: true }
        """,
    ),
    "states": (
        "def infer(x, READY, CORRID):\n    return {'y': x}\n",
        """
        max_batch_size: 2
        input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
        output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
        sequence_batching {
          oldest { max_candidate_sequences: 4 }
          max_sequence_idle_microseconds: 5000000
          control_input [
            { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] },
            { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
          ]
        }
        """,
    ),
    "typo": ("def infer(x): return {'y': x}\n", "dynamic_batching { max_queue_delay_microsecond: 100 }"),
    "ragged": (
        "def infer(x): return {'y': x}\n",
        'input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }',
    ),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton") / "models"
    for name, (source, config) in MODELS.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(source)
        (folder / name / "config.pbtxt").write_text(f'backend: "python"\n{config}')
    (folder / "shapes" / "k.txt").write_text("left\nright\n")
    return folder


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    (port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("server")
    server = Server(
        folder,
        "--model-repository",
        repository,
        f"--grpc-address=127.0.0.1:{port}",
        "--no-strict-readiness",
    )
    server.grpc_authority = f"127.0.0.1:{port}"
    try:
        yield server.started()
    finally:
        server.kill()


@pytest.fixture
def grpc(server):
    client = tritonclient.grpc.InferenceServerClient(server.grpc_authority)
    yield client
    client.close()


def tensor(name, values, datatype="FP32"):
    array = np.float32(values)
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}


def ask(server, model, *tensors, path="infer", **more):
    body = {"inputs": list(tensors), **more}
    return requests.post(f"{server.url}/v2/models/{model}/{path}", json=body, timeout=PATIENCE)


def outputs(done):
    assert done.status_code == 200, done.text
    return {each["name"]: each["data"] for each in done.json()["outputs"]}


def test_who_finds_no_place_or_waits_too_long_is_refused(server):
    threads = concurrent.futures.ThreadPoolExecutor(5)
    running = threads.submit(ask, server, "queue", tensor("x", [[2.0]]))
    time.sleep(0.5)
    waiting = [threads.submit(ask, server, "queue", tensor("x", [[0]])) for _ in range(4)]
    refusals = [each.result() for each in waiting]
    assert [each.status_code for each in refusals] == [503] * 4
    texts = sorted(each.json()["error"] for each in refusals)
    assert ["Request timeout expired" in each for each in texts].count(True) == 2
    assert ["2 requests waiting" in each for each in texts].count(True) == 2
    assert running.result().status_code == 200
    assert outputs(ask(server, "queue", tensor("x", [[0]]))) == {"y": [0]}


def test_a_model_gets_its_own_shape_and_optional_inputs_or_not(server):
    row = [[1, 2, 3, 4]]
    assert outputs(ask(server, "shapes", tensor("n", row)))["shape"] == ["(1, 2, 2)"]
    assert outputs(ask(server, "shapes", tensor("n", row)))["k"] == [0, 0]
    assert outputs(ask(server, "shapes", tensor("n", row), tensor("k", [[1]])))["k"] == [1, 1]
    refused = ask(server, "shapes", tensor("n", [[[1, 2], [3, 4]]]))
    assert (refused.status_code, "takes [-1, 4]" in refused.json()["error"]) == (400, True)
    done = requests.post(
        f"{server.url}/v1/models/shapes:predict", json={"instances": [{"n": row[0]}] * 2}, timeout=PATIENCE
    )
    assert [each["shape"] for each in done.json()["predictions"]] == [["(2, 2, 2)"]] * 2
    named = requests.post(
        f"{server.url}/v2/models/shapes/generate", json={"n": [1, 2, 3, 4]}, timeout=PATIENCE
    )
    assert named.json()["shape"] == "(1, 2, 2)"


def test_the_classes_of_an_output_have_its_own_names(server):
    wanted = [{"name": name, "parameters": {"classification": 1}} for name in ("k",)]
    done = ask(server, "shapes", tensor("n", [[1, 2, 3, 4]]), tensor("k", [[1]]), outputs=wanted)
    assert outputs(done) == {"k": ["1.000000:0:left"]}


def test_a_decoupled_model_gives_as_many_responses_as_it_likes(server, grpc):
    def stream(*values):
        body = {"x": list(values)}
        done = requests.post(f"{server.url}/v2/models/nothing/generate_stream", json=body, timeout=PATIENCE)
        assert done.status_code == 200
        return [json.loads(line.removeprefix("data: "))["y"] for line in done.text.split("\n\n") if line]

    assert stream(1, 2) == [1, 2]
    assert stream() == []
    refused = ask(server, "nothing", tensor("x", []))
    assert (refused.status_code, "generate_stream" in refused.json()["error"]) == (501, True)
    assert requests.post(f"{server.url}/predictions/nothing", json={"x": []}, timeout=PATIENCE).content == b""
    assert streamed(grpc, enable_empty_final_response=True) == [(None, True)]
    assert streamed(grpc) == []


def streamed(grpc, **how):
    """What ModelStreamInfer gives for a request without a response, and then for one with one."""
    found, ended = [], threading.Event()

    def heard(result, error):
        assert error is None
        response = result.get_response()
        if response.id == "last":
            ended.set()
        else:
            final = response.parameters["triton_final_response"].bool_param
            found.append((result.as_numpy("y"), final))

    grpc.start_stream(heard)
    for values, name in (([], "first"), ([1], "last")):
        given = tritonclient.grpc.InferInput("x", [len(values)], "FP32")
        given.set_data_from_numpy(np.float32(values))
        grpc.async_stream_infer("nothing", [given], request_id=name, **(how if name == "first" else {}))
        time.sleep(0.5)
    assert ended.wait(PATIENCE)
    grpc.stop_stream()
    return found


def test_what_was_written_is_shown_over_both_protocols(server, grpc):
    shown = requests.get(f"{server.url}/v2/models/shapes/config", timeout=PATIENCE).json()
    told = grpc.get_model_config("shapes", as_json=True)["config"]
    assert shown["max_batch_size"] == told["max_batch_size"] == 4
    assert shown["backend"] == told["backend"] == "python"
    assert shown["input"][0] == {
        "name": "n", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [4], "reshape": {"shape": [2, 2]},
        "is_shape_tensor": False, "allow_ragged_batch": False, "optional": False, "is_non_linear_format_io": False,
    }  # fmt: skip
    assert shown["input"][1]["optional"] is told["input"][1]["optional"] is True
    assert told["input"][0]["reshape"] == {"shape": ["2", "2"]}
    assert shown["output"][1]["label_filename"] == told["output"][1]["label_filename"] == "k.txt"
    assert shown["output"][0]["reshape"] == {"shape": []}
    assert shown["optimization"]["graph"] == told["optimization"]["graph"] == {"level": 1}
    assert shown["default_model_filename"] == told["default_model_filename"] == "model.py"
    assert shown["version_policy"] == told["version_policy"] == {"latest": {"num_versions": 1}}
    shown, told = (
        requests.get(f"{server.url}/v2/models/queue/config", timeout=PATIENCE).json(),
        grpc.get_model_config("queue", as_json=True)["config"],
    )
    policy = {
        "timeout_action": "REJECT", "default_timeout_microseconds": 300000, "allow_timeout_override": False,
        "max_queue_size": 2,
    }  # fmt: skip
    assert shown["dynamic_batching"]["default_queue_policy"] == policy
    assert told["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 2
    assert grpc.get_model_config("nothing").config.model_transaction_policy.decoupled


def test_both_protocols_show_the_same_configuration_of_every_model(server, grpc):
    names = [
        each["name"]
        for each in grpc.get_model_repository_index(as_json=True)["models"]
        if each.get("state") == "READY"
    ]
    assert len(names) > 3
    for name in names:
        shown = requests.get(f"{server.url}/v2/models/{name}/config", timeout=PATIENCE).json()
        assert (
            ParseDict(shown, ModelConfig(), ignore_unknown_fields=True) == grpc.get_model_config(name).config
        ), name


def test_a_model_with_an_unknown_or_refused_key_is_in_the_index_with_its_path(server):
    index = requests.post(f"{server.url}/v2/repository/index", timeout=PATIENCE).json()
    reasons = {each["name"]: each.get("reason", "") for each in index}
    assert "dynamic_batching.max_queue_delay_microsecond: unknown key; did you mean" in reasons["typo"]
    assert "input[0].allow_ragged_batch is not served" in reasons["ragged"]


def test_a_configuration_of_a_load_request_is_held_to_the_same_rules(server):
    def load(config):
        body = {"parameters": {"config": json.dumps(config)}}
        return requests.post(f"{server.url}/v2/repository/models/shapes/load", json=body, timeout=PATIENCE)

    refused = load({"dynamic_batching": {"max_delay": 1}})
    assert (refused.status_code, "dynamic_batching.max_delay: unknown key" in refused.text) == (400, True)
    shown = requests.get(f"{server.url}/v2/models/shapes/config", timeout=PATIENCE).json()
    delay = {"dynamicBatching": {"maxQueueDelayMicroseconds": "100"}}
    done = load(
        {
            **shown,
            "max_batch_size": "2",
            "input": [{**shown["input"][0], "data_type": 11, "dims": ["4"]}],
            **delay,
        }
    )
    assert done.status_code == 200, done.text
    changed = requests.get(f"{server.url}/v2/models/shapes/config", timeout=PATIENCE).json()
    assert (changed["max_batch_size"], [each["name"] for each in changed["input"]]) == (2, ["n"])
    assert load(shown).status_code == 200


def test_inputs_of_a_batch_have_as_many_rows(server, grpc):
    done = ask(server, "shapes", tensor("n", [[1, 2, 3, 4]] * 2), tensor("k", [[1]] * 3))
    said = "input 'k' batch size does not match other inputs for 'shapes'"
    assert done.status_code == 400
    assert said in done.json()["error"]
    inputs = []
    for name, array in (("n", np.ones((2, 4), np.float32)), ("k", np.ones((3, 1), np.float32))):
        inputs.append(tritonclient.grpc.InferInput(name, list(array.shape), "FP32"))
        inputs[-1].set_data_from_numpy(array)
    with pytest.raises(tritonclient.utils.InferenceServerException, match=said) as caught:
        grpc.infer("shapes", inputs)
    assert "INVALID_ARGUMENT" in caught.value.status()
    body = {"n": [[1, 2, 3, 4]] * 2, "k": [[1]] * 3}
    assert requests.post(f"{server.url}/predictions/shapes", json=body, timeout=PATIENCE).status_code == 400
