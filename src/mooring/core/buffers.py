"""Borrowed memory: a view, the slot of shared memory in which it lies, and how it is released.

Small payloads are plain ``bytes``. Only what is too large to copy travels as a ``Buffer``.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec
import numpy as np

from mooring.core.memory import BodyMemory, Claim

# Bytes above which a payload is worth a slot of shared memory; up to here a copy over the socket is cheaper
# (decision 2: 600 KB 38 us by slot, 94 us over the socket; at 100 B the slot only adds work).
LARGE = 65_536


class Slot(msgspec.Struct, array_like=True, frozen=True):
    """Where in an arena a buffer lies. Enough for another process that maps the arena to find the bytes."""

    arena: int
    offset: int
    size: int


class Buffer:
    """A borrowed view. The last holder calls ``release``; a second call does nothing.

    ``view`` must not be touched after the release: the memory may hold the next request by then.
    """

    __slots__ = ("_give_back", "slot", "view")

    def __init__(
        self,
        view: memoryview,
        slot: Slot | None = None,
        give_back: Callable[[Slot | None], None] | None = None,
    ) -> None:
        self.view = view
        self.slot = slot
        self._give_back = give_back

    def __len__(self) -> int:
        return self.view.nbytes

    def __bytes__(self) -> bytes:
        return bytes(self.view)

    def received(self, size: int) -> None:
        """Count ``size`` bytes that have been written, on the account of all bodies. Raises ``BodyMemoryFull``.

        Nothing to do for shared memory, whose bytes were counted when it was allocated.
        """

    def shortened(self, size: int) -> "Buffer":
        """The first ``size`` bytes. The new buffer owns the memory; this one has nothing to release any more."""
        give_back, self._give_back = self._give_back, None
        slot = self.slot
        # Another process sees as much of it as is used: an answer may be the input of somebody else.
        used = None if slot is None else Slot(slot.arena, slot.offset, size)
        return Buffer(self.view[:size], used, give_back)

    def tail(self, start: int) -> "Buffer":
        """The bytes from ``start`` on. Release the new buffer instead of this one."""
        slot = self.slot
        place = None if slot is None else Slot(slot.arena, slot.offset + start, slot.size - start)
        return Buffer(self.view[start:], place, lambda _: self.release())

    def release(self) -> None:
        """Give the memory back to its allocator."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self.slot)


Payload = bytes | Buffer
"""Some bytes: copied when small, borrowed when large."""


class Share:
    """A buffer cut into parts that are released one by one; the last to go, this holder too, gives the memory back.

    Parts keep their place in the slot, so that a worker reads them where they lie.
    """

    __slots__ = ("_held", "_whole")

    def __init__(self, whole: Buffer) -> None:
        self._whole = whole
        self._held = 1

    def part(self, start: int, end: int) -> Payload:
        """A small part as a copy, a large one where it lies."""
        view, slot = self._whole.view[start:end], self._whole.slot
        if view.nbytes <= LARGE:
            return bytes(view)
        self._held += 1
        place = None if slot is None else Slot(slot.arena, slot.offset + start, view.nbytes)
        return Buffer(view, place, lambda _: self.release())

    def release(self) -> None:
        """Give up one hold; the last one releases the whole buffer."""
        self._held -= 1
        if not self._held:
            self._whole.release()


class HeapBuffer(Buffer):
    """Memory of the heap that counts on an account, until it is released or until nobody holds it any more."""

    __slots__ = ("_claim",)

    def __init__(self, claim: Claim, size: int) -> None:
        super().__init__(heap(size), None, lambda _: claim.release())
        self._claim = claim

    def received(self, size: int) -> None:
        """Count ``size`` bytes on the account. Raises ``BodyMemoryFull``."""
        self._claim.grow(size)


class Allocator(Protocol):
    """Hands out writable memory of an exact size, in shared memory where there is room, and else on the heap (slot None).

    It never waits. What lies on the heap counts on the account of all bodies: where that is full, ``BodyMemoryFull`` is
    raised, and ``MemoryError`` where the system has no more.
    """

    def allocate(self, size: int) -> Buffer:
        """Memory for bytes that are there already; all of it counts at once."""
        ...

    def expect(self, size: int) -> Buffer:
        """Memory for bytes that are announced; the writer counts them with ``received`` as they come."""
        ...

    def claim(self) -> Claim:
        """A claim for bytes that are held elsewhere on the heap."""
        ...


class HeapAllocator:
    """Plain memory of this process, on an account: all there is where no worker shares memory."""

    def __init__(self, memory: BodyMemory | None = None) -> None:
        self.memory = memory or BodyMemory()

    def allocate(self, size: int) -> Buffer:
        """Memory that counts in full at once."""
        buffer = self.expect(size)
        buffer.received(size)
        return buffer

    def expect(self, size: int) -> Buffer:
        """Memory that counts as it is filled: its pages cost nothing before."""
        return HeapBuffer(Claim(self.memory, announced=size), size)

    def claim(self) -> Claim:
        """A claim for what somebody holds elsewhere on the heap."""
        return Claim(self.memory)


def heap(size: int) -> memoryview:
    """Memory of this process, with whatever is in it. Pages cost nothing until they are written.

    So a client that announces gigabytes and sends none of them has none; ``bytearray`` would write zeros to all.
    Raises ``MemoryError``.
    """
    return np.empty(size, np.uint8).data


def view_of(payload: Payload) -> memoryview:
    """The bytes of a payload, without a copy."""
    return payload.view if isinstance(payload, Buffer) else memoryview(payload)
