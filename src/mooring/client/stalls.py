"""Ends a stream of gRPC whose next piece does not come: the library can only limit a call as a whole."""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable

# What a read raises whose call was cancelled by this process.
AsyncCancelled = asyncio.CancelledError
Cancelled = concurrent.futures.CancelledError


class AsyncStallTimer:
    """Calls ``cancel`` when somebody has waited for ``seconds``; after that it is ``expired``."""

    def __init__(self, seconds: float, cancel: Callable[[], object]) -> None:
        self.expired = False
        self._seconds = seconds
        self._cancel = cancel
        self._handle: asyncio.TimerHandle | None = None

    def wait(self) -> None:
        """Begin to wait for a piece."""
        self._handle = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    def pause(self) -> None:
        """Stop, for a piece has come or none will."""
        if self._handle is not None:
            self._handle.cancel()

    def _expire(self) -> None:
        self.expired = True
        self._cancel()

    def end(self) -> None:
        """Watch no longer."""
        self.pause()


class StallTimer:
    """The same for threads, in a thread of its own."""

    def __init__(self, seconds: float, cancel: Callable[[], object]) -> None:
        self.expired = False
        self._seconds = seconds
        self._cancel = cancel
        self._until: float | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def wait(self) -> None:
        """Begin to wait for a piece."""
        self._until = time.monotonic() + self._seconds
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="mooring stream", daemon=True)
            self._thread.start()

    def pause(self) -> None:
        """Stop, for a piece has come."""
        self._until = None

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()

    def _watch(self) -> None:
        left = self._seconds
        while not self._ended.wait(left):
            until = self._until
            left = self._seconds if until is None else until - time.monotonic()
            if left <= 0:
                self.expired = True
                self._cancel()
                return
