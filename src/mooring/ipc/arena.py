"""Shared memory for large payloads: the server allocates slots and frees them, a worker only reads or fills them.

The server owns every slot. A worker that dies in the middle of one leaves nothing to clean up: the slot is freed with
the request it belongs to.
"""

import mmap
import os
import tempfile

from mooring.core.buffers import LARGE, Buffer, HeapAllocator, Slot
from mooring.core.memory import BodyMemory, Claim, MemoryUse


class BuddyAllocator:
    """Blocks of a power of two, split on demand and merged when both halves are free. Offsets only, no memory.

    What is given back is kept whole until it is wanted again or nothing else is left: requests are mostly of one size,
    and the block used last is the one that the processor still has in its cache.

    >>> buddy = BuddyAllocator(total=4, smallest=1)
    >>> buddy.take(2), buddy.take(1), buddy.take(2)
    (0, 2, None)
    """

    def __init__(self, total: int, smallest: int) -> None:
        if total % smallest or (total // smallest) & (total // smallest - 1):
            raise ValueError(f"{total} is not {smallest} times a power of two")
        self._smallest = smallest
        self._top = (total // smallest).bit_length() - 1
        self._free: list[set[int]] = [set() for _ in range(self._top + 1)]
        self._free[self._top].add(0)
        # Given back, the last one at the end, and merged with nothing yet.
        self._kept: list[list[int]] = [[] for _ in range(self._top + 1)]
        self._taken: dict[int, int] = {}
        self.used = 0  # of the total, in whole blocks

    def take(self, size: int) -> int | None:
        """The offset of a free block of at least ``size``, or None when there is none."""
        order = ((size - 1) // self._smallest).bit_length() if size > 0 else 0
        if order > self._top:
            return None
        kept = self._kept[order]
        if kept:
            offset = kept.pop()
        else:
            found = self._split(order)
            if found is None and any(self._kept):
                self._merge_kept()
                found = self._split(order)
            if found is None:
                return None
            offset = found
        self._taken[offset] = order
        self.used += self._smallest << order
        return offset

    def give_back(self, offset: int) -> None:
        """Free a block. Raises ``KeyError`` for one that is not taken: a double release is a bug worth hearing of."""
        order = self._taken.pop(offset)
        self.used -= self._smallest << order
        self._kept[order].append(offset)

    def _split(self, order: int) -> int | None:
        """A free block of 2 ** ``order``, cut out of the smallest there is."""
        found = order
        while not self._free[found]:
            found += 1
            if found > self._top:
                return None
        offset = self._free[found].pop()
        while found > order:
            found -= 1
            self._free[found].add(offset + (self._smallest << found))
        return offset

    def _merge_kept(self) -> None:
        for order, kept in enumerate(self._kept):
            for offset in kept:
                self._merge(offset, order)
            kept.clear()

    def _merge(self, offset: int, order: int) -> None:
        while order < self._top:
            buddy = offset ^ (self._smallest << order)
            if buddy not in self._free[order]:
                break
            self._free[order].remove(buddy)
            offset = min(offset, buddy)
            order += 1
        self._free[order].add(offset)

    @property
    def blocks_in_use(self) -> int:
        """How many blocks are out."""
        return len(self._taken)


class Arena:
    """An ``Allocator`` over one piece of anonymous shared memory, whose ``fd`` can be passed to other processes.

    Pages cost nothing until they are first written, so the size is a limit, not a price. ``fd`` is memory that another
    process has made for this one, of a size that ``rounded`` gave. What finds no room lies on the heap, and counts on the
    account ``memory``.
    """

    def __init__(
        self, size: int, number: int = 0, fd: int | None = None, *, memory: BodyMemory | None = None
    ) -> None:
        self.size = round_arena_size(size)
        self.number = number
        self.fd = anonymous_file(self.size) if fd is None else fd
        self._account = memory or BodyMemory()
        self._heap = HeapAllocator(memory)
        self._memory = map_shared(self.fd, self.size)
        self._blocks = BuddyAllocator(self.size, LARGE)

    def slot(self, size: int) -> Buffer | None:
        """Shared memory; None when there is no room."""
        offset = self._blocks.take(size) if size else None
        if offset is None:
            return None
        return Buffer(self._memory[offset : offset + size], Slot(self.number, offset, size), self._give_back)

    def allocate(self, size: int) -> Buffer:
        """A slot, or memory of the heap for what is there already."""
        slot = self.slot(size)
        return self._heap.allocate(size) if slot is None else slot

    def expect(self, size: int) -> Buffer:
        """A slot, or memory of the heap for what is announced."""
        slot = self.slot(size)
        return self._heap.expect(size) if slot is None else slot

    def claim(self) -> Claim:
        """A claim for what somebody holds elsewhere on the heap."""
        return self._heap.claim()

    def _give_back(self, slot: Slot | None) -> None:
        assert slot is not None
        self._blocks.give_back(slot.offset)

    def memory_use(self) -> MemoryUse:
        """How much of this memory, and of the account of bodies beyond it, is taken now."""
        account = self._account
        return MemoryUse(self._blocks.used, self.size, account.used, account.limit)

    @property
    def slots_in_use(self) -> int:
        """How many slots are out: zero when nothing is in flight."""
        return self._blocks.blocks_in_use


def round_arena_size(size: int) -> int:
    """The bytes that an arena of this size really has."""
    power = LARGE
    while power < size:
        power *= 2
    return power


class MappedArena:
    """A worker's view of the server's arena."""

    def __init__(self, fd: int) -> None:
        self._memory = map_shared(fd, os.fstat(fd).st_size)

    def view(self, slot: Slot) -> memoryview:
        """The bytes of a slot; they are the caller's until its request is answered."""
        return self._memory[slot.offset : slot.offset + slot.size]


def anonymous_file(size: int) -> int:
    """A descriptor of shared memory that has no name anywhere."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("mooring-arena")
    else:  # macOS: a file that has no name any more
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


def map_shared(fd: int, size: int) -> memoryview:
    """The memory behind a descriptor, shared with everyone who maps it."""
    return memoryview(mmap.mmap(fd, size))
