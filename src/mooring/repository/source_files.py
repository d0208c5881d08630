"""The files that a model is made of where the user edits them, and what they look like: two looks that differ mean a change."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mooring.core.paths import real_path
from mooring.repository.spec import ModelSpec

# Folders and files that no model is made of, beside hidden ones: environments, caches, and what editors leave for a moment.
_NOT_SOURCES = frozenset({"__pycache__", "venv", "node_modules"})
_NOT_ENDINGS = (".pyc", ".pyo", "~", ".swp", ".swx", ".tmp", ".bak")


class Look(NamedTuple):
    """What was there: of each file its time of change, size and inode, which differs after an editor has replaced it.

    ``folders`` are those in which a change may happen.
    """

    files: dict[Path, tuple[int, int, int]]
    folders: set[Path]

    def changed_since(self, before: "Look") -> list[Path]:
        """List the files that came, went or changed, by name."""
        return sorted(
            path
            for path in self.files.keys() | before.files.keys()
            if self.files.get(path) != before.files.get(path)
        )


class SourceFiles(NamedTuple):
    """Where the files of a model are: ``place`` is a file, or with ``whole`` a folder that is the model's own.

    A Python file has those beside it for its modules, and the packages in its folder; ``root`` is the folder from which it
    imports them.
    """

    place: Path
    whole: bool = False
    root: Path | None = None

    def look(self) -> Look:
        """Look at the files now. What cannot be read is not there."""
        found = Look({}, set())
        if self.whole:
            self._add_folder(found, self.place, only_python=False)
            return found
        for path in {self.place, real_path(self.place)}:  # where it is a link, both may change
            found.folders.add(path.parent)
        _note(found, self.place)
        if self.root is not None:
            for folder in {self.place.parent, self.root}:
                self._add_modules(found, folder)
        return found

    def _add_modules(self, found: Look, folder: Path) -> None:
        found.folders.add(folder)
        for entry in _entries(folder):
            path = Path(entry.path)
            if path.suffix == ".py":
                _note(found, path)
            elif entry.is_dir() and (path / "__init__.py").exists():
                self._add_folder(found, path, only_python=True)

    def _add_folder(self, found: Look, folder: Path, *, only_python: bool) -> None:
        if folder in found.folders:
            return
        found.folders.add(folder)
        for entry in _entries(folder):
            if entry.is_dir(follow_symlinks=False):
                self._add_folder(found, Path(entry.path), only_python=only_python)
            elif not only_python or entry.name.endswith(".py"):
                _note(found, Path(entry.path))


def is_source(name: str) -> bool:
    """Whether a file or folder of this name may be a part of a model."""
    return not (name.startswith((".", "#")) or name in _NOT_SOURCES or name.endswith(_NOT_ENDINGS))


def source_files(spec: ModelSpec) -> SourceFiles | None:
    """Return the files of a model that the command line named; None where it came over the network.

    An archive is the file that was unpacked, and not what is in it.
    """
    place = Path(spec.url)
    if place.is_dir():
        return SourceFiles(real_path(place), whole=True)
    if place.is_file() and place.suffix != ".py":
        return SourceFiles(place.absolute())
    if spec.backend not in ("function", "triton_python"):
        return None
    root = Path(spec.location)
    return SourceFiles(root / spec.entry.partition(":")[0], root=root)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if is_source(entry.name))
    except OSError:  # it has just been removed
        return


def _note(found: Look, path: Path) -> None:
    try:
        state = path.stat()
    except OSError:
        return
    found.files[path] = (state.st_mtime_ns, state.st_size, state.st_ino)
