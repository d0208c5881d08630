"""The rules of batching: when a batch leaves, and how many rows go to one worker. Pure: no clock and no queue."""

from collections.abc import Iterable

import msgspec

# Seconds for which one message may keep a worker busy. A message costs the server and the worker about as much as a
# tiny request, so many tiny requests share one. A longer message would hold back requests that come later, and
# requests that another worker could already run.
MESSAGE_TIME = 0.001
MAX_MESSAGE_ROWS = 256
# Rows that take at least this long, in seconds, are worth waiting for (see ``refill_wait``): below it, the timer and
# the pause cost more than a fuller batch saves.
SLOW_ROW = 0.002
MAX_REFILL_WAIT = 0.005


class BatchPolicy(msgspec.Struct, frozen=True):
    """When a batch leaves. Sizes are in rows, times in seconds.

    By default an idle worker is never kept waiting. With ``exact`` the oldest request waits ``max_delay`` for others
    even then, as in TorchServe; ``max_size=1`` turns batching off, and then nothing ever waits.
    """

    max_size: int = 1
    max_delay: float = 0.0
    exact: bool = False

    def due_in(self, waiting: int, oldest_age: float) -> float:
        """Seconds until a batch should leave for an idle worker: 0.0 means now.

        >>> BatchPolicy(max_size=4, max_delay=0.5, exact=True).due_in(waiting=4, oldest_age=0.0)
        0.0
        >>> BatchPolicy(max_size=4, max_delay=0.5, exact=True).due_in(waiting=1, oldest_age=0.25)
        0.25
        >>> BatchPolicy(max_size=4, max_delay=0.5).due_in(waiting=1, oldest_age=0.0)
        0.0
        """
        # A delay makes batches fuller only while the workers are idle. While they are busy requests gather by
        # themselves, so the delay would only add to the latency. TorchServe delays all the same: ``exact`` does as it.
        if not self.exact or waiting >= self.max_size:
            return 0.0
        return max(0.0, self.max_delay - oldest_age)

    def share_of_room(self, waiting: int, idle: int, room: int) -> int:
        """The number of rows to send next to a worker that takes requests while others run, and forms its own batches.

        ``room`` is how many it takes now, ``idle`` how many workers have room.

        >>> BatchPolicy(max_size=1).share_of_room(waiting=50, idle=2, room=256)
        25
        >>> BatchPolicy(max_size=8).share_of_room(waiting=50, idle=2, room=3)
        3
        """
        most = min(room, self.max_size) if self.exact else room
        return max(1, min(most, -(-waiting // idle)))

    def share_of_queue(self, waiting: int, idle: int, row_time: float | None) -> int:
        """The number of waiting rows to send to the next of ``idle`` workers; a row takes ``row_time`` seconds.

        Never more than its even share, so that no worker idles while another has a heap. Never more than one batch of
        a slow model, or of one whose speed is not known yet. Of a fast model as much as runs in ``MESSAGE_TIME``.

        >>> BatchPolicy(max_size=8).share_of_queue(waiting=8, idle=2, row_time=0.05)
        4
        >>> BatchPolicy(max_size=1).share_of_queue(waiting=40, idle=1, row_time=0.00001)
        40
        """
        most = self.max_size
        if row_time is not None and not self.exact:
            # The worker cuts a message into batches. 1e-7 only keeps the division defined.
            most = max(most, min(MAX_MESSAGE_ROWS, int(MESSAGE_TIME / max(row_time, 1e-7))))
        return max(1, min(most, -(-waiting // idle)))


class SequencePolicy(msgspec.Struct, frozen=True):
    """When the steps of sequences leave that wait at one worker, as in Triton. Sizes are in steps, times in seconds.

    ``preferred`` are the sizes of a call that leave without a delay, and the largest of them is the most that leave
    together; without any it is ``max_size``. With ``min_fill`` (Triton's minimum_slot_utilization) a call leaves without a
    delay where that part of its slots has a step. Without ``max_delay`` nothing waits.
    """

    max_size: int = 1
    max_delay: float = 0.0
    preferred: tuple[int, ...] = ()
    min_fill: float | None = None

    def next_call(self, ready: int, oldest_age: float) -> tuple[int, float]:
        """How many of ``ready`` steps leave now, and where none does, the seconds until some do.

        >>> SequencePolicy(max_size=8, max_delay=0.5, preferred=(2, 4)).next_call(3, oldest_age=0.0)
        (2, 0.0)
        >>> SequencePolicy(max_size=8, max_delay=0.5).next_call(3, oldest_age=0.25)
        (0, 0.25)
        >>> SequencePolicy(max_size=8, max_delay=0.5, min_fill=0.25).next_call(2, oldest_age=0.0)
        (2, 0.0)
        """
        late = oldest_age >= self.max_delay
        if self.min_fill is not None:
            leaves = late or ready >= self.min_fill * self.max_size
            return (ready, 0.0) if leaves else (0, self.max_delay - oldest_age)
        most = max(self.preferred, default=self.max_size)
        size = max((each for each in self.preferred if each <= ready), default=0)
        if size and not (late and self.max_delay):
            return size, 0.0
        if late or ready >= most:
            return min(ready, most), 0.0
        return 0, self.max_delay - oldest_age


def fair_share(load: int, workers: int, elsewhere: int) -> int:
    """The number of ``load`` rows that one worker should have while ``elsewhere`` of them run on other workers.

    >>> fair_share(8, workers=2, elsewhere=4)
    4
    >>> fair_share(7, workers=2, elsewhere=6)
    1
    >>> fair_share(7, workers=2, elsewhere=1)
    4
    """
    return max(1, min(-(-load // max(workers, 1)), load - elsewhere))


def refill_wait(row_time: float | None) -> float:
    """Seconds to wait for the callers that were just answered together; 0.0 for a fast model.

    A quarter of a row's time is soon made good by a fuller batch.

    >>> refill_wait(0.008), refill_wait(0.0001)
    (0.002, 0.0)
    """
    return min(row_time / 4, MAX_REFILL_WAIT) if row_time is not None and row_time >= SLOW_ROW else 0.0


class RefillWait:
    """Keeps the batches of a slow model full and even when its callers ask again as soon as they are answered.

    How this works: callers that send one request after another come back together when a batch is answered, but not in
    the same instant. A worker that leaves with the first of them runs a batch of one, and the next worker finds all the
    others. The batches then stay uneven for as long as the same callers ask: with 8 callers of two workers they were
    of 1 and 6 rows. So after an answer the worker waits for its fair share of the callers, for a part of a row's time at
    most. The load that is expected is what ran and waited when the answer came. Once a batch has left, nothing waits
    until the next answer. A lone caller never waits, because its share is its own one request.
    """

    __slots__ = ("_elsewhere", "_expected_load", "_until")

    def __init__(self) -> None:
        self._until = 0.0
        self._expected_load = self._elsewhere = 0

    def note_answers(self, row_time: float, running: int, waiting: int, answered: int, now: float) -> None:
        """A worker has answered so many rows; ``running`` still counts them."""
        self._expected_load = running + waiting
        self._elsewhere = running - answered
        self._until = now + refill_wait(row_time)

    def due_in(self, waiting: int, workers: int, max_size: int, now: float) -> float:
        """Seconds to go on waiting before a batch leaves: 0.0 means now."""
        share = fair_share(self._expected_load, workers, self._elsewhere)
        if now < self._until and waiting < min(share, max_size):
            return self._until - now
        self._until = 0.0
        return 0.0


class RowTime:
    """A running estimate of the seconds that one row takes, quick to believe bad news and slow to believe good."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float | None = None

    def observe(self, batches: Iterable[tuple[int, float, int]]) -> None:
        """The model took so many seconds for so many rows (of so many requests), once or several times."""
        value = self.value
        for rows, seconds, _ in batches:
            now = seconds / rows if rows else seconds
            # A slow call that is not believed at once would put a whole message of slow rows on one worker. A call
            # below MESSAGE_TIME cannot do that harm, and is often only a hiccup of a fast model.
            if value is None or (seconds > MESSAGE_TIME and now > value * 4):
                value = now
            else:
                value += (now - value) * 0.1
        self.value = value
