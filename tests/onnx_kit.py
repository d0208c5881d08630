"""ONNX files to test with, made in a line or two."""

from pathlib import Path

import onnx
from onnx import TensorProto as Kind
from onnx import helper

X3 = ("x", Kind.FLOAT, ["N", 3])
Y3 = ("y", Kind.FLOAT, ["N", 3])


def node(kind, inputs="x", outputs="y", **attributes):
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def write_model(file: Path, inputs=(X3,), outputs=(Y3,), nodes=None, constants=()):
    """A model of these nodes (the negative of x where none is given); ``constants`` are names and arrays."""
    graph = helper.make_graph(
        nodes or [node("Neg")],
        "g",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [onnx.numpy_helper.from_array(array, constant) for constant, array in constants],
    )
    domains = [helper.make_opsetid("", 19), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=9)
    file.write_bytes(model.SerializeToString())
    return file
