"""The rules of sequences: which step may run where, and when a sequence is over. Pure: no clock and no worker.

A *place* is whatever keeps the state of its sequences (a worker), a *job* is one step of one (a request). Four rules
hold whatever happens: the steps of a sequence run in the order in which they came, one at a time, all in one place, and
in one slot of it, which no other sequence has meanwhile.
"""

import heapq
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
    """One step of a sequence. With ``start`` the model must forget what it knew of the sequence.

    An ``implicit`` step starts its sequence where no step before it did.
    """

    __slots__ = ("end", "implicit", "job", "start")

    def __init__(self, job: J, *, start: bool, end: bool, implicit: bool = False) -> None:
        self.job = job
        self.start = start
        self.end = end
        self.implicit = implicit


class Slots:
    """The numbers, from 0, of the sequences at one place. A new sequence gets the lowest that is free."""

    __slots__ = ("_beyond", "_freed")

    def __init__(self) -> None:
        self._beyond = 0  # this number and all above it are free
        self._freed: list[int] = []  # free numbers below it, as a heap

    def take(self) -> int:
        """Return the lowest free number, which is not free any more."""
        if self._freed:
            return heapq.heappop(self._freed)
        self._beyond += 1
        return self._beyond - 1

    def free(self, slot: int) -> None:
        """Give a number back."""
        heapq.heappush(self._freed, slot)


class LiveSequence(Generic[P, J]):
    """A sequence that is not over. Once it is ``used``, a step of it has run at its place, and it cannot go elsewhere.

    ``slot`` is its number at its place.
    """

    __slots__ = ("began", "closed", "id", "place", "queued", "restart", "running", "slot", "used", "waiting")

    def __init__(self, name: str | None, now: float) -> None:
        self.id = name
        self.began = now
        self.place: P | None = None
        self.slot = 0
        self.waiting: deque[ScheduledStep[J]] = deque()
        self.running: ScheduledStep[J] | None = None
        self.used = False
        self.closed = False  # over once what waits has run, unless it is started anew
        self.restart = False  # the step that was to start it was withdrawn: the next one does
        self.queued = False  # in line at its place


class Sequences(Generic[P, J]):
    """The sequences of one model.

    How this works: ``admit_step`` adds a step to its sequence, which stands in line while its next step may run: at its
    place, or in the backlog until ``assign_places`` gives it one. ``take_steps`` removes the next steps of a place from the
    line; ``finish_step`` lets each sequence stand in line again, or ends it. A sequence without a step is idle, and ends when
    it has been so for too long. When a place is gone, ``drop_place`` tells which steps have lost their state.

    A step that was to start its sequence and did not run, because it was refused or withdrawn, leaves that to the next one
    only where that one is implicit. All others are refused with ``not_started_error``: the methods return their jobs.
    """

    def __init__(self, model: str, settings: SequenceOptions) -> None:
        self._model = model
        self._settings = settings
        self._live: dict[str, LiveSequence[P, J]] = {}  # the oldest first
        # The sequences without a step, and since when; the longest idle first.
        self._idle: dict[LiveSequence[P, J], float] = {}
        self._held: dict[P, dict[LiveSequence[P, J], None]] = {}  # in the order in which they came there
        self._slots: dict[P, Slots] = {}
        self._ready: dict[P, deque[LiveSequence[P, J]]] = {}
        # The sequences that wait for a place, the next one first.
        self._backlog: dict[LiveSequence[P, J], None] = {}
        self._sequence_of: dict[J, LiveSequence[P, J]] = {}
        self._lost: dict[str, None] = {}

    def __len__(self) -> int:
        """How many sequences there are."""
        return len(self._live)

    @property
    def backlog(self) -> int:
        """How many sequences wait for a place."""
        return len(self._backlog)

    def is_open(self, name: str) -> bool:
        """Whether a sequence of this name has begun, or waits to begin."""
        return name in self._live

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
        if live is not None and (live.closed or live.restart) and not start:
            if not implicit:
                raise self.not_started_error(name)
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
        self._append_step(live, ScheduledStep(job, start=start, end=end, implicit=implicit))
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
                raise self.not_started_error(name)
        most = self._settings.max_sequences
        if most and len(self._live) >= most:
            raise SequencesFull(
                f"model '{self._model}' has {len(self._live)} sequences open, as many as it may; "
                "end one of them, or try again later",
                model=self._model,
            )
        self._lost.pop(name, None)
        live = self._live[name] = LiveSequence(name, now)
        return live

    def not_started_error(self, name: str) -> InvalidInput:
        """The error of a step whose sequence has not begun, or is over, in the words that tests of Triton's clients ask for."""
        return InvalidInput(
            f"inference request for sequence {name} to model '{self._model}' must specify the START flag on the "
            "first request of the sequence",
            model=self._model,
        )

    def _append_step(self, live: LiveSequence[P, J], step: ScheduledStep[J]) -> None:
        live.waiting.append(step)
        self._sequence_of[step.job] = live
        self._idle.pop(live, None)
        self._enqueue_sequence(live)

    def _enqueue_sequence(self, live: LiveSequence[P, J]) -> None:
        """Put a sequence whose next step may run in line at its place, or into the backlog."""
        if live.running is not None or live.queued or not live.waiting:
            return
        if live.place is None:
            self._backlog.setdefault(live)
        else:
            live.queued = True
            self._ready.setdefault(live.place, deque()).append(live)

    def assign_places(self, places: Sequence[P]) -> None:
        """Give every new sequence the place with the fewest sequences, while one has room."""
        room = self._settings.max_per_worker
        while self._backlog:
            if room:
                places = [place for place in places if self.count_at(place) < room]
            if not places:
                return
            live = next(iter(self._backlog))
            del self._backlog[live]
            live.place = min(places, key=self.count_at)
            live.slot = self._slots.setdefault(live.place, Slots()).take()
            self._held.setdefault(live.place, {})[live] = None
            self._enqueue_sequence(live)

    def count_at(self, place: P) -> int:
        """How many sequences have their state at this place."""
        return len(self._held.get(place, ()))

    def slot_of(self, job: J) -> int:
        """The number that the sequence of a job has at its place."""
        return self._sequence_of[job].slot

    def next_at(self, place: P) -> tuple[int, J | None]:
        """How many steps may run at this place now, and the one that has waited for it the longest."""
        ready = self._ready.get(place)
        while ready and not ready[0].waiting:
            ready.popleft().queued = False
        return (len(ready), ready[0].waiting[0].job) if ready else (0, None)

    def take_steps(
        self, place: P, most: int, rows: Callable[[J], int], *, max_steps: int | None = None
    ) -> list[ScheduledStep[J]]:
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
            if taken and (total + size > most or len(taken) == max_steps):
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
        if live is None:
            return
        step, live.running = live.running, None
        live.closed = live.closed or over
        if step is not None and step.end and live.waiting and live.place is not None and self._backlog:
            # What comes next under its name is a new sequence, and waits its turn.
            self._leave_place(live, live.place)
            live.place, live.used = None, False
        self._enqueue_or_end(live, now)

    def refuse_step(self, job: J, now: float) -> list[J]:
        """Note that a step was refused before the model saw it: its sequence is as it was before. Return the jobs to refuse."""
        live = self._sequence_of.pop(job, None)
        if live is None:
            return []
        step, live.running = live.running, None
        assert step is not None
        if step.start:
            live.used = False
        elif step.end and not live.waiting:
            live.closed = False
        lost = self._pass_start_on(live, 0) if step.start else []
        self._enqueue_or_end(live, now)
        return lost

    def withdraw_step(self, job: J, now: float) -> list[J]:
        """Remove a waiting step, which will not run, if it is known. Return the jobs to refuse."""
        live = self._sequence_of.pop(job, None)
        if live is None:
            return []
        at = next(index for index, step in enumerate(live.waiting) if step.job is job)
        step = live.waiting[at]
        del live.waiting[at]
        if step.start and at == len(live.waiting) and step.implicit:
            live.restart = True
        lost = self._pass_start_on(live, at) if step.start and not live.restart else []
        self._enqueue_or_end(live, now)
        return lost

    def _pass_start_on(self, live: LiveSequence[P, J], at: int) -> list[J]:
        """Let the step that waits at this index start the sequence in place of the one before it, which did not run.

        Those that must not are removed, up to one that may; their jobs are returned. Where none is left, the sequence is
        over.
        """
        lost: list[J] = []
        while at < len(live.waiting) and not (live.waiting[at].start or live.waiting[at].implicit):
            lost.append(live.waiting[at].job)
            del self._sequence_of[live.waiting[at].job]
            del live.waiting[at]
        if at < len(live.waiting):
            live.waiting[at].start = True
        else:
            live.closed = True
        return lost

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
        self._backlog.pop(live, None)
        if live.id is not None:
            self._live.pop(live.id, None)
        if live.place is not None:
            self._leave_place(live, live.place)

    def _leave_place(self, live: LiveSequence[P, J], place: P) -> None:
        held = self._held[place]
        del held[live]
        self._slots[place].free(live.slot)
        if not held:
            del self._held[place], self._slots[place]
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

    def end_idle(self) -> None:
        """End sequences without a step, whose next one would be refused. Their state counts as lost."""
        self.remember_lost([live.id for live in self._idle if live.id is not None])
        for live in list(self._idle):
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
        self._slots.pop(place, None)
        lost: list[J] = []
        displaced: list[LiveSequence[P, J]] = []
        for live in self._held.pop(place, ()):
            live.place, live.queued = None, False
            if live.used:
                while live.waiting and not live.waiting[0].start:
                    step = live.waiting.popleft()
                    del self._sequence_of[step.job]
                    lost.append(step.job)
            if live.waiting:
                live.used = False
                displaced.append(live)
            else:
                self._remove_sequence(live)
                if live.id is not None:
                    self.remember_lost([live.id])
        # They came before all that wait for a place.
        displaced.sort(key=lambda live: live.began)
        self._backlog = {**dict.fromkeys(displaced), **self._backlog}
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

    def jobs(self) -> Iterator[J]:
        """The jobs of all steps that wait or run, in the order in which they came."""
        return iter(self._sequence_of)

    def waiting_jobs(self) -> Iterator[J]:
        """The jobs of all steps that wait."""
        for live in dict.fromkeys(self._sequence_of.values()):
            for step in live.waiting:
                yield step.job
