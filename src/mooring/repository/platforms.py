"""The backend for each platform or backend name of a configuration, its class, and the file that is the model.

    platform (ours, AMD's, Triton's)                                  backend     the file in NAME/1/
    python, function                                                  function    model.py, or the only .py; triton_python
                                                                                  where it has a class TritonPythonModel
    builtin, amdinfer_cpp                                             builtin     none, or lib<builtin>.so, which is not run
    onnx, onnxruntime, onnxruntime_onnx, onnx_onnxv1, migraphx_mxr    onnx        model.onnx, the only .onnx, the only file
    ensemble                                                          ensemble    none: its steps are other models
    pytorch, pytorch_libtorch, pytorch_torchscript, pytorch_exported  pytorch     model.pt2, model.pt, the only one of those

Without a name the files decide.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from mooring.core.errors import ModelLoadFailed

BACKENDS: Mapping[str, str] = {
    "function": "function",
    "python": "function",
    "builtin": "builtin",
    "amdinfer_cpp": "builtin",
    "ensemble": "ensemble",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxruntime_onnx": "onnx",
    "onnx_onnxv1": "onnx",
    "migraphx_mxr": "onnx",
    "pytorch": "pytorch",
    "pytorch_libtorch": "pytorch",
    "pytorch_torchscript": "pytorch",
    "pytorch_exported": "pytorch",
    "pytorch_eager": "pytorch",
}

# The class of each backend. A worker or its template imports it, the server never does.
CLASSES: Mapping[str, str] = {
    "handler": "mooring.backends.handler.backend:HandlerBackend",
    "function": "mooring.backends.function:FunctionBackend",
    "triton_python": "mooring.backends.triton_python.backend:TritonPythonBackend",
    "builtin": "mooring.backends.builtin:BuiltinBackend",
    "onnx": "mooring.backends.onnx:OnnxBackend",
    "pytorch": "mooring.backends.pytorch:PyTorchBackend",
    "codec": "mooring.backends.codec_backend:CodecBackend",
}

# AMD's own names: there a request is one sample, and its shape has no batch dimension.
AMD_PLATFORMS = frozenset(
    {
        "amdinfer_cpp",
        "migraphx_mxr",
        "onnx_onnxv1",
        "pytorch_torchscript",
        "rocal_json",
        "tensorflow_graphdef",
    }
)

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "function": (".py",),
    "triton_python": (".py",),
    "onnx": (".onnx",),
    "pytorch": (".pt2", ".pt", ".pth", ".safetensors"),
}

_TRITON_MODEL = re.compile(
    rb"^[ \t]*(class[ \t]+TritonPythonModel\b|TritonPythonModel[ \t]*=|(from|import)\b[^\n]*\bTritonPythonModel\b)",
    re.MULTILINE,
)
_SOURCE_READ = 1 << 20

FUNCTION = "function"
# Backends whose models are a file that a library reads, with no code of the user's.
LIBRARIES = ("onnx", "pytorch")

# How many rows share a call of a model whose own file shows a batch dimension, where nobody says how many. Once rows
# were shown to be independent, waiting requests are joined, none waits for more, and a large request is called in parts.
DEFAULT_BATCH = 8


def runs_user_code(backend: str, *, module: bool) -> bool:
    """Whether loading such a model runs code of the user's; ``module`` says that its weights have their class beside
    them.
    """
    return backend not in LIBRARIES or module


def runs_python(backend: str) -> bool:
    """Whether such a model is a Python file of the user's, which may bring an environment of its own."""
    return backend in ("function", "triton_python")


def calls_models(backend: str) -> bool:
    """Whether the code of such models may call other models of the server."""
    return backend == "triton_python"


def unshared_reason(backend: str, *, module: bool, preload: bool | None) -> str:
    """Say why every worker of a model must load a copy of its own; empty where the workers can share one.

    A ``module`` is code of the user's, which may do anything while it loads, so it must say ``preload``.
    """
    if preload is False:
        return "preload = false"
    if backend not in LIBRARIES:
        return "its code is the user's own"
    if module and not preload:
        return "its module is code of the user's own, and does not say preload = true"
    return ""


def runs_triton_model(file: Path) -> bool:
    """Whether a Python file is written for Triton's Python backend: it defines or imports ``TritonPythonModel``.

    The file is read, and not run.
    """
    try:
        with file.open("rb") as source:
            return _TRITON_MODEL.search(source.read(_SOURCE_READ)) is not None
    except OSError:  # who loads it says what is wrong
        return False


def completes_config(file: Path) -> bool:
    """Whether a file for Triton's Python backend may have an ``auto_complete_config``."""
    try:
        with file.open("rb") as source:
            return b"auto_complete_config" in source.read(_SOURCE_READ)
    except OSError:
        return False


def backend_of(file: Path) -> str:
    """The backend of a file that is a whole model; empty for any other file."""
    return next((name for name, suffixes in SUFFIXES.items() if file.suffix in suffixes), "")


def backend_for(name: str, key: str, where: str) -> str:
    """The backend for a platform or backend name of a configuration. Raises ``ModelLoadFailed``."""
    backend = BACKENDS.get(name)
    if backend is None:
        raise ModelLoadFailed(f"{where}: unknown {key} '{name}'; known are {', '.join(sorted(BACKENDS))}")
    return backend


def find_model_file(place: Path, backend: str) -> tuple[str, str]:
    """Find the file of a version that names none. Returns the backend and the file's name.

    Raises ``ModelLoadFailed`` where there is no file, or several and none of them called "model".
    """
    for each in (backend,) if backend else SUFFIXES:
        found = _candidate_files(place, each, alone=bool(backend))
        if len(found) == 1:
            return each, found[0]
        if found:
            raise ModelLoadFailed(
                f"model '{place}' has {', '.join(found)}; name the one that it is as 'entry'"
            )
    example = f"model{SUFFIXES.get(backend, ('.py',))[0]}"
    raise ModelLoadFailed(f"model '{place}' has no {example}; put it there, or name its file as 'entry'")


def _candidate_files(place: Path, backend: str, *, alone: bool) -> list[str]:
    """The files that could be the model: the one called "model", else those of its kind, else (``alone``) the only file."""
    suffixes = SUFFIXES[backend]
    files = sorted(file.name for file in place.iterdir() if file.is_file() and not file.name.startswith("."))
    for suffix in suffixes:
        if f"model{suffix}" in files:
            return [f"model{suffix}"]
    found = [name for suffix in suffixes for name in files if name.endswith(suffix)]
    return found or (files if alone and backend != "function" and len(files) == 1 else [])
