"""HPACK (RFC 7541): header blocks to fields, with the dynamic table; and fields to blocks, without one.

What is written never enters the client's table: a few dozen constant bytes are cheaper than a table to keep. What is
read is remembered as a whole: a client that repeats itself sends the same bytes, which mean the same for as long as
the table does not change.
"""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from mooring.web.http2.huffman import expand

Field = tuple[bytes, bytes]
Made = TypeVar("Made")

_STATIC = """
:authority :method=GET :method=POST :path=/ :path=/index.html :scheme=http :scheme=https :status=200 :status=204
:status=206 :status=304 :status=400 :status=404 :status=500 accept-charset accept-encoding=gzip,_deflate
accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control
content-disposition content-encoding content-language content-length content-location content-range content-type
cookie date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since
last-modified link location max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after
server set-cookie strict-transport-security transfer-encoding user-agent vary via www-authenticate
"""
STATIC: tuple[Field, ...] = tuple(
    (name.encode(), value.replace("_", " ").encode())
    for name, _, value in (entry.partition("=") for entry in _STATIC.split())
)
TABLE_SIZE = 4096
# What an entry counts beyond its bytes (4.1).
_ENTRY = 32
_REMEMBERED, _REMEMBERED_BYTES = 64, 1024


class Garbled(ValueError):
    """These bytes are no header block, or not one of this connection."""


class Oversized(ValueError):
    """The fields are larger than allowed. The table has been kept in step; the connection can go on."""


class Decoder(Generic[Made]):
    """One direction of one connection. ``make`` makes of the fields of a block what is returned, and remembered.

    ``most`` is how large the fields of a block may be together, counted as in SETTINGS_MAX_HEADER_LIST_SIZE.
    """

    __slots__ = ("_entries", "_limit", "_made", "_make", "_most", "_size")

    def __init__(self, make: Callable[[list[Field]], Made], most: int) -> None:
        self._make = make
        self._most = most
        self._entries: list[Field] = []  # the dynamic table, newest last
        self._size = 0
        self._limit = TABLE_SIZE
        self._made: dict[bytes, Made] = {}

    def decode(self, block: bytes) -> Made:
        """What a whole block says. Raises ``Garbled``, ``Oversized``, and what ``make`` raises."""
        made = self._made.get(block)
        if made is None:
            made = self._decode(block)
        return made

    def _decode(self, block: bytes) -> Made:
        try:
            fields, changed = self._fields(block)
        except (IndexError, ValueError) as error:
            raise Garbled(f"a header block is malformed: {error}") from None
        if changed:
            self._made.clear()
        if sum(len(name) + len(value) + _ENTRY for name, value in fields) > self._most:
            raise Oversized(f"the headers are larger than {self._most} bytes")
        made = self._make(fields)
        if not changed and len(block) <= _REMEMBERED_BYTES and len(self._made) < _REMEMBERED:
            self._made[block] = made
        return made

    def _fields(self, block: bytes) -> tuple[list[Field], bool]:
        """The fields, and whether the table has changed. Of too many fields only some: as many as show it."""
        fields: list[Field] = []
        at, end, room, changed = 0, len(block), self._most, False
        while at < end:
            first = block[at]
            if first & 0x80:
                index, at = _number(block, at, 0x7F)
                field = self._entry(index)
            elif first & 0x40:
                field, at = self._literal(block, at, 0x3F)
                self._insert(field)
                changed = True
            elif first & 0x20:
                if fields:
                    raise ValueError("the table changes its size after a field")
                limit, at = _number(block, at, 0x1F)
                self._resize(limit)
                changed = True
                continue
            else:
                field, at = self._literal(block, at, 0x0F)
            if room >= 0:  # a block of single bytes may refer to an entry of kilobytes, again and again
                room -= len(field[0]) + len(field[1]) + _ENTRY
                fields.append(field)
        return fields, changed

    def _entry(self, index: int) -> Field:
        if 0 < index <= len(STATIC):
            return STATIC[index - 1]
        place = len(self._entries) - index + len(STATIC)
        if index == 0 or place < 0:
            raise ValueError(f"there is no entry {index}")
        return self._entries[place]

    def _literal(self, block: bytes, at: int, mask: int) -> tuple[Field, int]:
        index, at = _number(block, at, mask)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _insert(self, field: Field) -> None:
        self._entries.append(field)
        self._size += len(field[0]) + len(field[1]) + _ENTRY
        if self._size > self._limit:
            self._evict()

    def _resize(self, limit: int) -> None:
        if limit > TABLE_SIZE:
            raise ValueError("the table becomes larger than allowed")
        self._limit = limit
        self._evict()

    def _evict(self) -> None:
        gone = 0
        while self._size > self._limit:
            name, value = self._entries[gone]
            self._size -= len(name) + len(value) + _ENTRY
            gone += 1
        del self._entries[:gone]


def _number(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """A number whose first bits are those of the mask, and where it ends. Raises ``IndexError`` at the block's end."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, 28, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too large")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    compressed = block[at] & 0x80
    size, at = _number(block, at, 0x7F)
    end = at + size
    if end > len(block):
        raise ValueError("a string is cut off")
    text = block[at:end]
    return expand(text) if compressed else text, end


def encode(fields: Iterable[Field]) -> bytes:
    """A block of these fields that leaves the reader's table as it is."""
    return b"".join(map(_encoded, fields))


def _encoded(field: Field) -> bytes:
    if field in STATIC:
        return b"%c" % (0x80 | STATIC.index(field) + 1)
    return b"\x00" + _text(field[0]) + _text(field[1])


def _text(text: bytes) -> bytes:
    size = len(text)
    if size < 0x7F:
        return b"%c%b" % (size, text)
    size -= 0x7F
    head = bytearray(b"\x7f")
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + text
