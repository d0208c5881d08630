"""JSON as Python's ``json`` reads and writes it, at the speed of orjson wherever the two provably agree.

Handlers see what ``json.loads`` would have made of a body, and clients what ``json.dumps(item, indent=2)`` would
have made of an answer: TorchServe promises both (1.2, 2.1), down to the last byte.
"""

import enum
import json
import re
import uuid
from typing import Any

import orjson

from mooring.core.buffers import Payload

_DIGITS_TO_ZERO = bytes(0x30 if 0x30 <= byte <= 0x39 else byte for byte in range(256))
# An integer of 19 digits may not fit 64 bits, and orjson then reads a float where json reads an int.
_LONG_NUMBER = b"0" * 19

_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_INDENTED = _OPTIONS | orjson.OPT_INDENT_2
# Strings are matched first so that what looks like a number inside one stays as it is.
_STRING_OR_ODD_FLOAT = re.compile(
    rb'"(?:[^"\\]|\\.)*"|(-?[0-9]+(?:\.[0-9]+)?e[+-]?[0-9]+|(?<![0-9.])-?0\.0000[0-9]*)'
)
_ODD_FLOAT = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?e[+-]?[0-9]+|(?<![0-9.])-?0\.0000[0-9]*")
_NOT_PRINTABLE_ASCII = re.compile("[^\x00-\x7e]")


def load(payload: Payload) -> Any:
    """What ``json.loads`` makes of these bytes. Raises ``ValueError`` for what is no JSON."""
    text = payload if isinstance(payload, bytes) else bytes(payload)
    if _LONG_NUMBER not in text.translate(_DIGITS_TO_ZERO):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            # NaN, a byte order mark, UTF-16, a lone surrogate: Python's reader takes them.
            pass
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dump(item: Any) -> bytes:
    """The bytes of ``json.dumps(item, indent=2)``. Raises ``TypeError`` or ``ValueError`` for what is not JSON."""
    try:
        text = orjson.dumps(item, option=_INDENTED)
    except TypeError:
        return _slow(item, 2)
    return _like_python(text) or _slow(item, 2)


def dump_compact(item: Any) -> bytes:
    """Compact JSON of the same values; NaN and infinities are written as Python writes them."""
    try:
        text = orjson.dumps(item, option=_OPTIONS)
    except TypeError:
        return _slow(item, None)
    return text if b"null" not in text else _slow(item, None)


def _like_python(text: bytes) -> bytes | None:
    """The text orjson wrote as Python would have written it; None where that cannot be told from the text."""
    if b"null" in text:  # None, or a NaN
        return None
    if b"0e" in text.translate(_DIGITS_TO_ZERO) or b"0.0000" in text:
        if b'"' in text:
            text = _STRING_OR_ODD_FLOAT.sub(_python_float_outside_strings, text)
        else:
            text = _ODD_FLOAT.sub(_python_float, text)
    if not text.isascii() or b"\x7f" in text:
        text = _NOT_PRINTABLE_ASCII.sub(_escape, text.decode()).encode()
    return text


def _python_float(match: re.Match[bytes]) -> bytes:
    return repr(float(match[0])).encode()


def _python_float_outside_strings(match: re.Match[bytes]) -> bytes:
    return repr(float(match[1])).encode() if match[1] else match[0]


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"


def _slow(item: Any, indent: int | None) -> bytes:
    separators = None if indent else (",", ":")
    try:
        return json.dumps(item, indent=indent, separators=separators, default=_plain).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _plain(item: Any) -> Any:
    # orjson takes these two by itself; without this an answer would depend on what else is in it.
    if isinstance(item, enum.Enum):
        return item.value
    if isinstance(item, uuid.UUID):
        return str(item)
    raise TypeError(f"{type(item).__name__} is not JSON")
