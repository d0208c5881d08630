"""Triton's ensembles at a real server: the documented one, every datatype, nested, streamed, in every protocol, and wrong ones."""

import json
import queue
import threading

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from e2e_kit import PATIENCE, Server, free_ports
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


def tensors(kind, *entries):
    return "".join(
        f'{kind} {{ name: "{name}" data_type: TYPE_{datatype} dims: {dims} {more[0] if more else ""} }}\n'
        for name, datatype, dims, *more in entries
    )


def step(model, inputs, outputs, version=-1):
    maps = [
        f'{key} {{ key: "{name}" value: "{tensor}" }}'
        for key, mapped in (("input_map", inputs), ("output_map", outputs))
        for name, tensor in mapped.items()
    ]
    return f'step {{ model_name: "{model}" model_version: {version} {" ".join(maps)} }}\n'


def ensemble(*steps, inputs, outputs, batch=0, more=""):
    return (
        f'platform: "ensemble"\nmax_batch_size: {batch}\n{tensors("input", *inputs)}{tensors("output", *outputs)}'
        f"ensemble_scheduling {{ {''.join(steps)} {more} }}\n"
    )


def python(*, inputs, outputs, batch=0, more=""):
    return f'backend: "python"\nmax_batch_size: {batch}\n{tensors("input", *inputs)}{tensors("output", *outputs)}{more}\n'


# The ensemble of Triton's user guide: an image is decoded once, and two models work on it side by side.
PREPROCESS = """
import numpy as np

def infer(RAW_IMAGE):
    return {"PREPROCESSED_OUTPUT": np.stack([np.frombuffer(each, "u1")[:4].astype("f4") for each in RAW_IMAGE[:, 0]])}
"""
DOCUMENTED = {
    "image_preprocess_model": (
        PREPROCESS,
        python(
            inputs=[("RAW_IMAGE", "STRING", [1])],
            outputs=[("PREPROCESSED_OUTPUT", "FP32", [4])],
            batch=4,
            more="dynamic_batching { }",
        ),
    ),
    "classification_model": (
        "def infer(FORMATTED_IMAGE): return {'CLASSIFICATION_OUTPUT': FORMATTED_IMAGE * 2}",
        python(
            inputs=[("FORMATTED_IMAGE", "FP32", [4])],
            outputs=[("CLASSIFICATION_OUTPUT", "FP32", [4], 'label_filename: "labels.txt"')],
            batch=4,
        ),
    ),
    "segmentation_model": (
        "def infer(FORMATTED_IMAGE): return {'SEGMENTATION_OUTPUT': FORMATTED_IMAGE.reshape(-1, 2, 2)}",
        python(
            inputs=[("FORMATTED_IMAGE", "FP32", [4])],
            outputs=[("SEGMENTATION_OUTPUT", "FP32", [2, 2])],
            batch=4,
        ),
    ),
    "ensemble_model": (
        None,
        ensemble(
            step(
                "image_preprocess_model",
                {"RAW_IMAGE": "IMAGE"},
                {"PREPROCESSED_OUTPUT": "preprocessed_image"},
            ),
            step(
                "classification_model",
                {"FORMATTED_IMAGE": "preprocessed_image"},
                {"CLASSIFICATION_OUTPUT": "CLASSIFICATION"},
            ),
            step(
                "segmentation_model",
                {"FORMATTED_IMAGE": "preprocessed_image"},
                {"SEGMENTATION_OUTPUT": "SEGMENTATION"},
            ),
            inputs=[("IMAGE", "STRING", [1])],
            outputs=[("CLASSIFICATION", "FP32", [4]), ("SEGMENTATION", "FP32", [2, 2])],
            batch=4,
        ),
    ),
}
DATATYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32,
    "FP64": np.float64, "STRING": np.object_,
}  # fmt: skip
SAME = "def infer(inputs, parameters): return {'OUT' + name[2:]: value for name, value in inputs.items()}"
# Of Triton's Python backend: one that leaves an output out, and one that sends its responses by itself.
CHOOSING = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            found = [pb_utils.Tensor("LEFT", x + 1)]
            if x[0, 0] > 0:
                found.append(pb_utils.Tensor("RIGHT", x + 2))
            responses.append(pb_utils.InferenceResponse(found))
        return responses
"""
SENDING = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for each in pb_utils.get_input_tensor_by_name(request, "IN").as_numpy():
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", each[None])]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
FOUR = ("BOOL", "FP32", "INT64", "STRING")
MORE = {
    "four": (
        SAME,
        python(
            inputs=[(f"IN_{name}", name, [-1]) for name in FOUR],
            outputs=[(f"OUT_{name}", name, [-1]) for name in FOUR],
            batch=8,
        ),
    ),
    "simple_four": (
        None,
        ensemble(
            step("four", {f"IN_{name}": f"A_{name}" for name in FOUR}, {f"OUT_{name}": name for name in FOUR}),
            step("four", {f"IN_{name}": name for name in FOUR}, {f"OUT_{name}": f"B_{name}" for name in FOUR}),
            inputs=[(f"A_{name}", name, [-1]) for name in FOUR],
            outputs=[(f"B_{name}", name, [-1]) for name in FOUR],
            batch=8,
        ),
    ),
    "same": (
        SAME,
        python(
            inputs=[(f"IN_{name}", name, [-1]) for name in DATATYPES],
            outputs=[(f"OUT_{name}", name, [-1]) for name in DATATYPES],
            batch=8,
        ),
    ),
    "simple": (
        None,
        ensemble(
            step("same", {f"IN_{name}": f"A_{name}" for name in DATATYPES}, {f"OUT_{name}": name for name in DATATYPES}),
            step("same", {f"IN_{name}": name for name in DATATYPES}, {f"OUT_{name}": f"B_{name}" for name in DATATYPES}),
            inputs=[(f"A_{name}", name, [-1]) for name in DATATYPES],
            outputs=[(f"B_{name}", name, [-1]) for name in DATATYPES],
            batch=8,
        ),
    ),
    "add": (
        "def infer(X, Y=None, scale=1):\n    return {'SUM': X + (0 if Y is None else Y), 'DIFF': X - (0 if Y is None else Y)}",
        python(
            inputs=[("X", "FP32", [2]), ("Y", "FP32", [2], "optional: true")],
            outputs=[("SUM", "FP32", [2]), ("DIFF", "FP32", [2])],
            batch=8,
        ),
    ),
    "fan_in": (
        None,
        ensemble(
            step("add", {"X": "P", "Y": "Q"}, {"SUM": "sum", "DIFF": "diff"}),
            step("failing", {"X": "sum"}, {"Y": "left"}),
            step("failing", {"X": "diff"}, {"Y": "right"}),
            step("add", {"X": "left", "Y": "right"}, {"SUM": "R", "DIFF": "S"}),
            inputs=[("P", "FP32", [2]), ("Q", "FP32", [2], "optional: true")],
            outputs=[("R", "FP32", [2]), ("S", "FP32", [2]), ("sum", "FP32", [2])],
            batch=8,
        ),
    ),
    "failing": (
        "def infer(X):\n    assert X.sum() < 1000, 'too much'\n    return {'Y': X}",
        python(inputs=[("X", "FP32", [2])], outputs=[("Y", "FP32", [2])], batch=8),
    ),
    "whole": (
        "def infer(X):\n    return {'Y': X.sum(axis=0)}",
        python(inputs=[("X", "FP32", [-1, 2])], outputs=[("Y", "FP32", [2])]),
    ),
    "mixed": (
        None,
        ensemble(
            step("failing", {"X": "P"}, {"Y": "rows"}),
            step("whole", {"X": "rows"}, {"Y": "one"}),
            step("failing", {"X": "one"}, {"Y": "R"}),
            inputs=[("P", "FP32", [2])],
            outputs=[("R", "FP32", [2])],
            batch=8,
        ),
    ),
    "nested": (
        None,
        ensemble(
            step("fan_in", {"P": "A", "Q": "A"}, {"R": "r"}),
            step("mixed", {"P": "r"}, {"R": "B"}),
            inputs=[("A", "FP32", [2])],
            outputs=[("B", "FP32", [2])],
            batch=8,
        ),
    ),
    "repeat": (
        "def infer(IN):\n    for each in IN:\n        yield {'OUT': each[None]}",
        python(
            inputs=[("IN", "INT32", [-1])],
            outputs=[("OUT", "INT32", [1])],
            more="model_transaction_policy { decoupled: true }",
        ),
    ),
    "choosing": (
        CHOOSING,
        python(
            inputs=[("X", "FP32", [2])], outputs=[("LEFT", "FP32", [2]), ("RIGHT", "FP32", [2])], batch=8
        ),
    ),
    "chosen": (
        None,
        ensemble(
            step("choosing", {"X": "A"}, {"LEFT": "left", "RIGHT": "right"}),
            step("add", {"X": "left", "Y": "right"}, {"SUM": "B"}),
            inputs=[("A", "FP32", [2])],
            outputs=[("B", "FP32", [2]), ("right", "FP32", [2])],
            batch=8,
        ),
    ),
    "sending": (
        SENDING,
        python(
            inputs=[("IN", "INT32", [-1])],
            outputs=[("OUT", "INT32", [1])],
            more="model_transaction_policy { decoupled: true }",
        ),
    ),
    "sent": (
        None,
        ensemble(
            step("sending", {"IN": "A"}, {"OUT": "each"}),
            step("delayed", {"X": "each"}, {"Y": "B"}),
            inputs=[("A", "INT32", [-1])],
            outputs=[("B", "INT32", [1])],
        ),
    ),
    "delayed": (
        "import time\ndef infer(X):\n    time.sleep(0.05 if X[0] == 1 else 0)\n    return {'Y': X * 10}",
        python(inputs=[("X", "INT32", [1])], outputs=[("Y", "INT32", [1])], more="instance_group { count: 2 }"),
    ),
    "streaming": (
        None,
        ensemble(
            step("repeat", {"IN": "A"}, {"OUT": "each"}),
            step("delayed", {"X": "each"}, {"Y": "B"}),
            inputs=[("A", "INT32", [-1])],
            outputs=[("B", "INT32", [1])],
            more="max_inflight_requests: 2",
        ),
    ),
}  # fmt: skip
WRONG = {
    "unknown_model": (
        ensemble(step("nobody", {"IN": "A"}, {"OUT": "B"}), inputs=[("A", "FP32", [2])], outputs=[("B", "FP32", [2])]),
        "step 'nobody': model 'nobody' is not loaded",
    ),
    "other_type": (
        ensemble(step("failing", {"X": "A"}, {"Y": "B"}), inputs=[("A", "INT32", [2])], outputs=[("B", "FP32", [2])], batch=8),
        "step 'failing': tensor 'A' is INT32 in model 'other_type', and FP32 as input 'X'",
    ),
    "other_shape": (
        ensemble(step("failing", {"X": "A"}, {"Y": "B"}), inputs=[("A", "FP32", [3])], outputs=[("B", "FP32", [2])], batch=8),
        "step 'failing': tensor 'A' has the shape [-1, 3] in model 'other_shape', and [-1, 2] as input 'X'",
    ),
    "other_batch": (
        ensemble(step("failing", {"X": "A"}, {"Y": "B"}), inputs=[("A", "FP32", [2])], outputs=[("B", "FP32", [2])], batch=9),
        "the ensemble allows a max_batch_size of 9, and model 'failing' only 8",
    ),
    "unmapped": (
        ensemble(step("add", {"Y": "A"}, {"SUM": "B"}), inputs=[("A", "FP32", [2])], outputs=[("B", "FP32", [2])], batch=8),
        "step 'add': input 'X' of the model is mapped to no tensor",
    ),
    "no_such_output": (
        ensemble(step("failing", {"X": "A"}, {"Z": "B"}), inputs=[("A", "FP32", [2])], outputs=[("B", "FP32", [2])], batch=8),
        "tensor 'B' is mapped to output 'Z', which the model does not have; it has 'Y'",
    ),
    "itself": (
        ensemble(step("itself", {"A": "A"}, {"B": "B"}), inputs=[("A", "FP32", [2])], outputs=[("B", "FP32", [2])]),
        "the ensemble is a step of itself: itself -> itself",
    ),
    "circle": (
        ensemble(
            step("failing", {"X": "b"}, {"Y": "a"}),
            step("add", {"X": "a", "Y": "A"}, {"SUM": "b", "DIFF": "B"}),
            inputs=[("A", "FP32", [2])],
            outputs=[("B", "FP32", [2])],
            batch=8,
        ),
        "wait for each other",
    ),
    "written_twice": (
        ensemble(
            step("failing", {"X": "A"}, {"Y": "B"}),
            step("failing", {"X": "A"}, {"Y": "B"}),
            inputs=[("A", "FP32", [2])],
            outputs=[("B", "FP32", [2])],
            batch=8,
        ),
        "step 1 ('failing') writes 'B', which is written already",
    ),
    "not_written": (
        ensemble(step("failing", {"X": "A"}, {"Y": "b"}), inputs=[("A", "FP32", [2])], outputs=[("B", "FP32", [2])], batch=8),
        "output 'B' of the ensemble is written by no step",
    ),
    "stateful": (
        ensemble(step("counting", {"IN": "A"}, {"OUT": "B"}), inputs=[("A", "INT32", [1])], outputs=[("B", "INT32", [1])]),
        "step 'counting': the model keeps state from request to request",
    ),
    "two_streams": (
        ensemble(
            step("repeat", {"IN": "A"}, {"OUT": "a"}),
            step("adding", {"X": "a", "Y": "A"}, {"Z": "B"}),
            inputs=[("A", "INT32", [-1])],
            outputs=[("B", "INT32", [1])],
        ),
        "step 'adding' takes tensors of different decoupled models, or of one and of none",
    ),
}  # fmt: skip
HELPERS = {
    "counting": (
        "def infer(IN): return {'OUT': IN}",
        python(
            inputs=[("IN", "INT32", [1])],
            outputs=[("OUT", "INT32", [1])],
            more="sequence_batching { oldest { max_candidate_sequences: 2 } }",
        ),
    ),
    "adding": (
        "def infer(X, Y): return {'Z': X}",
        python(inputs=[("X", "INT32", [-1]), ("Y", "INT32", [-1])], outputs=[("Z", "INT32", [-1])]),
    ),
}


def write_models(folder, models):
    for name, (source, config) in models.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
        if source is not None:
            (folder / name / "1" / "model.py").write_text(source)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    (port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("ensembles")
    models = write_models(
        folder / "models",
        {**DOCUMENTED, **MORE, **HELPERS, **{name: (None, wrong[0]) for name, wrong in WRONG.items()}},
    )
    (models / "classification_model" / "labels.txt").write_text("cat\ndog\ncow\nowl\n")
    server = Server(
        folder,
        "--model-repository",
        models,
        f"--grpc-address=127.0.0.1:{port}",
        "--no-strict-readiness",
        "--grpc-typed-outputs",
    )
    server.grpc_authority = f"127.0.0.1:{port}"
    try:
        yield server.started(ping=500)  # some of the ensembles are wrong
    finally:
        server.kill()


@pytest.fixture
def grpc(server):
    client = tritonclient.grpc.InferenceServerClient(server.grpc_authority)
    yield client
    client.close()


@pytest.fixture
def http(server):
    client = tritonclient.http.InferenceServerClient(server.url.removeprefix("http://"))
    yield client
    client.close()


@pytest.fixture(params=["http", "grpc"])
def infer(request, server):
    """Ask a model through Triton's own client, and return the outputs as arrays."""
    module = tritonclient.http if request.param == "http" else tritonclient.grpc
    client = request.getfixturevalue(request.param)

    def ask(model, outputs=None, **inputs):
        sent = []
        for name, array in inputs.items():
            one = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            one.set_data_from_numpy(array)
            sent.append(one)
        wanted = [module.InferRequestedOutput(name) for name in outputs] if outputs else None
        result = client.infer(model, sent, outputs=wanted)
        response = result.get_response()
        found = response["outputs"] if isinstance(response, dict) else response.outputs
        names = [each["name"] if isinstance(each, dict) else each.name for each in found]
        return {name: result.as_numpy(name) for name in names}

    return ask


def post(server, path, body):
    return requests.post(server.url + path, json=body, timeout=PATIENCE)


def usage(server, model):
    document = requests.get(f"{server.url}/v2/models/{model}/stats", timeout=PATIENCE).json()
    return document["model_stats"][0]


IMAGES = np.array([[b"\x01\x02\x03\x04rest"], [b"\x05\x06\x07\x08"]], np.object_)


def test_the_documented_ensemble_answers(infer):
    found = infer("ensemble_model", IMAGE=IMAGES)
    assert found["CLASSIFICATION"].tolist() == [[2, 4, 6, 8], [10, 12, 14, 16]]
    assert found["SEGMENTATION"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]


def test_only_what_is_requested_is_computed(infer, server):
    before = {name: usage(server, name)["execution_count"] for name in DOCUMENTED}
    assert list(infer("ensemble_model", ["SEGMENTATION"], IMAGE=IMAGES)) == ["SEGMENTATION"]
    made = {name: usage(server, name)["execution_count"] - before[name] for name in DOCUMENTED}
    assert made == {
        "image_preprocess_model": 1,
        "classification_model": 0,
        "segmentation_model": 1,
        "ensemble_model": 1,
    }


@pytest.mark.parametrize("count", [3, 0])
def test_every_datatype_goes_through(infer, count):
    sent = {
        f"A_{name}": np.array([[b"a", b"", b"b" * 9][:count]], np.object_)
        if name == "STRING"
        else np.array([[0, 1, 1][:count]]).astype(dtype)
        for name, dtype in DATATYPES.items()
    }
    found = infer("simple", **sent)
    assert {name.replace("B_", "A_"): (array.shape, array.tolist()) for name, array in found.items()} == {
        name: (array.shape, array.tolist()) for name, array in sent.items()
    }


def test_large_tensors_go_through(infer):
    sent = {f"A_{name}": np.ones((1, 1), dtype) for name, dtype in DATATYPES.items() if name != "STRING"}
    sent["A_FP32"] = np.arange(400_000, dtype=np.float32).reshape(2, -1)[:1]
    sent["A_BOOL"] = np.ones((1, 100_000), np.bool_)
    sent["A_STRING"] = np.array([[b"text"] * 20_000], np.object_)
    found = infer("simple", **sent)
    for name in ("FP32", "BOOL", "STRING"):
        assert (found[f"B_{name}"] == sent[f"A_{name}"]).all()


@pytest.mark.parametrize("path", ["infer", "generate"])
def test_large_json_goes_through(server, path):
    values = [each / 2 for each in range(60_000)]
    tensors = [
        {"name": f"A_{name}", "datatype": "BYTES" if name == "STRING" else name, "shape": [1, 1], "data": ["1"] if name == "STRING" else [1]}
        for name in DATATYPES
        if name not in ("FP32", "BOOL")
    ]  # fmt: skip
    tensors.append({"name": "A_BOOL", "datatype": "BOOL", "shape": [1, 1], "data": [True]})
    tensors.append({"name": "A_FP32", "datatype": "FP32", "shape": [1, 60_000], "data": values})
    done = post(server, f"/v2/models/simple/{path}", {"inputs": tensors, "id": "mine"})
    assert done.status_code == 200, done.text[:500]
    outputs = {each["name"]: each["data"] for each in done.json()["outputs"]}
    assert outputs["B_FP32"] == values
    assert done.json()["id"] == "mine"


P, Q = np.float32([[1, 2], [3, 4]]), np.float32([[10, 20], [30, 40]])


def test_tensors_meet_in_a_step_again(infer):
    found = infer("fan_in", P=P, Q=Q)
    assert (found["R"] == 2 * P).all()
    assert (found["S"] == 2 * Q).all()
    assert (found["sum"] == P + Q).all()


def test_an_optional_input_may_be_left_out(infer):
    found = infer("fan_in", P=P)
    assert (found["R"] == 2 * P).all()
    assert (found["S"] == 0).all()


def test_a_batch_goes_through_a_model_without_one_as_a_whole(infer):
    assert infer("mixed", P=P)["R"].tolist() == [[4, 6]]


def test_an_ensemble_may_be_a_step(infer):
    assert infer("nested", A=P)["B"].tolist() == [[8, 12]]


def test_pieces_go_on_by_themselves_and_come_in_order(server, grpc):
    answers = queue.Queue()
    grpc.start_stream(lambda result, error: answers.put(error or result))
    one = tritonclient.grpc.InferInput("A", [4], "INT32")
    one.set_data_from_numpy(np.int32([1, 2, 3, 4]))
    grpc.async_stream_infer("streaming", [one], enable_empty_final_response=True)
    found = []
    while (
        not (answer := answers.get(timeout=PATIENCE))
        .get_response()
        .parameters["triton_final_response"]
        .bool_param
    ):
        found += answer.as_numpy("B").tolist()
    assert found == [10, 20, 30, 40]
    nothing = tritonclient.grpc.InferInput("A", [0], "INT32")
    nothing.set_data_from_numpy(np.int32([]))
    grpc.async_stream_infer("streaming", [nothing], enable_empty_final_response=True)
    assert answers.get(timeout=PATIENCE).get_response().parameters["triton_final_response"].bool_param
    grpc.stop_stream()
    assert post(server, "/v2/models/streaming/infer", {"inputs": [{"name": "A", "datatype": "INT32", "shape": [1], "data": [7]}]}).json()["outputs"][0]["data"] == [70]  # fmt: skip
    events = post(server, "/v2/models/streaming/generate_stream", {"A": [1, 2]}).text.split("\n\n")
    assert [json.loads(each.removeprefix("data: "))["B"] for each in events if each] == [10, 20]


def test_pieces_reach_clients_of_the_other_protocols(server):
    assert post(server, "/predictions/streaming", [1, 2, 3]).text == '{"B":[10]}{"B":[20]}{"B":[30]}'
    rows = {"instances": [[1, 2], [3]]}
    assert post(server, "/v1/models/streaming:predict", rows).json() == {"predictions": [[[10], [20]], [30]]}


def test_models_of_tritons_python_backend_are_steps(server, infer):
    assert infer("chosen", ["B"], A=np.float32([[1, 2]]))["B"].tolist() == [[5, 7]]
    assert infer("chosen", ["B"], A=np.float32([[0, 2]]))["B"].tolist() == [[1, 3]]
    with pytest.raises(InferenceServerException, match="step 'choosing': there is no output 'right'"):
        infer("chosen", ["right"], A=np.float32([[0, 2]]))
    events = post(server, "/v2/models/sent/generate_stream", {"A": [1, 2, 3]}).text.split("\n\n")
    assert [json.loads(each.removeprefix("data: "))["B"] for each in events if each] == [10, 20, 30]


def test_the_other_protocols_ask_it_too(server):
    rows = {"instances": [{"P": [1, 2], "Q": [10, 20]}, {"P": [3, 4], "Q": [30, 40]}]}
    done = post(server, "/v1/models/fan_in:predict", rows)
    assert done.json() == {"predictions": [{"R": [2, 4], "S": [20, 40], "sum": [11, 22]}, {"R": [6, 8], "S": [60, 80], "sum": [33, 44]}]}  # fmt: skip
    many = post(server, "/v1/models/fan_in:predict", {"instances": [{"P": [each, 2]} for each in range(20)]})
    assert [each["R"] for each in many.json()["predictions"]] == [[2 * each, 4] for each in range(20)]
    joined = post(server, "/v1/models/mixed:predict", {"instances": [[1, 2]] * 3})
    assert joined.status_code == 500
    assert "for a batch of 3 rows" in joined.text
    assert post(server, "/predictions/fan_in", {"P": [1, 2], "Q": [1, 1]}).json() == {
        "R": [2, 4],
        "S": [2, 2],
        "sum": [2, 3],
    }
    assert post(server, "/v2/models/fan_in/generate", {"P": [1, 2]}).json()["R"] == [2, 4]
    wrong = post(server, "/v1/models/fan_in:predict", {"instances": [{"P": [1]}]})
    assert wrong.status_code == 400
    assert "input 'P' has shape" in wrong.text
    assert post(server, "/v1/models/fan_in:explain", rows).status_code == 501


def test_labels_are_those_of_the_model_that_writes_the_output(http):
    one = tritonclient.http.InferInput("IMAGE", [2, 1], "BYTES")
    one.set_data_from_numpy(IMAGES)
    wanted = tritonclient.http.InferRequestedOutput("CLASSIFICATION", class_count=1)
    found = http.infer("ensemble_model", [one], outputs=[wanted]).as_numpy("CLASSIFICATION")
    assert found.tolist() == [[b"8.000000:3:owl"], [b"16.000000:3:owl"]]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"P": P * 500}, "in ensemble 'fan_in', step 'failing': AssertionError: too much"),
        ({"P": P, "Q": Q[:1]}, "input 'Q' batch size does not match other inputs for 'fan_in'"),
        ({"P": np.ones((9, 2), np.float32)}, "inference request batch-size must be <= 8 for 'fan_in'"),
        ({"P": np.ones((1, 3), np.float32)}, "input 'P' has shape [1, 3]; the model takes [-1, 2]"),
        ({"P": np.ones((1, 2), np.int32)}, "input 'P' is INT32; the model takes FP32"),
        ({"Q": Q}, "input 'P' is missing"),
        ({"P": P, "Z": P}, "unexpected input 'Z'"),
    ],
)
def test_what_is_wrong_is_said_with_the_step(infer, inputs, said):
    with pytest.raises(InferenceServerException) as caught:
        infer("fan_in", **inputs)
    assert said in str(caught.value)


def test_an_output_that_there_is_not_is_refused(infer):
    with pytest.raises(InferenceServerException, match="unexpected inference output 'T'"):
        infer("fan_in", ["T"], P=P)


def test_a_deadline_ends_all_steps(server):
    body = {"inputs": [{"name": "A", "datatype": "INT32", "shape": [40], "data": [1] * 40}]}
    done = requests.post(
        f"{server.url}/v2/models/streaming/generate_stream",
        json=body,
        headers={"x-request-timeout-ms": "200"},
        timeout=PATIENCE,
    )
    assert "did not answer in time" in done.text


def test_requests_of_many_clients_share_the_calls_of_a_step(server):
    before = usage(server, "image_preprocess_model")["execution_count"]
    body = {"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "data": ["abcd"]}]}
    threads = [
        threading.Thread(target=post, args=(server, "/v2/models/ensemble_model/infer", body))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert usage(server, "image_preprocess_model")["execution_count"] - before <= 16


def test_metadata_configuration_and_statistics_are_those_of_a_model(server, http, grpc):
    metadata = http.get_model_metadata("ensemble_model")
    assert metadata["platform"] == "ensemble"
    assert metadata["inputs"] == [{"name": "IMAGE", "datatype": "BYTES", "shape": [-1, 1]}]
    config = http.get_model_config("ensemble_model")
    assert (config["platform"], config["backend"], config["max_batch_size"]) == ("ensemble", "", 4)
    assert config["instance_group"] == []
    steps = grpc.get_model_config("ensemble_model", as_json=True)["config"]["ensemble_scheduling"]["step"]
    assert [each["model_name"] for each in steps] == list(DOCUMENTED)[:3]
    assert steps[0]["input_map"] == {"RAW_IMAGE": "IMAGE"}
    assert http.get_model_config("streaming")["model_transaction_policy"] == {"decoupled": True}
    before = usage(server, "fan_in")
    body = {"inputs": [{"name": "P", "datatype": "FP32", "shape": [3, 2], "data": [0] * 6}]}
    assert post(server, "/v2/models/fan_in/infer", body).status_code == 200
    after = usage(server, "fan_in")
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_in_the_index_with_the_step_and_the_tensor(server, name):
    index = post(server, "/v2/repository/index", {}).json()
    (entry,) = [each for each in index if each["name"] == name]
    assert entry["state"] != "READY"
    assert WRONG[name][1] in entry["reason"]
    load = post(server, f"/v2/repository/models/{name}/load", {})
    assert load.status_code == 400


PAIR = {
    "front": ("def infer(X): return {'Y': X}", python(inputs=[("X", "FP32", [2])], outputs=[("Y", "FP32", [2])], batch=8)),
    "both": (
        None,
        ensemble(
            step("front", {"X": "A"}, {"Y": "B"}), inputs=[("A", "FP32", [2])], outputs=[("B", "FP32", [2])], batch=8
        ),
    ),
    "outer": (
        None,
        ensemble(step("both", {"A": "A"}, {"B": "B"}), inputs=[("A", "FP32", [2])], outputs=[("B", "FP32", [2])], batch=8),
    ),
    "first": (None, ensemble(step("second", {"A": "A"}, {"B": "B"}), inputs=[("A", "FP32", [2])], outputs=[("B", "FP32", [2])])),
    "second": (None, ensemble(step("first", {"A": "A"}, {"B": "B"}), inputs=[("A", "FP32", [2])], outputs=[("B", "FP32", [2])])),
}  # fmt: skip
ROWS = {"inputs": [{"name": "A", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


@pytest.fixture
def explicit(tmp_path):
    models = write_models(tmp_path / "models", PAIR)
    server = Server(
        tmp_path,
        "--model-repository",
        models,
        "--startup-models=both",
        "--frontends=2",
        "--deal-connections=evenly",
    )
    try:
        yield server.started()
    finally:
        server.kill()


def states(server):
    index = post(server, "/v2/repository/index", {}).json()
    return {each["name"]: each["state"] for each in index if "state" in each}


def test_an_ensemble_comes_and_goes_with_its_models(explicit):
    def answers(model):
        return post(explicit, f"/v2/models/{model}/infer", ROWS).status_code == 200

    assert answers("both")  # the one that was named at the start, and its model with it
    assert post(explicit, "/v2/repository/models/outer/load", {}).status_code == 200
    assert answers("outer")
    assert post(explicit, "/v2/repository/models/front/unload", {}).status_code == 200
    assert not answers("outer")
    assert not answers("both")
    assert requests.get(f"{explicit.url}/v2/models/both/ready", timeout=PATIENCE).status_code == 503
    assert states(explicit)["both"] != "READY"
    assert (
        post(explicit, "/v2/repository/models/outer/load", {}).status_code == 200
    )  # with what is missing below
    assert answers("outer")
    assert answers("both")
    dependents = {"parameters": {"unload_dependents": True}}
    assert post(explicit, "/v2/repository/models/outer/unload", dependents).status_code == 200
    assert [name for name, state in states(explicit).items() if state == "READY"] == []
    assert post(explicit, "/v2/repository/models/outer/load", {}).status_code == 200  # with all that it needs
    assert answers("outer")
    override = {"parameters": {"config": json.dumps({"max_batch_size": 1})}}
    assert post(explicit, "/v2/repository/models/both/load", override).status_code == 200
    two = {"inputs": [{"name": "A", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]}
    assert "batch-size must be <= 1 for 'both'" in post(explicit, "/v2/models/both/infer", two).text
    assert "allows a max_batch_size of 8, and model 'both' only 1" in str(
        post(explicit, "/v2/models/outer/infer", ROWS).text
    )
    assert post(explicit, "/v2/repository/models/both/load", {}).status_code == 200
    assert answers("outer")
    circle = post(explicit, "/v2/repository/models/first/load", {})
    assert circle.status_code == 400
    assert "the ensemble is a step of itself: first -> second -> first" in circle.text


@pytest.mark.parametrize("size", [4, 20_000])
def test_elements_in_contents_fields_go_through(server, grpc, size):
    messages = tritonclient.grpc.service_pb2
    fields = {
        "BOOL": ("bool_contents", [True]),
        "FP32": ("fp32_contents", [0.5]),
        "INT64": ("int64_contents", [3]),
    }
    fields["STRING"] = ("bytes_contents", [b"text"])
    request = messages.ModelInferRequest(model_name="simple_four", id="7")
    for name, (field, value) in fields.items():
        one = request.inputs.add(
            name=f"A_{name}", datatype="BYTES" if name == "STRING" else name, shape=[1, size]
        )
        getattr(one.contents, field).extend(value * size)
    response = grpc._client_stub.ModelInfer(request)
    for each in response.outputs:
        field, value = fields[each.name.removeprefix("B_")]
        assert list(getattr(each.contents, field)) == value * size
    assert response.id == "7"
