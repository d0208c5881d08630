"""Clients see one shape and the model another: by the rules alone, and through models of every kind."""

import warnings

import numpy as np
import pytest
import torch
from model_kit import model_spec
from onnx import TensorProto as Kind
from onnx_kit import node, write_model

from mooring.backends.backend import create_backend
from mooring.backends.reshaping import Reshaping
from mooring.core.errors import InvalidInput, InvalidOutput, ModelLoadFailed
from mooring.core.requests import Operation
from mooring.core.service import LoadContext
from mooring.core.tensors import TensorSpec

X = TensorSpec("x", "FP32", [-1, 4], reshape=[-1, 2, 2])
Y = TensorSpec("y", "FP32", [-1, 1, 4], reshape=[-1, 4])


def opened(kind, file, inputs=(X,), outputs=(Y,), rows=4, **more):
    spec = model_spec(
        name="m", version="1", backend=kind, location=str(file), inputs=list(inputs), outputs=list(outputs),
        max_batch_size=rows, **more,
    )  # fmt: skip
    backend = create_backend(kind)
    backend.load(spec, LoadContext())
    return backend


class Flatten(torch.nn.Module):
    def forward(self, x):
        return {"y": (x @ torch.tensor([[0.0, 1.0], [1.0, 0.0]])).reshape(-1, 4)}


@pytest.fixture
def onnx(tmp_path):
    return write_model(
        tmp_path / "model.onnx",
        [("x", Kind.FLOAT, ["N", 2, 2])],
        [("y", Kind.FLOAT, ["N", 4])],
        [
            node("Transpose", "x", "t", perm=[0, 2, 1]),
            node("Reshape", "t shape", "y"),
        ],
        [("shape", np.array([-1, 4], np.int64))],
    )


@pytest.fixture
def exported(tmp_path):
    program = torch.export.export(
        Flatten(),
        (torch.zeros(2, 2, 2),),
        dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}},
    )
    torch.export.save(program, tmp_path / "model.pt2")
    return tmp_path / "model.pt2"


@pytest.fixture
def scripted(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Flatten()), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.parametrize(
    ("kind", "fixture", "answer"),
    [
        ("onnx", "onnx", [1, 3, 2, 4]),
        ("pytorch", "exported", [2, 1, 4, 3]),
        ("pytorch", "scripted", [2, 1, 4, 3]),
    ],
)
def test_a_model_file_takes_and_gives_its_own_shape(kind, fixture, answer, request, reply, ask):
    backend = opened(kind, request.getfixturevalue(fixture))
    rows = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    single, pair = backend.infer(
        [ask.tensors(x=np.float32(rows[:1])), ask.tensors(x=np.float32(rows[1:]))], reply
    )
    places = [number - 1 for number in answer]
    expected = [[[row[place] for place in places]] for row in rows]
    assert ask.read(single) == {"y": expected[:1]}
    assert ask.read(pair) == {"y": expected[1:]}
    (outcome,) = backend.infer([ask.instances(*rows)], reply)
    assert ask.read(outcome) == expected


def test_a_file_of_another_shape_is_named_with_the_reshape(onnx):
    with pytest.raises(ModelLoadFailed, match=r"reshaped to \[-1, 4, 1\]; .* has it as FP32 \[-1, 2, 2\]"):
        opened("onnx", onnx, [TensorSpec("x", "FP32", [-1, 4], reshape=[-1, 4, 1])])


def test_a_function_gets_a_scalar_for_each_row_and_rows_are_joined(function, reply, ask):
    source = "def infer(x):\n    return {'shape': [str(x.shape)] * len(x), 'y': x * 2}\n"
    inputs = [TensorSpec("x", "FP32", [-1, 1], reshape=[-1])]
    outputs = [TensorSpec("shape", "BYTES", [-1]), TensorSpec("y", "FP32", [-1, 1], reshape=[-1])]
    model = function(source, inputs=inputs, outputs=outputs, max_batch_size=4, batch_dimension=True)
    found = [
        ask.read(each) for each in model.infer([ask.tensors(x=np.float32([[n]])) for n in (1, 2)], reply)
    ]
    assert found == [{"shape": [b"(2,)"], "y": [[2.0]]}, {"shape": [b"(2,)"], "y": [[4.0]]}]


def test_a_shape_that_the_client_may_not_send_is_refused_before_the_model(function, reply, ask):
    model = function("def infer(x): return {'y': x}", inputs=[TensorSpec("x", "FP32", [4], reshape=[2, 2])])
    (outcome,) = model.infer([ask.tensors(x=np.float32([[1, 2], [3, 4]]))], reply)
    assert isinstance(outcome, InvalidInput)
    assert outcome.message == "input 'x' has shape [2, 2]; the model takes [4]"


def test_attributions_have_the_shapes_of_the_inputs(function, reply, ask):
    source = """
class Model:
    def infer(self, x):
        return {"y": x.sum(axis=(1, 2))}
    def explain(self, x):
        return {"x": x * 10}
"""
    model = function(source, inputs=[X], max_batch_size=4, batch_dimension=True)
    request = ask.tensors({"operation": Operation.EXPLAIN}, x=np.float32([[1, 2, 3, 4]]))
    assert ask.read(model.infer([request], reply)[0]) == {"x": [[10, 20, 30, 40]]}


def test_open_sizes_are_taken_over_in_order():
    spec = TensorSpec("x", "FP32", [-1, 6, -1], reshape=[2, 3, -1, -1])
    found = Reshaping([TensorSpec("x", "FP32", [-1, 6, -1], reshape=[-1, 2, 3, -1])], [])
    assert found.reshape_inputs({"x": np.zeros((5, 6, 7)), "other": np.zeros(1)})["x"].shape == (5, 2, 3, 7)
    assert Reshaping([spec], []).reshape_inputs({}) == {}


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (2, 2, 2)])
def test_what_does_not_have_its_shape_is_refused(shape):
    array = {"t": np.zeros(shape)}
    with pytest.raises(
        InvalidInput, match=r"input 't' has shape .*, and \[-1, 6\] is to be reshaped to \[-1, 2, 3\]"
    ):
        Reshaping([TensorSpec("t", "FP32", [-1, 6], reshape=[-1, 2, 3])], []).reshape_inputs(array)
    with pytest.raises(InvalidOutput, match=r"output 't' has shape"):
        Reshaping([], [TensorSpec("t", "FP32", [-1, 2, 3], reshape=[-1, 6])]).reshape_outputs(array)


def test_a_model_without_any_has_none():
    assert not Reshaping([TensorSpec("x", "FP32", [-1])], [TensorSpec("y", "FP32", [-1])])
