"""More models than a server can have processes for: all are ready, those that nobody asks without one."""

import json
import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from e2e_kit import JSON, Server, Wire, frontends, request, until

onnx = pytest.importorskip("onnx")


def add_models(repository, count):
    """Models m0, m1 ...: the number of each is added to what it is given."""
    tensor, floats = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    for number in range(count):
        constant = onnx.numpy_helper.from_array(np.array([number], np.float32), "b")
        node = onnx.helper.make_node("Add", ["x", "b"], ["y"])
        ends = [tensor("x", floats, ["N", 1])], [tensor("y", floats, ["N", 1])]
        graph = onnx.helper.make_graph([node], "g", *ends, [constant])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
        folder = repository / f"m{number}" / "1"
        folder.mkdir(parents=True)
        onnx.save(model, folder / "model.onnx")


def wrong(server, number):
    """What a model answers where it is not what it should; None where it is."""
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [5]}]}
    target = f"/v2/models/m{number}/infer"
    answer = server.ask("POST", target, json.dumps(body).encode(), f"content-type: {JSON}")
    good = answer.code == 200 and answer.json()["outputs"][0]["data"] == [5 + number]
    return None if good else (number, answer)


def described(server, model):
    with Wire(server.ports[1]) as wire:
        wire.send(request("GET", f"/models/{model}"))
        return wire.answer().json()[0]


def scaled_to_zero(server, count):
    return [n for n in range(count) if described(server, f"m{n}").get("scaledToZero")]


def test_130_models_are_served_within_the_usual_limit_of_descriptors(tmp_path):
    add_models(tmp_path / "repository", 130)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        server = Server(tmp_path, "--model-repository", "repository", "--scale-to-zero-processes", "60")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        server.started()
        assert server.ask("GET", "/v2/health/ready").code == 200
        until(lambda: len(server.family()) < 90)
        states = {model["state"] for model in server.ask("POST", "/v2/repository/index").json()}
        assert states == {"READY"}
        with ThreadPoolExecutor(4) as asking:
            assert [each for each in asking.map(lambda n: wrong(server, n), range(130)) if each] == []
        assert server.ask("GET", "/ping").code == 200
        assert server.faults() == []
        assert server.stop() == 0
    finally:
        server.kill()


def test_a_model_without_a_process_says_so_and_one_that_names_its_workers_keeps_them(tmp_path):
    add_models(tmp_path / "repository", 4)
    (tmp_path / "repository" / "m3" / "config.toml").write_text("[workers]\nmin = 2\nmax = 2\n")
    server = Server(
        tmp_path, "--model-repository", "repository", "--scale-to-zero-processes", "1", "--frontends=2"
    )
    try:
        server.started()
        assert len(frontends(server)) == 1
        until(lambda: scaled_to_zero(server, 4) == [0, 1, 2])
        document = described(server, "m0")
        assert (document["state"], document["workers"]) == ("READY", [])
        assert 0 < document["startSeconds"] < 30
        assert len(server.workers("m3")) == 2
        for _ in range(4):  # over either process
            assert wrong(server, 0) is None
        assert server.workers("m0")
        assert "scaledToZero" not in described(server, "m0")
        assert server.faults() == []
        assert server.stop() == 0
    finally:
        server.kill()


def test_a_file_that_is_gone_when_the_model_is_asked_again_is_told_and_not_hung(tmp_path):
    add_models(tmp_path / "repository", 2)
    server = Server(tmp_path, "--model-repository", "repository", "--scale-to-zero-processes", "1")
    try:
        server.started()
        until(lambda: 1 in scaled_to_zero(server, 2))
        (tmp_path / "repository" / "m1" / "1" / "model.onnx").write_bytes(b"broken")
        _, answer = wrong(server, 1)
        assert answer.code == 503
        assert "cannot be loaded" in answer.json()["error"]
        assert server.ask("GET", "/v2/health/ready").code == 503
    finally:
        server.kill()
