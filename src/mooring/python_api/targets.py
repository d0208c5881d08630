"""What ``mooring.serve`` is given, as targets of ``mooring serve``.

    "digits.onnx", Path("digits.onnx")   as on the command line
    a function or class of a file        FILE.py:NAME, which the workers import as every other target
    any other function or class          a notebook's, a closure, a lambda, one of a package: pickled for the workers

An object that is callable is pickled, too. One that only has a method ``infer`` is refused: every worker makes its own
object, and its ``load`` is called there, so that the class is what to give.
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from mooring.backends.pickled_object import MODEL_FILE, NAME, write_object
from mooring.repository.python_source import SourceUnreadable, may_define, read_source

LAMBDA = "lambda"
_NAME = re.compile(r"(?!\.\.?$)[^/=]+")
_LONGEST_NAME = 200  # a folder has such a name


def to_targets(target: Any, folder: Callable[[], Path]) -> list[str]:
    """Return the targets that stand for this one, or for each of a dict by their names.

    ``folder`` makes a private folder for what must be pickled, and is only asked where there is such an object. Raises
    ``TypeError`` for what cannot be served.
    """
    if target is None:
        return []
    if isinstance(target, Mapping):
        return [f"{name}={_to_target(each, name, folder)}" for name, each in _check_names(target)]
    if isinstance(target, str | Path):
        return [str(target)]
    name = check_name(name_of(target))
    text = _to_target(target, name, folder)
    pickled = text.endswith(f"{MODEL_FILE}:{NAME}")
    return [f"{name}={text}" if pickled else text]


def name_of(served: Any) -> str:
    """Return the name that an object gives its model."""
    inner = (
        getattr(served, "func", served) if not hasattr(served, "__name__") else served
    )  # functools.partial
    name = str(getattr(inner, "__name__", "") or type(inner).__name__)
    return LAMBDA if name == "<lambda>" else name


def _check_names(target: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    if not target:
        raise TypeError("serve() was given an empty dict; name a model, as in {'double': double}")
    for name, each in target.items():
        yield check_name(name), each


def check_name(name: Any) -> str:
    """Return the name of a model. Raises ``TypeError`` for what is no text, and ``ValueError`` for what cannot be a name."""
    if not isinstance(name, str):
        raise TypeError(f"the names of models are strings, not {type(name).__name__}, as {name!r} is")
    if not _NAME.fullmatch(name) or not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
        raise ValueError(
            f"{name[:_LONGEST_NAME]!r} cannot be the name of a model: a name has 1 to {_LONGEST_NAME} bytes, and no"
            " '/', '=' or control characters"
        )
    return name


def _to_target(target: Any, name: str, folder: Callable[[], Path]) -> str:
    if isinstance(target, str | Path):
        return str(target)
    check_servable(target)
    return file_target(target) or f"{write_object(target, folder() / name)}:{NAME}"


def check_servable(served: Any) -> None:
    """Raise ``TypeError`` for an object that cannot be a model."""
    if inspect.isclass(served) or callable(served):
        return
    if callable(getattr(served, "infer", None)):
        kind = type(served).__name__
        raise TypeError(
            f"serve() takes the class {kind}, not an object of it: every worker makes its own, and calls its load(context)"
        )
    shown = "a list" if isinstance(served, list | tuple) else type(served).__name__
    raise TypeError(
        f"serve() takes a path, a function, a class, or a dict of those by name, not {shown}"
        + ("; several are given as {'name': target, ...}" if shown == "a list" else "")
    )


def file_target(served: Any) -> str:
    """Return FILE.py:NAME of what a file defines; empty for what it does not, and for modules of packages.

    A file of a package is not imported by itself, since it may import its siblings.
    """
    name = getattr(served, "__name__", "")
    module = sys.modules.get(getattr(served, "__module__", None) or "")
    if not isinstance(module, ModuleType):
        return ""
    file = getattr(module, "__file__", None) or ""
    if not file.endswith(".py") or not Path(file).is_file():
        return ""
    if not name.isidentifier() or vars(module).get(name) is not served or vars(module).get("__package__"):
        return ""
    if module.__name__ == "__main__" and not _is_of_script(served, name, Path(file)):
        return ""
    return f"{Path(file).absolute()}:{name}"


def _is_of_script(served: Any, name: str, file: Path) -> bool:
    """Whether a worker that imports the script finds this very object there.

    IPython's %run leaves the name of a file in __main__, where later cells define more.
    """
    return _is_defined_in(served, file) and _is_bound_by_import(name, file)


def _is_defined_in(served: Any, file: Path) -> bool:
    members = vars(served).values() if inspect.isclass(served) else (served,)
    for each in members:
        function = inspect.unwrap(each) if callable(each) else each
        if isinstance(function, FunctionType):
            source = Path(function.__code__.co_filename)
            if not source.is_file() or not source.samefile(file):
                return False
    return True


def _is_bound_by_import(name: str, file: Path) -> bool:
    """Whether a script defines a name when it is imported, too, and not only under its guard."""
    try:
        tree = read_source(file)
    except SourceUnreadable:
        return True
    tree.body = [
        each for each in tree.body if not (isinstance(each, ast.If) and "__name__" in ast.unparse(each.test))
    ]
    return may_define(tree, name)
