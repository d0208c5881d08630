"""What a template process imports before it forks workers of a model, and whether it may load the model, too.

See docs/decisions/0004-fork-or-spawn.md.

Little is needed to say so: torch is being imported while the rest of the server still is.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

from mooring.repository.platforms import CLASSES, SUFFIXES, backend_of, unshared_reason

if TYPE_CHECKING:
    from mooring.config.settings import Config
    from mooring.repository.spec import ModelSpec

# What a template imports for a backend before the backend's own module: the libraries that take long.
_LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime",),
    "pytorch": ("torch", "mooring.backends.programs"),
}
# What torch imports to read an exported program: a second of every worker's start (1.05 s, with it 0.19).
_READS_PROGRAMS = "torch._export.serde.serialize"
_SOURCE_READ = 1_048_576
# Lines of a model's code that bring torch with them.
_NAMES_OF_TORCH = (
    b"import torch",
    b"from torch",
    b"ts.torch_handler",
    b"import transformers",
    b"from transformers",
)
_GROUP = "mooring.worker_process.group"
_NATIVE = ("onnx", "pytorch")
# How many folders of a repository, or archives of a store, are looked at before they are read.
_MAX_FILES = 32


def preload(spec: "ModelSpec") -> tuple[str, ...]:
    """The modules that a template should have imported before it forks a worker for this model.

    torch takes seconds and hundreds of megabytes, so it is only there for models whose code names it.
    """
    if spec.ranks:  # they import what they need; their worker only watches them
        return (_GROUP,)
    modules = libraries(spec.backend, spec.entry)
    return ("torch", *modules) if _names_torch(spec) else modules


def libraries(backend: str, entry: str) -> tuple[str, ...]:
    """What every model of this backend whose file is called so needs."""
    module, _, _ = CLASSES.get(backend, "").partition(":")
    modules = (*_LIBRARIES.get(backend, ()), module) if module else ()
    return (*modules, _READS_PROGRAMS) if backend == "pytorch" and entry.endswith(".pt2") else modules


def guess_modules(config: "Config") -> set[tuple[str, ...]]:
    """The modules that the names of files suggest at a glance, before anything is read.

    A configuration may know better, so whoever has them imported must be ready to throw that away.
    """
    files = [Path(target.rpartition("=")[2]) for target in config.targets]
    if config.repository_load_existing:
        for repository in config.model_repository:
            files += islice(repository.glob("*/*/*.*"), _MAX_FILES)
    found = {libraries(backend, file.name) for file in files if (backend := backend_of(file)) in _NATIVE}
    if config.model_store is not None:
        named = [name.rpartition("=")[2] for name in config.models]
        every = any(name.lower() == "all" for name in named)
        files += config.model_store.glob("*.mar") if every else map(config.model_store.joinpath, named)
    archives = (file for file in files if file.suffix == ".mar")
    if any(map(_holds_weights, islice(archives, _MAX_FILES))):
        found.add(("torch", *libraries("handler", "")))
    return found


def fork_unsafe_reason(spec: "ModelSpec", threads: int) -> str:
    """The reason why every worker must load this model by itself; empty where it may be loaded before they are forked.

    A user's code may do anything while it loads (open files, ask for its pid, start threads). A model with such code is
    loaded before the fork only where its configuration says so.
    """
    if spec.ranks:
        return "the processes of a parallel group load it"
    why = unshared_reason(
        spec.backend, module=bool(spec.parameters.get("module")), preload=spec.runtime.preload
    )
    if not why and spec.backend == "onnx" and threads > 1:
        return "a session of ONNX Runtime starts its threads when it is made"
    return why


def _holds_weights(archive: Path) -> bool:
    """Whether an archive has a file of PyTorch's in it: its handler is going to use torch, then."""
    if not archive.is_file():  # it may be a pipe
        return False
    try:
        with ZipFile(archive) as members:
            return any(name.endswith(SUFFIXES["pytorch"]) for name in members.namelist())
    except (OSError, ValueError, BadZipFile):  # who reads it says what is wrong
        return False


def _names_torch(spec: "ModelSpec") -> bool:
    if spec.backend in ("builtin", "codec", "onnx", "pytorch"):
        return False
    if spec.backend == "handler" and not spec.entry.partition(":")[0].endswith(".py"):
        handler = Path(spec.location, spec.entry.partition(":")[0] + ".py")
        if not handler.is_file():  # one of TorchServe's own handlers, all of which use torch
            return True
    location = Path(spec.location)
    if spec.backend in ("function", "triton_python"):
        # Only its own file: it may lie in a folder of scripts that are none of its business.
        sources = [location / spec.entry.partition(":")[0]]
    else:
        sources = sorted(location.glob("*.py"))
    for source in sources:
        if not source.is_file():  # the worker will say so, with the model's name
            continue
        with source.open("rb") as file:
            text = file.read(_SOURCE_READ)
        if any(line in text for line in _NAMES_OF_TORCH):
            return True
    return False
