"""Find the handler of a model: a function or a class of a file (docs/contracts/torchserve.md, section 2.2)."""

import importlib
import inspect
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mooring.backends.handler.absent import REASONS
from mooring.backends.handler.context import Context
from mooring.backends.handler.module_classes import import_file, list_classes_from_module
from mooring.backends.model_source import bypass_bytecode_cache
from mooring.core.errors import ModelLoadFailed

Handle = Callable[[Any, Context], Any]
# Those that TorchServe's own handlers call, so that a model need not have a ``handle`` of its own.
_STEPS = ("preprocess", "inference", "postprocess")


class HandlerEntry(NamedTuple):
    """A handler that was found and is not initialized yet. ``owner`` is its module, or an object of its class."""

    owner: Any
    name: str
    initialize: Callable[[Context], Awaitable[None] | None]

    @property
    def handle(self) -> Handle:
        """The function that is called for every batch. ``initialize`` may replace it, as MicroBatching's users do."""
        handle: Handle = getattr(self.owner, self.name)
        return handle

    @property
    def is_asynchronous(self) -> bool:
        """Whether ``handle`` gives something to await, or an asynchronous generator."""
        handle = self.handle
        if inspect.iscoroutinefunction(handle) or inspect.isasyncgenfunction(handle):
            return True
        # One of ours awaits what it calls; any other knows what it does with its coroutines.
        return getattr(handle, "__module__", "").startswith("mooring.") and any(
            inspect.iscoroutinefunction(getattr(self.owner, step, None)) for step in _STEPS
        )


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
    """Put first on the import path: the model's requirements, its own files, and ``ts``. The latter two replace installed ones.

    The commands of its virtual environment come first, too.
    """
    if venv:
        os.environ["VIRTUAL_ENV"] = venv
        os.environ["PATH"] = f"{venv}/bin{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    for folder in (str(COMPAT), str(model_dir), *filter(None, (packages,))):
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
    bypass_bytecode_cache(str(model_dir), packages)
    loaded = sys.modules.get("ts")
    if loaded is not None and COMPAT not in Path(loaded.__file__ or "").parents:
        for name in [name for name in sys.modules if name == "ts" or name.startswith("ts.")]:
            del sys.modules[name]
    importlib.invalidate_caches()


def find_handler(entry: str, model_dir: Path) -> HandlerEntry:
    """Find the handler named by ``entry`` (``file[.py][:function]``).

    Raises ``ModelLoadFailed`` where there is none; what the handler's own code raises goes through.
    """
    location, _, function = entry.partition(":")
    name = location.rpartition("/")[2].removesuffix(".py").removeprefix("ts.torch_handler.")
    if not name:
        raise ModelLoadFailed("the manifest names no handler")
    module = _import_handler(name, model_dir)
    handle = getattr(module, function or "handle", None)
    if callable(handle):
        return HandlerEntry(module, function or "handle", partial(handle, None))
    if function:
        raise ModelLoadFailed(f"handler '{entry}': {name}.py has no function '{function}'")
    return _entry_of_class(module, entry)


def _entry_of_class(module: ModuleType, entry: str) -> HandlerEntry:
    classes = list_classes_from_module(module)
    if len(classes) != 1:
        names = ", ".join(sorted(each.__name__ for each in classes)) or "none"
        raise ModelLoadFailed(
            f"handler '{entry}' needs a function 'handle' or exactly one class of its own; it has {names}"
        )
    instance = classes[0]()
    if not callable(getattr(instance, "handle", None)):
        raise ModelLoadFailed(f"class '{classes[0].__name__}' of handler '{entry}' has no method 'handle'")
    return HandlerEntry(instance, "handle", getattr(instance, "initialize", None) or _do_nothing)


def _do_nothing(_context: Context) -> None:
    """Stand in for ``initialize`` where the class has none."""


def _import_handler(name: str, model_dir: Path) -> ModuleType:
    """Import a file of the model's folder, else a default handler, else an installed module.

    Raises ``ModelLoadFailed``.
    """
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
        if reason := REASONS.get(f"ts.torch_handler.{name}"):
            raise ModelLoadFailed(f"TorchServe's handler '{name}' {reason}") from None
        known = ", ".join(sorted(DEFAULT_HANDLERS))
        raise ModelLoadFailed(
            f"no handler '{name}': it is not a file of the model, a module, or one of {known}"
        ) from None
