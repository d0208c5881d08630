"""Short lists of numbers out of JSON to bytes, where making a numpy array costs more than all the rest.

Only what is plainly right is taken. Everything else is None, and the general way (tensor_json.py) finds out whether it
is right after all, or what is wrong with it.
"""

import struct
from collections.abc import Callable
from functools import lru_cache

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


@lru_cache(256)
def _packer(datatype: str, count: int) -> tuple[Callable[..., bytes], frozenset[type]] | None:
    found = _LETTERS.get(datatype)
    return None if found is None else (struct.Struct(f"<{count}{found[0]}").pack, found[1])


def pack_numbers(values: list[object], datatype: str) -> bytes | None:
    """Pack a flat list that is not empty as the elements of a tensor; None where it is not plainly of that datatype.

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
