"""Defaults of dataclasses: msgspec leaves them to the class, and then writes the object without them.

``Point(1)`` has both fields in itself. What msgspec reads from ``{"x": 1}`` has ``x`` alone, and finds ``y`` in the class.
"""

import dataclasses
import functools
import typing
from collections import deque
from typing import Any

import msgspec

from mooring.backends.values.value_schemas import inner_types

_LISTS = frozenset({list, tuple, set, frozenset, deque})


def has_defaults(kind: Any) -> bool:
    """Whether values of a type, as msgspec describes it, may hold dataclasses whose defaults are in their class."""
    waiting, seen = [kind], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen or not isinstance(each, msgspec.inspect.Type):
            continue
        seen.add(id(each))
        if isinstance(each, msgspec.inspect.DataclassType) and _defaults_of(
            typing.get_origin(each.cls) or each.cls
        ):
            return True
        waiting += [inner for _, inner in inner_types(each)]
    return False


def fill_defaults(value: Any) -> Any:
    """Put the defaults into every dataclass in a value, at any depth, and return the value."""
    kind = type(value)
    if kind in _LISTS:
        for each in value:
            fill_defaults(each)
    elif kind is dict:
        for each in value.values():
            fill_defaults(each)
    elif dataclasses.is_dataclass(kind):
        own = getattr(value, "__dict__", None)
        if own is not None:
            for name, default in _defaults_of(kind):
                own.setdefault(name, default)
        for field in dataclasses.fields(kind):
            fill_defaults(getattr(value, field.name, None))
    elif issubclass(kind, msgspec.Struct):
        for name in kind.__struct_fields__:
            fill_defaults(getattr(value, name))
    return value


@functools.lru_cache(256)
def _defaults_of(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    if not dataclasses.is_dataclass(kind):
        return ()  # a class of attrs: msgspec describes it as it does a dataclass
    return tuple(
        (field.name, field.default)
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING and field.name in vars(kind)
    )
