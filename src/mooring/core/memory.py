"""What request bodies may take of a process's memory: one account for all of them, whichever protocol they come over."""

import threading

import msgspec

from mooring.core.errors import BodyMemoryFull

# What a body counts as before any of it has come: as much as its connection may hold of it anyway.
RESERVE = 65_536


class MemoryUse(msgspec.Struct, array_like=True, frozen=True):
    """Bytes of the arena and of bodies beyond it, of one process or of several. ``body_limit`` 0 is no limit."""

    arena_used: int = 0
    arena_size: int = 0
    body_used: int = 0
    body_limit: int = 0

    def plus(self, other: "MemoryUse") -> "MemoryUse":
        """The bytes of both."""
        return MemoryUse(
            self.arena_used + other.arena_used,
            self.arena_size + other.arena_size,
            self.body_used + other.body_used,
            self.body_limit + other.body_limit,
        )


class BodyMemory:
    """The account: bytes that bodies have taken beyond shared memory, and how many they may; ``limit`` 0 is no limit.

    Bytes count when they come, not when they are announced: a client that announces a gigabyte and sends none takes
    none from anybody.
    """

    __slots__ = ("_lock", "limit", "used")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()  # bodies are inflated in threads

    def check(self, size: int) -> None:
        """Raise ``BodyMemoryFull`` where a body of this many bytes would find no room now."""
        if 0 < self.limit < self.used + size:
            raise self._full(size)

    def take(self, size: int) -> None:
        """Count so many bytes more. Raises ``BodyMemoryFull`` and counts none where there is no room for them."""
        with self._lock:
            used = self.used + size
            fits = not self.limit or used <= self.limit
            if fits:
                self.used = used
        if not fits:
            raise self._full(size)

    def give_back(self, size: int) -> None:
        """Count so many bytes less."""
        with self._lock:
            self.used -= size

    def _full(self, size: int) -> BodyMemoryFull:
        if size > self.limit:
            return BodyMemoryFull(
                f"{size} bytes are more than all request bodies together may take of memory:"
                f" {self.limit} bytes beyond arena_size (max_body_memory)"
            )
        return BodyMemoryFull(
            f"memory for request bodies has no room: {self.used} of {self.limit} bytes are taken (max_body_memory),"
            f" and {size} more are needed; try again later"
        )


class Claim:
    """What one body has taken of an account; given back by ``release``, and when nobody holds it any more."""

    __slots__ = ("_account", "_reserved", "size")

    def __init__(self, account: BodyMemory, *, announced: int = 0) -> None:
        """Reserve a little for a body that is announced. Raises ``BodyMemoryFull`` where it would find no room."""
        self._account = account
        self.size = self._reserved = 0
        if announced:
            account.check(announced)
            reserve = min(RESERVE, announced)
            account.take(reserve)
            self.size = self._reserved = reserve

    def grow(self, size: int) -> None:
        """Count bytes that have come. Raises ``BodyMemoryFull``."""
        reserved = min(size, self._reserved)
        self._account.take(size - reserved)
        self._reserved -= reserved
        self.size += size - reserved

    def shrink(self, size: int) -> None:
        """Give a part back."""
        size = min(size, self.size)
        self.size -= size
        self._account.give_back(size)

    def release(self) -> None:
        """Give back all of it; a second call does nothing."""
        self.shrink(self.size)

    def __del__(self) -> None:
        if self.size:
            self.release()
