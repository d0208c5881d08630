"""What the folders of a model repository mean: which could be a model, which versions of it there are, and why there are none.

    REPOSITORY/NAME/1/model.onnx       a version: its folder's name is a whole number without leading zeros
    REPOSITORY/NAME/model.onnx         the only version, which is called 1
    REPOSITORY/NAME -> /elsewhere      links are the operator's own, and are followed

Server and doctor both ask here. Folders may go while they are looked at: what is gone is not there, and no error.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from mooring.core.errors import ModelLoadFailed
from mooring.core.paths import leads_out
from mooring.repository.mar import MANIFEST
from mooring.repository.platforms import LIBRARIES, SUFFIXES

MLSERVER = "model-settings.json"
PADDED = "a version is a whole number without leading zeros"

# What a file system keeps in its own root, which may well be a repository.
_NOT_MODELS = frozenset({"lost+found"})
_LIBRARY_SUFFIXES = tuple(suffix for backend in LIBRARIES for suffix in SUFFIXES[backend])


def model_folders(repository: Path) -> list[str]:
    """List the entries of a repository that are meant to be models, by name: folders, and links that lead nowhere."""
    return sorted(
        entry.name
        for entry in list_entries(repository)
        if not entry.name.startswith(".")
        and entry.name not in _NOT_MODELS
        and (is_folder(entry) or is_dangling_link(entry))
    )


def find_declaration(folder: Path) -> Path | None:
    """Find a model's config: config.toml, else any .toml, there or in a folder of the same name in it, else any .pbtxt."""
    nested = folder / folder.name
    for place, pattern in (
        (folder, "config.toml"),
        (folder, "*.toml"),
        (nested, "*.toml"),
        (folder, "*.pbtxt"),
        (nested, "*.pbtxt"),
    ):
        # Nobody who reads a pipe knows whether there will ever be an end.
        found = sorted(
            file for file in place.glob(pattern) if not file.name.startswith(".") and not file.is_fifo()
        )
        if found:
            return found[0]
    return None


def version_folders(folder: Path) -> list[Path]:
    """List the folders 1, 2, 10 … of a model, in this order. 002 is no version, as in Triton."""
    found = [entry for entry in list_entries(folder) if is_version(entry.name) and is_folder(entry)]
    return sorted(found, key=lambda entry: int(entry.name))


def is_version(name: str) -> bool:
    """Whether a folder of that name is a version: a whole number without leading zeros."""
    return name.isascii() and name.isdecimal() and (name == "0" or not name.startswith("0"))


def padded_versions(folder: Path) -> list[str]:
    """List the folders whose names are numbers with leading zeros, which are no versions."""
    return sorted(
        entry.name
        for entry in list_entries(folder)
        if entry.name.isascii() and entry.name.isdecimal() and not is_version(entry.name) and is_folder(entry)
    )


def find_flat_file(folder: Path, backend: str) -> str:
    """Find the one file right inside a model's folder that is the model; empty where there is none, or several.

    ``backend`` is what a configuration says, empty where none does. An unpacked archive and a folder of MLServer's
    are other servers' models, whatever lies in them.
    """
    files = [
        entry.name for entry in list_entries(folder) if not entry.name.startswith(".") and is_file(entry)
    ]
    suffixes = SUFFIXES.get(backend, ()) if backend else _LIBRARY_SUFFIXES
    if not backend:
        if is_file(folder / MANIFEST) or MLSERVER in files or "handler.py" in files:
            return ""
        if "model.py" in files:
            return "model.py"
    for suffix in suffixes:
        if f"model{suffix}" in files:
            return f"model{suffix}"
    found = [name for name in files if name.endswith(suffixes)] if suffixes else []
    return found[0] if len(found) == 1 else ""


def no_version_reason(folder: Path) -> str:
    """Say what is wrong with a folder that has no version to serve, and what to do about it."""
    name = folder.name
    if is_dangling_link(folder):
        return f"'{folder}' is a link that leads nowhere: {folder.readlink()} is not there"
    if not is_folder(folder):
        return f"'{folder}' is not a folder"
    try:
        entries = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        return f"'{folder}' cannot be read: {error.strerror or error}"
    if MLSERVER in entries:
        return (
            f"model '{folder}' is MLServer's, whose runtimes are not here: write {name}/1/model.py, "
            "as 'mooring doctor' says"
        )
    if is_file(folder / MANIFEST) or "handler.py" in entries:
        return (
            f"model '{folder}' is an unpacked archive of TorchServe's: put it into a model store (--model-store), "
            "or name it as it is to 'mooring serve'"
        )
    return _no_version_reason_among(folder, entries)


def find_named_file(folder: Path, name: str, where: str) -> Path:
    """Find a file of a model by its relative name; links on the way are its owner's, and are followed.

    Raises ``ModelLoadFailed`` for a name that itself leads elsewhere, and where there is no such file.
    """
    file = folder / name
    if leads_out(name) or not is_file(file):
        raise ModelLoadFailed(f"model '{where}' names a file {name[:255]!r} that is not in it")
    return file


def list_entries(folder: Path) -> Iterator[Path]:
    """List a folder; empty where it is gone or cannot be read."""
    try:
        yield from folder.iterdir()
    except OSError:
        return


def is_folder(place: Path) -> bool:
    """Whether there is a folder, or a link that leads to one."""
    try:
        return place.is_dir()
    except (OSError, ValueError):
        return False


def is_file(place: Path) -> bool:
    """Whether there is a plain file, or a link that leads to one."""
    try:
        return place.is_file()
    except (OSError, ValueError):
        return False


def may_read(place: Path) -> bool:
    """Whether this user may see what is in a folder; also of one that is not there."""
    return os.access(place, os.R_OK | os.X_OK) or not is_folder(place)


def is_dangling_link(place: Path) -> bool:
    """Whether a path is a link that leads nowhere."""
    try:
        return place.is_symlink() and not place.exists()
    except OSError:
        return False


def _no_version_reason_among(folder: Path, entries: list[str]) -> str:
    name = folder.name
    padded = padded_versions(folder)
    nested = [each for each in entries if _looks_like_model(folder / each)]
    models = [each for each in nested if version_folders(folder / each)]
    files = [each for each in entries if each.endswith((*_LIBRARY_SUFFIXES, ".py"))]
    broken = [each for each in entries if is_version(each) and is_dangling_link(folder / each)]
    if broken:
        target = (folder / broken[0]).readlink()
        advice = f"{name}/{broken[0]} is a link that leads nowhere: {target} is not there"
    elif padded:
        advice = f"a version has no leading zeros: rename {name}/{padded[0]} to {name}/{int(padded[0])}"
    elif models:
        advice = (
            f"its folder {models[0]} looks like a model: move {name}/{models[0]} up into the repository, "
            f"or give {name} as the repository"
        )
    elif nested:
        advice = f"a version is a whole number: rename {name}/{nested[0]} to {name}/1"
    elif files:
        advice = f"move the file that is the model ({' or '.join(files[:3])}) to {name}/1/"
    elif not any(not each.startswith(".") for each in entries):
        advice = f"the folder is empty: put the model into it, as in {name}/1/model.onnx"
    else:
        advice = f"expected a file such as {name}/1/model.py"
    return f"model '{folder}' has no version: {advice}"


def _looks_like_model(folder: Path) -> bool:
    """Whether a folder looks like a version of a model, or like a whole model."""
    return (
        is_folder(folder)
        and not folder.name.startswith(".")
        and bool(version_folders(folder) or find_flat_file(folder, ""))
    )
