"""Importing the code of a model from its source, never from cached bytecode.

Python trusts a file in ``__pycache__`` whose source has the same size and the same modification time in whole seconds.
A model that is changed and loaded again within a second would run its old code. So modules of a model's folder are
compiled at each load, and no bytecode is written for them.
"""

import importlib.util
import os
import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType


class SourceOnlyLoader(SourceFileLoader):
    """Compiles a module from its source; ``__pycache__`` is neither read nor written."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


_LOADERS = (
    (ExtensionFileLoader, EXTENSION_SUFFIXES),
    (SourceOnlyLoader, SOURCE_SUFFIXES),
    # A .pyc beside the sources, without a .py, is a file of the model and no cache.
    (SourcelessFileLoader, BYTECODE_SUFFIXES),
)


def bypass_bytecode_cache(folder: str, packages: str = "") -> None:
    """Import everything below ``folder`` from source from now on, in this process.

    ``packages`` is a folder of installed packages below it that keeps its bytecode: it is named by the digest of what
    is in it, and never changes.
    """

    def find_in_model(path: str) -> FileFinder:
        if not _is_inside(path, folder) or (packages and _is_inside(path, packages)):
            raise ImportError(f"{path} is not in the model's folder", path=path)
        return FileFinder(path, *_LOADERS)

    sys.path_hooks.insert(0, find_in_model)
    for path in list(sys.path_importer_cache):
        if _is_inside(path, folder):
            del sys.path_importer_cache[path]


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


# The files that are being imported now, innermost last.
_importing: list[Path] = []


def imported_file() -> Path | None:
    """Return the file of a model that is being imported now; None where none is."""
    return _importing[-1] if _importing else None


def import_source(name: str, path: Path) -> ModuleType:
    """Import a file as the module ``name``. Raises ``ImportError`` for no .py file, and whatever the file's code raises.

    The module is in ``sys.modules`` while it runs, since dataclasses and pickle look it up there, and stays unless it
    raises.
    """
    if path.suffix not in SOURCE_SUFFIXES:
        raise ImportError(f"{path} is not a Python file", path=str(path))
    spec = importlib.util.spec_from_loader(name, SourceOnlyLoader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _importing.append(path)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        _importing.remove(path)
    return module
