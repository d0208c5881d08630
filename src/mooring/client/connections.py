"""Which connections a call of a client goes over: those that this process and this event loop have made.

A forked process has copies of the sockets of its parent. If both used one, each could read the answer to the other's
request. And what one event loop has made is of no use in the next, as with ``asyncio.run`` called twice.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Connections(Generic[T]):
    """What ``make`` makes at the first call of each process. Any thread may use it."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._process = os.getpid()
        self._kept: dict[asyncio.AbstractEventLoop | None, T] = {}
        self._of_parent: object = None

    def get(self) -> T:
        """Return the connections of this process."""
        return self._get(None)

    def pop(self) -> T | None:
        """Return the connections of this process to be closed, None where there are none."""
        return self._pop(None)

    # There is no lock, which a forked process could inherit locked. Of two threads that come first at once, one
    # uses for a single call what is not kept.
    def _get(self, loop: asyncio.AbstractEventLoop | None) -> T:
        if os.getpid() != self._process:
            # Not closed, which would also end streams and TLS of the parent.
            self._process, self._of_parent, self._kept = os.getpid(), self._kept, {}
        found = self._kept.get(loop)
        if found is None:
            others = {each: made for each, made in self._kept.items() if each is None or not each.is_closed()}
            found = self._make()
            self._kept = {**others, loop: found}
        return found

    def _pop(self, loop: asyncio.AbstractEventLoop | None) -> T | None:
        if os.getpid() != self._process:
            return None
        kept, self._kept = self._kept, {}
        return kept.get(loop)


class AsyncConnections(Connections[T]):
    """The same for each event loop."""

    def get(self) -> T:
        """Return the connections of the event loop that runs."""
        return self._get(asyncio.get_running_loop())

    def pop(self) -> T | None:
        """Return those of the event loop that runs, to be closed; None where there are none."""
        return self._pop(asyncio.get_running_loop())
