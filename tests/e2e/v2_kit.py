"""A server for clients of the Open Inference Protocol: models that take and give tensors, and gRPC beside HTTP."""

from pathlib import Path

import pytest
from e2e_kit import DIGITS, ROOT, Server, free_ports

NUMBERS = """
[[inputs]]
name = "x"
datatype = "FP32"
shape = [-1, 3]
[[inputs]]
name = "n"
datatype = "INT8"
shape = [-1]
[[outputs]]
name = "calls"
datatype = "INT64"
shape = [1]
"""
MODELS = {
    # Whatever it is given, in the type it came in.
    "mirror/1/model.py": "def infer(inputs, parameters):\n    return dict(inputs)\n",
    # BF16 has no array type: only a declared output is one.
    "half/1/model.py": "def infer(inputs, parameters):\n    return {'y': inputs['x']}\n",
    "half/config.toml": """
[[inputs]]
name = "x"
datatype = "BF16"
shape = [-1]
[[outputs]]
name = "y"
datatype = "BF16"
shape = [-1]
""",
    "sums/1/model.py": """
def infer(inputs, parameters):
    x, factor = inputs["x"], inputs["factor"]
    if (x < 0).any():
        raise ValueError("a negative number")
    return {"total": x.sum(axis=1) * factor, "peak": x.max(axis=1)}
""",
    "sums/config.toml": """
max_batch_size = 8
[[inputs]]
name = "x"
datatype = "FP32"
shape = [-1, 3]
[[inputs]]
name = "factor"
datatype = "FP32"
shape = [-1]
[[outputs]]
name = "total"
datatype = "FP32"
shape = [-1]
[[outputs]]
name = "peak"
datatype = "FP32"
shape = [-1]
""",
    # How often it was called, this time included.
    "counted/1/model.py": """
import itertools
import numpy as np
calls = itertools.count(1)
def infer(inputs, parameters):
    return {"calls": np.array([next(calls)])}
""",
    "counted/config.toml": NUMBERS,
    # One answer for every number below ``n``, and what it was asked with beside them.
    "steps/1/model.py": """
import numpy as np
def infer(inputs, parameters):
    for step in range(int(inputs["n"].ravel()[0])):
        if step == int(parameters.get("fails", -1)):
            raise ValueError("no further")
        yield {"step": np.array([step], np.int32)}
""",
    "steps/config.toml": """
[[inputs]]
name = "n"
datatype = "INT32"
shape = [1]
[[outputs]]
name = "step"
datatype = "INT32"
shape = [1]
""",
    # Goes on until nobody reads it any more, and then writes the file ``note``.
    "endless/1/model.py": """
import time
from pathlib import Path
def infer(inputs, parameters):
    try:
        for step in range(10_000):
            yield {"step": [step]}
            time.sleep(float(parameters["pause"]))
    finally:
        Path(parameters["note"]).touch()
""",
    "slow/1/model.py": """
import time
def infer(inputs, parameters):
    time.sleep(float(inputs["seconds"].ravel()[0]))
    return {"done": [1]}
""",
    # What the request's parameters were.
    "told/1/model.py": """
import json
def infer(inputs, parameters):
    return {"told": [json.dumps(parameters, sort_keys=True)]}
""",
}


def write_models(folder: Path) -> Path:
    """The models above, as a repository."""
    for name, text in MODELS.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


class TensorServer(Server):
    """A server with all of them, the digits in every format, and a port for gRPC."""

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        (self.grpc_port,) = free_ports(1)
        repository = write_models(folder / "repository")
        super().__init__(
            folder, DIGITS / "digits.mar", *sorted((ROOT / "examples/repository").glob("[!R]*")),
            "--model-repository", repository, f"--grpc-address=127.0.0.1:{self.grpc_port}", *arguments,
        )  # fmt: skip

    def faults(self) -> list[str]:
        """As of any server; a test loads a model whose code raises, and says so with these words."""
        return [line for line in super().faults() if "RuntimeError: broken" not in line]

    @property
    def authority(self) -> str:
        """Host and port for HTTP, as tritonclient takes them."""
        return f"127.0.0.1:{self.port}"

    @property
    def grpc_authority(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"


@pytest.fixture(scope="session")
def tensors(tmp_path_factory: pytest.TempPathFactory):
    """The server that everybody asks. It must leave with 0, and without a fault in its log."""
    server = TensorServer(tmp_path_factory.mktemp("tensors"))
    try:
        yield server.started()
        assert server.stop() == 0, server.log
        assert not server.faults()
    finally:
        server.kill()
