"""Examines a folder for everything that a server would serve from it."""

import enum
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mooring.doctor.findings import Finding, Report, Verdict, change, differs, make_report
from mooring.doctor.log_configs import is_log_config, log_config_findings
from mooring.doctor.model_archive import archive_findings, folder_findings
from mooring.doctor.repositories import is_repository_model, mlserver_findings, repository_findings
from mooring.doctor.settings import Settings
from mooring.doctor.targets import TARGET_SUFFIXES, target_finding
from mooring.doctor.workflows import workflow_findings
from mooring.repository.layout import (
    MLSERVER,
    find_flat_file,
    is_dangling_link,
    is_file,
    may_read,
    model_folders,
)
from mooring.repository.mar import MANIFEST, SUFFIXES
from mooring.repository.targets import suggest_targets

_DEEPEST = 6
_KEY_FILE = "key_file.json"


def examine_place(place: Path) -> Report:
    """Return the report of a folder or a single archive. Nothing in it is run, and nothing is written to it."""
    root = place.resolve()
    alone = not root.is_dir()
    if alone and not root.is_file():  # a pipe: to read it would block
        return make_report(place, [change(root.name, "is neither a file nor a folder", "name one of those")])
    if not may_read(root):
        hint = "give the user who serves the right to read it"
        return make_report(place, [change(".", "cannot be read by this user", hint)])
    findings = (
        list(_examine_file(root, root.name, installing=False)) if alone else _examine_folder(root, place)
    )
    if alone and not findings and root.suffix in TARGET_SUFFIXES:
        findings = [target_finding(str(place), root.name)]
    if not findings:
        hint = "name the folder that holds config.properties, or the model store"
        findings = [change(".", "nothing that could be served was found here", hint)]
    return make_report(place, findings)


def examine_target(target: str) -> Report:
    """Return the report of a target of ``mooring serve`` that is no path, such as FILE.py:NAME or a URL.

    Raises ``ModelNotFound`` where there is no such file or module.
    """
    return make_report(Path(target), [target_finding(target, target)])


def _examine_folder(root: Path, given: Path) -> list[Finding]:
    found: list[Finding] = []
    settings = list(_find_settings(root))
    for each in settings:
        found += each.findings()
    installing = any(each.installing for each in settings)
    # A store may be outside the folder of the settings; one inside is found by the walk anyway.
    stores = [store.resolve() for each in settings for store in each.stores()]
    outside = dict.fromkeys(store for store in stores if not store.is_relative_to(root))
    for place in (root, *outside):
        for entry, kind in _find_entries(place):
            try:
                found += _examine_entry(
                    entry, kind, _relative_name(entry, root), installing=installing, stores=stores
                )
            except (OSError, RecursionError) as error:
                found.append(
                    change(_relative_name(entry, root), f"cannot be read: {error}", "look at it by hand")
                )
    if not found:  # no known layout: examine it as a server started with this folder would read it
        for entry in [root] if find_flat_file(root, "") else [root / name for name in _open_folders(root)]:
            found += repository_findings(entry, _relative_name(entry, root))
        flat = find_flat_file(root, "")
        targets = suggest_targets(root, given)
        if not flat or len(targets) > 1:
            broken = flat if any(each.verdict is Verdict.CHANGE for each in found) else ""
            said = [target_finding(text, f"{root.name}/{name}") for name, text in targets if name != broken]
            found += [each for index, each in enumerate(said) if each not in said[:index]]
    return found


def _relative_name(entry: Path, root: Path) -> str:
    if entry == root:
        return root.name
    return str(entry.relative_to(root)) if entry.is_relative_to(root) else str(entry)


def _find_settings(root: Path) -> Iterator[Settings]:
    for entry, kind in _find_entries(root):
        if kind is _Kind.FILE and entry.suffix == ".properties":
            try:
                settings = Settings(entry, str(entry.relative_to(root)))
            except OSError:
                continue
            if settings.of_torchserve:
                yield settings


class _Kind(enum.Enum):
    """What an entry is: a file, a model of a repository, or one of another server's, as a folder."""

    FILE = enum.auto()
    CLOSED = enum.auto()  # a folder that this user may not read
    REPOSITORY = enum.auto()
    FOLDER = enum.auto()


def _find_entries(root: Path) -> Iterator[tuple[Path, _Kind]]:
    """Return the files below a folder, and the folders that are models, which are not walked."""
    for name, folders, files in os.walk(root):
        folder = Path(name)
        folders.sort()
        kind = _classify_folder(folder)
        if kind is not None:
            folders.clear()
            yield folder, kind
            continue
        deep = len(folder.relative_to(root).parts) >= _DEEPEST
        folders[:] = [
            each
            for each in folders
            if not deep and not each.startswith(".") and not is_file(folder / each / "pyvenv.cfg")
        ]
        closed = [each for each in folders if not may_read(folder / each)]
        folders[:] = [each for each in folders if each not in closed]
        yield from ((folder / each, _Kind.CLOSED) for each in closed)
        if _is_repository(folder, files):
            judged = [each for each in _open_folders(folder) if not _holds_other_things(folder / each)]
            folders[:] = [each for each in folders if each not in judged]
            yield from ((folder / each, _Kind.REPOSITORY) for each in judged)
        else:  # links are not walked, but a link may lead to a model
            linked = [folder / each for each in folders if (folder / each).is_symlink()]
            yield from ((each, kind) for each in linked if (kind := _classify_folder(each)) is not None)
        # Dangling links are reported; pipes and devices are skipped, because reading them would block.
        places = [folder / each for each in sorted(files)]
        yield from ((each, _Kind.FILE) for each in places if is_file(each) or is_dangling_link(each))


def _classify_folder(folder: Path) -> _Kind | None:
    """Return the kind of model that a folder is by itself; None if it is none."""
    if is_file(folder / MANIFEST) or is_file(folder / MLSERVER):
        return _Kind.FOLDER
    return _Kind.REPOSITORY if is_repository_model(folder) else None


def _is_repository(folder: Path, files: Sequence[str]) -> bool:
    """Return whether a folder is a model repository, each folder of which is meant to be a model.

    A folder with archives or settings in it is a store or an installation, whatever else it holds.
    """
    if any(each.endswith((*SUFFIXES, ".war", ".properties")) for each in files):
        return False
    return any(is_repository_model(folder / each) for each in _open_folders(folder))


def _open_folders(folder: Path) -> list[str]:
    return [each for each in model_folders(folder) if may_read(folder / each)]


def _holds_other_things(folder: Path) -> bool:
    """Return whether a folder holds something to serve other than a model of a repository."""
    if _classify_folder(folder) is not None:
        return False
    return any(
        kind is _Kind.FILE and entry.name.endswith((*SUFFIXES, ".war", ".properties", ".jar"))
        for entry, kind in _find_entries(folder)
    )


def _examine_entry(
    entry: Path, kind: _Kind, shown: str, *, installing: bool, stores: Sequence[Path]
) -> Iterator[Finding]:
    if kind is _Kind.CLOSED:
        return iter(
            [change(shown, "cannot be read by this user", "give the user who serves the right to read it")]
        )
    if kind is _Kind.FILE:
        return _examine_file(entry, shown, installing=installing, stores=stores)
    if (entry / MLSERVER).is_file():
        return mlserver_findings(entry, shown)
    if kind is _Kind.FOLDER:
        return folder_findings(entry, shown, installing=installing)
    return repository_findings(entry, shown)


def _examine_file(
    file: Path, shown: str, *, installing: bool, stores: Sequence[Path] = ()
) -> Iterator[Finding]:
    of_a_model = file.name.endswith((*SUFFIXES, ".war"))
    if of_a_model and is_dangling_link(file):
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
    elif is_log_config(file):
        yield from log_config_findings(file, shown)
    elif file.name == _KEY_FILE:
        what = "holds tokens of a running TorchServe, which end with it"
        yield differs(shown, what, "delete it, and give clients the tokens of the new server")
