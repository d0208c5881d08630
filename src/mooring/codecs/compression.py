"""gzip and deflate as HTTP has them: deflate is the zlib format. What comes in is held to a limit while it grows."""

import re
import zlib
from collections.abc import Iterable, Mapping

from mooring.core.errors import InputTooLarge, InvalidInput

# Window bits that tell zlib which format to read and write.
CODINGS: Mapping[str, int] = {"gzip": 31, "deflate": 15}
ACCEPTED = "gzip, deflate"

_LEVEL = 1  # tensors do not shrink much; higher levels take several times as long for a few percent
# gzip data may be several members, one after the other. Each costs a copy of the rest.
_MEMBERS = 16
_ITEM = re.compile(r"([!#$%&'*+.^_`|~0-9a-z-]+|\*)\s*(?:;\s*q\s*=\s*([0-9.]+))?")


def inflate(data: bytes | memoryview, coding: str, limit: int) -> bytes:
    """The bytes that were compressed. Raises ``InvalidInput``, and ``InputTooLarge`` above ``limit`` bytes."""
    pieces: list[bytes] = []
    size = 0
    for _ in range(_MEMBERS if coding == "gzip" else 1):
        stream = zlib.decompressobj(CODINGS[coding])
        try:
            # One byte more than is allowed tells a bomb, and costs no more memory than what is allowed.
            pieces.append(stream.decompress(data, limit - size + 1))
        except zlib.error as error:
            raise InvalidInput(f"the body is no {coding} data: {error}") from None
        size += len(pieces[-1])
        if size > limit:
            raise InputTooLarge(f"the body has more than {limit} bytes when it is decompressed")
        if not stream.eof:
            raise InvalidInput(f"the body ends inside its {coding} data")
        if not stream.unused_data:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        data = stream.unused_data
    raise InvalidInput(f"the body goes on after its {coding} data")


def deflate(pieces: Iterable[bytes | memoryview], coding: str) -> bytes:
    """The pieces, compressed as one."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, CODINGS[coding])
    return b"".join([*map(stream.compress, pieces), stream.flush()])


def preferred(accept: str) -> str:
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
