"""Answers in the order in which their requests came, whichever of them is ready first. No clock and no queue."""

from collections import deque

from mooring.core.requests import InferenceResponse
from mooring.core.service import Done, Outcome, Ticket
from mooring.core.tensors import release


class Ordering:
    """The requests of one model that are not answered yet, the oldest first."""

    def __init__(self) -> None:
        self._turns: deque[Turn] = deque()

    def enter(self, done: Done) -> "Turn":
        """The place of a request that comes now: what it is told instead of ``done``."""
        turn = Turn(self, done)
        self._turns.append(turn)
        return turn

    def advance(self) -> None:
        """Hand on what is held for the oldest request, and for those after it once it has all its answers."""
        turns = self._turns
        while turns:
            turn = turns[0]
            turn.hand_on()
            if not turn.over:
                return
            turns.popleft()


class Turn:
    """One request: holds what its model said until all requests before it are answered."""

    __slots__ = ("_done", "_held", "_ordering", "over")

    def __init__(self, ordering: Ordering, done: Done) -> None:
        self._ordering = ordering
        self._done: Done | None = done
        self._held: list[Outcome] = []
        self.over = False

    def __call__(self, outcome: Outcome) -> None:
        """The service's word on the request."""
        if self._done is None:
            self._drop(outcome)
            return
        self._held.append(outcome)
        self.over = not isinstance(outcome, InferenceResponse) or outcome.final
        self._ordering.advance()

    def hand_on(self) -> None:
        """Say what is held."""
        held, self._held = self._held, []
        for outcome in held:
            if self._done is None:  # the caller left in the middle of it
                self._drop(outcome)
            else:
                self._done(outcome)

    def give_up(self) -> None:
        """Nobody waits for this request any more: those behind it need not either."""
        self._done = None
        self.over = True
        self._ordering.advance()

    def _drop(self, outcome: Outcome) -> None:
        if isinstance(outcome, InferenceResponse):
            release(outcome.outputs)


class OrderedTicket:
    """The ticket of a request that has a turn."""

    __slots__ = ("_ticket", "_turn")

    def __init__(self, ticket: Ticket, turn: Turn) -> None:
        self._ticket = ticket
        self._turn = turn

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._ticket.cancel()
        self._turn.give_up()
