"""JSON and numeric tensors, both ways, without routes.

``decode_json`` reads a document so that large lists of numbers arrive as arrays, ``to_array`` makes one JSON value an
array of a given datatype or says what is wrong with it, ``encode_json`` writes an array. The rules, which do not depend
on the size of the document:

- A list of lists is a tensor when it is regular; a ragged one is refused.
- Without a datatype integers are INT64 (UINT64 where that is needed), other numbers FP64, strings BYTES.
- Nothing is rounded, wrapped or truncated but to a float type: an integer must fit, and 1.0 is the integer 1.
- NaN, Infinity and -Infinity are read as bare tokens, as Python and Triton write them, and among numbers as strings of
  the same text; null in a float tensor, or among numbers of no datatype, is a missing value and read as NaN.
- They are written as bare tokens, or as null where ``null`` is true.
"""

import base64
import ctypes
import json
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import orjson
import simdjson

from mooring.codecs.content_types import explain_not_json
from mooring.core.errors import InvalidInput
from mooring.core.tensors import NUMPY_TYPES, Array

# From here on simdjson pays although it must check that lists are regular (150,528 floats: 2.0 ms against 4.8).
LARGE_DOCUMENT = 4096
# A parser keeps the memory of its largest document, about ten times its size: not for the rare giant.
_KEPT_DOCUMENT = 16 << 20
# numpy 1.26 has no more dimensions than this.
_MAX_RANK = 32
_MAX_OBJECTS = 8
_MAX_KEYS = 64

_LIMITS = {
    name: (int(np.iinfo(dtype.type).min), int(np.iinfo(dtype.type).max))  # type: ignore[type-var]
    for name, dtype in NUMPY_TYPES.items()
    if dtype.kind in "iu" and name != "BF16"
}
# Within these limits a number stays what it is, or at least finite: a short list is checked for that without numpy.
_RANGES: Mapping[str, tuple[frozenset[type], float, float]] = {
    **{name: (frozenset({int}), *limits) for name, limits in _LIMITS.items()},
    **{
        name: (frozenset({int, float}), -float(np.finfo(dtype.type).max), float(np.finfo(dtype.type).max))  # type: ignore[type-var]
        for name, dtype in NUMPY_TYPES.items()
        if dtype.kind == "f"
    },
}

_NUMPY, _NULL = orjson.OPT_SERIALIZE_NUMPY, b"null"
# What orjson takes by itself, in half the time of an array of one.
_NUMBERS = frozenset({np.float32, np.float64, np.int32, np.int64, np.bool_})
# What a client whose JSON has no token for them may write, and what stands for numbers only beside numbers or in a float.
_NONFINITE = frozenset({"NaN", "Infinity", "-Infinity"})
_FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})
_NUMBERS_OR_MISSING = frozenset({int, float, str, type(None)})
_NOTHING: tuple[frozenset[type], float, float] = (frozenset(), 0.0, 0.0)

# To find the few brackets of a flat list in 3 MB takes memchr 0.03 ms, comparing all bytes 0.13; each one found costs 1 us.
_FEW_LISTS = 64
_memchr = ctypes.CDLL(None).memchr
_memchr.argtypes, _memchr.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p

_parser = simdjson.Parser()


def decode_json(document: bytes | memoryview) -> Any:
    """Decode a JSON document; in a large one every regular list of numbers is an array already.

    Raises ``InvalidInput`` when it is not JSON.
    """
    if len(document) >= LARGE_DOCUMENT:
        try:
            return _decode_large(document)
        except _Irregular:
            pass
    return decode_to_python(document)


def decode_to_python(document: bytes | memoryview) -> Any:
    """Decode a JSON document as ``decode_json`` does, to Python's own types alone."""
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError as error:
        reason = str(error)
    return _decode_with_tokens(bytes(document), reason)


def _decode_with_tokens(document: bytes, reason: str) -> Any:
    """Decode NaN and Infinity too, by the standard library; orjson refuses them, as JSON does."""
    if b"NaN" in document or b"Infinity" in document:
        try:
            value = json.loads(document.decode(), parse_int=_parse_integer)
            # What orjson refuses to write (lone surrogates, hundreds of levels) it would have refused to read.
            orjson.dumps(value)
            return value
        except (ValueError, TypeError, RecursionError):
            pass
    raise InvalidInput(explain_not_json(document, reason))


def _parse_integer(text: str) -> int | float:
    """Parse an integer as orjson does: one above 64 bits is a float."""
    number = int(text) if len(text) <= 20 else float(text)
    return number if -(2**63) <= number < 2**64 else float(number)


class _Irregular(Exception):
    """Not for the quick way: the slow one finds out whether the document is at fault."""


def _decode_large(document: bytes | memoryview) -> Any:
    global _parser
    parser = _parser if len(document) <= _KEPT_DOCUMENT else simdjson.Parser()
    try:
        try:
            root = parser.parse(document)
        except RuntimeError:
            # Either the document (too deep, an integer above 64 bits), or somebody still holds the last one.
            _parser = simdjson.Parser()
            raise _Irregular from None
        if not isinstance(root, simdjson.Array | simdjson.Object):
            raise _Irregular
        lists = [0]
        value = _convert_node(root, _MAX_OBJECTS, lists)
    except (
        ValueError,
        TypeError,
        OverflowError,
        KeyError,
    ):  # KeyError: simdjson looks for a key up to its first NUL
        # A traceback would keep the parsed document alive, and with it the parser.
        raise _Irregular from None
    # ``as_buffer`` looks through lists where a number should be. All lists that a regular document has were counted,
    # so one more bracket means such a list, or a string with a bracket in it.
    if _count_brackets(np.frombuffer(document, np.uint8), lists[0]) != lists[0]:
        raise _Irregular
    return value


def _count_brackets(text: Array, expected: int) -> int:
    """Count the lists that begin in the text; stop above ``expected``, where that is cheaper."""
    if expected > _FEW_LISTS:
        return int(np.count_nonzero(text == ord("[")))
    count, at = 0, text.ctypes.data
    end = at + text.size
    while count <= expected and (place := _memchr(at, ord("["), end - at)):
        count, at = count + 1, place + 1
    return count


def _convert_node(node: Any, depth: int, lists: list[int]) -> Any:
    if isinstance(node, simdjson.Object):
        keys = list(node)
        # A look-up walks the object, and finds the first of two equal keys where orjson keeps the last; of a key with
        # a NUL it sees what stands before that.
        if not depth or len(keys) > _MAX_KEYS or len(set(keys)) != len(keys) or "\0" in "".join(keys):
            raise _Irregular
        # Not items(): that makes Python lists of every value.
        return {key: _convert_node(node[key], depth - 1, lists) for key in keys}
    if not isinstance(node, simdjson.Array):
        return node
    if len(node) == 0:
        lists[0] += 1
        return []
    first: Any = node[0]
    if not isinstance(first, simdjson.Object):
        return _numbers_to_array(node, lists)
    lists[0] += 1
    children = list(node)
    if set(map(type, children)) != {simdjson.Object}:
        raise _Irregular
    return [_convert_node(child, depth, lists) for child in children]


def _numbers_to_array(node: Any, lists: list[int]) -> Array:
    """Return the array of a regular list of numbers. Raises any exception for something else."""
    rows, shape = [node], [len(node)]
    while type(rows[0][0]) is simdjson.Array:
        lists[0] += len(rows)
        rows = list(chain.from_iterable(rows))
        if len(shape) == _MAX_RANK or set(map(type, rows)) != {simdjson.Array}:
            raise _Irregular
        lengths = set(map(len, rows))
        shape.append(lengths.pop())
        if lengths or not shape[-1]:
            raise _Irregular
    lists[0] += len(rows)
    if type(rows[0][0]) is int:
        try:
            return np.frombuffer(node.as_buffer(of_type="i"), np.int64).reshape(shape)
        except TypeError:
            pass  # a float further on: then they all are
        except ValueError:
            return np.frombuffer(node.as_buffer(of_type="u"), np.uint64).reshape(shape)
    return np.frombuffer(node.as_buffer(of_type="d"), np.float64).reshape(shape)


def to_array(value: Any, name: str, datatype: str = "") -> Array:
    """Return one JSON value (or what ``decode_json`` made of it) as an array, of ``datatype`` unless that is empty.

    Strings become an object array of their UTF-8 bytes, BF16 comes as float32. Raises ``InvalidInput``, which calls
    the value ``name``.
    """
    if isinstance(value, np.ndarray):
        return cast_array(value, name, datatype) if datatype else value
    if type(value) is float and not datatype:
        return np.array(value)
    try:
        return _from_lists(value, name, datatype)
    except OverflowError:  # an integer of more than 64 bits, as Python reads them
        raise InvalidInput(
            f"input '{name}' holds a number too large for {datatype or 'any datatype'}"
        ) from None


def _from_lists(value: Any, name: str, datatype: str) -> Array:
    shape: list[int] = []
    flat = [value]
    kinds = {type(value)}
    while kinds == {list} and flat:
        lengths = set(map(len, flat))
        shape.append(lengths.pop())
        if lengths:
            raise InvalidInput(f"input '{name}' is ragged: its lists at depth {len(shape)} differ in length")
        if len(shape) > _MAX_RANK:
            raise InvalidInput(f"input '{name}' is nested deeper than {_MAX_RANK} lists")
        flat = list(chain.from_iterable(flat)) if len(flat) > 1 else flat[0]
        kinds = set(map(type, flat))
    held, lowest, highest = _RANGES.get(datatype, _NOTHING)
    if kinds and kinds <= held and lowest <= min(flat) and max(flat) <= highest:
        array: Array = np.array(flat, NUMPY_TYPES[datatype])
    else:
        if kinds - {int, float} and _may_be_floats(flat, kinds, datatype):
            array = np.array(
                flat, np.float64
            )  # numpy reads None as NaN, and the three strings as what they say
        else:
            array = _numbers_with_words(flat, kinds, name, shape)
        if datatype:
            array = cast_array(array, name, datatype)
    return array if len(shape) == 1 else array.reshape(shape)


def _may_be_floats(flat: list[Any], kinds: set[type], datatype: str) -> bool:
    """Whether values that are not all numbers stand for floats: null and "NaN", "Infinity", "-Infinity".

    Without a datatype, strings alone are strings.
    """
    if not kinds <= _NUMBERS_OR_MISSING or (datatype not in _FLOATS if datatype else kinds == {str}):
        return False
    return str not in kinds or _NONFINITE.issuperset([value for value in flat if type(value) is str])


def _numbers_with_words(flat: list[Any], kinds: set[type], name: str, shape: list[int]) -> Array:
    """Return an array of the narrowest of INT64, UINT64, FP64, BOOL and BYTES that holds the values."""
    if kinds == {float} or not kinds:
        return np.array(flat, np.float64)
    if kinds == {int}:
        if max(flat) < 2**63:
            return np.array(flat, np.int64)
        if min(flat) >= 0:
            return np.array(flat, np.uint64)
        return np.array(flat, np.float64)
    if kinds == {int, float}:
        return np.array(flat, np.float64)
    if kinds == {bool}:
        return np.array(flat, np.bool_)
    if kinds == {str}:
        array = np.empty(len(flat), object)
        array[:] = [text.encode() for text in flat]
        return array
    if list in kinds:
        raise InvalidInput(f"input '{name}' is ragged: lists stand beside other values")
    if type(None) in kinds:
        raise InvalidInput(
            f"input '{name}' holds null{_position_text(flat.index(None), shape)}; null is a missing value (NaN), which only "
            "float tensors have"
        )
    names = {bool: "booleans", int: "numbers", float: "numbers", str: "strings", dict: "objects"}
    kinds_text = " and ".join(sorted({names[kind] for kind in kinds}))
    raise InvalidInput(f"input '{name}' holds {kinds_text}; send numbers, booleans or strings, one kind only")


def _position_text(index: int, shape: list[int]) -> str:
    """Describe where in nested lists of this shape the element with the flat index is."""
    return f" at {[int(each) for each in np.unravel_index(index, shape)]}" if shape else ""


def cast_array(source: Array, name: str, datatype: str) -> Array:
    """Return the same values as ``datatype``. Raises ``InvalidInput`` where that would change one, but to a float type."""
    kind = source.dtype.kind
    if not source.size:
        return source.astype(object if datatype == "BYTES" else _numpy_type(datatype))
    if (kind == "O") != (datatype == "BYTES") or (kind == "b") != (datatype == "BOOL"):
        # 0 and 1 are what clients without a boolean type send.
        if datatype == "BOOL" and kind in "iu" and np.isin(source, (0, 1)).all():
            return source.astype(np.bool_)
        held = {"O": "strings", "b": "booleans"}.get(kind, "numbers")
        raise InvalidInput(f"input '{name}' holds {held}, not {datatype}")
    if kind in "Ob":
        return source
    target = _numpy_type(datatype)
    if source.dtype == target:
        return source
    return _to_float(source, name, datatype) if target.kind == "f" else _to_integer(source, name, datatype)


def _numpy_type(datatype: str) -> np.dtype[Any]:
    return np.dtype(np.float32) if datatype == "BF16" else NUMPY_TYPES[datatype]


def _to_float(source: Array, name: str, datatype: str) -> Array:
    with np.errstate(over="ignore"):
        array = source.astype(_numpy_type(datatype))
    infinite = np.isinf(array)
    if infinite.any() and not np.array_equal(infinite, np.isinf(source.astype(np.float64))):
        raise InvalidInput(f"input '{name}' holds a number too large for {datatype}")
    return array


def _to_integer(source: Array, name: str, datatype: str) -> Array:
    lowest, highest = _LIMITS[datatype]
    if source.dtype.kind == "f":
        # Above 2^53 a float may stand for another integer than the one that was written; NaN is never whole.
        whole = (np.floor(source) == source) & (np.abs(source) < 2.0**53)
        if not whole.all():
            odd = source[~whole].flat[0]
            raise InvalidInput(f"input '{name}' holds {odd}, which {datatype} cannot hold")
        source = source.astype(np.int64)
    low, high = int(source.min()), int(source.max())
    if low < lowest or high > highest:
        wrong = low if low < lowest else high
        raise InvalidInput(
            f"input '{name}' holds {wrong}, which {datatype} cannot hold ({lowest} to {highest})"
        )
    return source.astype(NUMPY_TYPES[datatype])


def encode_json(array: Array, *, null: bool = False) -> bytes:
    """Encode the array as JSON: nested lists of its shape, or one value where it has none.

    Integers are exact, floats the shortest text that reads back equal, NaN and Infinity bare tokens, or with ``null``
    null. BYTES elements are strings; where one of them is not UTF-8, each is an object with its base64 text:
    ``{"b64": "//4A"}``.
    """
    if array.dtype.kind in "OSU":
        return orjson.dumps(_texts_to_json(array))
    if not array.shape:
        number = array[()]
        text = orjson.dumps(number, option=_NUMPY) if type(number) in _NUMBERS else _NULL
        return encode_json(array.reshape(1), null=null)[1:-1] if text == _NULL else text
    native = array if array.dtype.isnative and array.flags.c_contiguous else _to_json_types(array)
    text = orjson.dumps(native, option=_NUMPY)
    # orjson writes null for what JSON has no number for; nothing else in an array of numbers or booleans has an "n", and
    # one letter is found in a tenth of the time of four (0.08 of 0.8 ms in 1.6 MB).
    if not null and b"n" in text:
        return json.dumps(array.tolist(), separators=(",", ":")).encode()
    return text


def _to_json_types(array: Array) -> Array:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def encode_each_row(array: Array, rows: int, *, null: bool = False) -> list[bytes]:
    """Encode the first ``rows`` elements of the first dimension, each as ``encode_json`` does.

    Where one text of the array is not UTF-8, those of all its rows are objects with base64.
    """
    if array.dtype.kind in "OSU":
        elements = _texts_to_json(array)
        return [orjson.dumps(elements[row]) for row in range(rows)]
    # [row, ...], for [row] of a vector of texts is no array.
    return [encode_json(array[row, ...], null=null) for row in range(rows)]


def _texts_to_json(array: Array) -> Any:
    """Return the elements of BYTES as orjson takes them, in nested lists of the array's shape."""
    elements = array.ravel().tolist()
    try:
        flat: list[Any] = [each.decode() if isinstance(each, bytes) else str(each) for each in elements]
    except UnicodeDecodeError:
        flat = [{"b64": text} for text in encode_base64_texts(elements)]
    if array.ndim == 1:
        return flat
    nested = np.empty(len(flat), object)
    nested[:] = flat
    return nested.reshape(array.shape).tolist()


def decode_utf8_texts(elements: Iterable[bytes]) -> list[str] | None:
    """Return the elements as strings; None where one of them is not UTF-8."""
    try:
        return [element.decode() for element in elements]
    except UnicodeDecodeError:
        return None


def encode_base64_texts(elements: Iterable[Any]) -> list[str]:
    """Return the base64 of each element."""
    return [
        base64.b64encode(each if isinstance(each, bytes) else str(each).encode()).decode()
        for each in elements
    ]
