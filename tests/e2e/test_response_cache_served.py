"""The response cache at a real server: an equal request is answered with what was answered before, and the model is not called."""

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from e2e_kit import PATIENCE, Server, free_ports

# Each call gives another answer: whoever gets an old one got it from the cache.
COUNTING = """
calls = 0

def infer(X, parameters):
    global calls
    calls += 1
    if parameters.get('fail'):
        raise ValueError("no")
    return {"Y": X * 0 + calls}
"""
CONFIG = """
backend: "python"
max_batch_size: 4
input { name: "X" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }
"""
CACHED = CONFIG + "response_cache { enable: true }"


def write_model(folder, name, config):
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(config)
    (folder / name / "1" / "model.py").write_text(COUNTING)


HEADERS = """
from mooring import Request

calls = 0

def infer(X: float, asked: Request) -> float:
    global calls
    calls += 1
    return float(f"{asked.headers.get('x-user', '0')}.{calls}")
"""
OF_HEADERS = """
platform: "ensemble"
input { name: "X" data_type: TYPE_FP64 dims: [ 1 ] }
output { name: "Y" data_type: TYPE_FP64 dims: [ 1 ] }
ensemble_scheduling {
  step { model_name: "headers" model_version: -1 input_map { key: "X" value: "X" } output_map { key: "output" value: "Y" } }
}
response_cache { enable: true }
"""
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4
input { name: "X" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }
ensemble_scheduling {
  step { model_name: "plain" model_version: -1 input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" } }
}
response_cache { enable: true }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    (port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("cache")
    for name, config in (("cached", CACHED), ("plain", CONFIG), ("reloaded", CACHED), ("forms", CACHED)):
        write_model(folder / "models", name, config)
    write_model(folder / "models", "ensemble", ENSEMBLE)
    write_model(folder / "models", "headers", 'backend: "python"\nresponse_cache { enable: true }')
    (folder / "models" / "headers" / "1" / "model.py").write_text(HEADERS)
    write_model(folder / "models", "of_headers", OF_HEADERS)
    write_model(folder / "models", "decoupled", CACHED + "model_transaction_policy { decoupled: true }")
    server = Server(
        folder,
        "--model-repository",
        folder / "models",
        f"--grpc-address=127.0.0.1:{port}",
        "--no-strict-readiness",
    )
    server.grpc_authority = f"127.0.0.1:{port}"
    try:
        yield server.started()
    finally:
        server.kill()


def ask(server, model, values, **more):
    body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, len(values)], "data": values}], **more}
    done = requests.post(f"{server.url}/v2/models/{model}/infer", json=body, timeout=PATIENCE)
    return done.json()["outputs"][0]["data"][0] if done.status_code == 200 else done.status_code


def usage(server, model):
    document = requests.get(f"{server.url}/v2/models/{model}/stats", timeout=PATIENCE).json()["model_stats"][
        0
    ]
    stats = document["inference_stats"]
    return {
        "hit": stats["cache_hit"]["count"],
        "miss": stats["cache_miss"]["count"],
        "success": stats["success"]["count"],
        "inferences": document["inference_count"],
    }


def test_an_equal_request_is_answered_as_before_and_the_statistics_say_so(server):
    first = ask(server, "cached", [1, 2], id="one")
    assert ask(server, "cached", [1, 2], id="two") == first
    assert ask(server, "cached", [1, 3]) != first
    assert ask(server, "cached", [1, 2], parameters={"p": 1}) != first
    assert usage(server, "cached") == {"hit": 1, "miss": 3, "success": 4, "inferences": 3}
    metrics = requests.get(f"http://127.0.0.1:{server.ports[2]}/metrics", timeout=PATIENCE).text
    assert (
        'mooring_response_cache_requests_total{model_name="cached",model_version="1",outcome="hit"} 1'
        in metrics
    )


def test_a_model_that_does_not_say_so_is_always_called(server):
    assert ask(server, "plain", [1, 2]) != ask(server, "plain", [1, 2])
    assert usage(server, "plain")["hit"] == usage(server, "plain")["miss"] == 0


@pytest.mark.parametrize("size", [10, 200_000])
def test_both_clients_of_triton_get_what_is_kept_small_and_large(server, size):
    array = np.full((1, size), size, np.float32)
    found = []
    for module, address in (
        (tritonclient.http, server.url.removeprefix("http://")),
        (tritonclient.grpc, server.grpc_authority),
    ):
        client = module.InferenceServerClient(address)
        one = module.InferInput("X", [1, size], "FP32")
        one.set_data_from_numpy(array)
        found += [client.infer("forms", [one]).as_numpy("Y") for _ in range(3)]
        client.close()
    assert all(each.shape == (1, size) for each in found)
    # Over HTTP the outputs were asked for in binary: its answer is another one.
    assert len({each[0, 0] for each in found[:3]}) == len({each[0, 0] for each in found[3:]}) == 1


def test_bodies_and_instances_are_kept_as_well(server):
    for path, body in (
        ("/predictions/forms", [5.0]),
        ("/v1/models/forms:predict", {"instances": [[5.0], [6.0]]}),
    ):
        first, second = (requests.post(server.url + path, json=body, timeout=PATIENCE) for _ in range(2))
        assert (first.status_code, first.text) == (200, second.text)


def test_an_error_is_not_kept(server):
    before = usage(server, "cached")
    for _ in range(2):
        assert ask(server, "cached", [9], parameters={"fail": True}) == 500
    after = usage(server, "cached")
    assert [after[name] for name in ("hit", "miss", "success")] == [
        before[name] for name in ("hit", "miss", "success")
    ]


def test_a_model_that_is_loaded_anew_forgets(server):
    ask(server, "reloaded", [0, 0])
    ask(server, "reloaded", [1, 1])
    assert ask(server, "reloaded", [1, 1]) == 2
    done = requests.post(f"{server.url}/v2/repository/models/reloaded/load", timeout=PATIENCE)
    assert done.status_code == 200
    assert ask(server, "reloaded", [1, 1]) == 1


def test_an_ensemble_keeps_answers_until_one_of_its_models_changes(server):
    first = ask(server, "ensemble", [1, 1])
    assert ask(server, "ensemble", [1, 1]) == first
    assert usage(server, "ensemble") == {"hit": 1, "miss": 1, "success": 2, "inferences": 1}
    requests.post(f"{server.url}/v2/repository/models/plain/load", timeout=PATIENCE)
    ask(server, "plain", [1, 1])
    ask(server, "plain", [1, 1])
    assert ask(server, "ensemble", [1, 1]) == 3


def test_a_decoupled_model_cannot_have_one(server):
    index = requests.post(f"{server.url}/v2/repository/index", timeout=PATIENCE).json()
    (entry,) = [each for each in index if each["name"] == "decoupled"]
    assert "response_cache is for models with one response to a request" in entry["reason"]


def test_with_frontends_each_process_keeps_answers_and_without_bytes_nothing_is_kept(tmp_path):
    write_model(tmp_path / "models", "cached", CACHED)
    for flags, equal in (
        (["--frontends=2", "--deal-connections=evenly"], True),
        (["--response-cache-size=0"], False),
    ):
        server = Server(tmp_path, "--model-repository", tmp_path / "models", *flags)
        try:
            server.started()
            with requests.Session() as session:  # one connection, and so one process
                body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
                texts = [
                    session.post(f"{server.url}/v2/models/cached/infer", json=body).text for _ in range(2)
                ]
            assert (texts[0] == texts[1]) is equal
        finally:
            server.kill()


@pytest.mark.parametrize("model", ["headers", "of_headers"])
def test_a_model_that_reads_headers_gives_nobody_the_answer_to_other_headers(server, model):
    body = {"inputs": [{"name": "X", "datatype": "FP64", "shape": [1], "data": [1.0]}]}

    def ask(user):
        answer = requests.post(
            f"{server.url}/v2/models/{model}/infer", json=body, headers={"x-user": user}, timeout=PATIENCE
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["outputs"][0]["data"][0]

    seven, eight = ask("7"), ask("8")
    assert (int(seven), int(eight)) == (7, 8)
    assert (ask("7"), ask("8")) == (seven, eight)
