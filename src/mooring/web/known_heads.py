"""Heads that come again: what the parser made of one is used for the next request whose head has the very same bytes."""

import msgspec

from mooring.web import http1_format
from mooring.web.exchange import Exchange, HeadCache

# Heads that a listener remembers, of some hundred bytes each.
_KNOWN_HEADS = 512


class KnownHead(msgspec.Struct, frozen=True, gc=False):
    """What the parser made of a head. ``size`` is its content-length.

    Only of heads that say everything about their body by a content-length, and that ask for nothing special. The lists
    are shared by all requests with this head: nobody changes them.
    """

    head: bytes
    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    fields: dict[bytes, bytes]
    size: int
    head_cache: HeadCache


class HeadRecognizer:
    """Finds known heads in what one connection receives, and adds new ones to those of its listener.

    How this works. Looking for a head makes sense only where a chunk begins with a request, and the parser does not
    tell where requests begin. But it follows from their lengths, as long as every request comes in chunks of its own:
    ``at_start`` says that the next chunk begins with one. Where two requests shared a chunk that is lost; it is found
    again after the next body that has chunks of its own. A head is added when it came twice in a row on a connection:
    others will be as busy with it. ``last`` is the known head that was met last: most clients have one, so its owner
    compares a chunk with that before it calls ``find``.
    """

    __slots__ = ("_first", "_known_heads", "_last_head", "at_start", "last", "remaining")

    def __init__(self, known_heads: dict[bytes, KnownHead]) -> None:
        self._known_heads = known_heads
        self.last: KnownHead | None = None
        self._last_head = b""
        self._first: Exchange | None = None  # of the chunk that began with a request
        self.at_start = True
        self.remaining = 0  # bytes until the next request, where that is known

    def find(self, buffer: memoryview, nbytes: int) -> KnownHead | None:
        """Return the known head that the buffer begins with, while ``at_start``; None where it is a new one."""
        raw: bytearray = buffer.obj  # type: ignore[assignment]
        end = raw.find(http1_format.HEAD_END, 0, nbytes) + len(http1_format.HEAD_END)
        self.last = self._known_heads.get(buffer[:end].tobytes())
        return self.last

    def note(self, exchange: Exchange) -> None:
        """Keep the first request of a chunk, for ``advance``."""
        if self.at_start and self._first is None:
            self._first = exchange

    def advance(self, buffer: memoryview, nbytes: int, expected: int) -> None:
        """Keep track of where the next request begins, after a chunk that went to the parser.

        ``expected`` is the length of the body of the last request that began, -1 for a chunked one.
        """
        if self.at_start:
            self.at_start = False
            first, self._first = self._first, None
            if first is None:
                return
            raw: bytearray = buffer.obj  # type: ignore[assignment]
            end = raw.find(http1_format.HEAD_END, 0, nbytes) + len(http1_format.HEAD_END)
            if _may_be_known(first):
                self._learn(first, bytes(raw[:end]))
            if expected < 0:  # chunked: only the parser knows where it ends
                return
            self.remaining = end + expected
        self.remaining -= nbytes
        if self.remaining <= 0:
            self.at_start, self.remaining = self.remaining == 0, 0

    def restart(self) -> None:
        """The next chunk begins with a request."""
        self.at_start, self.remaining = True, 0

    def _learn(self, exchange: Exchange, head: bytes) -> None:
        if head == self._last_head and len(self._known_heads) < _KNOWN_HEADS:
            self._known_heads[head] = KnownHead(
                head,
                exchange.method,
                exchange.target,
                exchange.headers,
                exchange.fields,
                int(exchange.fields[b"content-length"]),
                HeadCache(),
            )
        self._last_head = head


def _may_be_known(exchange: Exchange) -> bool:
    fields = exchange.fields
    return (
        b"content-length" in fields
        and exchange.keep_alive
        and exchange.version == "1.1"
        and fields.keys().isdisjoint(http1_format.SPECIAL)
        and fields.get(b"connection", b"keep-alive").lower() == b"keep-alive"
    )
