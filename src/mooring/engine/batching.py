"""When waiting requests leave, and how many of them go to one worker: pure rules, with no clock and no queue."""

from collections.abc import Iterable

import msgspec

# A message to a worker should not keep it longer than this, in seconds: long enough that the cost of the message is
# shared by many requests, short enough that other workers, or requests that come later, do not wait for it.
MESSAGE_TIME = 0.001
MOST_REQUESTS = 256
# Rows that take as long as this, in seconds, are worth looking after one by one.
SLOW_ROW = 0.002
MOST_COMPANY = 0.005


class BatchPolicy(msgspec.Struct, frozen=True):
    """When a batch leaves. Sizes are in rows, times in seconds.

    By default an idle worker is never kept waiting. With ``exact`` the oldest request waits ``max_delay`` for company
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
        if not self.exact or waiting >= self.max_size:
            return 0.0
        return max(0.0, self.max_delay - oldest_age)

    def share_of_room(self, waiting: int, idle: int, room: int) -> int:
        """How many rows the next of the workers gets that take requests while others run, and cut batches themselves.

        >>> BatchPolicy(max_size=1).share_of_room(waiting=50, idle=2, room=256)
        25
        >>> BatchPolicy(max_size=8).share_of_room(waiting=50, idle=2, room=3)
        3
        """
        most = min(room, self.max_size) if self.exact else room
        return max(1, min(most, -(-waiting // idle)))

    def share(self, waiting: int, idle: int, row_time: float | None) -> int:
        """How many rows the next idle worker should get of those that wait.

        Never more than its even share, so that none idles while another has a heap; never more than one batch of a
        slow model, or of one whose speed is not known yet; of a fast one what it can do in ``MESSAGE_TIME``.

        >>> BatchPolicy(max_size=8).share(waiting=8, idle=2, row_time=0.05)
        4
        >>> BatchPolicy(max_size=1).share(waiting=40, idle=1, row_time=0.00001)
        40
        """
        most = self.max_size
        if row_time is not None and not self.exact:
            most = max(most, min(MOST_REQUESTS, int(MESSAGE_TIME / max(row_time, 1e-7))))
        return max(1, min(most, -(-waiting // idle)))


def fair(level: int, workers: int, others: int) -> int:
    """How many of ``level`` requests one of the workers should have when ``others`` of them run elsewhere.

    >>> fair(8, workers=2, others=4)
    4
    >>> fair(7, workers=2, others=6)
    1
    >>> fair(7, workers=2, others=1)
    4
    """
    return max(1, min(-(-level // max(workers, 1)), level - others))


def company(row_time: float | None) -> float:
    """Seconds to wait for those who were just answered together, and are likely to ask again; 0.0 for a fast model.

    A quarter of a row's time is soon made good by a fuller batch, and a lone caller never waits.

    >>> company(0.008), company(0.0001)
    (0.002, 0.0)
    """
    return min(row_time / 4, MOST_COMPANY) if row_time is not None and row_time >= SLOW_ROW else 0.0


class RowTime:
    """A running estimate of the seconds that one row takes, quick to believe bad news and slow to believe good."""

    def __init__(self) -> None:
        self.value: float | None = None

    def observe(self, batches: Iterable[tuple[int, float]]) -> None:
        """The model took so many seconds for so many rows, once or several times."""
        value = self.value
        for rows, seconds in batches:
            now = seconds / rows if rows else seconds
            if value is None or (seconds > MESSAGE_TIME and now > value * 4):
                value = now
            else:
                value += (now - value) * 0.1
        self.value = value
