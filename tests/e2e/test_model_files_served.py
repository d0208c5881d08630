"""What model files say of themselves, over every protocol: classes, defaults, names, and models that take nothing."""

import json
import warnings

import numpy as np
import onnx
import pytest
import torch
import tritonclient.grpc as triton_grpc
from e2e_kit import JSON, free_ports, serving
from onnx import TensorProto as Kind
from onnx import helper

TENSOR = helper.make_tensor_value_info
LABELS = ["setosa", "versicolor"]


class Pair(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + b, a - b


def save(file, nodes, inputs, outputs, constants=()):
    made = [onnx.numpy_helper.from_array(array, name) for name, array in constants]
    graph = helper.make_graph(nodes, "g", inputs, outputs, made)
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=9), file)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    value = onnx.numpy_helper.from_array(np.float32([4, 5]), "v")
    save(
        folder / "constant.onnx",
        [helper.make_node("Constant", [], ["y"], value=value)],
        [],
        [TENSOR("y", Kind.FLOAT, [2])],
    )
    save(
        folder / "scaled.onnx",
        [helper.make_node("Mul", ["x", "k"], ["y"])],
        [TENSOR("x", Kind.FLOAT, ["N", 2]), TENSOR("k", Kind.FLOAT, [2])],
        [TENSOR("y", Kind.FLOAT, ["N", 2])],
        [("k", np.float32([2, 2]))],
    )
    maps = helper.make_map_type_proto(Kind.STRING, helper.make_tensor_type_proto(Kind.FLOAT, []))
    save(
        folder / "classes.onnx",
        [helper.make_node("ZipMap", ["x"], ["p"], domain="ai.onnx.ml", classlabels_strings=LABELS)],
        [TENSOR("x", Kind.FLOAT, ["N", 2])],
        [helper.make_value_info("p", helper.make_sequence_type_proto(maps))],
    )
    save(
        folder / "ranks.onnx",
        [helper.make_node("Mul", ["any", "scalar"], ["y"])],
        [TENSOR("any", Kind.FLOAT, None), TENSOR("scalar", Kind.FLOAT, [])],
        [TENSOR("y", Kind.FLOAT, None)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Pair()).save(str(folder / "pair.pt"))
    return folder


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    (port,) = free_ports(1)
    files = sorted(file for file in models.iterdir() if file.suffix in (".onnx", ".pt"))
    with serving(tmp_path_factory.mktemp("server"), *files, f"--grpc-address=127.0.0.1:{port}") as server:
        server.rpc = port
        yield server


@pytest.fixture
def rpc(server):
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.rpc}") as client:
        yield client


def tensor(name, *rows):
    array = np.float32(rows)
    data = array.ravel().tolist()
    return {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": data}


def infer(server, model, *inputs, **more):
    body = json.dumps({"inputs": list(inputs), **more}).encode()
    return server.ask("POST", f"/v2/models/{model}/infer", body)


def predictions(server, model, *instances):
    body = json.dumps({"instances": instances}).encode()
    return server.ask("POST", f"/v1/models/{model}:predict", body).json()


def data(answer):
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


@pytest.mark.parametrize("body", [b'{"inputs": []}', b"{}", b'{"id": "7"}'])
def test_a_model_without_inputs_answers_v2_without_inputs(server, body):
    assert data(server.ask("POST", "/v2/models/constant/infer", body)) == {"y": [4, 5]}


def test_a_model_without_inputs_answers_every_other_protocol(server, rpc):
    assert rpc.infer("constant", []).as_numpy("y").tolist() == [4, 5]
    assert predictions(server, "constant", {}) == {"predictions": [[4, 5]]}
    assert server.predict("constant", b"").json() == {"y": [4, 5]}
    assert server.predict("constant", b"{}", f"content-type: {JSON}").json() == {"y": [4, 5]}
    assert server.ask("POST", "/v2/models/constant/generate", b"{}").json()["y"] == [4, 5]


def test_a_model_with_inputs_refuses_a_request_without(server, rpc):
    answer = infer(server, "classes")
    assert answer.code == 400
    assert answer.json()["error"].startswith('the request has no inputs: it needs "inputs", a list of ')
    with pytest.raises(Exception, match="no inputs"):
        rpc.infer("classes", [])
    assert server.predict("classes", b"").code == 400


def test_an_input_with_a_default_is_shown_as_optional_and_taken_when_it_is_sent(server, rpc):
    metadata = server.ask("GET", "/v2/models/scaled").json()
    assert metadata["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "k", "datatype": "FP32", "shape": [2], "optional": True},
    ]
    assert [each.name for each in rpc.get_model_metadata("scaled").inputs] == ["x", "k"]
    assert data(infer(server, "scaled", tensor("x", [1, 2]))) == {"y": [2, 4]}
    assert data(infer(server, "scaled", tensor("x", [1, 2]), {**tensor("k", 1, 10)})) == {"y": [1, 20]}
    assert predictions(server, "scaled", [1, 2]) == {"predictions": [[2, 4]]}
    config = server.ask("GET", "/v2/models/scaled/config").json()
    assert config["max_batch_size"] == 8
    assert [(each["name"], each["dims"]) for each in config["input"]] == [("x", [2]), ("k", [2])]


def test_a_classifiers_classes_are_in_its_metadata_and_its_json_answers(server):
    metadata = server.ask("GET", "/v2/models/classes").json()
    assert metadata["outputs"] == [{"name": "p", "datatype": "FP32", "shape": [-1, -1], "labels": LABELS}]
    first, second = {"setosa": 0.25, "versicolor": 0.75}, {"setosa": 1, "versicolor": 0}
    assert predictions(server, "classes", [0.25, 0.75], [1, 0]) == {"predictions": [first, second]}
    body = json.dumps([[0.25, 0.75], [1, 0]]).encode()
    assert server.predict("classes", body, f"content-type: {JSON}").json() == {"p": [first, second]}
    assert data(infer(server, "classes", tensor("x", [0.25, 0.75]))) == {"p": [0.25, 0.75]}


def test_an_unknown_rank_is_told_from_a_scalar(server, rpc):
    metadata = server.ask("GET", "/v2/models/ranks").json()
    assert metadata["inputs"] == [
        {"name": "any", "datatype": "FP32", "shape": [], "unknown_rank": True},
        {"name": "scalar", "datatype": "FP32", "shape": []},
    ]
    assert [list(each.shape) for each in rpc.get_model_metadata("ranks").inputs] == [[], []]


def test_a_script_takes_the_names_that_its_metadata_says_and_those_of_triton(server):
    metadata = server.ask("GET", "/v2/models/pair").json()
    assert [each["name"] for each in metadata["inputs"]] == ["a", "b"]
    assert [each["name"] for each in metadata["outputs"]] == ["OUTPUT0", "OUTPUT1"]
    for names in (("a", "b"), ("INPUT0", "INPUT1"), ("INPUT__0", "INPUT__1")):
        sent = [tensor(name, [value]) for name, value in zip(names, (3, 2), strict=True)]
        assert data(infer(server, "pair", *sent)) == {"OUTPUT0": [5], "OUTPUT1": [1]}
    asked = infer(server, "pair", *sent, outputs=[{"name": "OUTPUT__1"}])
    assert data(asked) == {"OUTPUT__1": [1]}
    assert predictions(server, "pair", {"a": 3, "b": 2}) == {"predictions": [{"OUTPUT0": 5, "OUTPUT1": 1}]}
    config = server.ask("GET", "/v2/models/pair/config").json()
    assert [each["data_type"] for each in config["input"]] == ["TYPE_INVALID"] * 2
