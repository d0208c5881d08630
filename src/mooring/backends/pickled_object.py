"""A Python object that goes from the process that serves it to the workers, in a private folder of that server.

``write_object`` runs in the caller of ``mooring.serve``, ``load_object`` in a worker: it is what the file beside the pickle
calls. Whoever could write a pickle could run any code there, so that it is read only from a folder that nobody but this
user can write to.
"""

import dataclasses
import functools
import inspect
import io
import os
import pickle
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import msgspec

from mooring.core.errors import ModelLoadFailed

# The file's name is none that a model's own code would import.
MODEL_FILE = "_mooring_served_object.py"
NAME = "served"
_PICKLE = "object.pickle"
_SOURCE = f'''"""Made by mooring.serve: the object beside this file, pickled by the process that serves it."""

from mooring.backends.pickled_object import load_object

{NAME} = load_object(__file__)
'''
_CACHED = type(functools.lru_cache(id))
_MSGSPEC_CACHE = "__msgspec_cache__"
# dataclasses compares with them by identity.
_SENTINELS = {
    id(getattr(dataclasses, name)): name
    for name in ("MISSING", "_HAS_DEFAULT_FACTORY")
    if hasattr(dataclasses, name)
}


def write_object(served: Any, folder: Path) -> Path:
    """Write an object and the file that loads it into a folder; return that file.

    Functions and classes of installed modules, and of those on ``sys.path``, go by name, all others with their code.
    Raises ``TypeError`` that names what cannot be pickled.
    """
    annotations = list(_text_annotations(served))
    try:
        data = _dump((served, annotations))
    except RecursionError as error:
        raise TypeError(
            f"{describe(served)} cannot be pickled: it refers to itself; define it in a file"
        ) from error
    except Exception as error:  # whatever the reducers of the user's objects raise
        raise TypeError(_explain(served, error)) from error
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / _PICKLE).write_bytes(data)
    file = folder / MODEL_FILE
    file.write_text(_SOURCE)
    return file


def load_object(file: str) -> Any:
    """Load the object beside a file. Raises ``ModelLoadFailed`` where somebody else could have written it."""
    folder = Path(file).parent
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ModelLoadFailed(f"{folder}: other users can write here, so that the pickle in it is not read")
    with (folder / _PICKLE).open("rb") as pickled:
        served, annotations = pickle.load(pickled)  # noqa: S301 - checked above
    for each, hints in annotations:
        _set_annotations(each, hints)
    return served


def describe(served: Any) -> str:
    """Return what an object is called in messages."""
    kind = "class" if inspect.isclass(served) else "function" if callable(served) else "object"
    return f"{kind} '{getattr(served, '__name__', type(served).__name__)}'"


def _dump(value: Any) -> bytes:
    import cloudpickle  # 20 ms that workers need not spend before they know that they read a pickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
        def reducer_override(self, obj: Any) -> Any:
            reduced = _reduce(obj)
            return _without_caches(super().reducer_override(obj)) if reduced is None else reduced

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


def _reduce(obj: Any) -> Any:
    """Return how an object is pickled that cloudpickle does not pickle so that it comes back the same; None for all others."""
    sentinel = _SENTINELS.get(id(obj))
    if sentinel is not None:
        return _find_sentinel, (sentinel,)
    if isinstance(obj, msgspec.Meta):
        return _make_meta, ({name: value for name, value in obj.__rich_repr__() if value is not None},)
    if isinstance(obj, type) and issubclass(obj, msgspec.Struct) and not _is_importable(obj):
        return _make_struct, _describe_struct(obj)
    if isinstance(obj, _CACHED) and not _is_importable(obj):
        return _make_cached, (obj.__wrapped__, obj.cache_parameters())
    return None


def _without_caches(reduced: Any) -> Any:
    """Return how a class is pickled, without what msgspec has noted there since it read such an object."""
    state = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else None
    if isinstance(state, tuple) and state and isinstance(state[0], dict):
        state[0].pop(_MSGSPEC_CACHE, None)  # cloudpickle's copy of the members
    return reduced


def _make_cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _find_sentinel(name: str) -> Any:
    return getattr(dataclasses, name)


def _make_meta(arguments: dict[str, Any]) -> msgspec.Meta:
    return msgspec.Meta(**arguments)


def _is_importable(kind: Any) -> bool:
    """Whether a worker finds a class or function by its name."""
    if kind.__module__ == "__main__":
        return False
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is kind


def _describe_struct(kind: type[msgspec.Struct]) -> tuple[Any, ...]:
    """Return the arguments of ``_make_struct`` for a class: msgspec makes what it needs when a class is made."""
    own = inspect.get_annotations(kind)
    fields = []
    for each in msgspec.structs.fields(kind):
        if each.name in own:
            if each.default_factory is not msgspec.NODEFAULT:
                how, default = "factory", each.default_factory
            else:
                given = each.default is not msgspec.NODEFAULT
                how, default = ("value", each.default) if given else ("", None)
            fields.append((each.name, each.type, each.encode_name, how, default))
    config = kind.__struct_config__
    names = [
        "frozen",
        "eq",
        "order",
        "array_like",
        "gc",
        "repr_omit_defaults",
        "omit_defaults",
        "forbid_unknown_fields",
        "weakref",
        "dict",
        "cache_hash",
        "tag",
        "tag_field",
    ]
    options = {name: getattr(config, name) for name in names if hasattr(config, name)}
    members = {
        name: value
        for name, value in vars(kind).items()
        if isinstance(value, FunctionType | property | classmethod | staticmethod)
        and not name.startswith("__struct")
    }
    keyword_only = any(each.kind is each.KEYWORD_ONLY for each in inspect.signature(kind).parameters.values())
    return (
        kind.__name__,
        kind.__qualname__,
        kind.__module__,
        kind.__bases__,
        fields,
        members,
        keyword_only,
        options,
    )


def _make_struct(
    name: str,
    qualified: str,
    module: str,
    bases: tuple[type, ...],
    fields: list[tuple[str, Any, str, str, Any]],
    members: dict[str, Any],
    keyword_only: bool,
    options: dict[str, Any],
) -> type:
    defined: list[Any] = []
    for field, kind, encoded, how, default in fields:
        more = {"default_factory": default} if how == "factory" else {"default": default} if how else {}
        defined.append((field, kind, msgspec.field(name=encoded, **more)))
    made = msgspec.defstruct(
        name, defined, bases=bases, module=module, namespace=members, kw_only=keyword_only, **options
    )
    made.__qualname__ = qualified
    return made


def _text_annotations(served: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield what has annotations that are text, with what they mean here.

    A worker does not have the names of a notebook that only text names. What cannot be resolved here stays text.
    """
    seen: set[int] = set()
    waiting = [served]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or (inspect.isclass(each) and _is_importable(each)):
            continue
        seen.add(id(each))
        if inspect.isclass(each):
            waiting += [value for value in vars(each).values() if isinstance(value, FunctionType)]
        own = getattr(each, "__annotations__", None)
        if not isinstance(own, dict) or not own:
            continue
        try:
            hints = typing.get_type_hints(each, include_extras=True)
        except (NameError, TypeError):
            continue
        waiting += [found for hint in hints.values() for found in _classes_in(hint)]
        if any(isinstance(hint, str) for hint in own.values()) and not _is_struct(each):
            yield each, {name: hints[name] for name in own if name in hints}


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _classes_in(hint: Any) -> Iterator[type]:
    if inspect.isclass(hint) and not typing.get_args(hint):
        yield hint
    for argument in typing.get_args(hint):
        yield from _classes_in(argument)


def _set_annotations(each: Any, hints: dict[str, Any]) -> None:
    each.__annotations__ = hints
    if dataclasses.is_dataclass(each):
        for field in dataclasses.fields(each):
            field.type = hints.get(field.name, field.type)


def _explain(served: Any, error: Exception) -> str:
    """Say what of an object cannot be pickled, and what to do."""
    what = f"{describe(served)} cannot be sent to the server's workers"
    for name, value in _parts_of(served):
        try:
            _dump(value)
        except Exception:  # as above
            return (
                f"{what}: '{name}', which it uses, is a {type(value).__name__}, and cannot be pickled; make it in the worker,"
                " in the method load of a class with load and infer, or define the function in a file"
            )
    return f"{what}: {error}; put what cannot be pickled into the method load of a class with load and infer"


def _parts_of(served: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and values that an object uses."""
    functions: list[Callable[..., Any]] = []
    if inspect.isclass(served):
        functions = [value for value in vars(served).values() if isinstance(value, FunctionType)]
        yield from (
            (name, value) for name, value in vars(served).items() if not callable(value) and name[:2] != "__"
        )
    elif isinstance(served, FunctionType):
        functions = [served]
    else:
        yield from getattr(served, "__dict__", {}).items()
        owner = getattr(served, "__self__", None)  # of a bound method
        yield from getattr(owner, "__dict__", {}).items()
    for function in functions:
        try:
            used = inspect.getclosurevars(function)
        except (TypeError, ValueError):
            continue
        yield from {**used.globals, **used.nonlocals}.items()
