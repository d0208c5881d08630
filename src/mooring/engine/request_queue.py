"""The requests of one version that wait for a worker, in the order in which they are served."""

import math
from collections import deque
from collections.abc import Callable, Iterator

from mooring.engine.queued_request import OFFLOADED, WAITING, QueuedRequest

# Withdrawn requests that may lie in a queue, beside as many as twice those that wait in it.
_MAX_WITHDRAWN = 64


class RequestQueue:
    """The waiting requests of one version, the next one first: by priority, then by arrival.

    How this works: a request that is withdrawn or refused stays in the deque as DONE and is skipped when its turn comes,
    since to take it out of the middle costs a walk through the queue. ``waiting`` counts only those that really wait.
    ``limit`` is how many of them may: the size of the queue less the ``offloaded`` requests, which wait elsewhere but
    count. One comparison of these two is all that an arriving request pays.
    """

    __slots__ = ("_entries", "_prioritized", "_size", "limit", "offloaded", "waiting")

    def __init__(self, size: int) -> None:
        self._entries: deque[QueuedRequest] = deque()
        # Whether requests with a priority may wait. While none do, arrivals go to the end without a look at the others.
        self._prioritized = False
        self._size = size
        self.limit = size
        self.waiting = 0
        self.offloaded = 0

    def resize(self, size: int) -> None:
        """Let so many requests wait at most from now on; those that wait already are not affected."""
        self.limit += size - self._size
        self._size = size

    def __iter__(self) -> Iterator[QueuedRequest]:
        """The requests that wait, the next one first."""
        return (queued for queued in self._entries if queued.state is WAITING)

    def push(self, queued: QueuedRequest) -> None:
        """Add a request behind those of its priority or a better one."""
        if queued.request.priority or self._prioritized:
            self._insert_by_precedence(queued)
        else:
            self._entries.append(queued)
        self.waiting += 1

    def push_first(self, queued: QueuedRequest) -> None:
        """Put a request before all others, as it was when a worker took it."""
        self.waiting += 1
        self._entries.appendleft(queued)

    def reinsert(self, queued: QueuedRequest) -> None:
        """Move a waiting request whose precedence has changed to its new place."""
        self._entries.remove(queued)
        self._insert_by_precedence(queued)

    def offload(self, queued: QueuedRequest) -> None:
        """Take out a request whose body is decoded elsewhere meanwhile. It still counts against the size."""
        queued.move_to(OFFLOADED)
        self._entries.remove(queued)
        self.waiting -= 1
        self.offloaded += 1
        self.limit -= 1

    def end_offload(self) -> None:
        """An offloaded request does not count any more: it is put back, or it is done."""
        self.offloaded -= 1
        self.limit += 1

    def put_back(self, queued: QueuedRequest) -> None:
        """Put back a request that was offloaded, behind those only that came before it or have a better priority."""
        self.end_offload()
        queued.move_to(WAITING)
        self.waiting += 1
        entries, place, own = self._entries, 0, (queued.precedence, queued.key)
        # It came early, so its place is near the head.
        while place < len(entries) and (entries[place].precedence, entries[place].key) < own:
            place += 1
        entries.insert(place, queued)

    def forget_withdrawn(self) -> None:
        """A waiting request was withdrawn and is DONE.

        Where clients come and go before a slow model many go, so the deque is cleared of them in between.
        """
        self.waiting -= 1
        entries = self._entries
        if len(entries) > 2 * self.waiting + _MAX_WITHDRAWN:
            left = list(self)
            entries.clear()  # in place: ``take_batch`` may be going through it just now
            entries.extend(left)

    def head(self) -> QueuedRequest:
        """The request that is served next. Only while some wait."""
        entries = self._entries
        while entries[0].state is not WAITING:
            entries.popleft()
        return entries[0]

    def oldest_arrival(self) -> float:
        """When the request came that has waited longest; infinity where none waits."""
        if not self.waiting:
            return math.inf
        # The first one, unless some came before others that were there already.
        return min(queued.arrived for queued in self) if self._prioritized else self.head().arrived

    def take_batch(
        self,
        max_rows: int,
        now: float,
        expire: Callable[[QueuedRequest], None],
        runs_alone: Callable[[QueuedRequest], bool] | None = None,
    ) -> list[QueuedRequest]:
        """Take out the next requests, of at most ``max_rows`` rows together, and always at least one.

        A request that ``runs_alone`` shares no batch, nor does one that ran on a worker that died. Those past their
        deadlines go to ``expire``, which refuses them.
        """
        batch: list[QueuedRequest] = []
        rows = 0
        entries = self._entries
        while entries:
            queued = entries[0]
            if queued.state is not WAITING:
                entries.popleft()
                continue
            # If the worker died of a request that is tried again, no other request is to be there.
            alone = queued.attempts > 0 or (runs_alone is not None and runs_alone(queued))
            if batch and (alone or rows + queued.rows > max_rows):
                break
            entries.popleft()
            # Here, not on arrival: a request grows old in the queue, and running one that nobody waits for
            # delays all the others.
            if queued.request.deadline is not None and queued.request.expired(now):
                expire(queued)
                continue
            batch.append(queued)
            rows += queued.rows
            if alone:
                break
        self.waiting -= len(batch)
        return batch

    def _insert_by_precedence(self, queued: QueuedRequest) -> None:
        self._prioritized = self.waiting > 0 or queued.request.priority > 0
        entries, place, own = self._entries, len(self._entries), queued.precedence
        while place and own < entries[place - 1].precedence:
            place -= 1
        entries.insert(place, queued)
