"""Reads the fields of a form: ``multipart/form-data`` and ``application/x-www-form-urlencoded``.

The whole body is there, so boundaries are searched for in it and payloads are cut out of it: slices of what was given,
which for a ``memoryview`` are no copies. The ``multipart`` library reads the heads of the parts.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from multipart import MultipartError, parse_content_disposition, parse_options_header

from mooring.core.errors import InvalidInput

MAX_FIELDS = 1_000
MAX_HEAD = 8_192
MAX_HEAD_LINES = 16
MAX_BOUNDARY = 70  # RFC 2046, 5.1.1
# A memoryview cannot be searched, only a copy of it; one that stays in the cache is cheap. Far above 30,000: from
# there on CPython searches in linear time whatever the bytes are.
_WINDOW = 131_072

# How most clients write it; ``parse_options_header`` reads the same in it, in seven times the time.
_PLAINLY_MULTIPART = re.compile(r"multipart/form-data; ?boundary=([\w.-]+)", re.ASCII)
_HEADS_KEPT = 256

# Bytes of percent-encoded text that are decoded here, of all fields together: a percent sign costs 0.2 us.
_MAX_DECODED = 65_536
# 1 ms a megabyte whatever the text is, where ``replace`` takes 10 for a text of nothing but plus signs.
_SPACES = bytes.maketrans(b"+", b" ")

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"


class Field(NamedTuple):
    """One field. Only a file has a ``filename``; ``content_type`` is as it was sent, None where it was not.

    ``start`` is where in the body the payload begins, None where it does not lie in it. ``escaped``: the payload is large
    and still percent-encoded.
    """

    name: str
    filename: str | None
    content_type: str | None
    payload: bytes | memoryview
    start: int | None = None
    escaped: bool = False


def parse_form(body: bytes | memoryview, content_type: str) -> list[Field]:
    """Return the fields of a body in their order, equal names included. Raises ``InvalidInput``."""
    plainly = _PLAINLY_MULTIPART.fullmatch(content_type)
    if plainly is not None:
        return parse_multipart(body, plainly[1])
    kind, options = parse_options_header(content_type)
    if kind == URLENCODED:
        return parse_urlencoded(bytes(body))
    if kind == MULTIPART:
        return parse_multipart(body, options.get("boundary", ""))
    raise InvalidInput(f"a body of type {content_type!r} is not a form")


def parse_urlencoded(body: bytes) -> list[Field]:
    """Return the fields of an urlencoded form, percent-decoded. Raises ``InvalidInput``.

    A last one without "=" is no field: ``curl -d hello`` gives TorchServe's handlers an empty row.
    """
    pairs = body.strip(b"\r\n").split(b"&", MAX_FIELDS)
    if len(pairs) > MAX_FIELDS:
        raise InvalidInput(f"the form has more than {MAX_FIELDS} fields")
    fields = []
    left = _MAX_DECODED
    for number, pair in enumerate(pairs, 1):
        name, equals, value = pair.partition(b"=")
        if not name or not (equals or number < len(pairs)):
            continue
        left -= len(name) if b"%" in name else 0
        if left < 0:
            raise InvalidInput(f"the names of the form's fields have more than {_MAX_DECODED} encoded bytes")
        encoded = len(value) if b"%" in value else 0
        escaped = encoded > left
        left -= 0 if escaped else encoded
        payload = value if escaped else _percent_decode(value)
        fields.append(
            Field(_percent_decode(name).decode("utf-8", "replace"), None, None, payload, escaped=escaped)
        )
    return fields


def parse_multipart(body: bytes | memoryview, boundary: str) -> list[Field]:
    """Return the parts of a multipart form (RFC 7578). A preamble, or line ends other than CR LF, raise ``InvalidInput``."""
    if not boundary or len(boundary) > MAX_BOUNDARY or not boundary.isascii() or not boundary.isprintable():
        raise InvalidInput("the multipart form's content type has no valid boundary")
    delimiter = b"\r\n--" + boundary.encode()
    begin = 2 if body[:2] == b"\r\n" else 0
    end = begin + len(delimiter) - 2
    if bytes(body[begin:end]) != delimiter[2:]:
        raise InvalidInput("the multipart form does not begin with its boundary")
    fields: list[Field] = []
    # From the line end before the head, so that a part without any head is seen as well.
    while not (head := bytes(body[end : end + MAX_HEAD + 4])).startswith(b"--"):
        if len(fields) == MAX_FIELDS:
            raise InvalidInput(f"the multipart form has more than {MAX_FIELDS} parts")
        if not head.startswith(b"\r\n"):
            raise InvalidInput(
                "a boundary of the multipart form is followed by something else than a line end"
            )
        length = head.find(b"\r\n\r\n")
        if length < 0:
            raise InvalidInput("a part of the multipart form has no head, or too long a one")
        start = end + length + 4
        # From two bytes back: the payload may be empty and its boundary's line end that of the head.
        close = _find(body, delimiter, start - 2)
        if close < 0:
            raise InvalidInput("the multipart form ends before its last boundary")
        fields.append(Field(*_parse_part_head(head[2:length]), body[start : max(start, close)], start))
        end = close + len(delimiter)
    return fields


@lru_cache(_HEADS_KEPT)
def _parse_part_head(head: bytes) -> tuple[str, str | None, str | None]:
    """Return what the head of a part says: the field's name, the file's, and the content type."""
    disposition, content_type = "", None
    for name, value in _lines(head):
        if name == "content-disposition":
            disposition = value
        elif name == "content-type":
            content_type = value
    try:
        kind, field, filename = parse_content_disposition(disposition)
    except MultipartError as error:
        raise InvalidInput(
            f"a part of the multipart form has an invalid content-disposition: {error}"
        ) from error
    if kind != "form-data" or field is None:
        raise InvalidInput("a part of the multipart form has no content-disposition with a name")
    return field, filename, content_type


def _lines(head: bytes) -> Iterator[tuple[str, str]]:
    try:
        lines = head.decode("utf-8").split("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidInput("the head of a part of the multipart form is not UTF-8") from error
    if len(lines) > MAX_HEAD_LINES:
        raise InvalidInput(f"a part of the multipart form has more than {MAX_HEAD_LINES} headers")
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or not name.isascii() or not name.isprintable() or " " in name:
            raise InvalidInput("a part of the multipart form has a malformed header")
        yield name.lower(), value.strip(" \t")


def _percent_decode(text: bytes) -> bytes:
    return unquote_to_bytes(text.translate(_SPACES) if b"+" in text else text)


def _find(body: bytes | memoryview, needle: bytes, start: int) -> int:
    if isinstance(body, bytes):
        return body.find(needle, start)
    overlap = len(needle) - 1
    while start < len(body):
        found = bytes(body[start : start + _WINDOW + overlap]).find(needle)
        if found >= 0:
            return start + found
        start += _WINDOW
    return -1
