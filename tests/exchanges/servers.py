"""The servers that are asked, each with models of every kind, written to a folder of its own."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
from e2e_kit import DIGITS, HANDLERS, ROOT, Server, free_ports
from exchanges.kserve import REGION, REGION_BYTES
from v2_kit import write_models

SHOUT = """
def handle(data, context):
    if data is None:
        return None
    manifest = context.manifest["model"]
    texts = [bytes(row.get("body") or row.get("data") or row.get("text") or b"").decode() for row in data]
    return [f"{manifest['modelName']} {manifest['modelVersion']}({text})" for text in texts]
"""
DESCRIBED = """
from ts.torch_handler.base_handler import BaseHandler


class Described(BaseHandler):
    def initialize(self, context):
        self.context = context
        self.initialized = True

    def handle(self, data, context):
        self.context = context
        if self._is_describe():
            return [self.describe_handle()]
        return [{"explained" if self._is_explain() else "predicted": repr(data[0])}]

    def describe_handle(self):
        return {"inputs": ["digit"], "classes": 10}
"""
STAGES = """
def pre(data, context):
    if data is None:
        return None
    body = data[0].get("body") or data[0].get("data")
    return [f"pre({body if isinstance(body, str) else bytes(body).decode()})"]


def post(data, context):
    return None if data is None else [f"post({bytes(data[0]['body']).decode()})"]


def fail(data, context):
    if data is not None:
        raise ValueError("as it should")


def join(data, context):
    return None if data is None else [repr({name: bytes(value) for name, value in sorted(data[0].items())})]
"""
WORKFLOWS = {
    "line": "models:\n  shout: {url: shout.mar, batch-size: 2}\ndag:\n  pre: [shout]\n  shout: [post]\n",
    "diamond": "dag:\n  pre: [post, twin]\n  post: [join]\n  twin: [join]\n",
    "failing": "models: {retry-attempts: 0}\ndag: {fail: []}\n",
    "cyclic": "dag: {pre: [post], post: [pre]}\n",
    "nosuch": "dag: {nothing_of_that_name: []}\n",
}
TWICE = """
name = "twice"
[[models]]
name = "first"
entry = "scaling.py:double"
[[models]]
name = "second"
entry = "scaling.py:increment"
"""
SCALING = """
def double(inputs, parameters):
    return {"x": inputs["x"] * 2}


def increment(inputs, parameters):
    if (inputs["x"] > 1000).any():
        raise ValueError("too large")
    return {"y": inputs["x"] + 1}
"""
KEPT = """
TOTALS = {}


def infer(x, sequence_id, sequence_start, sequence_end):
    (name,) = sequence_id
    total = TOTALS[name] = x + (0 if sequence_start[0] else TOTALS[name])
    if sequence_end[0]:
        del TOTALS[name]
    return {"y": total}
"""
ANNOTATED = """
import numpy as np


def infer(x: np.ndarray, factor: float = 2.0, *, sign: int = 1):
    return {"y": x * factor * sign}
"""
SHARES = """
import numpy as np


class Model:
    def load(self, context):
        self.start = context.parameters["start"]

    def infer(self, inputs, parameters):
        return {"sum": inputs["x"] + self.start}

    def explain(self, inputs, parameters):
        return {"share": np.ones_like(inputs["x"])}
"""
WORDS = """
def infer(inputs, parameters):
    for word in inputs["text"].ravel()[0].split():
        if word == b"burn":
            raise ValueError("the model burns")
        yield {"text": [word]}
"""
LABELED = """
max_batch_size = 4
labels = ["cat", "dog", "owl"]
[[inputs]]
name = "x"
datatype = "FP32"
shape = [-1, 3]
[[outputs]]
name = "scores"
datatype = "FP32"
shape = [-1, 3]
"""
TYPED = """
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
ONE = '[[{}]]\nname = "{}"\ndatatype = "FP32"\nshape = [-1]\n'
REPOSITORY = {
    "twice/config.toml": TWICE,
    "twice/1/scaling.py": SCALING,
    "kept/config.toml": "[sequences]\nmax = 2\n" + ONE.format("inputs", "x") + ONE.format("outputs", "y"),
    "kept/1/model.py": KEPT,
    "annotated/1/model.py": ANNOTATED,
    "shares/config.toml": "max_batch_size = 8\n[parameters]\nstart = 100\n",
    "shares/1/model.py": SHARES,
    "words/1/model.py": WORDS,
    "typed/config.toml": TYPED,
    "typed/1/model.py": "def infer(inputs, parameters):\n    return {'total': inputs['x'].sum(axis=1)}\n",
    "labeled/config.toml": LABELED,
    "labeled/1/model.py": "def infer(inputs, parameters):\n    return {'scores': inputs['x']}\n",
    "versions/1/model.py": "def infer(inputs, parameters):\n    return {'v': [1]}\n",
    "versions/2/model.py": "def infer(inputs, parameters):\n    return {'v': [2]}\n",
    "versions/config.toml": "[version_policy]\nall = true\n",
    "affine/config.toml": 'platform = "onnx_onnxv1"\nmax_batch_size = 4\n[batching]\nmode = "concat"\n',
    "affine_samples/config.toml": 'platform = "onnx_onnxv1"\nmax_batch_size = 4\n[batching]\nmode = "stack"\n',
    "echo_multi/config.toml": 'platform = "builtin"\nentry = "echo_multi"\n',
    "negative/config.toml": 'platform = "builtin"\nentry = "invert_image"\n',
}
# Written when the server is up: what cannot be loaded would keep it from being healthy.
LATER = {"broken/1/model.py": "raise RuntimeError('broken')\n"}


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _affine(file: Path) -> None:
    """2x + 1 as an ONNX file: exact in floating point on every machine."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    constants = [
        onnx.numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in (("two", 2.0), ("one", 1.0))
    ]
    nodes = [helper.make_node("Mul", ["x", "two"], ["m"]), helper.make_node("Add", ["m", "one"], ["y"])]
    values = [helper.make_tensor_value_info(name, kind, ["rows", 2]) for name in "xy"]
    graph = helper.make_graph(nodes, "affine", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, file)


def _archived(
    store: Path, name: str, source: str, *, file: str = "", version: str = "1.0", **settings
) -> None:
    """An archive as torch-model-archiver makes it."""
    manifest = {"model": {"modelName": name, "modelVersion": version, "handler": "handler.py"}}
    with zipfile.ZipFile(store / (file or f"{name}.mar"), "w") as archive:
        archive.writestr("handler.py", source)
        if settings:
            archive.writestr("model-config.yaml", json.dumps(settings))
            manifest["model"]["configFile"] = "model-config.yaml"
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))


def _store(folder: Path) -> Path:
    """A model store: archives to be loaded at the start, archives to be registered, workflows."""
    folder.mkdir()
    handler = {name: (HANDLERS / f"{name}_handler.py").read_text() for name in _HANDLERS}
    _archived(folder, "answers", handler["answers"])
    _archived(folder, "rows", handler["rows"], own=[1, {"two": 2}])
    _archived(
        folder, "hasty", handler["sleepy"].replace("def sleep(", "def handle("), clientTimeoutInMills=200
    )
    _archived(folder, "stuck", handler["sleepy"].replace("def sleep(", "def handle("), responseTimeout=1)
    _archived(folder, "talking", handler["talking"], continuousBatching=True, batchSize=4)
    _archived(folder, "tally", handler["tally"], sequenceBatching=True)
    _archived(folder, "described", DESCRIBED)
    _archived(folder, "shout", SHOUT)
    for version in ("1.0", "2.0"):
        _archived(folder, "talker", SHOUT, file=f"talker-{version}.mar", version=version)
    _archived(folder, "broken-archive", "import a_module_that_is_not_there\n")
    (folder / "no-archive.mar").write_bytes(b"this is no zip file")
    for name, graph in WORKFLOWS.items():
        manifest = {"workflow": {"workflowName": name, "specFile": "spec.yaml", "handler": "functions.py"}}
        with zipfile.ZipFile(folder / f"{name}.war", "w") as archive:
            archive.writestr("spec.yaml", graph)
            archive.writestr("functions.py", STAGES + "\n\ntwin = post\n")
            archive.writestr("WAR-INF/MANIFEST.json", json.dumps(manifest))
    shutil.copy(DIGITS / "digits.mar", folder)
    return folder


# What models say of where they run is to be the same on every machine.
NO_ACCELERATOR = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
_HANDLERS = ("answers", "rows", "sleepy", "talking", "tally")
_LOADED = ("answers", "rows", "hasty", "stuck", "talking", "tally", "described", "digits")


class Recorded(Server):
    """A server with five known ports, in a folder of its own."""

    def __init__(
        self, *arguments: str | Path, folder: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.rpc = free_ports(2)
        super().__init__(
            folder, *arguments, f"--grpc-address=127.0.0.1:{self.rpc[0]}",
            f"--grpc-management-address=127.0.0.1:{self.rpc[1]}", environ=NO_ACCELERATOR | dict(environ or {}),
        )  # fmt: skip

    @property
    def addresses(self) -> dict[str, int]:
        names = ("inference", "management", "metrics", "grpc", "grpc management")
        return dict(zip(names, (*self.ports, *self.rpc), strict=True))


class Amd(Server):
    """A server that was started as AMD's is."""

    def __init__(self, *arguments: str | Path, folder: Path, environ: Mapping[str, str]) -> None:
        self.rpc = free_ports(1)[0]
        port = free_ports(1)[0]
        super().__init__(
            folder, f"--http-port={port}", f"--grpc-port={self.rpc}", *arguments, command="amdinfer-server", ports=[port] * 3, environ=NO_ACCELERATOR | environ
        )  # fmt: skip

    @property
    def addresses(self) -> dict[str, int]:
        return {"inference": self.port, "grpc": self.rpc}


def every(folder: Path, *flags: str) -> Recorded:
    """The server with every model."""
    store = _store(folder / "store")
    repository = write_models(folder / "repository")
    _write(repository, REPOSITORY)
    for name in ("affine", "affine_samples"):
        _affine(repository / name / "1/model.onnx")
    for name in ("echo", "scale", "digits_onnx"):
        shutil.copytree(ROOT / "examples/repository" / name, repository / name)
    return Recorded(
        *(store / f"{name}.mar" for name in _LOADED), f"--model-store={store}", f"--model-repository={repository}",
        "--default-workers-per-model=1", "--max-response-size=1000000", *flags, folder=folder,
    )  # fmt: skip


def guarded(folder: Path, *flags: str) -> Recorded:
    """A server with fixed tokens, which lets pages of one other site read its answers, and takes small bodies only."""
    _write(
        folder,
        {
            "repository/scale/1/model.py": "def infer(inputs, parameters):\n    return {'y': inputs['x'] * 2}\n"
        },
    )
    tokens = {"MOORING_MANAGEMENT_TOKEN": "management-token", "MOORING_INFERENCE_TOKEN": "inference-token"}
    return Recorded(
        f"--model-repository={folder / 'repository'}", "--cors-allowed-origin=https://a.example",
        "--cors-allowed-methods=GET, POST", "--cors-allowed-headers=Content-Type,X-Own",
        "--max-request-size=2000", "--root-path=/behind", "--default-workers-per-model=1", *flags,
        folder=folder, environ=tokens,
    )  # fmt: skip


def enveloped(envelope: str):
    def start(folder: Path, *flags: str) -> Recorded:
        (folder / "store").mkdir()
        show = (
            "def handle(data, context):\n    return None if data is None else [repr(row) for row in data]\n"
        )
        _archived(folder / "store", "shown", show)
        settings = f"model_store=store\nload_models=all\nservice_envelope={envelope}\n"
        (folder / "config.properties").write_text(settings)
        return Recorded("--config=config.properties", *flags, folder=folder)

    start.__doc__ = f"A server whose handlers are behind the envelope {envelope!r}."
    return start


def amd(folder: Path, *flags: str) -> Amd:
    """A server in the form of AMD's, with two models that are loaded. AMD's flags do not have ours: they are variables."""
    named = (flag.removeprefix("--").partition("=") for flag in flags)
    environ = {f"MOORING_{name.replace('-', '_').upper()}": value for name, _, value in named}
    _write(
        folder / "repository",
        {
            "plus/config.toml": 'name = "plus"\nplatform = "builtin"\nentry = "echo"\n',
            "invert-it/config.toml": 'platform = "builtin"\nentry = "invert_image"\n',
            "fails/1/model.py": "def infer(inputs, parameters):\n    raise ValueError('as it should')\n",
        },
    )
    for name in ("plus", "invert-it"):
        (folder / "repository" / name / "1").mkdir()
    return Amd(
        f"--model-repository={folder / 'repository'}",
        "--repository-load-existing",
        folder=folder,
        environ=environ,
    )


STARTS = {
    "every": every, "guarded": guarded, "amd": amd,
    **{f"envelope-{name}": enveloped(name) for name in ("body", "json", "kserve", "kservev2")},
}  # fmt: skip


@contextmanager
def started(
    which: str, *flags: str, program: Sequence[str | Path] = Server.PROGRAM
) -> Iterator[Mapping[str, int]]:
    """The ports of such a server, which is run by ``program``; it ends cleanly afterwards."""
    with tempfile.TemporaryDirectory(prefix="exchanges-") as name:
        shared = Path("/dev/shm") / REGION
        with patch.object(Server, "PROGRAM", program):
            server = STARTS[which](Path(name), *flags)
        try:
            if which == "amd":
                server.started("HTTP server starting")
            else:
                server.started()
            if which == "every":
                _write(Path(name) / "repository", LATER)
                shared.write_bytes(REGION_BYTES)
            yield server.addresses
            assert server.stop() == 0, server.log
        finally:
            server.kill()
            shared.unlink(missing_ok=True)
