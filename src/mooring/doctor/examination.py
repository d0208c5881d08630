"""Looking through a folder for everything a server would have served from it."""

import enum
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mooring.doctor.findings import Finding, Report, change, differs, report
from mooring.doctor.model_archive import archive_findings, folder_findings
from mooring.doctor.repositories import is_repository_model, mlserver_findings, repository_findings
from mooring.doctor.settings import Settings
from mooring.doctor.workflows import workflow_findings
from mooring.repository.layout import MLSERVER, find_flat_file, is_dangling_link, model_folders
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
        for entry, kind in _entries(place):
            try:
                found += _of_entry(entry, kind, _shown(entry, root), installing=installing, stores=stores)
            except (OSError, RecursionError) as error:
                found.append(change(_shown(entry, root), f"cannot be read: {error}", "look at it by hand"))
    if not found:  # nothing shows what it is: as the server sees it that is started with it
        for entry in [root] if find_flat_file(root, "") else [root / name for name in model_folders(root)]:
            found += repository_findings(entry, _shown(entry, root))
    return found


def _shown(entry: Path, root: Path) -> str:
    if entry == root:
        return root.name
    return str(entry.relative_to(root)) if entry.is_relative_to(root) else str(entry)


def _settings(root: Path) -> Iterator[Settings]:
    for entry, kind in _entries(root):
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
    REPOSITORY = enum.auto()
    FOLDER = enum.auto()


def _entries(root: Path) -> Iterator[tuple[Path, _Kind]]:
    """The files below a folder, and the folders that are a model, which are not looked into."""
    for name, folders, files in os.walk(root):
        folder = Path(name)
        folders.sort()
        kind = _kind(folder)
        if kind is not None:
            folders.clear()
            yield folder, kind
            continue
        deep = len(folder.relative_to(root).parts) >= _DEEPEST
        folders[:] = [
            each
            for each in folders
            if not deep and not each.startswith(".") and not (folder / each / "pyvenv.cfg").exists()
        ]
        if _is_repository(folder, files):
            judged = [each for each in model_folders(folder) if not _holds_other_things(folder / each)]
            folders[:] = [each for each in folders if each not in judged]
            yield from ((folder / each, _Kind.REPOSITORY) for each in judged)
        else:  # links are not walked, but what one stands for may be a model
            linked = [folder / each for each in folders if (folder / each).is_symlink()]
            yield from ((each, kind) for each in linked if (kind := _kind(each)) is not None)
        # Links that lead nowhere are told of; pipes and devices would be waited for.
        places = [folder / each for each in sorted(files)]
        yield from ((each, _Kind.FILE) for each in places if each.is_file() or is_dangling_link(each))


def _kind(folder: Path) -> _Kind | None:
    """What kind of model a folder is by itself; None where it is none."""
    if (folder / MANIFEST).is_file() or (folder / MLSERVER).is_file():
        return _Kind.FOLDER
    return _Kind.REPOSITORY if is_repository_model(folder) else None


def _is_repository(folder: Path, files: Sequence[str]) -> bool:
    """Whether a folder is a model repository: then each of its folders is meant to be a model of it.

    One with archives or settings in it is a store or an installation, whatever else it has.
    """
    if any(each.endswith((*SUFFIXES, ".war", ".properties")) for each in files):
        return False
    return any(is_repository_model(folder / each) for each in model_folders(folder))


def _holds_other_things(folder: Path) -> bool:
    """Whether there is something else to be served below a folder than a model of a repository."""
    if _kind(folder) is not None:
        return False
    return any(
        kind is _Kind.FILE and entry.name.endswith((*SUFFIXES, ".war", ".properties", ".jar"))
        for entry, kind in _entries(folder)
    )


def _of_entry(
    entry: Path, kind: _Kind, shown: str, *, installing: bool, stores: Sequence[Path]
) -> Iterator[Finding]:
    if kind is _Kind.FILE:
        return _of_file(entry, shown, installing=installing, stores=stores)
    if (entry / MLSERVER).is_file():
        return mlserver_findings(entry, shown)
    if kind is _Kind.FOLDER:
        return folder_findings(entry, shown, installing=installing)
    return repository_findings(entry, shown)


def _of_file(file: Path, shown: str, *, installing: bool, stores: Sequence[Path] = ()) -> Iterator[Finding]:
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
    elif file.name == _KEY_FILE:
        what = "holds tokens of a running TorchServe, which end with it"
        yield differs(shown, what, "delete it, and give clients the tokens of the new server")
