"""Which function of which file is a handler (contracts/torchserve.md, 2.2)."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from mooring.backends.handler.context import Context
from mooring.backends.handler.module_classes import import_file, list_classes_from_module
from mooring.core.errors import ModelLoadFailed

Handle = Callable[[Any, Context], Any]

# Every folder on this path that is not ours may hold a real ``ts``; ours stands before them all but the model's own.
COMPAT = Path(__file__).parents[2] / "compat"

DEFAULT_HANDLERS = frozenset(
    (
        "base_handler",
        "densenet_handler",
        "image_classifier",
        "image_segmenter",
        "object_detector",
        "text_classifier",
        "vision_handler",
    )
)


def prepare_imports(model_dir: Path, packages: str = "", venv: str = "") -> None:
    """Make importable, before anything else that is installed: the model's requirements, its own files, ``ts``.

    The commands of its virtual environment come first, too.
    """
    if venv:
        os.environ["VIRTUAL_ENV"] = venv
        os.environ["PATH"] = f"{venv}/bin{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    for folder in (str(COMPAT), str(model_dir), *filter(None, (packages,))):
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
    loaded = sys.modules.get("ts")
    if loaded is not None and COMPAT not in Path(loaded.__file__ or "").parents:
        for name in [name for name in sys.modules if name == "ts" or name.startswith("ts.")]:
            del sys.modules[name]
    importlib.invalidate_caches()


def find_handle(entry: str, model_dir: Path, context: Context) -> Handle:
    """The ready handler named by ``entry`` (``file[.py][:function]``), initialized.

    Raises ``ModelLoadFailed`` where there is none; what the handler's own code raises goes through.
    """
    location, _, function = entry.partition(":")
    name = location.rpartition("/")[2].removesuffix(".py").removeprefix("ts.torch_handler.")
    if not name:
        raise ModelLoadFailed("the manifest names no handler")
    module = _import(name, model_dir)
    handle = getattr(module, function or "handle", None)
    if callable(handle):
        _demand_synchronous(handle, entry)
        handle(None, context)
        return cast("Handle", handle)
    if function:
        raise ModelLoadFailed(f"handler '{entry}': {name}.py has no function '{function}'")
    return _handle_of_class(module, entry, context)


def _handle_of_class(module: ModuleType, entry: str, context: Context) -> Handle:
    classes = list_classes_from_module(module)
    if len(classes) != 1:
        found = ", ".join(sorted(each.__name__ for each in classes)) or "none"
        raise ModelLoadFailed(
            f"handler '{entry}' needs a function 'handle' or exactly one class of its own; it has {found}"
        )
    instance = classes[0]()
    if not callable(getattr(instance, "handle", None)):
        raise ModelLoadFailed(f"class '{classes[0].__name__}' of handler '{entry}' has no method 'handle'")
    _demand_synchronous(instance.handle, entry)
    initialize = getattr(instance, "initialize", None)
    if initialize is not None:
        initialize(context)
    # ``initialize`` may have put another in its place, as MicroBatching's users do.
    handle: Handle = instance.handle
    return handle


def _import(name: str, model_dir: Path) -> ModuleType:
    """A module of the model's own folder first, then a default handler, then anything installed."""
    path = model_dir / f"{name}.py"
    if path.is_file():
        return import_file(path)
    if name in DEFAULT_HANDLERS:
        return importlib.import_module(f"mooring.backends.handler.{name}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise
        known = ", ".join(sorted(DEFAULT_HANDLERS))
        raise ModelLoadFailed(
            f"no handler '{name}': it is no file of the model, no module, and none of {known}"
        ) from None


def _demand_synchronous(handle: Any, entry: str) -> None:
    if inspect.iscoroutinefunction(handle) or inspect.isasyncgenfunction(handle):
        raise ModelLoadFailed(f"handler '{entry}' is a coroutine function, which this server does not run")
