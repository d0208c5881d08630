"""Models that lie in folders: ours, Triton's and AMD's (config.pbtxt, config.toml), and MLServer's (model-settings.json)."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from mooring.core.errors import ModelLoadFailed
from mooring.doctor.findings import Finding, at, change, differs, line_of, runs
from mooring.doctor.libraries import Requirements, library_findings
from mooring.doctor.python_source import SourceUnreadable, imports, read_source
from mooring.repository.declaration import read_versions
from mooring.repository.layout import MLSERVER, find_declaration, version_folders
from mooring.repository.spec import ModelSpec
from mooring.repository.triton import WITHOUT_EFFECT
from mooring.workers.capacity import machine_capacity

_LIBRARIES = {"onnx": "onnxruntime", "pytorch": "torch"}
# MLServer's runtimes -> what a function here would call.
_RUNTIMES = {
    "mlserver_sklearn": "joblib.load and predict",
    "mlserver_xgboost": "xgboost.Booster and predict",
    "mlserver_lightgbm": "lightgbm.Booster and predict",
    "mlserver_catboost": "catboost's load_model and predict",
    "mlserver_mlflow": "mlflow.pyfunc.load_model and predict",
    "mlserver_huggingface": "transformers.pipeline",
}


def is_repository_model(folder: Path) -> bool:
    """Whether a folder looks like a model of Triton's, AMD's or our own repository."""
    file = find_declaration(folder)
    if file is not None and file.name in ("config.toml", "config.pbtxt"):
        return True
    return bool(version_folders(folder)) and (file is not None or _served_versions(folder))


def _served_versions(folder: Path) -> bool:
    return any(True for place in version_folders(folder) for _ in place.glob("model.*"))


def repository_findings(folder: Path, shown: str) -> Iterator[Finding]:
    """What is to be said of a model in such a folder."""
    file = find_declaration(folder)
    where = f"{shown}/{file.relative_to(folder)}" if file else shown
    try:
        specs = read_versions(folder.resolve(), shown)
    except ModelLoadFailed as error:
        text = error.message.replace(str(folder.resolve()), shown)
        yield change(where, text, "change what it says, or serve the model as a function (model.py)")
        return
    for spec in specs:
        yield from _spec_findings(spec, folder.resolve(), shown, where)
    if file is not None and file.suffix == ".pbtxt":
        text = file.read_text(errors="replace")
        for key in sorted(WITHOUT_EFFECT):
            if line := line_of(text, key, ":{[ \t"):
                yield differs(at(where, line), f"{key} has no effect here", "the line may stay")


def _spec_findings(spec: ModelSpec, folder: Path, shown: str, where: str) -> Iterator[Finding]:
    name = f"model {spec.name} {spec.version}"
    library = _LIBRARIES.get(spec.backend)
    if library is not None and find_spec(library) is None:
        yield change(where, f"{name} needs {library}, which is not installed here", f"pip install {library}")
        return
    if refusal := machine_capacity().refusal(spec.min_workers):
        yield change(where, f"{name} is refused: {refusal}", "give it fewer workers")
        return
    if spec.backend == "function":
        source = Path(spec.location, spec.entry.partition(":")[0])
        place = f"{shown}/{source.relative_to(folder)}" if source.is_relative_to(folder) else shown
        if line := _triton_class(source):
            text = "is written for Triton's Python backend, which is not here"
            yield change(at(place, line), text, "write a function or a class Model of arrays in its place")
            return
        if source.is_file():
            inside = f"{shown}/{Path(spec.location).relative_to(folder)}"
            found = list(
                library_findings(Path(spec.location), inside, [source], Requirements(None, installed=False))
            )
            if found:
                yield from found
                return
    yield runs(where, f"{name} runs as it is, by the backend {spec.backend}")


def _triton_class(source: Path) -> int:
    try:
        found = imports(read_source(source))
    except SourceUnreadable:
        return 0
    return next((each.line for each in found if each.module == "triton_python_backend_utils"), 0)


def mlserver_findings(folder: Path, shown: str) -> Iterator[Finding]:
    """What is to be said of a model with MLServer's model-settings.json."""
    where = f"{shown}/{MLSERVER}"
    try:
        text = (folder / MLSERVER).read_bytes()[: 1 << 20]
        said = msgspec.json.decode(text, type=dict[str, Any])
    except (OSError, RecursionError, ValueError) as error:
        yield change(where, f"cannot be read: {error}", "mend the file")
        return
    name = str(said.get("name") or folder.name)
    implementation = str(said.get("implementation") or "")
    parameters = said.get("parameters")
    uri = str(parameters.get("uri") or "") if isinstance(parameters, dict) else ""
    line = line_of(text.decode("utf-8", "replace"), '"implementation"', ": \t")
    runtime = _RUNTIMES.get(implementation.partition(".")[0])
    what = f"MLServer's model {name} ({implementation or 'no implementation'}) is not run by this server"
    code = f"by {runtime}" if runtime else "as the class's load and predict do"
    model = f"load {uri} " if uri else "load the model "
    yield change(at(where, line), what, f"write {name}/1/model.py, whose class Model is to {model}{code}")
