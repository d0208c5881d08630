"""Inputs that the server fills: what they hold, in which shape, and that no client sends them."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from model_kit import model_spec
from onnx import TensorProto as Kind
from onnx import helper

from mooring.backends.backend import create_backend
from mooring.core.errors import InvalidInput, ModelLoadFailed
from mooring.core.options import Control, ControlKind, SequenceOptions
from mooring.core.requests import Step
from mooring.core.service import LoadContext
from mooring.core.tensors import TensorSpec

START = Control("START", ControlKind.START, "INT32")
END = Control("END", ControlKind.END, "FP32", (-1.0, 1.0))
READY = Control("READY", ControlKind.READY, "BOOL", (False, True))
CORRID = Control("CORRID", ControlKind.ID, "UINT64")
X = TensorSpec("x", "FP32", [-1, 1])


def opened(kind, file, controls, rows=4, entry="", inputs=(X,)):
    spec = model_spec(
        name="m", version="1", backend=kind, location=str(file), entry=entry, max_batch_size=rows,
        inputs=list(inputs), sequence=SequenceOptions(enabled=True, controls=tuple(controls)), retry=False,
    )  # fmt: skip
    backend = create_backend(kind)
    backend.metadata = backend.load(spec, LoadContext())
    return backend


def steps(ask, *said, rows=1):
    return [
        ask.tensors({"sequence": Step(*each)}, x=np.full((rows, 1), number, np.float32))
        for number, each in enumerate(said)
    ]


def answers(ask, backend, requests, reply):
    return [ask.read(outcome) for outcome in backend.infer(requests, reply)]


@pytest.fixture
def echoing(tmp_path):
    """An ONNX file whose outputs are its controls."""
    kinds = (("START", Kind.INT32), ("END", Kind.FLOAT), ("READY", Kind.BOOL), ("CORRID", Kind.UINT64))
    values = [helper.make_tensor_value_info(name, kind, ["N", 1]) for name, kind in kinds]
    outs = [helper.make_tensor_value_info(f"{name}_", kind, ["N", 1]) for name, kind in kinds]
    x, y = (helper.make_tensor_value_info(name, Kind.FLOAT, ["N", 1]) for name in "xy")
    nodes = [helper.make_node("Identity", [name], [f"{name}_"]) for name, _ in kinds]
    graph = helper.make_graph([*nodes, helper.make_node("Neg", ["x"], ["y"])], "g", [x, *values], [y, *outs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(model)
    return tmp_path / "model.onnx"


def test_every_row_of_a_call_has_its_own(ask, reply, echoing):
    backend = opened("onnx", echoing, [START, END, READY, CORRID])
    assert [each.name for each in backend.metadata.inputs] == ["x"]
    found = answers(ask, backend, steps(ask, (7, True), (8, False, True)), reply)
    assert [{name: np.ravel(array).tolist() for name, array in each.items()} for each in found] == [
        {"y": [-0.0], "START_": [1], "END_": [-1.0], "READY_": [True], "CORRID_": [7]},
        {"y": [-1.0], "START_": [0], "END_": [1.0], "READY_": [True], "CORRID_": [8]},
    ]


def test_a_step_of_several_rows_says_it_for_each(ask, reply, echoing):
    backend = opened("onnx", echoing, [START, END, READY, CORRID])
    (found,) = answers(ask, backend, steps(ask, (7, True), rows=3), reply)
    assert np.ravel(found["CORRID_"]).tolist() == [7, 7, 7]


def test_an_id_that_the_model_has_no_number_for_is_the_clients_fault(ask, reply, echoing):
    backend = opened("onnx", echoing, [START, END, READY, CORRID])
    refused, fine = backend.infer(steps(ask, ("a text", True), ("12", True)), reply)
    assert isinstance(refused, InvalidInput)
    assert "takes a whole number, a UINT64" in refused.message
    assert np.ravel(ask.read(fine)["CORRID_"]).tolist() == [12]


def test_a_client_cannot_send_what_the_server_fills(ask, reply, echoing):
    backend = opened("onnx", echoing, [START, END, READY, CORRID])
    request = ask.tensors(x=np.zeros((1, 1), np.float32), START=np.zeros((1, 1), np.int32))
    (refused,) = backend.infer([request], reply)
    assert isinstance(refused, InvalidInput)
    assert "unexpected input 'START'" in refused.message


def test_a_file_without_the_declared_control_is_refused(echoing):
    with pytest.raises(ModelLoadFailed, match="an input 'START'"):
        opened("onnx", echoing, [END, READY, CORRID])


class Counting(torch.nn.Module):
    def forward(self, x, start, name):
        return x + start * 100 + name * 1000


def test_a_torchscript_program_gets_them_as_arguments(ask, reply, tmp_path):
    zero = torch.zeros(1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # users' files are made so, whatever torch thinks
        traced = torch.jit.trace(Counting(), (zero, zero, zero))
        torch.jit.save(traced, tmp_path / "model.pt")
    backend = opened("pytorch", tmp_path / "model.pt", [START, CORRID])
    found = answers(ask, backend, steps(ask, (7, True), (8,)), reply)
    assert [np.ravel(next(iter(each.values()))).tolist() for each in found] == [[7100.0], [8001.0]]


def test_a_function_gets_what_it_has_arguments_for(ask, reply, tmp_path):
    (tmp_path / "model.py").write_text(
        "def infer(x, sequence_id, sequence_end):\n"
        "    return {'id': sequence_id[:, None], 'end': sequence_end[:, None], 'y': x}\n"
    )
    backend = opened("function", tmp_path / "model.py", [])
    found = answers(ask, backend, steps(ask, (7, True), ("b", False, True)), reply)
    assert [np.ravel(each["id"]).tolist() for each in found] == [[b"7"], [b"b"]]
    assert [np.ravel(each["end"]).tolist() for each in found] == [[False], [True]]


def test_a_function_of_a_dict_finds_them_in_it(ask, reply, tmp_path):
    (tmp_path / "model.py").write_text(
        "def infer(inputs):\n    return {'n': [len(inputs), int(inputs['sequence_start'][0])]}\n"
    )
    backend = opened("function", tmp_path / "model.py", [], rows=1, inputs=())
    (found,) = answers(ask, backend, steps(ask, (7, True)), reply)
    assert list(found["n"]) == [4, 1]


def test_an_array_is_none_of_a_models_without_sequences(ask, reply, tmp_path):
    (tmp_path / "model.py").write_text("def infer(inputs):\n    return {'n': [len(inputs)]}\n")
    backend = create_backend("function")
    backend.load(
        model_spec(name="m", version="1", backend="function", location=str(tmp_path / "model.py")),
        LoadContext(),
    )
    (found,) = answers(ask, backend, [ask.tensors(x=np.zeros(1))], reply)
    assert list(found["n"]) == [1]


def test_a_batch_of_one_row_has_controls_of_one_row(echoing, ask, reply):
    spec = model_spec(
        name="m", version="1", backend="onnx", location=str(echoing), inputs=[X], max_batch_size=1,
        batch_dimension=True, sequence=SequenceOptions(enabled=True, controls=(START, END, READY, CORRID)), retry=False,
    )  # fmt: skip
    backend = create_backend("onnx")
    backend.load(spec, LoadContext())
    (request,) = steps(ask, (7, True, False))
    found = ask.read(backend.infer([request], reply)[0])
    assert (found["START_"], found["END_"], found["READY_"], found["CORRID_"]) == (
        [[1]],
        [[-1]],
        [[True]],
        [[7]],
    )


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        (
            "def infer(x, START, sequence_id): return {'start': START, 'id': sequence_id}",
            {"start": [[1]], "id": [b"7"]},
        ),
        ("def infer(x, sequence_start): return {'start': sequence_start}", {"start": [True]}),
        ("def infer(inputs): return {'names': [','.join(sorted(inputs))]}", None),
    ],
)
def test_a_function_takes_declared_controls_and_those_of_every_function(tmp_path, ask, reply, source, answer):
    (tmp_path / "model.py").write_text(source)
    backend = opened("function", tmp_path, [START])
    (request,) = steps(ask, ("7", True, False))
    found = ask.read(backend.infer([request], reply)[0])
    assert found == (answer or {"names": [b"START,sequence_end,sequence_id,sequence_start,x"]})
    backend.close()
