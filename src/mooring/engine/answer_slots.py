"""Slots of shared memory that workers write large answers to."""

from collections.abc import Callable

from mooring.core.buffers import Buffer

# So many slots in a row that come back empty show that a model's answers are small again.
_MAX_UNUSED = 32


class AnswerSlots:
    """Lends every request a slot for its answer while the answers of its model are large.

    How this works: only the worker knows how large an answer is, and only the server may allocate from the arena. So the
    first large answer comes over the socket and says its ``size``; from then on every request takes a slot of the
    largest size seen to its worker. A slot that the worker did not write to is given back here. After a row of such
    slots no more are lent, until the next large answer. ``size`` is in bytes; 0 lends nothing.
    """

    __slots__ = ("_allocate", "_unused", "size")

    def __init__(self, allocate: Callable[[int], Buffer | None]) -> None:
        self._allocate = allocate
        self._unused = 0
        self.size = 0

    def lend_slot(self) -> Buffer | None:
        """A slot of ``size`` bytes; None where shared memory is full, and then the answer comes over the socket."""
        return self._allocate(self.size)

    def note_large_answer(self, size: int) -> None:
        """An answer had a payload of so many bytes: the next ones get slots for theirs."""
        self._unused = 0
        self.size = max(size, self.size)

    def return_unused(self, slot: Buffer) -> None:
        """Release a slot that came back empty."""
        slot.release()
        self._unused += 1
        if self._unused > _MAX_UNUSED:
            self.size = self._unused = 0
