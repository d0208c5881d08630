"""What a trial of a model file is kept by: the contents of everything that makes its answers."""

import numpy as np
import onnx
import pytest
from model_kit import model_spec
from onnx import TensorProto as Kind
from onnx import helper

from mooring.core.service import Joining, JoiningState
from mooring.worker_process import trial

SHOWN = Joining(JoiningState.SHOWN, "rows gave the same answers alone and joined")


@pytest.fixture
def model(tmp_path):
    """An ONNX file whose weights are in another one beside it."""
    weights = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [tensor("x", Kind.FLOAT, ["N", 64])],
        [tensor("y", Kind.FLOAT, ["N", 64])],
        [weights],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save_model(
        made, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return tmp_path / "model.onnx"


def digest(file, **more):
    spec = model_spec(name="m", version="1", backend="onnx", location=str(file), **more)
    return trial.result_key(spec, trial.model_files(spec)[0])


def test_weights_in_a_file_of_their_own_count(model):
    before = digest(model)
    assert digest(model) == before
    weights = model.with_name("weights.bin")
    weights.write_bytes(bytes(weights.stat().st_size))
    assert digest(model) != before


def test_files_that_the_model_does_not_name_do_not_count(model):
    before = digest(model)
    model.with_name("readme.txt").write_text("nothing of the model's")
    assert digest(model) == before


def test_another_configuration_is_another_trial(model):
    assert digest(model) != digest(model, parameters={"providers": "cpu"})


def test_a_model_in_a_folder_of_very_many_files_is_tried_anew_each_time(model, monkeypatch):
    spec = model_spec(name="m", version="1", backend="onnx", location=str(model))
    assert trial.model_files(spec)[1]
    monkeypatch.setattr(trial, "_MOST_FILES", 2)
    assert not trial.model_files(spec)[1]


def test_the_code_beside_weights_counts(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "net.py").write_text("a = 1")
    spec = model_spec(
        name="m",
        version="1",
        backend="pytorch",
        location=str(tmp_path),
        entry="model.bin",
        parameters={"module": "net.py"},
    )
    assert [file.name for file in trial.model_files(spec)[0]] == ["model.bin", "net.py"]


def test_what_was_kept_is_read_again_and_what_was_spoilt_is_not(tmp_path):
    file = tmp_path / "joining/abc"
    assert trial.load_result(file) is None
    trial.save_result(file, SHOWN)
    assert trial.load_result(file) == SHOWN
    assert file.parent.stat().st_mode & 0o077 == 0
    file.write_bytes(b'{"state":')
    assert trial.load_result(file) is None


def test_nothing_is_said_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    trial.save_result(tmp_path / "file/joining/abc", SHOWN)
