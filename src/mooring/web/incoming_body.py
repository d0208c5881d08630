"""The body of a request while it is received: where its bytes go, how many have come, and how fast."""

from mooring.core.buffers import LARGE, Allocator, Buffer, Payload
from mooring.core.errors import BodyMemoryFull
from mooring.core.memory import Claim
from mooring.web.heads import Refusal
from mooring.web.listener import Limits
from mooring.web.pace import Pace


class IncomingBody:
    """Collects one body after the other of a connection.

    A body with a content-length above ``LARGE`` gets a ``buffer`` at once, whose pages cost nothing before they are
    written. Any other body is collected, and counts on the account of all bodies from ``LARGE`` bytes on.
    Everything that finds no memory raises ``Refusal``.
    """

    __slots__ = ("_allocator", "_claim", "_collected", "_framing", "_pace", "buffer", "filled")

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._claim: Claim | None = None  # to the memory of what is collected
        self._collected: bytearray | None = None
        self._framing = 0
        self._pace: Pace | None = None
        self.buffer: Buffer | None = None
        self.filled = 0  # bytes in the buffer

    @property
    def received(self) -> int:
        """Bytes of the body that have come so far."""
        return self.filled if self.buffer is not None else len(self._collected or b"")

    def allocate(self, size: int) -> Buffer:
        """Get the buffer of a large body whose size is known."""
        try:
            self.buffer, self.filled = self._allocator.expect(size), 0
        except MemoryError as error:
            raise no_memory(error) from error
        return self.buffer

    def adopt(self, buffer: Buffer, filled: int) -> None:
        """Go on with a buffer in which the beginning of the body lies already."""
        self.buffer, self.filled = buffer, filled

    def add(self, data: bytes) -> int:
        """Keep a piece that the parser delivered, and return how many bytes of the body have come."""
        self._framing = 0
        if self.buffer is not None:
            self.count(len(data))
            self.buffer.view[self.filled - len(data) : self.filled] = data
            return self.filled
        if self._collected is None:
            self._collected = bytearray()
        collected = self._collected
        if len(collected) + len(data) > LARGE:
            self._claim_memory(len(collected), len(data))
        collected += data
        return len(collected)

    def count(self, size: int) -> None:
        """Count bytes that are written to the buffer."""
        assert self.buffer is not None
        try:
            self.buffer.received(size)
        except BodyMemoryFull as error:
            raise no_memory(error) from error
        self.filled += size

    def reset_framing(self) -> None:
        """Begin anew with the count of ``count_framing``."""
        self._framing = 0

    def count_framing(self, size: int) -> int:
        """Count a chunk of which the parser made no content, and return such bytes since the last of the content."""
        self._framing += size
        return self._framing

    def take(self) -> Payload | None:
        """Return the complete body that was collected and end with it; None where it lies in the buffer, or is none.

        A body above ``LARGE`` is copied to where a worker can read it.
        """
        self._pace = self.buffer = None
        collected = self._collected
        if collected is None:
            return None
        if len(collected) <= LARGE:
            body: Payload = bytes(collected)
        else:
            try:
                body = self._allocator.allocate(len(collected))
            except MemoryError as error:
                raise no_memory(error) from error
            body.view[:] = collected
        self._collected = self._claim = None
        return body

    def drop(self) -> None:
        """Forget what has come. The buffer is its exchange's to release."""
        self.buffer = self._collected = self._claim = self._pace = None

    def pace_fault(self, now: float, limits: Limits) -> str:
        """Return what is wrong with the speed of the body, looked at now and then; empty where nothing is."""
        received = self.received
        if self._pace is None:
            self._pace = Pace(now, received)
        return self._pace.fault(now, received, limits)

    def reset_pace(self) -> None:
        """Begin anew with the speed: the body was kept waiting by the server."""
        self._pace = None

    def _claim_memory(self, collected: int, more: int) -> None:
        try:
            if self._claim is None:
                self._claim = self._allocator.claim()
                self._claim.grow(collected)
            self._claim.grow(more)
        except BodyMemoryFull as error:
            raise no_memory(error) from error


def no_memory(error: BaseException) -> Refusal:
    """The refusal of a request that there is no memory for."""
    if isinstance(error, BodyMemoryFull):
        return Refusal(503, "memory", error.message)
    return Refusal(507, "memory", "there is no memory for the request's body")
