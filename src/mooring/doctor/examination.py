"""Looking through a folder for everything a server would have served from it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mooring.doctor.findings import Finding, Report, change, differs, report
from mooring.doctor.model_archive import archive_findings, folder_findings
from mooring.doctor.repositories import is_repository_model, mlserver_findings, repository_findings
from mooring.doctor.settings import Settings
from mooring.doctor.workflows import workflow_findings
from mooring.repository.layout import MLSERVER, dangling
from mooring.repository.mar import MANIFEST, SUFFIXES

_DEEPEST = 6
_KEY_FILE = "key_file.json"


def examine(place: Path) -> Report:
    """The report of a folder, or of a single archive. Nothing in it is run, and nothing is written to it."""
    root = place.resolve()
    alone = not root.is_dir()
    findings = list(_of_file(root, root.name, installing=False)) if alone else _of_folder(root)
    if not findings:
        hint = "name the folder that holds config.properties, or the model store"
        findings = [change(".", "nothing that could be served was found here", hint)]
    return report(place, findings)


def _of_folder(root: Path) -> list[Finding]:
    found: list[Finding] = []
    settings = list(_settings(root))
    for each in settings:
        found += each.findings()
    installing = any(each.installing for each in settings)
    # A store may lie elsewhere than beside the settings; one that lies here is met on the way anyway.
    stores = [store.resolve() for each in settings for store in each.stores()]
    outside = dict.fromkeys(store for store in stores if not store.is_relative_to(root))
    for place in (root, *outside):
        for entry, is_model in _entries(place):
            shown = str(entry.relative_to(root)) if entry.is_relative_to(root) else str(entry)
            shown = root.name if shown == "." else shown
            try:
                if is_model:
                    found += _of_model_folder(entry, shown, installing=installing)
                else:
                    found += _of_file(entry, shown, installing=installing, stores=stores)
            except (OSError, RecursionError) as error:
                found.append(change(shown, f"cannot be read: {error}", "look at it by hand"))
    return found


def _settings(root: Path) -> Iterator[Settings]:
    for entry, is_model in _entries(root):
        if not is_model and entry.suffix == ".properties":
            try:
                settings = Settings(entry, str(entry.relative_to(root)))
            except OSError:
                continue
            if settings.of_torchserve:
                yield settings


def _entries(root: Path) -> Iterator[tuple[Path, bool]]:
    """The files below a folder, and the folders that are a model (True), which are not looked into."""
    for name, folders, files in os.walk(root):
        folder = Path(name)
        folders.sort()
        if _is_model(folder):
            folders.clear()
            yield folder, True
            continue
        deep = len(folder.relative_to(root).parts) >= _DEEPEST
        folders[:] = [
            each
            for each in folders
            if not deep and not each.startswith(".") and not (folder / each / "pyvenv.cfg").exists()
        ]
        # Links that lead nowhere are told of; pipes and devices would be waited for.
        places = [folder / each for each in sorted(files)]
        yield from ((each, False) for each in places if each.is_file() or dangling(each))


def _is_model(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or (folder / MLSERVER).is_file() or is_repository_model(folder)


def _of_model_folder(folder: Path, shown: str, *, installing: bool) -> Iterator[Finding]:
    if (folder / MANIFEST).is_file():
        return folder_findings(folder, shown, installing=installing)
    if (folder / MLSERVER).is_file():
        return mlserver_findings(folder, shown)
    return repository_findings(folder, shown)


def _of_file(file: Path, shown: str, *, installing: bool, stores: Sequence[Path] = ()) -> Iterator[Finding]:
    of_a_model = file.name.endswith((*SUFFIXES, ".war"))
    if of_a_model and dangling(file):
        yield change(
            shown, f"is a link that leads nowhere: {file.readlink()} is not there", "put the archive there"
        )
    elif file.suffix == ".war":
        yield from workflow_findings(file, shown, stores)
    elif of_a_model:
        yield from archive_findings(file, shown, installing=installing)
    elif file.suffix == ".jar":
        hint = "do what it did in a handler, or in a proxy in front"
        yield change(shown, "is a plugin in Java, which is not run here", hint)
    elif file.name == _KEY_FILE:
        what = "holds tokens of a running TorchServe, which end with it"
        yield differs(shown, what, "delete it, and give clients the tokens of the new server")
