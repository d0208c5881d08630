"""HPACK (RFC 7541): header blocks to fields, with the dynamic table; and fields to blocks, without one.

What is written never enters the client's table: a few dozen constant bytes are cheaper than a table to keep. What is
read is remembered as a whole: a client that repeats itself sends the same bytes, which mean the same for as long as
the table does not change.
"""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from mooring.web.http2.huffman import decode_huffman

Field = tuple[bytes, bytes]
Head = TypeVar("Head")

_STATIC = """
:authority :method=GET :method=POST :path=/ :path=/index.html :scheme=http :scheme=https :status=200 :status=204
:status=206 :status=304 :status=400 :status=404 :status=500 accept-charset accept-encoding=gzip,_deflate
accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control
content-disposition content-encoding content-language content-length content-location content-range content-type
cookie date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since
last-modified link location max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after
server set-cookie strict-transport-security transfer-encoding user-agent vary via www-authenticate
"""
STATIC_TABLE: tuple[Field, ...] = tuple(
    (name.encode(), value.replace("_", " ").encode())
    for name, _, value in (entry.partition("=") for entry in _STATIC.split())
)
MAX_TABLE_SIZE = 4096
# Bytes that an entry counts beyond its own (4.1).
_ENTRY_OVERHEAD = 32
# Blocks that are remembered, and how large one of them may be.
_MAX_REMEMBERED, _MAX_REMEMBERED_BYTES = 64, 1024


class HpackError(ValueError):
    """A header block is malformed, or not one of this connection. The table is out of step from now on (4.3)."""


class HeadersTooLarge(ValueError):
    """The fields are larger than allowed. The table has been kept in step; the connection can go on."""


class Decoder(Generic[Head]):
    """The header blocks that come on one connection. ``parse`` makes a head of the fields of a block.

    ``max_size`` is how large the fields of a block may be together, counted as in SETTINGS_MAX_HEADER_LIST_SIZE.

    How this works. A block is looked up first among those seen before, and nothing is decoded where it is found. A block
    that changes the dynamic table is not remembered, and makes the others be forgotten: they could mean something else.
    """

    __slots__ = ("_entries", "_max_size", "_parse", "_remembered", "_size", "_table_size")

    def __init__(self, parse: Callable[[list[Field]], Head], max_size: int) -> None:
        self._parse = parse
        self._max_size = max_size
        self._entries: list[Field] = []  # the dynamic table, newest last
        self._size = 0
        self._table_size = MAX_TABLE_SIZE
        self._remembered: dict[bytes, Head] = {}

    def decode(self, block: bytes) -> Head:
        """Return the head of a whole block. Raises ``HpackError``, ``HeadersTooLarge``, and what ``parse`` raises."""
        head = self._remembered.get(block)
        if head is None:
            head = self._decode(block)
        return head

    def _decode(self, block: bytes) -> Head:
        try:
            fields, changed = self._decode_fields(block)
        except (IndexError, ValueError) as error:
            raise HpackError(f"a header block is malformed: {error}") from None
        if changed:
            self._remembered.clear()
        if sum(len(name) + len(value) + _ENTRY_OVERHEAD for name, value in fields) > self._max_size:
            raise HeadersTooLarge(f"the headers are larger than {self._max_size} bytes")
        head = self._parse(fields)
        if not changed and len(block) <= _MAX_REMEMBERED_BYTES and len(self._remembered) < _MAX_REMEMBERED:
            self._remembered[block] = head
        return head

    def _decode_fields(self, block: bytes) -> tuple[list[Field], bool]:
        """The fields, and whether the table has changed. Of too many fields only some: as many as show it."""
        fields: list[Field] = []
        at, end, left, changed = 0, len(block), self._max_size, False
        while at < end:
            first = block[at]
            if first & 0x80:  # an entry of a table (6.1)
                index, at = _decode_integer(block, at, 0x7F)
                field = self._entry(index)
            elif first & 0x40:  # a field that becomes an entry (6.2.1)
                field, at = self._decode_literal(block, at, 0x3F)
                self._insert(field)
                changed = True
            elif first & 0x20:  # another size of the table (6.3)
                if fields:
                    raise ValueError("the table changes its size after a field")
                size, at = _decode_integer(block, at, 0x1F)
                self._resize(size)
                changed = True
                continue
            else:  # a field that does not become an entry (6.2.2, 6.2.3)
                field, at = self._decode_literal(block, at, 0x0F)
            if left >= 0:  # a block of single bytes may refer to an entry of kilobytes, again and again
                left -= len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
                fields.append(field)
        return fields, changed

    def _entry(self, index: int) -> Field:
        """The entry of an index: the static table first, then the dynamic one from its newest (2.3.3)."""
        if 0 < index <= len(STATIC_TABLE):
            return STATIC_TABLE[index - 1]
        place = len(self._entries) - index + len(STATIC_TABLE)
        if index == 0 or place < 0:
            raise ValueError(f"there is no entry {index}")
        return self._entries[place]

    def _decode_literal(self, block: bytes, at: int, mask: int) -> tuple[Field, int]:
        """A field whose name may be that of an entry, and where it ends."""
        index, at = _decode_integer(block, at, mask)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _decode_string(block, at)
        value, at = _decode_string(block, at)
        return (name, value), at

    def _insert(self, field: Field) -> None:
        self._entries.append(field)
        self._size += len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
        if self._size > self._table_size:
            self._evict()

    def _resize(self, size: int) -> None:
        if size > MAX_TABLE_SIZE:
            raise ValueError("the table becomes larger than allowed")
        self._table_size = size
        self._evict()

    def _evict(self) -> None:
        """Remove the oldest entries until the rest fits (4.4)."""
        count = 0
        while self._size > self._table_size:
            name, value = self._entries[count]
            self._size -= len(name) + len(value) + _ENTRY_OVERHEAD
            count += 1
        del self._entries[:count]


def _decode_integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """An integer whose first bits are those of the mask, and where it ends (5.1). Raises ``IndexError`` at the end."""
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


def _decode_string(block: bytes, at: int) -> tuple[bytes, int]:
    """A string, compressed or not, and where it ends (5.2)."""
    compressed = block[at] & 0x80
    size, at = _decode_integer(block, at, 0x7F)
    end = at + size
    if end > len(block):
        raise ValueError("a string is cut off")
    text = block[at:end]
    return decode_huffman(text) if compressed else text, end


def encode(fields: Iterable[Field]) -> bytes:
    """Encode fields as a block that leaves the reader's table as it is."""
    return b"".join(map(_encode_field, fields))


def _encode_field(field: Field) -> bytes:
    if field in STATIC_TABLE:
        return b"%c" % (0x80 | STATIC_TABLE.index(field) + 1)
    return b"\x00" + _encode_string(field[0]) + _encode_string(field[1])


def _encode_string(text: bytes) -> bytes:
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
