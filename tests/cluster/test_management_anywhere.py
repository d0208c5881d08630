"""Management of a cluster's models at any node, in every protocol: real servers, the real controller, no Ray."""

import json
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import tritonclient.grpc
from controlled_nodes import running_cluster
from e2e_kit import until

from mooring.cluster.records import ScaleVersion

pytestmark = pytest.mark.processes

HANDLER = """
import os

def handle(data, context):
    if data is None:
        return None
    return [f"TEXT at {os.environ['NODE']}" for _ in data]
"""
MODEL = "import os\n\ndef infer(inputs):\n    return {'y': ['TEXT at ' + os.environ['NODE']]}\n"

ONE_NUMBER = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}]}).encode()


def write_archive(folder, name="said", version="1.0", text="one", broken=""):
    with zipfile.ZipFile(folder / "store" / f"{name}.mar", "w") as archive:
        manifest = {"model": {"modelName": name, "modelVersion": version, "handler": "handler.py"}}
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("handler.py", broken or HANDLER.replace("TEXT", text))


def write_model(folder, name, version="1", text="one"):
    place = folder / "repository" / name / version
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.py").write_text(MODEL.replace("TEXT", text))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    with running_cluster(folder, ["a", "b"], "default_workers_per_model = 1\n") as (nodes, controlled, call):
        yield folder, nodes["a"], nodes["b"], controlled, call


def text_of(node, model, version=""):
    path = f"/predictions/{model}/{version}" if version else f"/predictions/{model}"
    answer = node.ask("POST", path, b"x")
    assert answer.code == 200, answer
    return answer.body.decode().partition(" at ")[0]


def test_what_is_registered_at_one_node_is_served_described_and_unregistered_at_the_other(cluster):
    folder, a, b, *_ = cluster
    write_archive(folder)
    answer = a.manage("POST", "/models?url=said.mar&initial_workers=1&synchronous=true&batch_size=2")
    assert (answer.code, answer.json()["status"]) == (
        200, 'Model "said" Version: 1.0 registered with 1 initial workers',
    )  # fmt: skip
    until(lambda: b.ask("POST", "/predictions/said", b"x").code == 200)
    assert text_of(a, "said") == text_of(b, "said") == "one"
    described = [node.manage("GET", "/models/said").json()[0] for node in (a, b)]
    for one in described:
        assert (one["modelName"], one["modelVersion"], one["modelUrl"]) == ("said", "1.0", "said.mar")
        assert (one["batchSize"], one["minWorkers"], len(one["workers"])) == (2, 1, 1)
    assert described[0]["workers"][0]["pid"] == described[1]["workers"][0]["pid"]
    for node in (a, b):
        page = node.ask("GET", "/console/api/models/said/versions/1.0").json()
        assert page["description"]["name"] == "said"
    assert b.manage("GET", "/models").json()["models"] == [{"modelName": "said", "modelUrl": "said.mar"}]
    again = b.manage("POST", "/models?url=said.mar")
    assert again.code == 409
    assert "already registered" in again.json()["message"]
    gone = b.manage("DELETE", "/models/said/1.0")
    assert (gone.code, gone.json()["status"]) == (200, 'Model "said" unregistered')
    until(lambda: a.ask("POST", "/predictions/said", b"x").code == 404)
    assert a.manage("GET", "/models/said").code == b.manage("GET", "/models/said").code == 404
    assert a.manage("DELETE", "/models/said").code == 404


def test_of_nodes_that_register_the_same_at_once_one_does_and_the_other_is_told(cluster):
    folder, a, b, *_ = cluster
    write_archive(folder, "twice")
    with ThreadPoolExecutor(4) as threads:
        register = "/models?url=twice.mar&initial_workers=1&synchronous=true"
        answers = list(threads.map(lambda node: node.manage("POST", register), (a, b, a, b)))
    assert sorted(each.code for each in answers) == [200, 409, 409, 409]
    assert text_of(a, "twice") == text_of(b, "twice") == "one"
    assert a.manage("DELETE", "/models/twice").code == 200


def test_workers_are_scaled_from_any_node(cluster):
    folder, a, b, *_ = cluster
    write_archive(folder, "scaled")
    assert a.manage("POST", "/models?url=scaled.mar&initial_workers=1&synchronous=true").code == 200
    answer = b.manage("PUT", "/models/scaled?min_worker=2&synchronous=true")
    assert (answer.code, answer.json()["status"]) == (200, "Workers scaled to 2 for model: scaled")
    assert len(a.manage("GET", "/models/scaled").json()[0]["workers"]) == 2
    assert a.manage("PUT", "/models/scaled?min_worker=1").code == 202
    until(lambda: len(b.manage("GET", "/models/scaled").json()[0]["workers"]) == 1)
    assert b.manage("PUT", "/models/nobody?min_worker=1").code == 404
    assert b.manage("DELETE", "/models/scaled").code == 200


def test_an_archive_that_does_not_load_is_refused_and_leaves_nothing(cluster):
    folder, a, b, *_ = cluster
    write_archive(folder, "broken", broken="raise RuntimeError('weights missing')\n")
    answer = b.manage("POST", "/models?url=broken.mar&initial_workers=1&synchronous=true")
    assert (answer.code, answer.json()["message"]) == (
        500, "Failed to start workers for model broken version: 1.0",
    )  # fmt: skip
    assert a.manage("GET", "/models/broken").code == 404
    missing = a.manage("POST", "/models?url=missing.mar")
    assert missing.code == 404


def test_a_repository_is_loaded_and_unloaded_from_any_node_over_v2(cluster):
    folder, a, b, *_ = cluster
    write_model(folder, "talker")
    assert a.ask("POST", "/v2/repository/models/talker/load").code == 200
    until(lambda: b.ask("GET", "/v2/models/talker/ready").code == 200)
    answers = [node.ask("POST", "/v2/models/talker/infer", ONE_NUMBER) for node in (a, b)]
    assert {answer.json()["outputs"][0]["data"][0].partition(" at ")[0] for answer in answers} == {"one"}
    for node in (a, b):
        index = node.ask("POST", "/v2/repository/index").json()
        assert [
            (each["name"], each["version"], each["state"]) for each in index if each["name"] == "talker"
        ] == [("talker", "1", "READY")]
        config = node.ask("GET", "/v2/models/talker/config").json()
        assert config["name"] == "talker"
        stats = node.ask("GET", "/v2/models/talker/stats").json()["model_stats"]
        assert [each["inference_stats"]["success"]["count"] for each in stats] == [2]
    assert b.ask("POST", "/v2/repository/models/talker/unload").code == 200
    until(lambda: a.ask("GET", "/v2/models/talker/ready").code != 200)
    assert a.ask("POST", "/v2/repository/models/nobody/load").code in (400, 404)


def test_a_model_sees_the_gpus_alone_that_are_reserved_for_it(cluster):
    folder, a, b, *_ = cluster
    write_model(folder, "greedy")
    (folder / "repository" / "greedy" / "config.toml").write_text("[placement]\nnum_gpus = 1\n")
    (folder / "repository" / "greedy" / "1" / "model.py").write_text(
        "import os\n\ndef infer(inputs):\n    return {'y': [os.environ.get('CUDA_VISIBLE_DEVICES', 'all')]}\n"
    )
    assert a.ask("POST", "/v2/repository/models/greedy/load").code == 200
    until(lambda: b.ask("GET", "/v2/models/greedy/ready").code == 200)
    answer = b.ask("POST", "/v2/models/greedy/infer", ONE_NUMBER)
    assert answer.json()["outputs"][0]["data"] == ["1"]
    assert b.ask("POST", "/v2/repository/models/greedy/unload").code == 200


def test_amds_workers_are_loaded_at_one_node_and_unloaded_at_the_other(cluster):
    _, a, b, *_ = cluster
    loaded = [node.ask("POST", "/v2/workers/cplusplus/load", b'{"model": "echo"}').body for node in (a, b)]
    assert loaded == [b"cplusplus", b"cplusplus"]
    body = json.dumps({"inputs": [{"name": "in", "shape": [1], "datatype": "UINT32", "data": [4]}]}).encode()
    for node in (a, b):
        until(lambda node=node: node.ask("GET", "/v2/models/cplusplus/ready").code == 200)
        answer = node.ask("POST", "/v2/models/cplusplus/infer", body)
        assert answer.json()["outputs"][0]["data"] == [5]
    assert (
        b.ask("POST", "/v2/workers/cplusplus/load", b'{"model": "echo", "share": false}').body == b"cplusplus"
    )
    assert a.ask("POST", "/v2/workers/cplusplus/unload").code == 200
    assert b.ask("GET", "/v2/models/cplusplus/ready").code == 200
    assert a.ask("POST", "/v2/workers/cplusplus/unload").code == 200
    until(lambda: b.ask("GET", "/v2/models/cplusplus/ready").code != 200)


def test_the_default_changes_everywhere_without_a_failed_request(cluster):
    folder, a, b, *_ = cluster
    write_archive(folder, "rolled", "1.0", "one")
    assert a.manage("POST", "/models?url=rolled.mar&initial_workers=1&synchronous=true").code == 200
    write_archive(folder, "rolled", "2.0", "two")
    assert b.manage("POST", "/models?url=rolled.mar&initial_workers=1&synchronous=true").code == 200
    until(lambda: text_of(b, "rolled", "2.0") == "two")
    assert text_of(a, "rolled") == text_of(b, "rolled") == "one"
    answers, stop = [], threading.Event()

    def keep_asking(node):
        while not stop.is_set():
            began = time.monotonic()
            answer = node.ask("POST", "/predictions/rolled", b"x")
            answers.append((began, answer.code, answer.body.decode().partition(" at ")[0]))

    threads = [threading.Thread(target=keep_asking, args=(node,)) for node in (a, b)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    changed = a.manage("PUT", "/models/rolled/2.0/set-default")
    done = time.monotonic()
    assert (changed.code, changed.json()["status"]) == (
        200, 'Default version successfully updated for model "rolled" to "2.0"',
    )  # fmt: skip
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    assert {code for _, code, _ in answers} == {200}
    assert {text for began, _, text in answers if began > done} == {"two"}
    assert b.manage("DELETE", "/models/rolled/2.0").code == 403  # it is the default, and there is another
    assert b.manage("DELETE", "/models/rolled/1.0").code == 200
    assert a.manage("DELETE", "/models/rolled").code == 200


def test_new_files_take_the_place_of_a_version_without_a_failed_request_and_broken_ones_do_not(cluster):
    folder, a, b, controlled, call = cluster
    write_model(folder, "renewed", text="one")
    assert a.ask("POST", "/v2/repository/models/renewed/load").code == 200
    call(controlled.ask, ScaleVersion("renewed", "1", min_replicas=2, max_replicas=2))
    answers, stop = [], threading.Event()

    def keep_asking(node):
        while not stop.is_set():
            began = time.monotonic()
            answer = node.ask("POST", "/v2/models/renewed/infer", ONE_NUMBER)
            answers.append(
                (began, answer.code, answer.json().get("outputs", [{"data": [""]}])[0]["data"][0][:3])
            )

    threads = [threading.Thread(target=keep_asking, args=(node,)) for node in (a, b)]
    for thread in threads:
        thread.start()
    write_model(folder, "renewed", text="two")
    renewed = b.ask("POST", "/v2/repository/models/renewed/load")
    done = time.monotonic()
    time.sleep(0.2)
    (folder / "repository" / "renewed" / "1" / "model.py").write_text(
        "raise RuntimeError('broken release')\n"
    )
    broken = a.ask("POST", "/v2/repository/models/renewed/load")
    time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert renewed.code == 200, renewed
    assert broken.code >= 400
    assert "broken release" in broken.json()["error"]
    assert {code for _, code, _ in answers} == {200}
    assert {text for began, _, text in answers if began > done} == {"two"}
    assert b.ask("POST", "/v2/repository/models/renewed/unload").code == 200


def test_a_node_serves_what_was_registered_whatever_became_of_its_files(cluster):
    folder, a, b, controlled, call = cluster
    write_archive(folder, "kept", text="right")
    assert a.manage("POST", "/models?url=kept.mar&initial_workers=1&synchronous=true").code == 200
    (version,) = [each for each in call(controlled.ask, None).versions if each.model == "kept"]
    first = next(node for node in (a, b) if node.name == version.replicas[0].node)
    other = b if first is a else a
    sha256 = next(
        held.settings.files.sha256 for model, _, held in controlled.controller._state if model == "kept"
    )
    # A half file and a changed one on the other node, which is to serve it as well.
    (other.files / sha256).unlink(missing_ok=True)
    (other.files / sha256).write_bytes(b"something else")
    call(controlled.ask, ScaleVersion("kept", "1.0", min_replicas=2, max_replicas=2))
    assert text_of(other, "kept") == "right"
    assert len(other.manage("GET", "/models/kept").json()[0]["workers"]) == 1
    assert a.manage("DELETE", "/models/kept").code == 200


def test_a_file_comes_from_a_node_that_serves_it_where_the_one_that_had_it_first_has_it_no_more(cluster):
    folder, a, b, controlled, call = cluster
    write_archive(folder, "moved", text="right")
    assert a.manage("POST", "/models?url=moved.mar&initial_workers=1&synchronous=true").code == 200
    (version,) = [each for each in call(controlled.ask, None).versions if each.model == "moved"]
    serving = next(node for node in (a, b) if node.name == version.replicas[0].node)
    if serving is a:
        assert a.manage("DELETE", "/models/moved").code == 200
        assert b.manage("POST", "/models?url=moved.mar&initial_workers=1&synchronous=true").code == 200
        (version,) = [each for each in call(controlled.ask, None).versions if each.model == "moved"]
    first, serving = (a, b) if version.replicas[0].node == b.name else (b, a)
    for file in first.files.iterdir():  # as if evicted
        if file.is_file():
            file.unlink()
    call(controlled.ask, ScaleVersion("moved", "1.0", min_replicas=2, max_replicas=2))
    assert text_of(first, "moved") == "right"
    assert serving.manage("DELETE", "/models/moved").code == 200


def test_an_ensemble_is_served_wherever_its_steps_are(cluster):
    folder, a, b, *_ = cluster
    tensors = '[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [1]\n[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [1]\n'
    step = folder / "repository" / "step"
    (step / "1").mkdir(parents=True)
    (step / "1" / "model.py").write_text("def infer(inputs):\n    return {'y': inputs['x'] + 1}\n")
    (step / "config.toml").write_text(tensors)
    whole = folder / "repository" / "whole"
    (whole / "1").mkdir(parents=True)
    (whole / "config.pbtxt").write_text(
        'platform: "ensemble"\ninput { name: "x" data_type: TYPE_FP32 dims: 1 }\n'
        'output { name: "y" data_type: TYPE_FP32 dims: 1 }\n'
        'ensemble_scheduling { step { model_name: "step" model_version: -1\n'
        'input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } }\n'
    )
    loaded = a.ask("POST", "/v2/repository/models/whole/load")
    assert loaded.code == 200, loaded
    body = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}).encode()
    for node in (a, b):
        answer = node.ask("POST", "/v2/models/whole/infer", body)
        assert answer.json().get("outputs", answer)[0]["data"] == [2.0]
    gone = b.ask("POST", "/v2/repository/models/whole/unload", b'{"parameters": {"unload_dependents": true}}')
    assert gone.code == 200
    until(lambda: a.ask("GET", "/v2/models/step/ready").code != 200)


def test_the_stages_of_a_chain_come_and_go_with_it(cluster):
    folder, a, b, *_ = cluster
    chain = folder / "repository" / "pipeline"
    (chain / "1").mkdir(parents=True)
    for name in ("plus", "times"):
        (chain / "1" / f"{name}.py").write_text("def infer(inputs):\n    return {'x': inputs['x']}\n")
    (chain / "config.toml").write_text(
        'name = "pipeline"\n[[models]]\nname = "plus"\nentry = "plus.py"\n[[models]]\nname = "times"\nentry = "times.py"\n'
    )
    assert a.ask("POST", "/v2/repository/models/pipeline/load").code == 200
    for node in (a, b):
        until(lambda node=node: node.ask("POST", "/v2/models/pipeline/infer", ONE_NUMBER).code == 200)
    scaled = b.manage("PUT", "/models/pipeline?min_worker=2")
    assert scaled.code == 501, scaled
    assert b.ask("POST", "/v2/repository/models/pipeline/unload").code == 200
    for node in (a, b):
        index = node.ask("POST", "/v2/repository/index").json()
        assert not [each for each in index if each["name"] in ("plus", "times")], index


def test_management_over_grpc_acts_on_the_cluster_too(cluster):
    folder, a, b, *_ = cluster
    write_model(folder, "called")
    clients = [tritonclient.grpc.InferenceServerClient(node.server.grpc) for node in (a, b)]
    clients[0].load_model("called")
    until(lambda: clients[1].is_model_ready("called"))
    for client in clients:
        assert client.get_model_config("called").config.name == "called"
        assert [
            each.name for each in client.get_model_repository_index().models if each.state == "READY"
        ] == ["called"]
        assert client.get_inference_statistics("called").model_stats[0].version == "1"
    clients[1].unload_model("called")
    until(lambda: not clients[0].is_model_ready("called"))
    for client in clients:
        client.close()


def test_a_node_that_starts_again_has_its_files_and_serves_what_it_did(cluster):
    folder, a, b, controlled, call = cluster
    write_archive(folder, "stays", text="right")
    assert a.manage("POST", "/models?url=stays.mar&initial_workers=1&synchronous=true").code == 200
    call(controlled.ask, ScaleVersion("stays", "1.0", min_replicas=2, max_replicas=2))
    b.server.kill()
    b.restart()
    until(lambda: b.ask("GET", "/v2/health/ready").code == 200)
    until(lambda: "model ready" in b.server.log)
    assert "model file fetched" not in b.server.log
    assert text_of(b, "stays") == "right"
    assert a.manage("DELETE", "/models/stays").code == 200


def test_a_workflow_is_refused_with_a_reason(cluster):
    _, a, *_ = cluster
    answer = a.manage("POST", "/workflows?url=flow.war")
    assert (answer.code, answer.json()["message"]) == (
        501, "a cluster serves no workflows; serve the models of its nodes, and chains of them",
    )  # fmt: skip


def test_both_nodes_are_ready_all_along(cluster):
    _, a, b, *_ = cluster
    for node in (a, b):
        assert node.ask("GET", "/v2/health/ready").code == 200
