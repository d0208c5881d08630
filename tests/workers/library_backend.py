"""A backend that calculates with one library, to find out whether the library survives a fork of its process."""

import numpy as np

from mooring.backends.backend import Backend
from mooring.core.requests import InferenceResponse
from mooring.core.service import ModelMetadata
from mooring.core.tensors import Tensor

MATRIX = (np.arange(300 * 300, dtype=np.float32).reshape(300, 300) % 7) / 7


class LibraryBackend(Backend):
    def load(self, spec, context):
        self.calculate = globals()[f"with_{spec.parameters['library']}"](context.threads)
        return ModelMetadata(spec.name, [spec.version], "test")

    def infer(self, requests, reply):
        return [
            InferenceResponse([Tensor("sum", "BYTES", [1], [b"%.3f" % self.calculate()])]) for _ in requests
        ]


def with_torch(threads):
    import torch

    torch.set_num_threads(threads)
    layer = torch.nn.Conv2d(1, 4, 3, bias=False)
    torch.nn.init.constant_(layer.weight, 0.5)

    def calculate():
        with torch.inference_mode():
            matrix = torch.from_numpy(MATRIX)
            return float(layer((matrix @ matrix)[None, None]).mean())

    return calculate


def with_captum(threads):
    import torch
    from captum.attr import IntegratedGradients

    torch.set_num_threads(threads)
    layer = torch.nn.Linear(300, 2, bias=False)
    torch.nn.init.constant_(layer.weight, 0.5)

    def calculate():
        return float(
            IntegratedGradients(layer).attribute(torch.from_numpy(MATRIX), target=1, n_steps=5).sum()
        )

    return calculate


def with_onnxruntime(threads):
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    def value(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [300, 300])

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "x"], ["y"])], "g", [value("x")], [value("y")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def calculate():
        return float(session.run(None, {"x": MATRIX})[0].mean())

    return calculate
