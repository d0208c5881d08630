"""Examines a TorchServe archive or its folder: manifest, handler, weights, model-config.yaml."""

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from mooring.backends.handler.absent import REASONS
from mooring.backends.handler.entry import DEFAULT_HANDLERS
from mooring.core.errors import ModelLoadFailed
from mooring.core.missing_packages import install_command
from mooring.core.options import Parallel
from mooring.doctor.findings import Finding, Verdict, at, change, differs, line_of, runs
from mooring.doctor.libraries import Requirements, library_findings
from mooring.doctor.weights import more_than_tensors
from mooring.repository.archives import find_model_root, unpack
from mooring.repository.mar import MANIFEST, check_name, file_in_archive, model_name_of, read_manifest
from mooring.repository.model_config import check_server_keys, read_model_config
from mooring.repository.parallel import GROUPS_TAKE_NO_STEPS, find_refusal, read_parallel
from mooring.repository.python_source import (
    SourceUnreadable,
    binds_name,
    find_classes,
    has_method,
    read_source,
    torch_loads,
)
from mooring.workers.capacity import machine_capacity

_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt")


class _Model(msgspec.Struct, frozen=True):
    """An unpacked model and its name in findings."""

    folder: Path
    shown: str
    manifest: dict[str, Any]
    installing: bool

    def manifest_text(self, key: str) -> str:
        """Return a text of the manifest; empty if it has none of that key."""
        return str(self.manifest["model"].get(key, ""))

    def file(self, key: str) -> Path | None:
        """Return the file that the manifest names. Raises ``ModelLoadFailed`` if it is not in the archive."""
        return (
            file_in_archive(self.folder, self.manifest_text(key), self.shown)
            if self.manifest_text(key)
            else None
        )

    def handler(self) -> tuple[str, str]:
        """Return the handler's module and function as the manifest names them."""
        location, _, function_name = self.manifest_text("handler").partition(":")
        return location.rpartition("/")[2].removesuffix(".py").removeprefix(
            "ts.torch_handler."
        ), function_name

    def place(self, file: Path, line: int = 0) -> str:
        """Return the name of a file of the model in findings."""
        return at(f"{self.shown}/{file.relative_to(self.folder)}", line)


def archive_findings(archive: Path, shown: str, *, installing: bool) -> Iterator[Finding]:
    """Return the findings about an archive. It is unpacked to a temporary folder with the server's own checks."""
    with tempfile.TemporaryDirectory(prefix="mooring-doctor-") as temporary:
        folder = Path(temporary).resolve()
        try:
            unpack(archive, folder)
        except ModelLoadFailed as error:
            yield change(shown, error.message, "make the archive anew with 'mooring archive'")
            return
        yield from folder_findings(
            find_model_root(folder), shown, installing=installing, fallback=model_name_of(archive)
        )


def folder_findings(folder: Path, shown: str, *, installing: bool, fallback: str = "") -> Iterator[Finding]:
    """Return the findings about a model's folder."""
    folder = folder.resolve()
    try:
        manifest = read_manifest(folder, shown)
        name = check_name(manifest["model"].get("modelName") or fallback or folder.name, shown, "name")
        model = _Model(folder, shown, manifest, installing)
        found = list(_model_findings(model))
    except ModelLoadFailed as error:
        yield change(f"{shown}/{MANIFEST}", error.message, "make the archive anew with 'mooring archive'")
        return
    if not any(each.verdict is Verdict.CHANGE for each in found):
        version = manifest["model"].get("modelVersion", "1.0")
        yield runs(
            shown, f"model {name} {version} runs as it is, with handler {model.manifest_text('handler')}"
        )
    yield from found


def _model_findings(model: _Model) -> Iterator[Finding]:
    requirements = model.file("requirementsFile")
    if requirements is not None and not model.installing:
        yield differs(
            model.place(requirements),
            "is not installed, as in TorchServe without the setting",
            "set install_py_dep_per_model=true in config.properties if the model needs it",
        )
    config_file = model.file("configFile")
    config: dict[str, Any] = {}
    if config_file is not None:
        config = read_model_config(config_file)
        yield from _config_findings(model, config_file, config)
    name, function_name = model.handler()
    handler = model.folder / f"{name}.py"
    sources = [
        each for each in (handler, model.folder / (model.manifest_text("modelFile") or "-")) if each.is_file()
    ]
    if handler.is_file():
        yield from _handler_findings(model, handler, function_name)
    else:
        yield from _named_handler_findings(model, name)
    if model.manifest_text("modelFile") and model.folder / model.manifest_text("modelFile") not in sources:
        yield change(
            f"{model.shown}/{MANIFEST}",
            f"names modelFile {model.manifest_text('modelFile')}, which is not in it",
            "add the file",
        )
    yield from library_findings(
        model.folder, model.shown, sources, Requirements(requirements, installed=model.installing)
    )
    yield from _weights_findings(model, sources, config_file, config)


def _named_handler_findings(model: _Model, name: str) -> Iterator[Finding]:
    where = f"{model.shown}/{MANIFEST}"
    if name in DEFAULT_HANDLERS:
        return
    if reason := REASONS.get(f"ts.torch_handler.{name}"):
        yield change(where, f"handler {name} {reason}", "name a handler of your own in its place")
    else:
        text = f"the handler is missing: {name}.py is not in the archive, and no default handler is called so"
        yield change(where, text, f"make the archive anew with --handler {name}.py")


def _handler_findings(model: _Model, file: Path, function_name: str) -> Iterator[Finding]:
    try:
        tree = read_source(file)
    except SourceUnreadable:
        return  # it is said where its imports are read
    if binds_name(tree, function_name or "handle"):
        return
    if function_name:
        text = f"the handler has no function {function_name}, which the manifest asks for"
        yield change(model.place(file), text, f"define {function_name}(data, context)")
        return
    found = find_classes(tree)
    if len(found) != 1:
        text = f"a handler has one class or a function 'handle'; this has {', '.join(each.name for each in found) or 'neither'}"
        line = found[1].lineno if found else 0
        hint = "move the other classes into a file of their own (--extra-files)" if found else "define one"
        yield change(model.place(file, line), text, hint)
        return
    if not has_method(found[0], "handle"):
        text = f"class {found[0].name} has no method 'handle'"
        yield change(model.place(file, found[0].lineno), text, "define handle(self, data, context)")


def _config_findings(model: _Model, file: Path, config: dict[str, Any]) -> Iterator[Finding]:
    text = file.read_text(errors="replace")
    judged = check_server_keys(config)
    for key, fault in judged.faults.items():
        where = model.place(file, line_of(text, key, ": \t"))
        yield change(where, f"{key} is {config[key]!r} and is ignored: {fault}", f"give {key} such a value")
    parallel = read_parallel(config)
    if parallel is not None:
        where = model.place(
            file, line_of(text, "torchrun" if "torchrun" in config else "parallelType", ": \t")
        )
        yield from _parallel_findings(parallel, config, where)
    processes = parallel.count_processes(1) if parallel is not None else 1
    if refusal := machine_capacity().refusal_reason(judged.chosen.get("minWorkers", 1) * processes):
        where = model.place(file, line_of(text, "minWorkers", ": \t"))
        yield change(where, f"minWorkers is refused: {refusal}", "give minWorkers a smaller number")
    for key in judged.without_effect:
        where = model.place(file, line_of(text, key, ": \t"))
        yield differs(where, f"{key} has no effect here", "remove it if the model does not read it itself")


def _parallel_findings(parallel: Parallel, config: dict[str, Any], where: str) -> Iterator[Finding]:
    if not parallel.grouped:
        yield differs(where, "the handler starts its processes by itself, in a worker as any other")
    elif refusal := find_refusal(config):
        yield change(
            where, refusal, "set nnodes to 1, or serve the parts of the model as models of their own"
        )
    elif config.get("continuousBatching"):
        yield change(where, GROUPS_TAKE_NO_STEPS, "take continuousBatching out")
    elif find_spec("torch") is None:
        text = f"each worker is a parallel group of {parallel.level} processes, which need torch; it is not installed here"
        yield change(where, text, install_command("torch"))
    else:
        text = f"each worker is a parallel group of {parallel.level} processes on this machine, under torchrun's environment"
        yield differs(
            where, f"{text}; rank 0 answers, and torchrun's own restarts and rendezvous have no effect"
        )


def _weights_findings(
    model: _Model, sources: list[Path], config_file: Path | None, config: dict[str, Any]
) -> Iterator[Finding]:
    for file in sorted(model.folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(model.folder).parts)
        if hidden or file.suffix not in _WEIGHTS or not file.is_file():
            continue
        others = more_than_tensors(file)
        if not others:
            continue
        names = ", ".join(each.replace(" ", ".") for each in others[:3])
        what = f"is a full pickle, which runs code when it is loaded: it holds more than tensors ({names})"
        yield _pickle_finding(model, sources, model.place(file), what, config_file, config)


def _pickle_finding(
    model: _Model,
    sources: list[Path],
    where: str,
    what: str,
    config_file: Path | None,
    config: dict[str, Any],
) -> Finding:
    loads = [(source, line, only) for source in sources for line, only in _torch_loads(source)]
    if any(only is False for _, _, only in loads):
        return differs(where, f"{what}; the handler's own code loads it so", "save a state_dict")
    if loads:
        source, line, _ = loads[0]
        place = model.place(source, line)
        return change(place, f"loads {Path(where).name}, which {what}; torch refuses that since 2.6",
                      "save a state_dict, or add weights_only=False if you trust the file")  # fmt: skip
    if config.get("allow_pickle") is True:
        return differs(where, f"{what}; allow_pickle says that it is trusted", "save a state_dict")
    name = model.place(config_file) if config_file else "a model-config.yaml (--config-file)"
    return change(
        where, what, f"save a state_dict, or write 'allow_pickle: true' into {name} if you trust the file"
    )


def _torch_loads(source: Path) -> list[tuple[int, bool | None]]:
    try:
        return torch_loads(read_source(source))
    except SourceUnreadable:
        return []
