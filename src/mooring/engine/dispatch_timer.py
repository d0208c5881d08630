"""The timer that calls a scheduler's ``dispatch``."""

import asyncio
from collections.abc import Callable
from typing import Protocol


class Loop(Protocol):
    """The part of an event loop that schedulers use."""

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Call it in the next turn."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object:
        """Call it after so many seconds."""


class DispatchTimer:
    """Calls ``dispatch`` at the end of this turn of the loop, or later; never more often than needed.

    One call at the end of a turn serves all requests that came in it, so they leave together.
    ``pending`` says that such a call is due; ``dispatch`` sets it to False.
    """

    __slots__ = ("_dispatch", "_loop", "_waits", "pending")

    def __init__(self, dispatch: Callable[[], None], loop: Loop | None = None) -> None:
        self._dispatch = dispatch
        self._loop = loop or asyncio.get_running_loop()
        self._waits = False
        self.pending = False

    def dispatch_soon(self) -> None:
        """Dispatch at the end of this turn of the loop."""
        if not self.pending:
            self.pending = True
            self._loop.call_soon(self._dispatch)

    def dispatch_later(self, seconds: float) -> None:
        """Dispatch after so many seconds, unless a wait runs already: at its end the time is computed anew."""
        if not self._waits:
            self._waits = True
            self._loop.call_later(seconds, self._time_is_up)

    def _time_is_up(self) -> None:
        self._waits = False
        self._dispatch()
