"""Answers in the order in which their requests came, whichever of them is ready first. No clock and no queue."""

from collections import deque

from mooring.core.requests import InferenceResponse
from mooring.core.service import Done, Outcome, Ticket
from mooring.core.tensors import release


class Ordering:
    """The requests of one model that are not answered yet, the oldest first."""

    def __init__(self) -> None:
        self._entries: deque[OrderedDone] = deque()

    def add_request(self, done: Done) -> "OrderedDone":
        """Put a request that comes now last. Its outcomes go to what this returns, and from there to ``done``."""
        entry = OrderedDone(self, done)
        self._entries.append(entry)
        return entry

    def deliver_ready(self) -> None:
        """Hand on what is held for the oldest request, and for those after it once it has all its answers."""
        entries = self._entries
        while entries:
            entry = entries[0]
            entry.deliver_held()
            if not entry.over:
                return
            entries.popleft()


class OrderedDone:
    """The ``Done`` of one request: holds its outcomes until all requests before it are answered."""

    __slots__ = ("_done", "_held", "_ordering", "over")

    def __init__(self, ordering: Ordering, done: Done) -> None:
        self._ordering = ordering
        self._done: Done | None = done
        self._held: list[Outcome] = []
        self.over = False

    def __call__(self, outcome: Outcome) -> None:
        """The service's word on the request."""
        if self._done is None:
            self._release_outcome(outcome)
            return
        self._held.append(outcome)
        self.over = not isinstance(outcome, InferenceResponse) or outcome.final
        self._ordering.deliver_ready()

    def deliver_held(self) -> None:
        """Say what is held."""
        held, self._held = self._held, []
        for outcome in held:
            if self._done is None:  # the caller left in the middle of it
                self._release_outcome(outcome)
            else:
                self._done(outcome)

    def abandon(self) -> None:
        """Let the requests behind this one go on: its caller does not wait any more."""
        self._done = None
        self.over = True
        self._ordering.deliver_ready()

    def _release_outcome(self, outcome: Outcome) -> None:
        if isinstance(outcome, InferenceResponse):
            release(outcome.outputs)


class OrderedTicket:
    """The ticket of a request that has a entry."""

    __slots__ = ("_entry", "_ticket")

    def __init__(self, ticket: Ticket, entry: OrderedDone) -> None:
        self._ticket = ticket
        self._entry = entry

    def cancel(self) -> None:
        """Withdraw the request: its caller does not wait any more."""
        self._ticket.cancel()
        self._entry.abandon()
