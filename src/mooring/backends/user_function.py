"""A user's function, or class with a method infer: how it is found, constructed and closed, whatever it takes.

How this works: ``UserFunction.load`` imports the file from its source and finds the function or class. A class is
constructed, and its ``load`` called. Where the function is asynchronous there is an event loop on which all of it runs,
``load`` and ``close`` too.
"""

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from mooring.backends.backend import run_sync
from mooring.backends.client_errors import read_client_errors
from mooring.backends.model_source import bypass_bytecode_cache, import_source
from mooring.core.errors import ModelLoadFailed, MooringError
from mooring.core.model_code import Model
from mooring.core.service import LoadContext
from mooring.core.tensors import Parameter
from mooring.repository.spec import ModelSpec

if TYPE_CHECKING:
    import asyncio  # 30 ms that most workers need not spend

_DEFAULT_FILE = "model.py"
_BESIDE = ("load", "explain", "close")


class FunctionContext(msgspec.Struct, frozen=True):
    """The argument of ``Model.load``. ``directory`` is the file's folder; ``gpu`` None means the CPU."""

    name: str
    version: str
    directory: str
    parameters: dict[str, Parameter]
    threads: int
    gpu: int | None


class UserFunction:
    """The function that answers requests, and the object that it is a method of, where it is one.

    ``explain`` is the method of that name, ``loop`` the event loop of an asynchronous function; None where there is none.
    ``client_errors`` are the names in the attribute of that name.
    """

    infer: Callable[..., Any]
    explain: Callable[..., Any] | None = None
    loop: "asyncio.AbstractEventLoop | None" = None
    path: Path
    client_errors: frozenset[str] = frozenset()
    _model: Any = None
    module: ModuleType | None = None

    def load(self, spec: ModelSpec, context: LoadContext) -> None:
        """Import the file and find the model in it. Raises ``ModelLoadFailed`` with file, line and reason."""
        location, (file, _, name) = Path(spec.location), spec.entry.partition(":")
        path = self.path = location / (file or _DEFAULT_FILE) if location.is_dir() else location
        if not path.is_file():
            raise ModelLoadFailed(f"model '{spec.name}' has no file {path}")
        self.module = run_user_code(path, import_dotted if spec.module else import_file, path, spec)
        function: Any = _find_model(self.module, name, path)
        self.client_errors = read_client_errors(function)
        if not inspect.isclass(function):
            self.infer = function
            self._open_loop(spec)
            return
        function_context = FunctionContext(
            spec.name, spec.version, str(path.parent), dict(spec.parameters), context.threads, context.gpu
        )
        self.infer = getattr(function, "infer")  # noqa: B009 - a class that mypy knows nothing of
        self._open_loop(spec, *(getattr(function, method, None) for method in _BESIDE))
        self._model = run_user_code(path, self._run_to_end, _construct_model(function, function_context))
        self.infer, self.explain = self._model.infer, getattr(self._model, "explain", None)
        if self.explain is not None and spec.explain:
            raise ModelLoadFailed(
                "the model has a method explain, and [explain] configures another: remove one"
            )

    def _open_loop(self, spec: ModelSpec, *beside: Callable[..., Any] | None) -> None:
        """Open an event loop where ``infer`` is asynchronous.

        Raises ``ModelLoadFailed`` where the other methods do not match it.
        """
        name = name_of(self.infer)
        if _is_async(self.infer):
            if spec.explain:
                raise ModelLoadFailed(
                    f"{self.path}: [explain] cannot call '{name}', which is async: write a method explain instead"
                )
            import asyncio

            self.loop = asyncio.new_event_loop()
            return
        for each in beside:
            if each is not None and _is_async(each):
                raise ModelLoadFailed(
                    f"{self.path}: '{name_of(each)}' is async and '{name}' is not: make both async, or neither"
                )

    def _run_to_end(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end, on the model's event loop if it has one, and return its result."""
        return run_sync(coroutine) if self.loop is None else self.loop.run_until_complete(coroutine)

    def close(self) -> None:
        """Call ``Model.close``, remove the module, and close the event loop."""
        model, self._model = self._model, None
        module, self.module = self.module, None
        if module is not None:
            sys.modules.pop(module.__name__, None)
        try:
            if hasattr(model, "close"):
                self._run_to_end(_call_or_await(model.close))
        finally:
            if self.loop is not None:
                self.loop.close()


_NOT_THE_USERS = (f"{Path(__file__).parents[1]}{os.sep}", "<frozen importlib")


def _users_part(error: BaseException) -> TracebackType | None:
    """Return the traceback without the frames above the user's code; a syntax error has no others."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        trace = trace.tb_next
    return trace or (None if isinstance(error, SyntaxError) else error.__traceback__)


def run_user_code(path: Path, step: Callable[..., Any], *arguments: Any) -> Any:
    """Run user code that loads the model. What it raises becomes ``ModelLoadFailed`` with the line of its file."""
    try:
        return step(*arguments)
    except MooringError:
        raise
    except (Exception, SystemExit) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename == str(path):
                line = frame.lineno
        where = f"{path}, line {line}" if line else str(path)
        reason = error.msg if isinstance(error, SyntaxError) else error
        detail = "".join(traceback.format_exception(type(error), error, _users_part(error)))
        raise ModelLoadFailed(f"{where}: {type(error).__name__}: {reason}", detail=detail) from error


def import_file(path: Path, spec: ModelSpec) -> ModuleType:
    """Import the file from its source, as a module of a private name: two models may both be called model.py."""
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    bypass_bytecode_cache(folder)
    name = re.sub(r"\W", "_", f"_mooring_model_{spec.name}_{spec.version}")
    return import_source(name, path)


def import_dotted(path: Path, spec: ModelSpec) -> ModuleType:
    """Import the file by its dotted name, so that its relative imports find the rest of its package.

    The folder of the package comes first on the import path. Only the package of the model is imported from source: an
    installed one may have hundreds of others beside it.
    """
    root = spec.location
    if root not in sys.path:
        sys.path.insert(0, root)
    bypass_bytecode_cache(str(Path(root, spec.module.partition(".")[0])))
    importlib.invalidate_caches()
    module = importlib.import_module(spec.module)
    if getattr(module, "__file__", None) != str(path):
        raise ModelLoadFailed(
            f"{path} cannot be imported as '{spec.module}': another module is called so ({module.__file__})"
        )
    return module


_OTHER_NAMES = ("predict", "inference", "forward", "run", "generate")


def _other_method(kind: type) -> str:
    """Complete the error of a class without ``infer`` with the method that other servers' users write in its place."""
    other = next((name for name in _OTHER_NAMES if callable(getattr(kind, name, None))), "")
    return f"; if it is '{other}', call it infer" if other else ""


def _find_model(module: ModuleType, name: str, path: Path) -> Any:
    for each in (name,) if name else ("Model", "infer"):
        candidate = getattr(module, each, None)
        if candidate is Model and not name:  # imported, to inherit from
            candidate = _find_subclass(module, path)
        if inspect.isclass(candidate) and not hasattr(candidate, "infer"):
            raise ModelLoadFailed(f"{path}: class '{each}' has no method infer{_other_method(candidate)}")
        if callable(candidate):
            return candidate
    if name:
        raise ModelLoadFailed(f"{path} defines no function or class '{name}'")
    raise ModelLoadFailed(f"{path} defines neither infer nor Model; name the function as {path.name}:NAME")


def _find_subclass(module: ModuleType, path: Path) -> type | None:
    """Return the only class of a file that inherits from ``mooring.Model``; None where none does."""
    found = [
        each
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, Model) and each.__module__ == module.__name__
    ]
    if len(found) > 1:
        names = " or ".join(f"{path.name}:{each.__name__}" for each in found)
        raise ModelLoadFailed(f"{path} has several models; name one of them, as {names}")
    return found[0] if found else None


async def _construct_model(kind: type, context: FunctionContext) -> Any:
    model = kind()
    if hasattr(model, "load"):
        await _call_or_await(model.load, context)
    return model


async def _call_or_await(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function, and await the result where it is awaitable."""
    returned = function(*arguments)
    if inspect.isawaitable(returned):
        await returned


def _is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it returns a coroutine or an asynchronous generator.

    Of a callable object, ``__call__`` decides.
    """
    candidates = (function, getattr(function, "__call__", None))  # noqa: B004 - the method, not whether there is one
    return any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in candidates)


def name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", function))
