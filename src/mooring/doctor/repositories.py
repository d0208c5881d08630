"""Models that lie in folders: ours, Triton's and AMD's (config.pbtxt, config.toml), and MLServer's (model-settings.json)."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from mooring.backends.onnx import check_declared
from mooring.core.errors import ModelLoadFailed
from mooring.core.missing_packages import describe_need
from mooring.doctor.findings import Finding, at, change, differs, line_of, runs
from mooring.doctor.libraries import Requirements, library_findings
from mooring.repository.ensemble_rules import StepModel, find_model_fault
from mooring.repository.layout import MLSERVER, PADDED, find_declaration, find_flat_file, version_folders
from mooring.repository.python_source import SourceUnreadable, find_classes, has_method, read_source
from mooring.repository.repository_model import RepositoryModel, read_repository_model
from mooring.repository.spec import ModelSpec
from mooring.repository.triton_config import tuning_keys
from mooring.workers.capacity import machine_capacity
from mooring.workers.execution_env import environment_path, names_environment

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
# What is said of a model that nothing here runs.
_NOBODY_RUNS = re.compile(r"unknown (?:platform|backend)")


def is_repository_model(folder: Path) -> bool:
    """Whether a folder looks like a model of Triton's, AMD's or our own repository, wherever it lies."""
    file = find_declaration(folder)
    if file is not None and file.name in ("config.toml", "config.pbtxt"):
        return True
    places = version_folders(folder)
    return bool(places) and (file is not None or any(_holds_file(place) for place in places))


def _holds_file(place: Path) -> bool:
    return bool(find_flat_file(place, "")) or any(True for _ in place.glob("model.*"))


def repository_findings(folder: Path, shown: str) -> Iterator[Finding]:
    """What the server would make of a folder of its repository: it is asked in the same words (``read_repository_model``)."""
    file = find_declaration(folder)
    where = f"{shown}/{file.relative_to(folder)}" if file else shown
    try:
        found = read_repository_model(folder)
    except ModelLoadFailed as error:
        yield change(
            where, _shorten_error(error, folder, shown).removeprefix(f"{where}: "), _suggest_fix(error)
        )
        return
    for spec in found.specs:
        yield from _spec_findings(spec, folder, shown, where)
    for version, fault in found.faults.items():
        yield change(
            f"{shown}/{version}",
            _shorten_error(fault, folder, shown).removeprefix(f"{where}: "),
            _suggest_fix(fault),
        )
    yield from _version_findings(found, shown, where)
    if file is not None and found.specs:
        text = file.read_text(errors="replace")
        for path, reason in tuning_keys(found.specs[-1].triton):
            line = line_of(text, path.partition(".")[0].partition("[")[0], ":{[ \t")
            yield differs(at(where, line), f"{path} has no effect here: {reason}", "the line may stay")


def _shorten_error(error: ModelLoadFailed, folder: Path, shown: str) -> str:
    return error.message.replace(str(folder), shown)


def _suggest_fix(error: ModelLoadFailed) -> str:
    if _NOBODY_RUNS.search(error.message):
        return "serve the model as a function (model.py), or in a form that is known here, such as ONNX"
    return "mend that, or take it out of the repository: the server is not ready while it cannot be served"


def _version_findings(found: RepositoryModel, shown: str, where: str) -> Iterator[Finding]:
    """Which of several versions are served, and which of those answers."""
    versions = sorted({spec.version for spec in found.specs}, key=int)
    if found.left_aside or len(versions) > 1:
        left = f"; {', '.join(found.left_aside)} not loaded" if found.left_aside else ""
        text = f"version_policy is {found.policy}: serves {', '.join(versions)}{left}; a request without a version"
        yield runs(where, f"{text} is answered by {versions[-1]}")
    for folder in found.padded:
        yield differs(f"{shown}/{folder}", f"is not served: {PADDED}", f"rename it to {int(folder)}")


def _spec_findings(spec: ModelSpec, folder: Path, shown: str, where: str) -> Iterator[Finding]:
    name = f"model {spec.name} {spec.version}"
    library = _LIBRARIES.get(spec.backend)
    if library is not None and find_spec(library) is None:
        need, command = describe_need(library)
        yield change(where, f"{name} needs {need}, which is not installed here", command)
        return
    if refusal := machine_capacity().refusal_reason(spec.scaling.min_workers):
        yield change(where, f"{name} is refused: {refusal}", "give it fewer workers")
        return
    if spec.ensemble is not None and (fault := _ensemble_fault(spec, folder)):
        yield change(where, f"{name}: {fault}", "mend the steps, or the models that they name")
        return
    if spec.backend == "onnx":
        try:
            check_declared(spec)
        except ModelLoadFailed as error:
            yield change(where, _shorten_error(error, folder, shown), _suggest_fix(error))
            return
    if spec.backend in ("function", "triton_python"):
        source = Path(spec.location, spec.entry.partition(":")[0])
        inside = _shown_place(spec, folder, shown)
        if spec.backend == "triton_python" and (line := _class_without_execute(source)):
            text = "class TritonPythonModel has no method execute"
            yield change(at(f"{inside}/{source.name}", line), text, "write it: execute(self, requests)")
            return
        if names_environment(spec):
            yield _environment_finding(spec, where)
            return
        if source.is_file():
            found = list(
                library_findings(Path(spec.location), inside, [source], Requirements(None, installed=False))
            )
            if found:
                yield from found
                return
    yield runs(where, f"{name} runs as it is, by the backend {spec.backend}")


def _environment_finding(spec: ModelSpec, where: str) -> Finding:
    """Whether the environment that a model brings is there. Its libraries are not looked at: its own Python knows them."""
    path, name = environment_path(spec), f"model {spec.name} {spec.version}"
    if not path.exists():
        return change(where, f"{name} names an environment that is not there: {path}", "put it there")
    return runs(where, f"{name} runs as it is, by the backend {spec.backend}, in the environment {path.name}")


def _ensemble_fault(spec: ModelSpec, folder: Path) -> str:
    """What does not fit between an ensemble and the models beside it, as far as their configurations tell."""
    assert spec.ensemble is not None
    models = []
    for step in spec.ensemble.steps:
        try:
            found = read_repository_model(folder.parent / step.model).specs
        except ModelLoadFailed as error:
            return f"step '{step.model}': {error.message}"
        model = found[-1]
        if step.version and step.version not in {each.version for each in found}:
            return f"step '{step.model}': model '{step.model}' has no version {step.version} that is served"
        models.append(StepModel.of(model, model.inputs, model.outputs))
    return find_model_fault(spec, models)


def _shown_place(spec: ModelSpec, folder: Path, shown: str) -> str:
    """How the folder of a version is named: one that is a link by the link, and not by where it leads."""
    place, real = Path(spec.location), folder.resolve()
    if place.is_relative_to(real):
        return str(Path(shown, place.relative_to(real)))
    return f"{shown}/{spec.version}"


def _class_without_execute(source: Path) -> int:
    """The line of a TritonPythonModel that lacks its method; 0 where there is none, or where it may be inherited."""
    try:
        classes = find_classes(read_source(source))
    except SourceUnreadable:
        return 0
    return next(
        (
            each.lineno
            for each in classes
            if each.name == "TritonPythonModel" and not has_method(each, "execute")
        ),
        0,
    )


def mlserver_findings(folder: Path, shown: str) -> Iterator[Finding]:
    """What is to be said of a model with MLServer's model-settings.json."""
    where = f"{shown}/{MLSERVER}"
    try:
        text = (folder / MLSERVER).read_bytes()[: 1 << 20]
        settings = msgspec.json.decode(text, type=dict[str, Any])
    except (OSError, RecursionError, ValueError) as error:
        yield change(where, f"cannot be read: {error}", "mend the file")
        return
    name = str(settings.get("name") or folder.name)
    implementation = str(settings.get("implementation") or "")
    parameters = settings.get("parameters")
    uri = str(parameters.get("uri") or "") if isinstance(parameters, dict) else ""
    line = line_of(text.decode("utf-8", "replace"), '"implementation"', ": \t")
    runtime = _RUNTIMES.get(implementation.partition(".")[0])
    what = f"MLServer's model {name} ({implementation or 'no implementation'}) is not run by this server"
    code = f"by {runtime}" if runtime else "as the class's load and predict do"
    model = f"load {uri} " if uri else "load the model "
    yield change(at(where, line), what, f"write {name}/1/model.py, whose class Model is to {model}{code}")
