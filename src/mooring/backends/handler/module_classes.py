"""Modules of a model's folder and the classes in them, found as TorchServe finds them."""

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from mooring.backends.model_source import import_source


def import_file(path: Path) -> ModuleType:
    """Import a file of the model's folder under its own name, or under another one where a module has that name already.

    A handler may be called ``json.py``, and code that imports ``json`` later in this process still needs the library.
    """
    loaded = sys.modules.get(path.stem)
    if loaded is None:
        return importlib.import_module(path.stem)
    if getattr(loaded, "__file__", None) == str(path):
        return loaded
    name = f"{path.stem} of {path.parent}"
    if name in sys.modules:
        return sys.modules[name]
    return import_source(name, path)


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """The classes a module defines itself; what it imported does not count."""
    return [
        each
        for _, each in inspect.getmembers(module, inspect.isclass)
        if each.__module__ == module.__name__ and (parent_class is None or issubclass(each, parent_class))
    ]


def import_class(class_name: str, module_prefix: str | None = None) -> Any:
    """The class of a dotted name (``package.module.Class``), or the only class of a dotted module."""
    name = f"{module_prefix}.{class_name}" if module_prefix else class_name
    module_name, _, last = name.rpartition(".")
    if module_name:
        found = getattr(importlib.import_module(module_name), last, None)
        if inspect.isclass(found):
            return found
    classes = list_classes_from_module(importlib.import_module(name))
    if len(classes) != 1:
        raise ImportError(f"module '{name}' defines {len(classes)} classes, not one")
    return classes[0]
