"""Examines the imports of a model's code: whether the libraries are installed, or in the model's requirements."""

import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from mooring.backends.handler.absent import REASONS
from mooring.backends.handler.entry import COMPAT
from mooring.core.missing_packages import install_command, package_of
from mooring.doctor.findings import Finding, at, change, differs
from mooring.hardware import CPU, find_devices
from mooring.repository.python_source import (
    Import,
    SourceUnreadable,
    find_imports,
    find_required_cuda,
    read_source,
)

# Libraries that only run on a vendor's devices.
_VENDORS = {
    "cupy": "CUDA",
    "deepspeed": "CUDA",
    "habana_frameworks": "Habana's devices",
    "intel_extension_for_pytorch": "Intel's devices",
    "nvidia": "NVIDIA's DALI",
    "pycuda": "CUDA",
    "pynvml": "NVIDIA's devices",
    "tensorrt": "NVIDIA's TensorRT",
    "tensorrt_llm": "NVIDIA's TensorRT",
    "torch_neuronx": "AWS Neuron",
    "torch_tensorrt": "NVIDIA's TensorRT",
    "torch_xla": "XLA devices",
    "vllm": "CUDA",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Requirements:
    """The distributions in a model's requirements.txt, and whether they would be installed."""

    def __init__(self, file: Path | None, *, installed: bool) -> None:
        self.installed = installed
        self._names: set[str] = set()
        if file is not None:
            text = file.read_bytes()[: 1 << 20].decode("utf-8", "replace")
            lines = (line.strip().rpartition("/")[2] for line in text.splitlines())
            found = (_NAME.match(line.partition("-")[0] if line.endswith(".whl") else line) for line in lines)
            self._names = {_normalize_name(each[0]) for each in found if each}

    def provides_module(self, module: str) -> bool:
        """Return whether they name the distribution of this module."""
        package = _normalize_name(package_of(module))
        return any(name == package or name.startswith(f"{package}-") for name in self._names)


# The modules of Triton's Python backend, which its models find in a worker.
_OF_TRITON = frozenset({"triton_python_backend_utils", "c_python_backend_utils"})


def library_findings(
    folder: Path, shown: str, start: list[Path], requirements: Requirements
) -> Iterator[Finding]:
    """Return the findings about imports and required devices of these files and of the model's files they import."""
    waiting, seen, reported = list(start), set(start), set()
    while waiting:
        file = waiting.pop(0)
        name = f"{shown}/{file.relative_to(folder)}"
        try:
            tree = read_source(file)
        except SourceUnreadable as error:
            yield change(
                at(name, error.line), f"is not Python that can be imported: {error}", "mend the file"
            )
            continue
        cuda = find_required_cuda(tree)
        if cuda and set(find_devices()) == {CPU}:
            yield change(
                at(name, cuda),
                "takes a CUDA device for granted, and this machine has none",
                'say torch.device("cuda" if torch.cuda.is_available() else "cpu")',
            )
        for each in find_imports(tree):
            own = _own_files(folder, file, each)
            waiting += [path for path in own if path not in seen]
            seen.update(own)
            top = each.module.partition(".")[0]
            if not own and not each.level and top not in reported:
                reported.add(top if top != "ts" else "")
                yield from _import_findings(each, top, at(name, each.line), requirements)


def _import_findings(each: Import, top: str, where: str, requirements: Requirements) -> Iterator[Finding]:
    if top in sys.stdlib_module_names or top in _OF_TRITON:
        return
    if top == "ts":
        if each.module in REASONS:
            text = f"imports {each.module}, which {REASONS[each.module]}"
            yield change(where, text, "take it out, or write a handler of your own")
        elif not _known_to_compat(each.module):
            text = f"imports {each.module}, which is not among the parts of TorchServe that are here"
            yield change(where, text, "copy what is used of it into the archive")
        return
    needs = f", which needs {_VENDORS[top]}" if top in _VENDORS else ""
    if _is_here(top):
        if needs:
            yield differs(where, f"imports {top}{needs}; it is installed here")
    elif each.optional:
        yield differs(
            where, f"imports {top}{needs}, which is not installed here; the code goes on without it"
        )
    elif not requirements.provides_module(top):
        text = f"imports {top}{needs}{'; it' if needs else ', which'} is not installed here"
        hint = f"{install_command(top)}, or name it in the model's requirements.txt"
        yield change(where, text, f"{hint} (install_py_dep_per_model=true)")
    elif not requirements.installed:
        text = f"imports {top}{needs}, which is only in the model's requirements, and those are not installed"
        yield change(where, text, "set install_py_dep_per_model=true in config.properties")
    elif needs:
        yield differs(where, f"imports {top}{needs}; the model's requirements bring it")


def _own_files(folder: Path, file: Path, each: Import) -> list[Path]:
    """Return the model's own files that an import loads."""
    base = folder
    if each.level:
        base = file.parents[min(each.level, len(file.parents)) - 1]
    parts = each.module.split(".") if each.module else []
    stems = [parts, *([*parts, name] for name in each.names)]
    found: list[Path] = []
    for stem in stems:
        candidates = [base.joinpath(*stem).with_suffix(".py")] if stem else []
        candidates.append(base.joinpath(*stem, "__init__.py"))
        found += [path for path in candidates if path.is_relative_to(folder) and path.is_file()]
    if not found and parts and (base / parts[0]).is_dir():  # a package without __init__.py
        return [file]
    return found


def _known_to_compat(module: str) -> bool:
    place = COMPAT.joinpath(*module.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _normalize_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
