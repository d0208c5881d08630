"""Makes archives of models and of workflows: torch-model-archiver's and torch-workflow-archiver's flags, file lists and
manifests (docs/contracts/torchserve.md, sections 4 and 6).

    default, zip-store   NAME.mar       a zip; the second without compression
    tgz                  NAME.tar.gz    everything in one leading folder NAME
    no-archive           NAME/          the folder itself
    of a workflow        NAME.war       a zip

Files lie flat at the root under their own names; of a folder among the extra files, what is in it, as it is in there.
"""

import glob
import gzip
import io
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from mooring.core.errors import InvalidInput, ModelLoadFailed
from mooring.observability.logs import get_logger
from mooring.repository.archives import unpack
from mooring.repository.mar import MANIFEST
from mooring.repository.workflow_spec import WORKFLOW_MANIFEST, read_workflow

log = get_logger(__name__)

Format = Literal["default", "zip-store", "tgz", "no-archive"]

# Handlers that come with the server: named, not copied.
DEFAULT_HANDLERS = frozenset(
    (
        "base_handler",
        "dali_image_classifier",
        "image_classifier",
        "image_segmenter",
        "object_detector",
        "text_classifier",
        "trt_llm_handler",
        "vllm_handler",
    )
)
_NATIVE_HANDLERS = frozenset(("BaseHandler", "TorchScriptHandler"))

# The version whose format this is; TorchServe reads archives by it.
_ARCHIVER_VERSION = "0.12.0"
_WORKFLOW_ARCHIVER_VERSION = "0.2.15"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")
_SUFFIXES = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}
_LEFT_OUT = ("__pycache__", "__MACOSX")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a model's archive, named as the flags. ``extra_files`` lists files, folders and globs, by commas."""

    model_name: str
    version: str
    handler: str
    serialized_file: Path | None = None
    model_file: Path | None = None
    extra_files: str = ""
    requirements_file: Path | None = None
    config_file: Path | None = None
    runtime: Literal["python", "python3", "LSP"] = "python"
    export_path: Path = Path()
    archive_format: Format = "default"
    force: bool = False


class WorkflowOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a workflow's archive, named as the flags. ``extra_files`` is as in ``Options``."""

    workflow_name: str
    spec_file: Path
    handler: Path | None = None
    extra_files: str = ""
    export_path: Path = Path()
    force: bool = False


def archive_workflow(options: WorkflowOptions) -> Path:
    """Make a workflow's archive and return where it is; as ``archive_model``.

    Its spec is read as the server would: ``InvalidInput`` says what the server would say.
    """
    target = _target_path(options.workflow_name, ".war", options.export_path, force=options.force)
    files = _named_files(
        (("spec file", options.spec_file), ("handler", options.handler)), options.extra_files
    )
    manifest = json.dumps(_workflow_manifest(options), indent=2)
    with tempfile.TemporaryDirectory(prefix=".mooring-", dir=options.export_path) as folder:
        made = Path(folder) / target.name
        _write_zip(made, files, manifest, zipfile.ZIP_DEFLATED, WORKFLOW_MANIFEST)
        unpacked = Path(folder) / "unpacked"
        unpacked.mkdir()
        try:
            unpack(made, unpacked)
            read_workflow(unpacked, target.name)
        except ModelLoadFailed as error:
            raise InvalidInput(error.message) from error
        made.replace(target)
    return target


def _workflow_manifest(options: WorkflowOptions) -> dict[str, object]:
    workflow = {"workflowName": options.workflow_name, "specFile": options.spec_file.name}
    if options.handler is not None:
        workflow["handler"] = options.handler.name
    return {
        "createdOn": time.strftime("%d/%m/%Y %H:%M:%S"),
        "workflow": workflow,
        "archiverVersion": _WORKFLOW_ARCHIVER_VERSION,
    }


def archive_model(options: Options) -> Path:
    """Make the archive and return where it is.

    It appears whole or not at all, and replaces another only with ``force``. Raises ``InvalidInput`` for what cannot
    be packed, with the file's name, and ``OSError`` where it cannot be written.
    """
    suffix = _SUFFIXES[options.archive_format]
    target = _target_path(options.model_name, suffix, options.export_path, force=options.force)
    files = _collect_files(options)
    manifest = json.dumps(_model_manifest(options), indent=2)
    # Beside the target, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=".mooring-", dir=options.export_path) as folder:
        made = Path(folder) / target.name
        _WRITERS[options.archive_format](made, files, manifest, options.model_name)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        made.replace(target)
    return target


def _target_path(name: str, suffix: str, export_path: Path, *, force: bool) -> Path:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"'{name}' cannot be the name of a {'workflow' if suffix == '.war' else 'model'}: "
            "letters, digits, '_', '-' and '.' are allowed, and a letter or digit first"
        )
    if not export_path.is_dir():
        raise InvalidInput(f"export path '{export_path}' is not a folder; make it first")
    target = export_path / f"{name}{suffix}"
    if os.path.lexists(target) and not force:
        raise InvalidInput(f"'{target}' is there already; give --force to replace it")
    if target.is_dir() and not (target / MANIFEST).is_file():
        raise InvalidInput(
            f"folder '{target}' is not a model archive and is not replaced; remove it yourself"
        )
    return target


def _collect_files(options: Options) -> dict[str, Path]:
    """Return the source of each file of the archive, by its name there. Of two with one name the later one counts."""
    files = _named_files(
        (
            ("model file", options.model_file),
            ("serialized file", options.serialized_file),
            ("handler", _handler_file(options)),
            ("requirements file", options.requirements_file),
            ("config file", options.config_file),
        ),
        options.extra_files,
    )
    files.pop(MANIFEST, None)  # the old one of a folder that is packed again
    return files


def _named_files(named: Iterable[tuple[str, Path | None]], extra: str) -> dict[str, Path]:
    """Return the files that options name and the extra ones. Raises ``InvalidInput`` for one that does not exist."""
    files: dict[str, Path] = {}
    for what, path in named:
        if path is not None:
            if not path.is_file():
                raise InvalidInput(f"{what} '{path}' is not there")
            _add_file(files, path.name, path)
    for name, path in _extra_files(extra):
        _add_file(files, name, path)
    return files


def _add_file(files: dict[str, Path], name: str, path: Path) -> None:
    if name in files and not files[name].samefile(path):
        log.warning("file replaced", name=name, was=files[name], now=path)
    files[name] = path


def _handler_file(options: Options) -> Path | None:
    """Return the file of a handler ``file[.py][:function]``; None for a built-in handler."""
    native = options.runtime == "LSP"
    if options.handler in (_NATIVE_HANDLERS if native else DEFAULT_HANDLERS):
        return None
    head, colon, function = options.handler.rpartition(":")
    path = Path(head if colon and function.isidentifier() else options.handler)
    suffix = (".dylib" if sys.platform == "darwin" else ".so") if native else ".py"
    if path.suffix != suffix:
        path = path.with_name(f"{path.name}{suffix}")
    if not path.is_file() and not native:
        known = ", ".join(sorted(DEFAULT_HANDLERS))
        raise InvalidInput(
            f"there is no file '{path}' for the handler; the handlers that come with the server are {known}"
        )
    return path


def _extra_files(named: str) -> Iterator[tuple[str, Path]]:
    for given in filter(None, (part.strip() for part in named.split(","))):
        # A file may be called a[1].txt: it is taken as it is before it is taken as a pattern.
        found = [given] if os.path.lexists(given) else sorted(glob.glob(given))  # noqa: PTH207 - as the shell has it
        if not found and glob.has_magic(given):
            log.warning("no extra file matches", pattern=given)
        elif not found:
            raise InvalidInput(f"extra file '{given}' is not there")
        for path in map(Path, found):
            inner = _files_in(path) if path.is_dir() else [(path.name, path)]
            for name, file in inner:
                if not file.is_file():
                    raise InvalidInput(f"extra file '{file}' is neither a file nor a folder")
                yield name, file


def _files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Return every file under a folder by its path there, without hidden folders and caches."""
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root).resolve()
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in _LEFT_OUT
            and not here.is_relative_to(Path(root, name).resolve())  # a link upward has no end
        )
        for name in sorted(files):
            path = Path(root, name)
            yield path.relative_to(folder).as_posix(), path


def _model_manifest(options: Options) -> dict[str, object]:
    model = {
        "modelName": options.model_name,
        "serializedFile": options.serialized_file and options.serialized_file.name,
        "handler": options.handler.rpartition("/")[2],
        "modelFile": options.model_file and options.model_file.name,
        "modelVersion": options.version,
        "requirementsFile": options.requirements_file and options.requirements_file.name,
        "configFile": options.config_file and options.config_file.name,
    }
    return {
        "createdOn": time.strftime("%d/%m/%Y %H:%M:%S"),
        "runtime": options.runtime,
        "model": {key: value for key, value in model.items() if value is not None},
        "archiverVersion": _ARCHIVER_VERSION,
    }


def _write_zip(
    made: Path, files: dict[str, Path], manifest: str, compression: int, manifest_name: str = MANIFEST
) -> None:
    # A file from before 1980 has no date that a zip can hold; it is clamped instead of refused.
    with zipfile.ZipFile(made, "w", compression, strict_timestamps=False) as target:
        for name, path in files.items():
            target.write(path, name)
        target.writestr(manifest_name, manifest)


def _write_tgz(made: Path, files: dict[str, Path], manifest: str, model_name: str) -> None:
    with gzip.open(made, "wb") as packed, tarfile.open(fileobj=packed, mode="w", dereference=True) as target:
        for name, path in files.items():
            target.add(path, f"{model_name}/{name}", recursive=False)
        entry = tarfile.TarInfo(f"{model_name}/{MANIFEST}")
        entry.size = len(manifest.encode())
        entry.mtime = int(time.time())
        target.addfile(entry, io.BytesIO(manifest.encode()))


def _write_folder(made: Path, files: dict[str, Path], manifest: str, _model_name: str) -> None:
    for name, path in files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, made / name)
    (made / MANIFEST).parent.mkdir(parents=True, exist_ok=True)
    (made / MANIFEST).write_text(manifest, encoding="utf-8")


_WRITERS = {
    "default": lambda made, files, manifest, _name: _write_zip(made, files, manifest, zipfile.ZIP_DEFLATED),
    "zip-store": lambda made, files, manifest, _name: _write_zip(made, files, manifest, zipfile.ZIP_STORED),
    "tgz": _write_tgz,
    "no-archive": _write_folder,
}
