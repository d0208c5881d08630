"""BaseHandler: what is loaded from an archive, and the chain of its steps (2.3)."""

import io
import json
import pickle
import re
import warnings

import pytest
import torch
from handler_kit import answer, instances, request

from mooring.core.errors import ModelFailed, ModelLoadFailed
from mooring.core.requests import Operation

LINEAR = """
import torch
class Linear(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 1, bias=False)
"""
BY_VALUE = """
import torch
from ts.torch_handler.base_handler import BaseHandler
class H(BaseHandler):
    def preprocess(self, data):
        return torch.tensor([row.get("data") or row.get("body") for row in data], dtype=torch.float32)
"""
MANIFEST = {"model": {"modelFile": "model.py", "serializedFile": "weights.pt"}}


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def linear_files(weights=None):
    state = saved({"weight": torch.tensor([[2.0, 3.0]])}) if weights is None else weights
    return {"handler.py": BY_VALUE, "model.py": LINEAR, "weights.pt": state}


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def scripted(module, example):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.trace(module, example), buffer)
    return buffer.getvalue()


def test_a_model_file_and_its_weights_answer_a_batch(load):
    model = load(linear_files(), manifest=MANIFEST, max_batch_size=2)
    outcomes = model.infer(request(b"[1, 1]", "application/json"), request(b"[0, 2]", "application/json"))
    assert [json.loads(answer(outcome)) for outcome in outcomes] == [[5.0], [6.0]]


def test_base_handler_alone_answers_rows_that_are_numbers(load):
    files = {"model.py": LINEAR, "weights.pt": saved({"weight": torch.tensor([[2.0, 3.0]])})}
    model = load(files, "base_handler", manifest=MANIFEST, max_batch_size=2)
    assert [
        json.loads(each) for each in model.infer(instances(b"[1.0, 1.0]", b"[0.0, 2.0]"))[0].outputs[0].data
    ] == [
        [5.0],
        [6.0],
    ]
    with pytest.raises(ModelFailed):
        model.body(b"[1.0, 1.0]", "application/json")


def test_torchscript_needs_no_model_file(load):
    linear = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(linear.weight, 2.0)
    files = {"handler.py": BY_VALUE, "weights.pt": scripted(linear, torch.zeros(1, 2))}
    model = load(files, manifest={"model": {"serializedFile": "weights.pt"}})
    assert json.loads(model.body(b"[1, 2]", "application/json")) == [6.0]


def test_safetensors_are_weights_too(load):
    from safetensors.torch import save

    files = linear_files() | {"weights.safetensors": save({"weight": torch.tensor([[2.0, 3.0]])})}
    model = load(
        files, manifest={"model": {"modelFile": "model.py", "serializedFile": "weights.safetensors"}}
    )
    assert json.loads(model.body(b"[1, 1]", "application/json")) == [5.0]


@pytest.mark.parametrize("write", [saved, pickle.dumps])
def test_a_full_pickle_is_refused_by_name_of_the_setting_and_nothing_of_it_runs(load, capsys, write):
    with pytest.raises(ModelLoadFailed, match=r"weights\.pt holds more than tensors.*'allow_pickle: true'"):
        load(linear_files(write(Evil())), manifest=MANIFEST)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "where", [{"config": {"allow_pickle": True}}, {"parameters": {"allow_pickle": True}}]
)
def test_a_trusted_pickle_is_loaded_where_the_setting_says_so(load, where):
    whole = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(whole.weight, 4.0)
    model = load(linear_files(saved(whole)), manifest=MANIFEST, **where)
    assert json.loads(model.body(b"[1, 1]", "application/json")) == [8.0]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"model": {}}, "No model weights could be loaded"),
        ({"model": {"serializedFile": "weights.bin"}}, "No model weights could be loaded"),
        ({"model": {"modelFile": "absent.py"}}, "model file 'absent.py' is not in the archive"),
        ({"model": {"modelFile": "handler.py"}}, "must define exactly one class; it has H, Other"),
    ],
)
def test_an_archive_without_a_model_says_what_it_needs(load, manifest, message):
    files = linear_files()
    files["handler.py"] += "\nclass Other: ...\ndef handle(data, context):\n    H().initialize(context)\n"
    with pytest.raises(ModelLoadFailed) as caught:
        load(files, manifest=manifest)
    assert message in caught.value.message


def test_a_subclass_that_keeps_its_own_initialize_still_handles(load):
    source = """
        from ts.torch_handler.base_handler import BaseHandler
        class H(BaseHandler):
            def initialize(self, context):
                self.factor = 3
            def preprocess(self, data):
                return [row["body"] for row in data]
            def inference(self, data):
                return [each * self.factor for each in data]
            def postprocess(self, data):
                return data
    """
    assert load(source).body(b"2", "application/json") == b"6"


def test_every_documented_attribute_is_there(load):
    source = (
        BY_VALUE
        + """
    def describe_handle(self):
        names = ("model", "mapping", "device", "initialized", "context", "model_pt_path", "manifest", "map_location",
                 "explain", "target", "profiler_args", "model_yaml_config")
        return {name: str(type(getattr(self, name)).__name__) for name in names}
    """
    )
    model = load(
        {**linear_files(), "handler.py": source, "index_to_name.json": '{"0": "a"}'}, manifest=MANIFEST
    )
    described = json.loads(model.body(operation=Operation.DESCRIBE))
    assert described == {
        "model": "Linear", "mapping": "dict", "device": "device", "initialized": "bool", "context": "Context",
        "model_pt_path": "str", "manifest": "dict", "map_location": "str", "explain": "bool", "target": "int",
        "profiler_args": "dict", "model_yaml_config": "dict",
    }  # fmt: skip


def test_a_handler_without_a_description_has_none(load):
    assert load(linear_files(), manifest=MANIFEST).body(operation=Operation.DESCRIBE) == b"null"


@pytest.mark.parametrize(
    ("row", "seen"),
    [
        ({"data": [1, 1], "target": 1}, [[1, 1], 1]),
        ({"body": [1, 1]}, [[1, 1], 0]),
        ({"data": [1, 1], "target": "2"}, [[1, 1], 2]),
    ],
)
def test_an_explanation_gets_the_row_and_its_target(load, row, seen):
    source = (
        BY_VALUE
        + """
    def get_insights(self, prepared, inputs, target):
        return [[inputs, target]]
    """
    )
    model = load({**linear_files(), "handler.py": source}, manifest=MANIFEST)
    (outcome,) = model.infer(instances(json.dumps(row).encode(), operation=Operation.EXPLAIN))
    assert [json.loads(each) for each in outcome.outputs[0].data] == [seen]


def test_a_handler_that_explains_nothing_fails_the_explanation(load):
    outcome = load(linear_files(), manifest=MANIFEST).infer(
        request(b"[1, 1]", "application/json", operation=Operation.EXPLAIN)
    )[0]
    assert isinstance(outcome, ModelFailed)


def test_steps_are_timed_where_the_model_asks_for_it(load):
    model = load(linear_files(), manifest=MANIFEST, config={"handler": {"profile": True}})
    model.body(b"[1, 1]", "application/json")
    names = [name for name, *_ in model.reply.metrics]
    assert names == ["ts_handler_inference", "ts_handler_postprocess", "HandlerTime", "PredictionTime"]


def test_the_profiler_writes_its_trace_where_it_always_did(load, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "true")
    model = load(linear_files(), manifest=MANIFEST)
    assert json.loads(model.body(b"[1, 1]", "application/json")) == [5.0]
    assert list((tmp_path / "pytorch_profiler" / "m").glob("*.json"))


@pytest.mark.parametrize(
    "pt2", ["eager", {"compile": {"enable": True, "backend": "eager"}}, {"backend": "eager"}]
)
def test_a_model_is_compiled_where_its_configuration_says_so(load, pt2):
    source = BY_VALUE + "    def describe_handle(self):\n        return type(self.model).__name__\n"
    model = load({**linear_files(), "handler.py": source}, manifest=MANIFEST, config={"pt2": pt2})
    assert model.body(operation=Operation.DESCRIBE) == b"OptimizedModule"


@pytest.mark.parametrize(
    "pt2", [{"compile": {"enable": False, "backend": "eager"}}, {"export": {"aot_compile": True}}, None]
)
def test_a_model_is_not_compiled_otherwise(load, pt2):
    source = BY_VALUE + "    def describe_handle(self):\n        return type(self.model).__name__\n"
    model = load({**linear_files(), "handler.py": source}, manifest=MANIFEST, config={"pt2": pt2})
    assert model.body(operation=Operation.DESCRIBE) == b"Linear"


def test_an_unknown_compiler_is_refused_at_load(load):
    with pytest.raises(ModelLoadFailed, match="pt2 backend 'nonsense'"):
        load(linear_files(), manifest=MANIFEST, config={"pt2": "nonsense"})


MICRO = """
    import threading
    from ts.handler_utils.micro_batching import MicroBatching
    from ts.torch_handler.base_handler import BaseHandler
    class H(BaseHandler):
        def __init__(self):
            super().__init__()
            self.sizes = []
            self.handle = MicroBatching(self)
        def initialize(self, context):
            settings = context.model_yaml_config["micro_batching"]
            self.handle.parallelism = settings["parallelism"]
            self.handle.micro_batch_size = settings["micro_batch_size"]
        def preprocess(self, data):
            self.sizes.append(len(data))
            return [row["body"] for row in data]
        def inference(self, data):
            return [1 / each for each in data]
        def postprocess(self, data):
            return [[each, threading.current_thread().name, sorted(self.sizes)] for each in data]
        def get_insights(self, prepared, inputs, target):
            return [["why", inputs]]
"""


def test_micro_batches_run_in_threads_and_come_back_in_order(load):
    config = {"micro_batching": {"micro_batch_size": 2, "parallelism": {"preprocess": 2, "postprocess": 1}}}
    model = load(MICRO, max_batch_size=5, config=config)
    outcomes = model.infer(*(request(b"%d" % number, "application/json") for number in (1, 2, 4, 5, 8)))
    found = [json.loads(answer(outcome)) for outcome in outcomes]
    assert [value for value, _, _ in found] == [1, 0.5, 0.25, 0.2, 0.125]
    assert {thread for _, thread, _ in found} == {"postprocess-0"}
    assert found[-1][2] == [1, 2, 2]
    with pytest.raises(ModelFailed, match="ZeroDivisionError"):
        model.infer(request(b"0", "application/json"), request(b"1", "application/json"))
    assert json.loads(model.body(b"1", "application/json"))[0] == 1
    assert json.loads(model.body(b"3", "application/json", operation=Operation.EXPLAIN)) == ["why", 3]


def test_micro_batching_refuses_a_step_there_is_not():
    from mooring.backends.handler.micro_batching import MicroBatching

    with pytest.raises(ValueError, match="unknown steps"):
        MicroBatching(None, parallelism={"thinking": 2})


def test_an_onnx_model_is_called_as_a_torch_model_is(load):
    onnx = pytest.importorskip("onnx", reason="only onnx itself can write a model file")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    number = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", number, [None, 2])],
        [helper.make_tensor_value_info("y", number, [None, 2])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    files = {"handler.py": BY_VALUE, "weights.onnx": made.SerializeToString()}
    model = load(files, manifest={"model": {"serializedFile": "weights.onnx"}})
    assert json.loads(model.body(b"[1, 2]", "application/json")) == [2.0, 4.0]


class _Kept(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, x):
        return self.linear(x)


def exported():
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 1), (torch.zeros(1, 2),)), buffer)
    return buffer.getvalue()


def old_pickle(value):
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def in_safetensors():
    from safetensors.torch import save

    return save({"weight": torch.zeros(1, 2)})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: saved(_Kept()), "a whole model that torch.save pickled; .* --model-file .*allow_pickle"),
        (lambda: old_pickle(_Kept()), "a whole model that torch.save pickled"),
        (lambda: saved(_Kept().state_dict()), "weights alone, which torch.save wrote; .* --model-file"),
        (lambda: old_pickle({"w": torch.zeros(1)}), "weights alone"),
        (exported, "a program of torch.export"),
        (in_safetensors, "weights as safetensors"),
        (lambda: b"PK nonsense", "failed"),
    ],
)
def test_a_file_that_is_no_torchscript_is_named_for_what_it_is(load, make, said):
    files = {"handler.py": BY_VALUE, "weights.pt": make()}
    with pytest.raises(ModelLoadFailed) as failed:
        load(files, manifest={"model": {"serializedFile": "weights.pt"}})
    assert re.search(said, failed.value.message + failed.value.detail)
    assert ("weights.pt is not TorchScript" in failed.value.message) == (said != "failed")
