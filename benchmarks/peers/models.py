"""The models that every server in the comparison serves: functions of a batch of arrays, so that the server is all that differs.

    echo         FP32 [n, 1]            -> each plus one           what a server costs by itself
    total        FP32 [n, 3, 224, 224]  -> FP32 [n, 1], the sums   large inputs
    identity     FP32 [n, 3, 224, 224]  -> the same                large both ways
    resnet18     FP32 [n, 3, 224, 224]  -> FP32 [n, 1000]          the usual picture model, with random weights
    transformer  INT64 [n, 64]          -> FP32 [n, 2]             four layers, 256 wide, four heads

``load`` gives a callable from array to array. torch is imported only for the last two.
"""

import os
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

IMAGE = (3, 224, 224)
TOKENS = 64
VOCABULARY = 8192
WIDTH = 256

Model = Callable[[np.ndarray], np.ndarray]


def echo(x: np.ndarray) -> np.ndarray:
    """Return the input plus one."""
    return x + np.float32(1.0)


def total(x: np.ndarray) -> np.ndarray:
    """Return the sum of each row."""
    return x.reshape(len(x), -1).sum(axis=1, keepdims=True)


def identity(x: np.ndarray) -> np.ndarray:
    """Return the input."""
    return x


def resnet18() -> Any:
    """ResNet-18 (He et al. 2015, table 1) with weights of seed 0."""
    import torch
    from torch import nn

    def convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
        padded = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(padded, nn.BatchNorm2d(outputs))

    class Residual(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            stride = 1 if inputs == outputs else 2
            self.first = convolution(inputs, outputs, 3, stride)
            self.second = convolution(outputs, outputs, 3, 1)
            self.skip = nn.Identity() if stride == 1 else convolution(inputs, outputs, 1, stride)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.second(self.first(x).relu()) + self.skip(x)).relu()

    torch.manual_seed(0)
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [Residual(before, after) for before, after in pairwise(widths)]
    stem = [convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*stem, *blocks, *head).eval()


def transformer() -> Any:
    """An encoder of four layers whose first position is classified; weights of seed 0."""
    import torch
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(VOCABULARY, WIDTH)
            self.places = nn.Parameter(torch.randn(1, TOKENS, WIDTH) * 0.02)
            layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
            self.classes = nn.Linear(WIDTH, 2)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.classes(self.layers(self.tokens(ids) + self.places)[:, 0])

    torch.manual_seed(0)
    return Classifier().eval()


def example(name: str, rows: int) -> np.ndarray:
    """Return an example input, the same every time."""
    noise = np.random.default_rng(1)
    if name == "transformer":
        return noise.integers(0, VOCABULARY, (rows, TOKENS))
    return noise.standard_normal((rows, 1) if name == "echo" else (rows, *IMAGE), np.float32)


def traced(name: str) -> Any:
    """Return the model as frozen TorchScript."""
    import torch

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = {"resnet18": resnet18, "transformer": transformer}[name]()
        given = torch.from_numpy(example(name, 2))
        return torch.jit.freeze(torch.jit.trace(module, given, check_trace=False))


def load(name: str, threads: int = 0) -> Model:
    """Return the model as a function, warmed up with the batches that it will get. ``threads`` defaults to ``BENCH_THREADS``, or one."""
    if name in ("echo", "total", "identity"):
        return {"echo": echo, "total": total, "identity": identity}[name]
    import torch

    torch.set_num_threads(threads or int(os.environ.get("BENCH_THREADS", "1")))
    program = traced(name)

    def call(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a request's bytes may be read-only, and nothing here writes
            return program(torch.from_numpy(x)).numpy()

    for rows in (1, 2, 4, 8):
        call(example(name, rows))
    return call


def export(name: str, folder: Path) -> None:
    """Write the model as ``model.pt`` (TorchScript) and ``model.onnx``."""
    import torch

    module = {"resnet18": resnet18, "transformer": transformer}[name]()
    given = torch.from_numpy(example(name, 2))
    folder.mkdir(parents=True, exist_ok=True)
    traced(name).save(str(folder / "model.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (given,), str(folder / "model.onnx"), input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "rows"}, "y": {0: "rows"}}, dynamo=False,
        )  # fmt: skip
