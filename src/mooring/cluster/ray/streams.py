"""The order of messages from one node to another: Ray starts calls of an asynchronous actor in any order. Runs in node actors."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

# Seconds in which the first call of a stream must have come, when a later one is there.
_BEGINNING = 0.25


class OutgoingStreams:
    """Numbers the calls to each node. After one that failed a new stream begins: what is late of the old one is dropped."""

    def __init__(self) -> None:
        self._next: dict[str, tuple[int, int]] = {}

    def next(self, node: str) -> tuple[int, int]:
        """The stream and the number of the next call to a node."""
        stream, number = self._next.get(node) or (time.time_ns(), 0)
        self._next[node] = (stream, number + 1)
        return stream, number

    def break_off(self, node: str, stream: int) -> None:
        """Begin a new stream with the next call to a node; nothing happens where this one is over already."""
        if self._next.get(node, (0, 0))[0] == stream:
            del self._next[node]


class IncomingStreams:
    """Passes on what comes from each node in the order in which it was sent."""

    def __init__(self, pass_on: Callable[[str, Sequence[bytes]], None]) -> None:
        self._pass_on = pass_on
        self._streams: dict[str, _Stream] = {}

    async def take(self, node: str, stream: int, number: int, payloads: list[Any]) -> None:
        """Pass the messages of a call on, when all before it were. ``payloads`` may be one reference to them.

        Raises what ``pass_on`` raises; ``ConnectionError`` for a call of a stream that is over, or whose beginning does not come: an actor
        that was started again has not seen it.
        """
        current = self._streams.get(node)
        if current is None or current.name < stream:
            if current is not None:
                current.end()
            current = self._streams[node] = _Stream(stream)
            if number:
                asyncio.get_running_loop().call_later(_BEGINNING, self._end_headless, node, current)
        if current.name != stream:
            raise ConnectionError("a later stream of messages has begun")
        current.has_begun |= number == 0
        await current.wait_for(number)
        try:
            if payloads and not isinstance(payloads[0], bytes):
                payloads = await payloads[0]
            if self._streams.get(node) is current:
                self._pass_on(node, payloads)
        finally:
            current.advance(number)

    def _end_headless(self, node: str, stream: "_Stream") -> None:
        """End a stream whose first call has not come: it was for the actor before this one."""
        if not stream.has_begun:
            stream.end()
            if self._streams.get(node) is stream:
                del self._streams[node]

    def accepted(self, node: str) -> int:
        """The stream of a node that is taken now, 0 before one has begun."""
        current = self._streams.get(node)
        return current.name if current is not None and current.has_begun else 0

    def break_off(self, node: str) -> None:
        """End the stream of a node, of which something may be lost: calls of it are refused from now on, so that a new one begins."""
        current = self._streams.get(node)
        if current is not None:
            current.end()
            self._streams[node] = _Stream(current.name + 1)


class _Stream:
    """One stream: which call is next, and who waits for its turn."""

    def __init__(self, name: int) -> None:
        self.name = name
        self.has_begun = False
        self._next = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def wait_for(self, number: int) -> None:
        if number > self._next:
            turn = self._waiting[number] = asyncio.get_running_loop().create_future()
            await turn

    def advance(self, number: int) -> None:
        self._next = number + 1
        turn = self._waiting.pop(self._next, None)
        if turn is not None and not turn.done():
            turn.set_result(None)

    def end(self) -> None:
        for turn in self._waiting.values():
            if not turn.done():
                turn.set_exception(ConnectionError("this stream of messages is over"))
        self._waiting.clear()
