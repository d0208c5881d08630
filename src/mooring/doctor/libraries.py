"""Which libraries a model's code imports, and whether they are there: on this machine, or in the model's requirements."""

import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from mooring.backends.handler.entry import COMPAT
from mooring.doctor.findings import Finding, at, change, differs
from mooring.doctor.python_source import (
    Import,
    SourceUnreadable,
    imports,
    read_source,
    takes_cuda_for_granted,
)
from mooring.hardware import CPU, devices

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
# Where the module is not called as what pip installs.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dotenv": "python-dotenv",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Requirements:
    """What a model's requirements.txt names, and whether it would be installed."""

    def __init__(self, file: Path | None, *, installed: bool) -> None:
        self.installed = installed
        self._names: set[str] = set()
        if file is not None:
            text = file.read_bytes()[: 1 << 20].decode("utf-8", "replace")
            lines = (line.strip().rpartition("/")[2] for line in text.splitlines())
            found = (_NAME.match(line.partition("-")[0] if line.endswith(".whl") else line) for line in lines)
            self._names = {_normal(each[0]) for each in found if each}

    def bring(self, module: str) -> bool:
        """Whether they name what has this module."""
        wanted = _normal(_DISTRIBUTIONS.get(module, module))
        return any(name == wanted or name.startswith(f"{wanted}-") for name in self._names)


def library_findings(
    folder: Path, shown: str, start: list[Path], requirements: Requirements
) -> Iterator[Finding]:
    """What is to be said of the imports of these files and of the model's own files that they import, and of the devices
    that they take for granted.
    """
    waiting, seen, told = list(start), set(start), set()
    while waiting:
        file = waiting.pop(0)
        name = f"{shown}/{file.relative_to(folder)}"
        try:
            tree = read_source(file)
        except SourceUnreadable as error:
            yield change(at(name, error.line), f"is no Python that can be imported: {error}", "mend the file")
            continue
        cuda = takes_cuda_for_granted(tree)
        if cuda and set(devices()) == {CPU}:
            yield change(
                at(name, cuda),
                "takes a CUDA device for granted, and this machine has none",
                'say torch.device("cuda" if torch.cuda.is_available() else "cpu")',
            )
        for each in imports(tree):
            own = _own(folder, file, each)
            waiting += [path for path in own if path not in seen]
            seen.update(own)
            top = each.module.partition(".")[0]
            if not own and not each.level and top not in told:
                told.add(top if top != "ts" else "")
                yield from _judge(each, top, at(name, each.line), requirements)


def _judge(each: Import, top: str, where: str, requirements: Requirements) -> Iterator[Finding]:
    if top in sys.stdlib_module_names:
        return
    if top == "ts":
        if not _known_to_compat(each.module):
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
    elif not requirements.bring(top):
        package = _DISTRIBUTIONS.get(top, top)
        text = f"imports {top}{needs}{'; it' if needs else ', which'} is not installed here"
        hint = f"pip install {package}, or name it in the model's requirements.txt"
        yield change(where, text, f"{hint} (install_py_dep_per_model=true)")
    elif not requirements.installed:
        text = f"imports {top}{needs}, which is only in the model's requirements, and those are not installed"
        yield change(where, text, "set install_py_dep_per_model=true in config.properties")
    elif needs:
        yield differs(where, f"imports {top}{needs}; the model's requirements bring it")


def _own(folder: Path, file: Path, each: Import) -> list[Path]:
    """The model's own files behind an import."""
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


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
