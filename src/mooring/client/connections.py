"""Which connections a call of a client goes over: those that this process and this event loop have made.

A forked process has copies of the sockets of its parent. If both used one, each could read the answer to the other's
request. And what one event loop has made is of no use in the next, as with ``asyncio.run`` called twice.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _State(Generic[T]):
    """What one process has made. ``parent`` is not closed, which would also end streams and TLS of the parent process."""

    def __init__(self, parent: "_State[T] | None") -> None:
        self.process = os.getpid()
        self.kept: dict[asyncio.AbstractEventLoop | None, T] = {}
        self.lock = threading.Lock()  # a forked process has its own: it could inherit one that is locked
        self.parent = parent


class Connections(Generic[T]):
    """What ``make`` makes at the first call of each process. Any thread may use it."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._state: _State[T] = _State(None)

    def get(self) -> T:
        """Return the connections of this process."""
        return self._get(None)

    def pop(self) -> T | None:
        """Return the connections of this process to be closed, None where there are none."""
        return self._pop(None)

    def _get(self, loop: asyncio.AbstractEventLoop | None) -> T:
        state = self._state
        if state.process != os.getpid():
            state = self._state = _State(state)
        found = state.kept.get(loop)
        if found is None:
            with state.lock:
                found = state.kept.get(loop)
                if found is None:
                    for each in [each for each in state.kept if each is not None and each.is_closed()]:
                        del state.kept[each]
                    found = state.kept[loop] = self._make()
        return found

    def _pop(self, loop: asyncio.AbstractEventLoop | None) -> T | None:
        state = self._state
        if state.process != os.getpid():
            return None
        self._state = _State(None)
        return state.kept.get(loop)


class AsyncConnections(Connections[T]):
    """The same for each event loop."""

    def get(self) -> T:
        """Return the connections of the event loop that runs."""
        return self._get(asyncio.get_running_loop())

    def pop(self) -> T | None:
        """Return those of the event loop that runs, to be closed; None where there are none."""
        return self._pop(asyncio.get_running_loop())
