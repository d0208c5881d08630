"""The process of a trial: it tries whether requests for a model file may share a call, reports it, and ends.

It is forked beside the workers, so that made-up rows that crash the model harm no request. Its memory is bounded here,
its time by the server. The result is stored under a digest of the model's files.
"""

import hashlib
import itertools
import mmap
import os
import resource
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from msgspec import structs

from mooring.backends import trial
from mooring.backends.backend import create_backend
from mooring.backends.signature_check import DeclaredBackend, model_file, stamp_of
from mooring.core.errors import MooringError
from mooring.core.service import Joining
from mooring.ipc.messages import Load, Trial
from mooring.repository.spec import ModelSpec
from mooring.worker_process.model_logging import show_warnings_only
from mooring.worker_process.outcomes import line_of
from mooring.worker_process.preloaded import Preloaded

# Memory beyond what the process has at its start: this much for calls, and _COPIES times the size of the model's files.
_MEMORY = 1 << 30
_COPIES = 4
# How many files beside a model are looked at: its weights may be in some of them.
_MOST_FILES = 1_000
_CHUNK = 1 << 20
_LIBRARIES = ("onnxruntime", "torch", "numpy")


def run_trial(control: socket.socket, model: Preloaded | None, order: Trial) -> None:
    """Try the model that the server names, which may be loaded already, and send the ``Joining`` that results."""
    show_warnings_only()  # of made-up rows
    try:
        result = _find_result(order, model)
    except MooringError as error:
        result = trial.undecided_joining(line_of(error))
    except MemoryError:
        result = trial.undecided_joining("the trial had too little memory")
    with suppress(BrokenPipeError, ConnectionResetError):
        control.sendall(msgspec.msgpack.encode(result))


def _find_result(order: Trial, model: Preloaded | None) -> Joining:
    """Return the stored result of the same files, else try the model and store the result."""
    spec = order.load.spec
    files, whole = model_files(spec)
    _bound_memory(sum(each.stat().st_size for each in files))
    stamp = stamp_of(files[0])
    loaded = model.backend.joining if model is not None else None
    if loaded is not None and loaded.stamp != stamp:
        # The file is no longer the one that the model was loaded from.
        return structs.replace(_try_model(order.load, model), stamp=loaded.stamp)
    if not order.folder or not whole:
        return structs.replace(_try_model(order.load, model), stamp=stamp)
    file = Path(order.folder, "joining", result_key(spec, files))
    result = load_result(file)
    if result is None:
        result = _try_model(order.load, model)
        save_result(file, result)
    return structs.replace(result, stamp=stamp)


def _try_model(load: Load, model: Preloaded | None) -> Joining:
    if model is None:
        backend = create_backend(load.spec.backend)
        backend.load(load.spec, load.context)
    else:
        backend = model.backend
        backend.after_fork(load.context)
    assert isinstance(backend, DeclaredBackend)
    return trial.try_rows(backend)


def _bound_memory(size: int) -> None:
    """Limit the process to ``_MEMORY`` and ``_COPIES`` times ``size`` bytes beyond what it has now."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        has = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
        limit = has + _MEMORY + _COPIES * size
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    # Where memory runs short all the same, the kernel kills this process first.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def model_files(spec: ModelSpec) -> tuple[list[Path], bool]:
    """Return the model's file with its other parts, and whether all files beside it were examined.

    Raises ``ModelLoadFailed`` where the file is gone.
    """
    file = model_file(spec)
    beside = list(itertools.islice(file.parent.rglob("*"), _MOST_FILES))
    return [file, *_find_parts(spec, file, sorted(beside))], len(beside) < _MOST_FILES


def _find_parts(spec: ModelSpec, file: Path, beside: Sequence[Path]) -> Iterator[Path]:
    """Yield the files beside the model's own that it names (external weights) or that hold its code."""
    others = [each for each in beside if each != file and each.is_file()]
    if spec.parameters.get("module"):
        yield from (each for each in others if each.suffix == ".py")
    if spec.backend != "onnx" or not others or not file.stat().st_size:
        return
    with file.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield from (
            each for each in others if content.find(each.relative_to(file.parent).as_posix().encode()) >= 0
        )


def result_key(spec: ModelSpec, files: list[Path]) -> str:
    """Return the digest under which a result is stored: of the files' contents, configuration, libraries and trial."""
    hasher = hashlib.sha256(
        msgspec.json.encode([trial.VERSION, spec.backend, *map(_library_version, _LIBRARIES)])
    )
    hasher.update(
        msgspec.json.encode(
            [spec.inputs, spec.outputs, spec.parameters, spec.runtime.optimize, spec.runtime.channels_last]
        )
    )
    for file in files:
        hasher.update(b"%d " % file.stat().st_size)
        with file.open("rb") as source:
            while chunk := source.read(_CHUNK):
                hasher.update(chunk)
    return hasher.hexdigest()


def _library_version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def load_result(file: Path) -> Joining | None:
    """Read a stored result; None where there is none or it cannot be read."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Joining)
    except (OSError, msgspec.DecodeError):
        return None


def save_result(file: Path, result: Joining) -> None:
    """Store a result for the next start. Where the folder cannot be written, the model is tried again then."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "wb") as target:
            target.write(msgspec.json.encode(result))
        Path(name).replace(file)
