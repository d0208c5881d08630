"""Which values have a form as a tensor: numbers, booleans, texts and bytes, and regular lists of them.

A lone value is a tensor of shape [1], a list one of shape [-1], and a list of lists one of shape [-1, -1]. All other values
travel as JSON text in a tensor of BYTES.
"""

import datetime as dt
import decimal
import enum
import types
import typing
import uuid
from collections import abc, deque
from typing import Annotated, Any, NamedTuple

import numpy as np

from mooring.backends.values.custom_types import datatype_of_array, is_image
from mooring.core.tensors import DATATYPE_BY_NUMPY_TYPE

JSON = "application/json"


class Leaf(enum.Enum):
    """What one element of a tensor stands for."""

    NUMBER = "number"
    TEXT = "text"
    BYTES = "bytes"
    IMAGE = "image"


class TensorForm(NamedTuple):
    """The tensor that a type has: its datatype, the dimensions of its lists (none: a lone value), and what its elements are."""

    datatype: str
    dimensions: tuple[int, ...]
    leaf: Leaf

    @property
    def shape(self) -> list[int]:
        """The shape of the tensor of one sample."""
        return list(self.dimensions) or [1]


_TEXTS = (
    str,
    dt.datetime,
    dt.date,
    dt.time,
    dt.timedelta,
    uuid.UUID,
    decimal.Decimal,
)
_LISTS = (list, set, frozenset, deque)
_OPEN_LISTS = frozenset(
    {*_LISTS, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Set, abc.MutableSet, abc.Iterable}
)
UNIONS = (typing.Union, types.UnionType)


def alias_target(hint: Any) -> Any:
    """Return what a name for a type stands for (``type X = ...``, and numpy's ``NDArray[...]``); None for any other hint."""
    if type(hint).__name__ == "TypeAliasType":
        return hint.__value__
    origin = typing.get_origin(hint)
    if type(origin).__name__ == "TypeAliasType":
        return origin.__value__[typing.get_args(hint)]
    return None


def plain_hint(hint: Any) -> Any:
    """Return a hint without what does not change the kind of value: limits, names for types, ``None`` beside one type."""
    while True:
        origin = typing.get_origin(hint)
        if origin is Annotated or origin is typing.Final:
            hint = typing.get_args(hint)[0]
        elif hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif (target := alias_target(hint)) is not None:
            hint = target
        elif (
            origin in UNIONS
            and len(rest := [each for each in typing.get_args(hint) if each is not type(None)]) == 1
        ):
            hint = rest[0]
        else:
            return hint


def tensor_form(hint: Any) -> TensorForm | None:
    """Return the form that values of a hint have as a tensor; None where they have none."""
    hint = plain_hint(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        return _scalar_form(hint)
    if origin is typing.Literal:
        return _form_of_constants(arguments)
    if origin in UNIONS:
        forms = {_scalar_form(plain_hint(each)) for each in arguments}
        numbers = {TensorForm("INT64", (), Leaf.NUMBER), TensorForm("FP64", (), Leaf.NUMBER)}
        return TensorForm("FP64", (), Leaf.NUMBER) if forms == numbers else None
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is ...:
            return _list_form(arguments[0], -1)
        first = arguments[0] if len(set(arguments)) == 1 else None
        return None if first is None else _list_form(first, len(arguments))
    if origin in _OPEN_LISTS and arguments:
        return _list_form(arguments[0], -1)
    return None


def _list_form(item: Any, size: int) -> TensorForm | None:
    inner = typing.get_args(item) if typing.get_origin(item) in UNIONS else ()
    form = None if type(None) in inner else tensor_form(item)
    return form and form._replace(dimensions=(size, *form.dimensions))


def _scalar_form(kind: Any) -> TensorForm | None:
    if not isinstance(kind, type):
        return None
    if kind is bool:
        return TensorForm("BOOL", (), Leaf.NUMBER)
    if kind is int:
        return TensorForm("INT64", (), Leaf.NUMBER)
    if kind is float:
        return TensorForm("FP64", (), Leaf.NUMBER)
    if kind in _TEXTS:
        return TensorForm("BYTES", (), Leaf.TEXT)
    if kind in (bytes, bytearray, memoryview):
        return TensorForm("BYTES", (), Leaf.BYTES)
    if is_image(kind):
        return TensorForm("BYTES", (), Leaf.IMAGE)
    if issubclass(kind, enum.Enum):
        return _form_of_constants(tuple(member.value for member in kind))
    if issubclass(kind, np.generic):
        return _numpy_form(kind)
    return None


def _numpy_form(kind: type[np.generic]) -> TensorForm | None:
    try:
        datatype = DATATYPE_BY_NUMPY_TYPE.get(np.dtype(kind))
    except TypeError:
        return None
    return None if datatype is None else TensorForm(datatype, (), Leaf.NUMBER)


def _form_of_constants(values: tuple[Any, ...]) -> TensorForm | None:
    kinds = {type(value) for value in values} - {type(None)}
    return _scalar_form(kinds.pop()) if len(kinds) == 1 else None


def array_datatype(hint: Any) -> str | None:
    """Return the datatype of a hint that is an array of numpy's, empty where any goes; None where it is none."""
    hint = plain_hint(hint)
    origin = typing.get_origin(hint) or hint
    if isinstance(origin, type) and issubclass(origin, np.ndarray):
        return datatype_of_array(hint)
    return None


def is_text_like(hint: Any) -> bool:
    """Whether values of a hint are texts and nothing else: an unquoted text is one of them."""
    form = tensor_form(hint)
    return form is not None and form.leaf is Leaf.TEXT and not form.dimensions
