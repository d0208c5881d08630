"""Calls of other nodes that wait for messages to take back with them. Runs in node actors.

Nobody hears whether a return was taken. So only messages of a stream go back that the caller says it takes; where it takes none, or
another, the next messages go as a call, which is taken or refused.

The return of a call costs half of what a call in the other direction does: 0.8 ms of 1.65 ms for a request and its answer. So a node
holds the last call of each other node for a moment; what its server sends there meanwhile is the call's return.
"""

import asyncio
from collections.abc import Sequence

# Seconds for which a call is held: no longer than until the next ping of a node that waits.
_HELD = 0.25
MOST_RETURNED = 90_000
"""Bytes of messages that go back with a call: Ray puts a return of more than 100 KB into the object store."""

Return = tuple[int, int, list[bytes]]
"""The stream and number of messages, and these."""


class HeldCalls:
    """The call of each other node that is held, one a node. All methods belong to the event loop's thread."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, asyncio.Future[Return | None]]] = {}  # with the stream that is taken

    async def hold(self, node: str, accepted: int) -> Return | None:
        """Hold a call of a node that takes this stream, 0 for none, and let go of the one before.

        Return what the call has to take back, None for nothing.
        """
        if node in self._held:
            self._end(node, self._held[node][1])
        loop = asyncio.get_running_loop()
        held: asyncio.Future[Return | None] = loop.create_future()
        self._held[node] = accepted, held
        timer = loop.call_later(_HELD, self._end, node, held)
        try:
            return await held
        finally:
            timer.cancel()
            self._forget(node, held)

    def is_held(self, node: str, stream: int, payloads: Sequence[bytes]) -> bool:
        """Whether a call of a node is held that these messages of a stream may go back with."""
        return (
            node in self._held and self._held[node][0] == stream and sum(map(len, payloads)) <= MOST_RETURNED
        )

    def give_back(self, node: str, stream: int, number: int, payloads: Sequence[bytes]) -> None:
        """Have the held call of a node, which there must be, return with messages."""
        self._held.pop(node)[1].set_result((stream, number, list(payloads)))

    def _end(self, node: str, held: asyncio.Future[Return | None]) -> None:
        self._forget(node, held)
        if not held.done():
            held.set_result(None)

    def _forget(self, node: str, held: asyncio.Future[Return | None]) -> None:
        if node in self._held and self._held[node][1] is held:
            del self._held[node]
