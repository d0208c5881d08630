"""One server with every model, shared by all tests that leave it as they found it."""

import json
import warnings
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from e2e_kit import DIGITS, Server, pack
from parallel import SHARED_SERVER
from v2_kit import tensors

__all__ = ["tensors"]

# Weights that can be checked by head: the sum, and the difference of the first two.
WEIGHTS = [[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 0.0, 0.0]]
MAX_RESPONSE = 1_000_000


@pytest.hookimpl(tryfirst=True)  # before xdist reads the markers
def pytest_collection_modifyitems(items):
    for item in items:
        fixtures = item._fixtureinfo.name2fixturedefs.get("server", ())
        if fixtures and fixtures[-1].scope == "session":
            item.add_marker(pytest.mark.xdist_group(SHARED_SERVER))


@pytest.fixture
def contexts():
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store, filled by the real torch-model-archiver."""
    folder = tmp_path_factory.mktemp("store")
    torch.save({"layer.weight": torch.tensor(WEIGHTS)}, folder / "eager.pt")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # users' archives are full of it, whatever torch thinks
        torch.jit.save(tiny_classifier(), folder / "tiny.pt")
    labels = folder / "index_to_name.json"
    labels.write_text(json.dumps({str(index): f"label {index}" for index in range(6)}))
    pack(folder, "rows", "rows_handler.py", "--config-file", config(folder, "rows", own=[1, {"two": 2}]))
    pack(folder, "answers", "answers_handler.py", "--archive-format", "tgz")
    pack(
        folder,
        "batch",
        "batch_handler.py",
        "--config-file",
        config(folder, "batch", batchSize=4, maxBatchDelay=1000, exactBatchDelay=True),
    )
    pack(
        folder,
        "eager",
        "eager_handler.py",
        "--model-file",
        "eager_net.py",
        "--serialized-file",
        folder / "eager.pt",
        "--archive-format",
        "no-archive",
    )
    pack(folder, "tiny", "image_classifier", "--serialized-file", folder / "tiny.pt", "--extra-files", labels)
    pack(
        folder,
        "hasty",
        "sleepy_handler:sleep",
        "--config-file",
        config(folder, "hasty", clientTimeoutInMills=200),
    )
    pack(folder, "stuck", "sleepy_handler:sleep", "--config-file", config(folder, "stuck", responseTimeout=1))
    pack(folder, "narrow", "sleepy_handler:sleep", "--config-file", config(folder, "narrow", jobQueueSize=2))
    return folder


def config(folder: Path, name: str, **settings: object) -> Path:
    """A model-config.yaml, which JSON is too."""
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(settings))
    return file


def tiny_classifier() -> torch.jit.ScriptModule:
    """Six logits of an image: five constants and the mean of its red channel."""

    class Tiny(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            red = x[:, 0].mean(dim=(1, 2))
            fixed = torch.arange(5, dtype=x.dtype, device=x.device).expand(x.shape[0], 5)
            return torch.cat([fixed, red[:, None]], dim=1)

    return torch.jit.trace(Tiny(), torch.zeros(1, 3, 8, 8), check_trace=False)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of our own form: functions, a class, builtins."""
    folder = tmp_path_factory.mktemp("repository")
    for name, declared, code in (
        ("counter", 'name = "counter"', COUNTER),
        ("keeper", KEEPER_CONFIG, KEEPER),
        ("typed", TYPED_CONFIG, TYPED),
        *((name, f'platform = "builtin"\nname = "{name}"', "") for name in ("echo", "echo_multi", "fake")),
        ("negative", 'platform = "builtin"\nentry = "invert_image"', ""),
    ):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.toml").write_text(declared)
        if code:
            (folder / name / "1/model.py").write_text(code)
    (folder / "scaling.py").write_text("def scale(x: 'ndarray', factor=2.0):\n    return x * factor\n")
    return folder


COUNTER = """
def infer(inputs, parameters):
    for number in range(int(inputs["to"])):
        if number == 7:
            raise ValueError("seven is too many")
        yield {"n": [number]}
"""
KEEPER_CONFIG = """
name = "keeper"
max_batch_size = 8

[parameters]
start = 100

[batching]
max_delay_ms = 5
"""
KEEPER = """
import numpy as np


class Model:
    def load(self, context):
        self.start = context.parameters["start"]

    def infer(self, inputs, parameters):
        return {"sum": inputs["x"] + self.start}

    def explain(self, inputs, parameters):
        return {"share": np.ones_like(inputs["x"])}
"""
TYPED_CONFIG = """
name = "typed"
max_batch_size = 16

[[inputs]]
name = "x"
datatype = "FP32"
shape = [-1, 3]

[[outputs]]
name = "total"
datatype = "FP32"
shape = [-1]
"""
TYPED = """
def infer(inputs, parameters):
    return {"total": inputs["x"].sum(axis=1)}
"""


@pytest.fixture(scope="session")
def server(store: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory):
    """The server that everybody asks. At its end it must leave with 0, alone, and without a fault in its log."""
    server = Server(
        tmp_path_factory.mktemp("server"),
        DIGITS, store / "rows.mar", store / "answers.tar.gz", store / "batch.mar", store / "eager", store / "tiny.mar",
        store / "hasty.mar", store / "stuck.mar", store / "narrow.mar", f"{repository / 'scaling.py'}:scale",
        "--model-repository", repository, "--max-response-size", str(MAX_RESPONSE),
    )  # fmt: skip
    try:
        yield server.started()
        assert server.stop() == 0, server.log
        assert not server.faults(), server.log[-9000:]
    finally:
        server.kill()
