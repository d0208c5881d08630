"""Which step of which sequence may run where, and when a sequence is over: pure rules, with no clock and no worker.

A *place* is whatever keeps the state of its sequences (a worker), a *job* is one step of one (a request). Three rules
hold whatever happens: the steps of a sequence run in the order in which they came, one at a time, and all in one place.
"""

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from mooring.core.errors import InvalidInput, SequenceLost, SequencesFull
from mooring.core.options import SequenceOptions

P = TypeVar("P", bound=Hashable)
J = TypeVar("J", bound=Hashable)

# Ids of sequences whose state was lost, so that whoever goes on with one hears of it.
_MOST_REMEMBERED = 65_536


class Turn(Generic[J]):
    """One step. ``start`` says that the model must forget what it knew of the sequence."""

    __slots__ = ("end", "job", "start")

    def __init__(self, job: J, *, start: bool, end: bool) -> None:
        self.job = job
        self.start = start
        self.end = end


class Live(Generic[P, J]):
    """One sequence. ``used``: a step of it has run at its place, so it cannot go elsewhere."""

    __slots__ = ("began", "closed", "id", "place", "queued", "restart", "running", "used", "waiting")

    def __init__(self, name: str | None, now: float) -> None:
        self.id = name
        self.began = now
        self.place: P | None = None
        self.waiting: deque[Turn[J]] = deque()
        self.running: Turn[J] | None = None
        self.used = False
        self.closed = False  # over once what waits has run, unless it is started anew
        self.restart = False  # the step that was to start it was withdrawn: the next one does
        self.queued = False  # in line at its place, or for one


class Sequences(Generic[P, J]):
    """The sequences of one model."""

    def __init__(self, model: str, settings: SequenceOptions) -> None:
        self._model = model
        self._settings = settings
        self._live: dict[str, Live[P, J]] = {}  # the oldest first
        self._idle: dict[
            Live[P, J], float
        ] = {}  # those without a step, and since when; the longest idle first
        self._held: dict[P, set[Live[P, J]]] = {}
        self._ready: dict[P, deque[Live[P, J]]] = {}
        self._unplaced: deque[Live[P, J]] = deque()
        self._of: dict[J, Live[P, J]] = {}
        self._lost: dict[str, None] = {}

    def __len__(self) -> int:
        """How many sequences there are."""
        return len(self._live)

    def full(self, name: str) -> bool:
        """Whether as many steps of this sequence wait as may."""
        live = self._live.get(name)
        return live is not None and len(live.waiting) >= self._settings.max_queued_steps

    def could_run(self, name: str, places: Collection[P]) -> bool:
        """Whether the next step of this sequence, come now, would run in one of these places without waiting."""
        live = self._live.get(name)
        if live is None or live.place is None:
            room = self._settings.max_per_worker
            return live is None and any(not room or self.held(place) < room for place in places)
        return live.running is None and not live.waiting and live.place in places

    def admit(
        self, name: str, job: J, now: float, *, start: bool = False, end: bool = False, implicit: bool = False
    ) -> None:
        """Take a step in. ``implicit`` lets it start a sequence that nobody knows without saying so.

        Raises ``InvalidInput`` for a sequence that was not started, ``SequenceLost`` for one whose state is gone and
        ``SequencesFull`` where there is no room; then nothing has changed.
        """
        live = self._live.get(name)
        if live is not None and live.closed and not start:
            if not implicit:
                raise self._unknown(name, "has ended")
            start = True
        if live is None:
            live = self._begin(name, now, start=start, implicit=implicit)
            start = True
        elif self.full(name):
            raise SequencesFull(
                f"sequence '{name}' of model '{self._model}' has {len(live.waiting)} steps waiting, "
                "as many as it may; send the next one when one of them is answered",
                model=self._model,
            )
        live.closed = end
        self._append(live, Turn(job, start=start or live.restart, end=end))
        live.restart = False

    def admit_alone(self, job: J, now: float) -> None:
        """Take a job in that belongs to no sequence; it runs wherever there is least to do."""
        live: Live[P, J] = Live(None, now)
        live.closed = True
        self._append(live, Turn(job, start=False, end=True))

    def _begin(self, name: str, now: float, *, start: bool, implicit: bool) -> Live[P, J]:
        if not start:
            if name in self._lost:
                raise SequenceLost(
                    f"the state of sequence '{name}' of model '{self._model}' is lost: "
                    "the worker that had it is gone; start the sequence anew",
                    model=self._model,
                )
            if not implicit:
                raise self._unknown(name, "was never started, or is over")
        if len(self._live) >= self._settings.max_sequences:
            raise SequencesFull(
                f"model '{self._model}' has {len(self._live)} sequences open, as many as it may; "
                "end one of them, or try again later",
                model=self._model,
            )
        self._lost.pop(name, None)
        live = self._live[name] = Live(name, now)
        return live

    def _unknown(self, name: str, why: str) -> InvalidInput:
        return InvalidInput(
            f"sequence '{name}' of model '{self._model}' {why}: "
            "the first request of a sequence must say so with sequence_start",
            model=self._model,
        )

    def _append(self, live: Live[P, J], turn: Turn[J]) -> None:
        live.waiting.append(turn)
        self._of[turn.job] = live
        self._idle.pop(live, None)
        self._line_up(live)

    def _line_up(self, live: Live[P, J]) -> None:
        """A sequence whose next step may run waits for its place, or first for one."""
        if live.running is not None or live.queued or not live.waiting:
            return
        live.queued = True
        if live.place is None:
            self._unplaced.append(live)
        else:
            self._ready.setdefault(live.place, deque()).append(live)

    def place(self, places: Sequence[P]) -> None:
        """Give every new sequence the place with the fewest, while one has room."""
        room = self._settings.max_per_worker
        while self._unplaced:
            if room:
                places = [place for place in places if self.held(place) < room]
            if not places:
                return
            live = self._unplaced.popleft()
            live.queued = False
            if live.waiting:
                live.place = min(places, key=self.held)
                self._held.setdefault(live.place, set()).add(live)
                self._line_up(live)

    def held(self, place: P) -> int:
        """How many sequences have their state there."""
        return len(self._held.get(place, ()))

    def ready(self, place: P) -> tuple[int, J | None]:
        """How many steps may run there at once, and the one that has waited for it the longest."""
        ready = self._ready.get(place)
        while ready and not ready[0].waiting:
            ready.popleft().queued = False
        return (len(ready), ready[0].waiting[0].job) if ready else (0, None)

    def take(self, place: P, most: int, rows: Callable[[J], int]) -> list[Turn[J]]:
        """The next call: steps of different sequences, of at most ``most`` rows together and always at least one.

        ``rows`` may withdraw a job instead, and say 0.
        """
        taken: list[Turn[J]] = []
        total = 0
        while self.ready(place)[0]:
            live = self._ready[place][0]
            turn = live.waiting[0]
            size = rows(turn.job)
            if not size:
                continue
            if taken and total + size > most:
                break
            self._ready[place].popleft()
            live.queued = False
            live.waiting.popleft()
            live.running, live.used = turn, True
            taken.append(turn)
            total += size
        return taken

    def done(self, job: J, now: float, *, over: bool = False) -> None:
        """A step has its answer. ``over`` ends the sequence, as if the step had been its last."""
        live = self._of.pop(job, None)
        if live is not None:
            live.running = None
            live.closed = live.closed or over
            self._settle(live, now)

    def withdraw(self, job: J, now: float) -> None:
        """A step that waits will not run after all; nothing happens where it is not known."""
        live = self._of.pop(job, None)
        if live is None:
            return
        at = next(index for index, turn in enumerate(live.waiting) if turn.job is job)
        turn = live.waiting[at]
        del live.waiting[at]
        if turn.start and at < len(live.waiting):
            live.waiting[at].start = True
        elif turn.start:
            live.restart = True
        self._settle(live, now)

    def give_back(self, job: J) -> None:
        """A step that was taken did not run: it is the next one again."""
        live = self._of[job]
        turn, live.running = live.running, None
        assert turn is not None
        live.used = not turn.start
        live.waiting.appendleft(turn)
        self._line_up(live)

    def _settle(self, live: Live[P, J], now: float) -> None:
        if live.running is not None:
            return
        if live.waiting:
            self._line_up(live)
        elif live.closed or not live.used:
            self._remove(live)
        else:
            self._idle[live] = now

    def _remove(self, live: Live[P, J]) -> None:
        self._idle.pop(live, None)
        if live.id is not None:
            self._live.pop(live.id, None)
        if live.place is not None:
            self._let_go(live, live.place)

    def _let_go(self, live: Live[P, J], place: P) -> None:
        held = self._held[place]
        held.discard(live)
        if not held:
            del self._held[place]
            self._ready.pop(place, None)

    def expire(self, now: float) -> None:
        """End what was idle, or has lasted, for too long; a step that was accepted is answered before."""
        most, settings = self._settings.max_idle, self._settings
        while most and self._idle:
            live, since = next(iter(self._idle.items()))
            if now - since < most:
                break
            self._remove(live)
        if not settings.timeout:
            return
        over = []
        for live in self._live.values():
            if now - live.began < settings.timeout:
                break
            over.append(live)
        for live in over:
            live.closed = True
            if live in self._idle:
                self._remove(live)

    def places(self) -> list[P]:
        """Where there is a sequence."""
        return list(self._held)

    def busy(self, place: P) -> bool:
        """Whether a step runs there."""
        return any(live.running is not None for live in self._held.get(place, ()))

    def lose(self, place: P) -> list[J]:
        """A place is gone, and nothing runs there: the steps that wait for a state that is lost with it.

        A sequence that has not begun there, or is to be started anew, goes elsewhere.
        """
        self._ready.pop(place, None)
        lost: list[J] = []
        for live in self._held.pop(place, set()):
            live.place, live.queued = None, False
            if live.used:
                while live.waiting and not live.waiting[0].start:
                    turn = live.waiting.popleft()
                    del self._of[turn.job]
                    lost.append(turn.job)
            if live.waiting:
                live.used = False
                self._line_up(live)
            else:
                self._remove(live)
                if live.id is not None:
                    self.remember([live.id])
        return lost

    def ids(self) -> list[str]:
        """Of every sequence that there is."""
        return list(self._live)

    def remember(self, lost: Iterable[str]) -> None:
        """The state of these sequences is lost: whoever goes on with one is told so."""
        for name in lost:
            self._lost[name] = None
            if len(self._lost) > _MOST_REMEMBERED:
                del self._lost[next(iter(self._lost))]

    def waiting(self) -> Iterator[J]:
        """Every step that waits."""
        for live in set(self._of.values()):
            for turn in live.waiting:
                yield turn.job
