"""Short lists of numbers between JSON and bytes, where making a numpy array costs more than all the rest.

Only what is plainly right is taken. Everything else is None, and the general way (tensor_json.py) finds out whether it
is right after all, or what is wrong with it.
"""

import struct
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import orjson

from mooring.core.tensors import NUMPY_TYPES, Array

# Bytes of numbers up to which ``text`` is for them; above, an array of its own costs little beside what is in it.
SHORT = 512

_FLAGS, _WHOLE, _REAL = frozenset({bool}), frozenset({int}), frozenset({int, float})
# What struct calls the types, and what may stand for one of their values in JSON.
_LETTERS = {
    "BOOL": ("?", _FLAGS),
    "UINT8": ("B", _WHOLE),
    "UINT16": ("H", _WHOLE),
    "UINT32": ("I", _WHOLE),
    "UINT64": ("Q", _WHOLE),
    "INT8": ("b", _WHOLE),
    "INT16": ("h", _WHOLE),
    "INT32": ("i", _WHOLE),
    "INT64": ("q", _WHOLE),
    "FP16": ("e", _REAL),
    "FP32": ("f", _REAL),
    "FP64": ("d", _REAL),
}

_NUMPY, _NULL = orjson.OPT_SERIALIZE_NUMPY, b"null"


@lru_cache(256)
def _packer(datatype: str, count: int) -> tuple[Callable[..., bytes], frozenset[type]] | None:
    found = _LETTERS.get(datatype)
    return None if found is None else (struct.Struct(f"<{count}{found[0]}").pack, found[1])


def packed(values: list[object], datatype: str) -> bytes | None:
    """A flat list that is not empty, as the elements of a tensor; None where it is not plainly of that datatype.

    A number too large for the type is not; floats are rounded to it, as everywhere.
    """
    packer = _packer(datatype, len(values))
    if packer is None:
        return None
    pack, held = packer
    if type(values[0]) not in held if len(values) == 1 else not held.issuperset(map(type, values)):
        return None
    try:
        return pack(*values)
    except (struct.error, OverflowError):
        return None


@lru_cache(256)
def _scratch(datatype: str, size: int) -> tuple[Array, memoryview]:
    dtype = NUMPY_TYPES[datatype]
    array = np.zeros(size // dtype.itemsize, dtype)
    return array, array.data.cast("B")


def text(raw: bytes, datatype: str) -> bytes | None:
    """The elements of a numeric tensor of at most ``SHORT`` bytes as a flat JSON list; None where JSON has none for them.

    Their number is as their bytes say. BF16 is not for this.
    """
    # Kept arrays: orjson writes float32 only out of an array, and to make one costs twice as much as to write it.
    array, view = _scratch(datatype, len(raw))
    view[:] = raw
    written = orjson.dumps(array, option=_NUMPY)
    return None if _NULL in written else written
