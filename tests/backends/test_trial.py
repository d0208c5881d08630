"""Whether rows depend on each other: what a trial finds of models where they do, do not, or nobody can tell."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from model_kit import model_spec
from onnx import TensorProto as Kind
from onnx import helper
from onnx_kit import X3, Y3, node, write_model
from torch import nn

from mooring.backends.backend import create_backend
from mooring.backends.trial import try_rows
from mooring.core.options import BatchMode, SequenceOptions
from mooring.core.service import JoiningState, LoadContext
from mooring.core.tensors import TensorSpec

BATCH = torch.export.Dim("batch")
IMAGE = ("x", Kind.FLOAT, ["N", 3, "H", "W"])


@pytest.fixture
def load():
    opened = []

    def load(file, **more):
        more = {"max_batch_size": 8, "size_by_default": True, **more}
        kind = "onnx" if file.suffix == ".onnx" else "pytorch"
        spec = model_spec(name="m", version="1", backend=kind, location=str(file), **more)
        backend = create_backend(kind)
        backend.load(spec, LoadContext())
        opened.append(backend)
        return backend

    yield load
    for backend in opened:
        backend.close()


@pytest.fixture
def tried(tmp_path, load):
    def tried(*graph, constants=(), **more):
        return try_rows(load(write_model(tmp_path / "model.onnx", *graph, constants=constants), **more))

    return tried


WEIGHTS = ("w", np.float32(np.arange(9).reshape(3, 3)))

MEAN = [node("ReduceMean", "x all", "m"), node("Sub", "x m")]
DEPENDENT = {
    "the mean of all rows": MEAN,
    "a softmax over rows": [node("Softmax", axis=0)],
    "the rows before it": [node("CumSum", "x zero")],
    "the largest of all rows": [node("ReduceMax", "x all", "m", keepdims=1), node("Div", "x m")],
    "its rank among the rows": [node("TopK", "x one", "y i", axis=0)],
    "8 bits of the largest": [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("DequantizeLinear", "q s z"),
    ],
}
CONSTANTS = [("zero", np.int64(0)), ("all", np.int64([0])), ("one", np.int64([1]))]


@pytest.mark.parametrize("what", DEPENDENT)
def test_rows_that_depend_on_each_other_are_found(tried, what):
    found = tried([X3], [Y3], DEPENDENT[what], constants=CONSTANTS)
    assert found.state is JoiningState.APART
    assert found.reason.startswith("rows depend on each other: output 'y' ")
    assert "set max_batch_size" in found.reason


INDEPENDENT = {
    "each by itself": [node("Neg")],
    "a layer": [node("MatMul", "x w")],
    "a softmax of each row": [node("Softmax", axis=1)],
    "numbers that only positive rows have": [node("Log")],
}


@pytest.mark.parametrize("what", INDEPENDENT)
def test_rows_that_do_not_are_shown_to_be_so(tried, what):
    assert tried([X3], [Y3], INDEPENDENT[what], constants=[WEIGHTS]).state is JoiningState.SHOWN


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (Kind.DOUBLE, JoiningState.SHOWN),
        (Kind.FLOAT16, JoiningState.SHOWN),
        (Kind.INT8, JoiningState.SHOWN),
        (Kind.INT64, JoiningState.APART),
        (Kind.INT32, JoiningState.APART),
    ],
)
def test_numbers_that_may_be_indices_tell_nothing(tried, kind, state):
    assert tried([("x", kind, ["N", 3])], [("y", kind, ["N", 3])]).state is state


def test_text_tells_nothing(tried):
    text = ("x", Kind.STRING, ["N"]), ("y", Kind.STRING, ["N"])
    found = tried([text[0]], [text[1]], [node("Identity")])
    assert "input 'x' is BYTES, of which made-up values say nothing" in found.reason


def test_pictures_of_any_size_are_made_as_large_as_the_model_needs_them(tried):
    pool = node("AveragePool", kernel_shape=[20, 20])
    assert tried([IMAGE], [("y", *IMAGE[1:])], [pool]).state is JoiningState.SHOWN
    too_large = node("AveragePool", kernel_shape=[500, 500])
    found = tried([IMAGE], [("y", *IMAGE[1:])], [too_large])
    assert "it cannot be shown that rows are independent: made-up rows failed" in found.reason


def test_outputs_of_their_own_length_are_found_where_the_file_does_not_say_so(tried):
    nodes = [node("Greater", "x half", "m"), node("NonZero", "m", "z"), node("Transpose", "z", "y")]
    found = tried([X3], [("y", Kind.INT64, [None, 2])], nodes, constants=[("half", np.float32(0.5))])
    assert found.state is JoiningState.APART
    assert "rows depend on each other: output 'y'" in found.reason


def test_a_model_that_answers_differently_each_time_is_not_joined(tried):
    nodes = [node("RandomNormalLike", "x", "r"), node("Add", "x r")]
    assert "differs for the same rows called again" in tried([X3], [Y3], nodes).reason


def test_answers_that_are_no_numbers_tell_nothing(tried):
    nodes = [node("Sub", "x x", "z"), node("Div", "z z")]
    assert "made-up rows give no finite numbers" in tried([X3], [Y3], nodes).reason


def test_a_model_that_keeps_state_is_not_tried(tried):
    found = tried([X3], [Y3], sequence=SequenceOptions(enabled=True))
    assert "it keeps state from request to request" in found.reason


def test_single_samples_are_tried_as_the_batch_that_they_make(tried):
    assert tried([X3], [Y3], mode=BatchMode.STACK).state is JoiningState.SHOWN
    found = tried([X3], [Y3], MEAN, constants=CONSTANTS, mode=BatchMode.STACK)
    assert found.state is JoiningState.APART


class Mean(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Net(nn.Module):
    def forward(self, x):
        return torch.relu(x) * 2


@pytest.mark.parametrize(("module", "state"), [(Net, JoiningState.SHOWN), (Mean, JoiningState.APART)])
def test_exported_programs_and_torchscript_are_tried_alike(tmp_path, load, module, state):
    example = torch.ones(2, 3)
    program = torch.export.export(module(), (example,), dynamic_shapes={"x": {0: BATCH}})
    torch.export.save(program, tmp_path / "model.pt2")
    assert try_rows(load(tmp_path / "model.pt2")).state is state
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(module(), example).save(str(tmp_path / "model.pt"))
    declared = {
        "inputs": [TensorSpec("x", "FP32", [-1, 3])],
        "outputs": [TensorSpec("y", "FP32", [-1, 3])],
    }
    assert try_rows(load(tmp_path / "model.pt", **declared)).state is state


def test_until_it_is_shown_requests_and_instances_are_called_one_by_one(tmp_path, load, reply, ask):
    model = load(write_model(tmp_path / "model.onnx", nodes=MEAN, constants=CONSTANTS))
    assert model.joining.state is JoiningState.UNTRIED
    rows = [np.float32([[n, 0, 0], [0, n, 0]]) for n in range(4)]
    answers = model.infer([ask.tensors(x=each) for each in rows], reply)
    assert [ask.read(answer)["y"] for answer in answers] == [(each - each.mean(0)).tolist() for each in rows]
    many = np.float32(np.arange(60).reshape(20, 3))
    (answer,) = model.infer([ask.tensors(x=many)], reply)
    assert ask.read(answer)["y"] == (many - many.mean(0)).tolist()
    assert not model.missed_joining
    (answer,) = model.infer([ask.instances([1, 2, 3], [4, 5, 6])], reply)
    assert ask.read(answer) == [[0, 0, 0]] * 2
    assert model.missed_joining


def test_what_a_request_may_look_like_is_the_same_before_and_after(tmp_path, load, reply, ask):
    for joined in (False, True):
        model = load(write_model(tmp_path / "model.onnx"))
        if joined:
            model.join_requests()
        for request in (
            ask.tensors(x=np.float32([[1, 2, 3], [4, 5, 6]])),
            ask.tensors(x=np.float32([1, 2, 3])),
            ask.instances([1, 2, 3], [4, 5, 6]),
            ask.instances({"x": [1, 2, 3]}, {"x": [4, 5, 6]}),
            ask.body([[1, 2, 3], [4, 5, 6]]),
        ):
            (answer,) = model.infer([request], reply)
            found = ask.read(answer)
            rows = [[-1, -2, -3], [-4, -5, -6]]
            assert found in ({"y": rows}, {"y": rows[0]}, rows)
        (refused,) = model.infer([ask.instances([[1, 2, 3]])], reply)
        assert "has shape [1, 1, 3]" in refused.message


def test_a_configuration_that_says_max_batch_size_is_trusted(tmp_path, load):
    file = write_model(tmp_path / "model.onnx", nodes=MEAN, constants=CONSTANTS)
    model = load(file, size_by_default=False)
    assert model.joining.state is JoiningState.DECLARED
    assert not model.reader.runs_alone


def test_a_file_without_a_batch_needs_no_trial(tmp_path, load):
    file = write_model(tmp_path / "model.onnx", [("x", Kind.FLOAT, [1, 3])], [("y", Kind.FLOAT, [1, 3])])
    assert load(file).joining.state is JoiningState.NO_BATCH


def test_a_classifier_whose_answer_is_a_map_is_tried_by_its_numbers(tmp_path, load):
    maps = helper.make_map_type_proto(Kind.INT64, helper.make_tensor_type_proto(Kind.FLOAT, []))
    file = write_model(tmp_path / "model.onnx")
    model = onnx.load(file)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.append(
        helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[7, 8, 9])
    )
    model.graph.output.append(helper.make_value_info("y", helper.make_sequence_type_proto(maps)))
    onnx.save(model, file)
    assert try_rows(load(file)).state is JoiningState.SHOWN
