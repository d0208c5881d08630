"""A model repository like the one of Triton's quick start, with models made here: what each computes is in its line below."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

INT32, INT8, FP32, TEXT, UINT64 = (
    TensorProto.INT32, TensorProto.INT8, TensorProto.FLOAT, TensorProto.STRING, TensorProto.UINT64,
)  # fmt: skip
COLORS = ("red", "green", "blue")


def write_quick_start(folder: Path) -> None:
    """Write every model.

    simple, simple_int8, simple_string   OUTPUT0 is INPUT0 + INPUT1 and OUTPUT1 is INPUT0 - INPUT1, 16 numbers each
    simple_sequence                      OUTPUT is INPUT, and one more in the first step of a sequence (direct strategy)
    simple_dyna_sequence                 the same, and the sequence's id is added in its last step (oldest)
    simple_identity                      OUTPUT0 is INPUT0, a text
    repeat_int32                         as many responses as IN has elements, one element each (decoupled)
    decode                               pixels of an image of 3 x 8 x 8, from the bytes of its file
    colors_ensemble                      colors, from the bytes of a file: an ensemble of both
    colors                               how red, green and blue an image of 3 x 8 x 8 is, with labels
    """
    _add(folder, "simple", "onnx", _sum_config("TYPE_INT32"), _sum_and_difference(INT32))
    _add(folder, "simple_int8", "onnx", _sum_config("TYPE_INT8"), _sum_and_difference(INT8))
    _add(folder, "simple_string", "onnx", _sum_config("TYPE_STRING"), _sum_and_difference(TEXT))
    _add(folder, "simple_sequence", "onnx", _sequence_config(ends=False), _sequence(ends=False))
    _add(folder, "simple_dyna_sequence", "onnx", _sequence_config(ends=True), _sequence(ends=True))
    _add(folder, "simple_identity", "python", _IDENTITY_CONFIG, _IDENTITY)
    _add(folder, "repeat_int32", "python", _REPEAT_CONFIG, _REPEAT)
    _add(folder, "decode", "python", _DECODE_CONFIG, _DECODE)
    _add(folder, "colors_ensemble", "ensemble", _ENSEMBLE_CONFIG, None)
    _add(folder, "colors", "onnx", _COLORS_CONFIG, _colors())
    (folder / "colors/labels.txt").write_text("".join(f"{each}\n" for each in COLORS))


_KINDS = {
    "onnx": 'platform: "onnxruntime_onnx"',
    "python": 'backend: "python"',
    "ensemble": 'platform: "ensemble"',
}


def _add(folder: Path, name: str, kind: str, config: str, model: onnx.ModelProto | str | None) -> None:
    place = folder / name / "1"
    place.mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(f'name: "{name}"\n{_KINDS[kind]}\n{config}')
    if isinstance(model, str):
        (place / "model.py").write_text(model)
    elif model is not None:
        (place / "model.onnx").write_bytes(model.SerializeToString())


def _model(nodes, inputs, outputs) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "model", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def _rows(names, kind, *sizes):
    return [helper.make_tensor_value_info(name, kind, ["N", *sizes]) for name in names]


def _sum_config(kind: str) -> str:
    pair = [f'{{ name: "{{0}}{index}" data_type: {kind} dims: [ 16 ] }}' for index in (0, 1)]
    inputs, outputs = (", ".join(each.replace("{0}", name) for each in pair) for name in ("INPUT", "OUTPUT"))
    return f"max_batch_size: 8\ninput [ {inputs} ]\noutput [ {outputs} ]\n".replace("{{", "{").replace(
        "}}", "}"
    )


def _sum_and_difference(kind: int) -> onnx.ModelProto:
    nodes = [
        *(helper.make_node("Cast", [f"INPUT{i}"], [f"x{i}"], to=INT32) for i in (0, 1)),
        helper.make_node("Add", ["x0", "x1"], ["y0"]),
        helper.make_node("Sub", ["x0", "x1"], ["y1"]),
        *(helper.make_node("Cast", [f"y{i}"], [f"OUTPUT{i}"], to=kind) for i in (0, 1)),
    ]
    return _model(nodes, _rows(("INPUT0", "INPUT1"), kind, 16), _rows(("OUTPUT0", "OUTPUT1"), kind, 16))


def _sequence_config(*, ends: bool) -> str:
    controls = [("START", "CONTROL_SEQUENCE_START"), ("READY", "CONTROL_SEQUENCE_READY")]
    if ends:
        controls.append(("END", "CONTROL_SEQUENCE_END"))
    written = [
        f'{{ name: "{name}" control [ {{ kind: {kind} int32_false_true: [ 0, 1 ] }} ] }}'
        for name, kind in controls
    ]
    if ends:
        written.append(
            '{ name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }'
        )
    strategy = "oldest { max_candidate_sequences: 4 }" if ends else ""
    return f"""
max_batch_size: 8
input [ {{ name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] }} ]
output [ {{ name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] }} ]
sequence_batching {{
  {strategy}
  max_sequence_idle_microseconds: 5000000
  control_input [ {", ".join(written)} ]
}}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""


def _sequence(*, ends: bool) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Mul", ["START", "READY"], ["first"]),
        helper.make_node("Add", ["INPUT", "first"], ["sum" if ends else "OUTPUT"]),
    ]
    names = ["INPUT", "START", "READY"]
    inputs = _rows(names, INT32, 1)
    if ends:
        nodes += [
            helper.make_node("Cast", ["CORRID"], ["id"], to=INT32),
            helper.make_node("Mul", ["END", "id"], ["last"]),
            helper.make_node("Add", ["sum", "last"], ["OUTPUT"]),
        ]
        inputs += _rows(["END"], INT32, 1) + _rows(["CORRID"], UINT64, 1)
    return _model(nodes, inputs, _rows(["OUTPUT"], INT32, 1))


_REPEAT_CONFIG = """
input [
  { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "DELAY" data_type: TYPE_UINT32 dims: [ -1 ] },
  { name: "WAIT" data_type: TYPE_UINT32 dims: [ 1 ] }
]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
model_transaction_policy { decoupled: true }
"""

_REPEAT = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            values, delays = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("IN", "DELAY"))
            for value, milliseconds in zip(values, delays):
                time.sleep(int(milliseconds) / 1e3)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", value.reshape(1))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

_IDENTITY_CONFIG = """
max_batch_size: 8
input [ { name: "INPUT0" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_STRING dims: [ 1 ] } ]
"""

_IDENTITY = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([
                pb_utils.Tensor("OUTPUT0", pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy())
            ])
            for request in requests
        ]
"""

_COLORS_CONFIG = """
max_batch_size: 4
input [ { name: "image" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 8, 8 ] } ]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
"""


def _colors() -> onnx.ModelProto:
    nodes = [helper.make_node("ReduceMean", ["image"], ["scores"], axes=[2, 3], keepdims=0)]
    return _model(nodes, _rows(["image"], FP32, 3, 8, 8), _rows(["scores"], FP32, 3))


_DECODE_CONFIG = """
max_batch_size: 4
input [ { name: "file" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "pixels" data_type: TYPE_FP32 dims: [ 3, 8, 8 ] } ]
"""

_DECODE = """
import io
import numpy as np
from PIL import Image

def infer(file):
    images = [Image.open(io.BytesIO(each)).convert("RGB").resize((8, 8)) for each in file[:, 0]]
    return {"pixels": np.stack([np.array(image, np.float32).transpose(2, 0, 1) for image in images])}
"""

_ENSEMBLE_CONFIG = """
max_batch_size: 4
input [ { name: "INPUT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "CLASSES" data_type: TYPE_FP32 dims: [ 3 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "decode"
      model_version: -1
      input_map { key: "file" value: "INPUT" }
      output_map { key: "pixels" value: "decoded" }
    },
    {
      model_name: "colors"
      model_version: -1
      input_map { key: "image" value: "decoded" }
      output_map { key: "scores" value: "CLASSES" }
    }
  ]
}
"""
