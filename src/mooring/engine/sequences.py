"""The rules of sequences: which step may run where, and when a sequence is over. Pure: no clock and no worker.

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

# Ids of sequences whose state was lost; a client that goes on with one of them gets an error that says so.
_MAX_REMEMBERED = 65_536


class ScheduledStep(Generic[J]):
    """One step of a sequence. With ``start`` the model must forget what it knew of the sequence."""

    __slots__ = ("end", "job", "start")

    def __init__(self, job: J, *, start: bool, end: bool) -> None:
        self.job = job
        self.start = start
        self.end = end


class LiveSequence(Generic[P, J]):
    """A sequence that is not over. Once it is ``used``, a step of it has run at its place, and it cannot go elsewhere."""

    __slots__ = ("began", "closed", "id", "place", "queued", "restart", "running", "used", "waiting")

    def __init__(self, name: str | None, now: float) -> None:
        self.id = name
        self.began = now
        self.place: P | None = None
        self.waiting: deque[ScheduledStep[J]] = deque()
        self.running: ScheduledStep[J] | None = None
        self.used = False
        self.closed = False  # over once what waits has run, unless it is started anew
        self.restart = False  # the step that was to start it was withdrawn: the next one does
        self.queued = False  # in line at its place, or for one


class Sequences(Generic[P, J]):
    """The sequences of one model.

    How this works: ``admit_step`` adds a step to its sequence, which stands in line while its next step may run: at its
    place, or in ``_unplaced`` until ``assign_places`` gives it one. ``take_steps`` removes the next steps of a place from the
    line; ``finish_step`` lets each sequence stand in line again, or ends it. A sequence without a step is idle, and ends when
    it has been so for too long. When a place is gone, ``drop_place`` tells which steps have lost their state.
    """

    def __init__(self, model: str, settings: SequenceOptions) -> None:
        self._model = model
        self._settings = settings
        self._live: dict[str, LiveSequence[P, J]] = {}  # the oldest first
        # The sequences without a step, and since when; the longest idle first.
        self._idle: dict[LiveSequence[P, J], float] = {}
        self._held: dict[P, set[LiveSequence[P, J]]] = {}
        self._ready: dict[P, deque[LiveSequence[P, J]]] = {}
        self._unplaced: deque[LiveSequence[P, J]] = deque()
        self._sequence_of: dict[J, LiveSequence[P, J]] = {}
        self._lost: dict[str, None] = {}

    def __len__(self) -> int:
        """How many sequences there are."""
        return len(self._live)

    def is_full(self, name: str) -> bool:
        """Whether as many steps of this sequence wait as may."""
        live = self._live.get(name)
        return live is not None and len(live.waiting) >= self._settings.max_queued_steps

    def would_run(self, name: str, places: Collection[P]) -> bool:
        """Whether the next step of this sequence, come now, would run in one of these places without waiting."""
        live = self._live.get(name)
        if live is None or live.place is None:
            room = self._settings.max_per_worker
            return live is None and any(not room or self.count_at(place) < room for place in places)
        return live.running is None and not live.waiting and live.place in places

    def admit_step(
        self, name: str, job: J, now: float, *, start: bool = False, end: bool = False, implicit: bool = False
    ) -> None:
        """Add a step to its sequence. With ``implicit`` it starts an unknown sequence even without ``start``.

        Raises ``InvalidInput`` for a sequence that was not started, ``SequenceLost`` for one whose state is gone and
        ``SequencesFull`` where there is no room; then nothing has changed.
        """
        live = self._live.get(name)
        if live is not None and live.closed and not start:
            if not implicit:
                raise self._not_started(name, "has ended")
            start = True
        if live is None:
            live = self._begin_sequence(name, now, start=start, implicit=implicit)
            start = True
        elif self.is_full(name):
            raise SequencesFull(
                f"sequence '{name}' of model '{self._model}' has {len(live.waiting)} steps waiting, "
                "as many as it may; send the next one when one of them is answered",
                model=self._model,
            )
        live.closed = end
        self._append_step(live, ScheduledStep(job, start=start or live.restart, end=end))
        live.restart = False

    def admit_alone(self, job: J, now: float) -> None:
        """Add a job that belongs to no sequence; it runs at the place with the fewest sequences."""
        live: LiveSequence[P, J] = LiveSequence(None, now)
        live.closed = True
        self._append_step(live, ScheduledStep(job, start=False, end=True))

    def _begin_sequence(self, name: str, now: float, *, start: bool, implicit: bool) -> LiveSequence[P, J]:
        if not start:
            if name in self._lost:
                raise SequenceLost(
                    f"the state of sequence '{name}' of model '{self._model}' is lost: "
                    "the worker that had it is gone; start the sequence anew",
                    model=self._model,
                )
            if not implicit:
                raise self._not_started(name, "was never started, or is over")
        if len(self._live) >= self._settings.max_sequences:
            raise SequencesFull(
                f"model '{self._model}' has {len(self._live)} sequences open, as many as it may; "
                "end one of them, or try again later",
                model=self._model,
            )
        self._lost.pop(name, None)
        live = self._live[name] = LiveSequence(name, now)
        return live

    def _not_started(self, name: str, why: str) -> InvalidInput:
        return InvalidInput(
            f"sequence '{name}' of model '{self._model}' {why}: "
            "the first request of a sequence must say so with sequence_start",
            model=self._model,
        )

    def _append_step(self, live: LiveSequence[P, J], step: ScheduledStep[J]) -> None:
        live.waiting.append(step)
        self._sequence_of[step.job] = live
        self._idle.pop(live, None)
        self._enqueue_sequence(live)

    def _enqueue_sequence(self, live: LiveSequence[P, J]) -> None:
        """Put a sequence whose next step may run in line at its place, or for a place."""
        if live.running is not None or live.queued or not live.waiting:
            return
        live.queued = True
        if live.place is None:
            self._unplaced.append(live)
        else:
            self._ready.setdefault(live.place, deque()).append(live)

    def assign_places(self, places: Sequence[P]) -> None:
        """Give every new sequence the place with the fewest sequences, while one has room."""
        room = self._settings.max_per_worker
        while self._unplaced:
            if room:
                places = [place for place in places if self.count_at(place) < room]
            if not places:
                return
            live = self._unplaced.popleft()
            live.queued = False
            if live.waiting:
                live.place = min(places, key=self.count_at)
                self._held.setdefault(live.place, set()).add(live)
                self._enqueue_sequence(live)

    def count_at(self, place: P) -> int:
        """How many sequences have their state at this place."""
        return len(self._held.get(place, ()))

    def next_at(self, place: P) -> tuple[int, J | None]:
        """How many steps may run at this place now, and the one that has waited for it the longest."""
        ready = self._ready.get(place)
        while ready and not ready[0].waiting:
            ready.popleft().queued = False
        return (len(ready), ready[0].waiting[0].job) if ready else (0, None)

    def take_steps(self, place: P, most: int, rows: Callable[[J], int]) -> list[ScheduledStep[J]]:
        """Take the steps of the next call: of different sequences, at least one, of at most ``most`` rows together.

        ``rows`` returns the rows of a job; it may withdraw the job instead, and returns 0 then.
        """
        taken: list[ScheduledStep[J]] = []
        total = 0
        while self.next_at(place)[0]:
            live = self._ready[place][0]
            step = live.waiting[0]
            size = rows(step.job)
            if not size:
                continue
            if taken and total + size > most:
                break
            self._ready[place].popleft()
            live.queued = False
            live.waiting.popleft()
            live.running, live.used = step, True
            taken.append(step)
            total += size
        return taken

    def finish_step(self, job: J, now: float, *, over: bool = False) -> None:
        """Note that a step has its answer. ``over`` ends the sequence, as if the step had been its last."""
        live = self._sequence_of.pop(job, None)
        if live is not None:
            live.running = None
            live.closed = live.closed or over
            self._enqueue_or_end(live, now)

    def withdraw_step(self, job: J, now: float) -> None:
        """Remove a waiting step, which will not run. Nothing happens for a job that is not known."""
        live = self._sequence_of.pop(job, None)
        if live is None:
            return
        at = next(index for index, step in enumerate(live.waiting) if step.job is job)
        step = live.waiting[at]
        del live.waiting[at]
        if step.start and at < len(live.waiting):
            live.waiting[at].start = True
        elif step.start:
            live.restart = True
        self._enqueue_or_end(live, now)

    def return_step(self, job: J) -> None:
        """Put back a step that was taken and did not run: it is the next one of its sequence again."""
        live = self._sequence_of[job]
        step, live.running = live.running, None
        assert step is not None
        live.used = not step.start
        live.waiting.appendleft(step)
        self._enqueue_sequence(live)

    def _enqueue_or_end(self, live: LiveSequence[P, J], now: float) -> None:
        if live.running is not None:
            return
        if live.waiting:
            self._enqueue_sequence(live)
        elif live.closed or not live.used:
            self._remove_sequence(live)
        else:
            self._idle[live] = now

    def _remove_sequence(self, live: LiveSequence[P, J]) -> None:
        self._idle.pop(live, None)
        if live.id is not None:
            self._live.pop(live.id, None)
        if live.place is not None:
            self._leave_place(live, live.place)

    def _leave_place(self, live: LiveSequence[P, J], place: P) -> None:
        held = self._held[place]
        held.discard(live)
        if not held:
            del self._held[place]
            self._ready.pop(place, None)

    def end_expired(self, now: float) -> None:
        """End sequences that were idle, or have lasted, for too long. Steps that were accepted are still answered."""
        most, settings = self._settings.max_idle, self._settings
        while most and self._idle:
            live, since = next(iter(self._idle.items()))
            if now - since < most:
                break
            self._remove_sequence(live)
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
                self._remove_sequence(live)

    def used_places(self) -> list[P]:
        """The places that have a sequence."""
        return list(self._held)

    def runs_at(self, place: P) -> bool:
        """Whether a step runs at this place."""
        return any(live.running is not None for live in self._held.get(place, ()))

    def drop_place(self, place: P) -> list[J]:
        """Remove a place that is gone, where no step runs. Return the jobs that wait for a state that was lost with it.

        A sequence that has not begun there, or is to be started again, goes to another place.
        """
        self._ready.pop(place, None)
        lost: list[J] = []
        for live in self._held.pop(place, set()):
            live.place, live.queued = None, False
            if live.used:
                while live.waiting and not live.waiting[0].start:
                    step = live.waiting.popleft()
                    del self._sequence_of[step.job]
                    lost.append(step.job)
            if live.waiting:
                live.used = False
                self._enqueue_sequence(live)
            else:
                self._remove_sequence(live)
                if live.id is not None:
                    self.remember_lost([live.id])
        return lost

    def open_ids(self) -> list[str]:
        """The ids of the sequences that are not over."""
        return list(self._live)

    def remember_lost(self, lost: Iterable[str]) -> None:
        """Note that the state of these sequences is lost, so that a client that goes on with one gets an error."""
        for name in lost:
            self._lost[name] = None
            if len(self._lost) > _MAX_REMEMBERED:
                del self._lost[next(iter(self._lost))]

    def waiting_jobs(self) -> Iterator[J]:
        """The jobs of all steps that wait."""
        for live in set(self._sequence_of.values()):
            for step in live.waiting:
                yield step.job
