"""gzip and deflate as HTTP has them: deflate is the zlib format. What comes in is held to a limit while it grows."""

import re
import zlib
from collections.abc import Callable, Iterable, Mapping

from mooring.core.errors import InputTooLarge, InvalidInput

# Window bits that tell zlib which format to read and write.
CODINGS: Mapping[str, int] = {"gzip": 31, "deflate": 15}
ACCEPTED = "gzip, deflate"

_LEVEL = 1  # tensors do not shrink much; higher levels take several times as long for a few percent
# gzip data may be several members, one after the other.
_MEMBERS = 16
# Compressed bytes that are read at a time, and what becomes of them at a time. zlib copies what it has not read yet.
_STEP, _PIECE = 262_144, 1 << 20
_ITEM = re.compile(r"([!#$%&'*+.^_`|~0-9a-z-]+|\*)\s*(?:;\s*q\s*=\s*([0-9.]+))?")


def inflate(
    data: bytes | memoryview, coding: str, limit: int, count: Callable[[int], None] | None = None
) -> bytes:
    """The bytes that were compressed. Raises ``InvalidInput``, and ``InputTooLarge`` above ``limit`` bytes.

    ``count`` is told of every piece before it is kept, and may raise.
    """
    pieces: list[bytes] = []
    size = at = 0
    view = memoryview(data)
    for _ in range(_MEMBERS if coding == "gzip" else 1):
        stream = zlib.decompressobj(CODINGS[coding])
        while not stream.eof:
            rest: bytes | memoryview = stream.unconsumed_tail
            if not rest:
                rest = view[at : at + _STEP]
                at += len(rest)
            try:
                # One byte more than is allowed tells a bomb, and costs no more memory than what is allowed.
                piece = stream.decompress(rest, min(limit - size + 1, _PIECE))
            except zlib.error as error:
                raise InvalidInput(f"the body is not {coding} data: {error}") from None
            size += len(piece)
            if size > limit:
                raise InputTooLarge(f"the body has more than {limit} bytes when it is decompressed")
            if not (rest or piece):
                raise InvalidInput(f"the body ends inside its {coding} data")
            if count is not None:
                count(len(piece))
            pieces.append(piece)
        at -= len(stream.unused_data)
        if at == len(view):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    raise InvalidInput(f"the body goes on after its {coding} data")


def deflate(pieces: Iterable[bytes | memoryview], coding: str) -> bytes:
    """The pieces, compressed as one."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, CODINGS[coding])
    return b"".join([*map(stream.compress, pieces), stream.flush()])


def choose_coding(accept: str) -> str:
    """The coding that an Accept-Encoding header likes best; empty where it likes none of ours.

    >>> preferred("deflate, gzip;q=0.5, br"), preferred("gzip;q=0, *;q=0.1"), preferred("identity")
    ('deflate', 'deflate', '')
    """
    quality: dict[str, float] = {}
    for item in accept.lower().split(","):
        found = _ITEM.fullmatch(item.strip())
        if found is not None:
            try:
                quality[found[1].removeprefix("x-")] = float(found[2] or 1)
            except ValueError:
                continue
    best, most = "", 0.0
    for coding in CODINGS:
        wanted = quality.get(coding, quality.get("*", 0.0))
        if wanted > most:
            best, most = coding, wanted
    return best if most >= quality.get("identity", 0.0) else ""
