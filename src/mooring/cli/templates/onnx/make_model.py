"""Makes flowers.onnx: which of three kinds an iris is, by four of its measurements in cm. Run it to make the file anew.

The model is a softmax regression, trained here with numpy on made-up flowers. Writing the file needs: pip install onnx
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# What the three kinds measure on average: length and width of the sepals, length and width of the petals.
AVERAGES = np.array([[5.0, 3.4, 1.5, 0.2], [5.9, 2.8, 4.3, 1.3], [6.6, 3.0, 5.6, 2.0]], np.float32)


def train():
    """Return the weights [4, 3] and the bias [3] of a softmax regression."""
    chance = np.random.default_rng(0)
    kinds = np.arange(300) % 3
    flowers = AVERAGES[kinds] + chance.normal(scale=0.3, size=(300, 4)).astype(np.float32)
    weights, bias = np.zeros((4, 3), np.float32), np.zeros(3, np.float32)
    for _ in range(2000):
        scores = np.exp(flowers @ weights + bias)
        errors = scores / scores.sum(axis=1, keepdims=True) - np.eye(3, dtype=np.float32)[kinds]
        weights -= 0.05 * flowers.T @ errors / len(flowers)
        bias -= 0.05 * errors.mean(axis=0)
    return weights, bias


def main():
    """Write flowers.onnx. The first dimension, "batch", is open: any number of flowers may come at once."""
    weights, bias = train()
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["measurements", "weights", "bias"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ],
        "flowers",
        [helper.make_tensor_value_info("measurements", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, "flowers.onnx")


if __name__ == "__main__":
    main()
