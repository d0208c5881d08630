"""Which process has the connections: pure rules, with no clock and no socket.

Each request costs least where most of them come: messages to workers, wake-ups and system calls are shared by those
that are there at the same moment. So all connections are the first process's for as long as its loop has time for them,
or no core is idle that another loop could use; and they come back when fewer loops would have the time. Connections of
TLS and of HTTP/2 cannot migrate: where a loop is full, new ones go to other processes, and nothing else.
"""

from collections.abc import Sequence

import msgspec

# A loop that used so much of a core since the last look has no time left.
FULL = 0.85
# Idle cores that one more loop needs. Below that it would only take them from workers and clients.
ROOM = 0.5
# Below so many idle cores the loops compete, and what they use is less than what they want.
CROWDED = 0.2
# Looks in a row that say so before connections go away, and the seconds before they come back: one look is chance.
LOOKS = 2
PATIENCE = 1.0
# Who gave connections away so soon after they had come back is slower to take them back the next time, up to a minute.
RELAPSE = 10.0
MOST_PATIENCE = 60.0
# A gap between two loops below which nothing is gained by making them equal.
GAP = 0.25
# A loop that left new connections to others takes some again when it uses so much less of a core than a full one.
RELIEF = 0.1


class Load(msgspec.Struct, array_like=True, frozen=True):
    """What a process has to do: ``busy`` is the share of a core that its loop uses.

    ``connections`` are those that can migrate, ``fixed`` those that cannot: of TLS and of HTTP/2.
    """

    busy: float
    connections: int
    fixed: int = 0


class Migration(msgspec.Struct, frozen=True):
    """A share of one process's connections that goes to another; 1.0 is all, idle ones too."""

    giver: int
    taker: int
    share: float


class BalancePolicy:
    """Who is open, which means takes connections, of so many processes. The first one, number 0, always is.

    ``present`` are those that run: one that died has no connections and gets none until another takes its place.
    ``paused`` are those that leave new connections which cannot migrate to the others.
    """

    def __init__(self, count: int) -> None:
        self.present = [True] * count
        self.open = [True] + [False] * (count - 1)
        self.paused = [False] * count
        self._patience = PATIENCE
        self._full_looks = [0] * count
        self._loose_since: float | None = None
        self._gathered_at = float("-inf")
        self._moved = False

    def next(self, now: float, loads: Sequence[Load], idle: float) -> list[Migration]:
        """What is to move after this look at all processes, with so many cores idle since the last one."""
        self.open = [was and there for was, there in zip(self.open, self.present, strict=True)]
        moves = self._moves(now, loads, idle)
        self._pause(loads)
        return moves

    def _moves(self, now: float, loads: Sequence[Load], idle: float) -> list[Migration]:
        if self._moved:  # what was seen is of before and after
            self._moved = False
            return []
        moves = self._spread(now, loads, idle) or self._gather(now, loads, idle)
        self._moved = bool(moves)
        return moves

    def _spread(self, now: float, loads: Sequence[Load], idle: float) -> list[Migration]:
        moves = []
        takers = {number for number, there in enumerate(self.present) if there}
        for giver in sorted(takers, key=lambda number: -loads[number].busy):
            load = loads[giver]
            if load.busy < FULL or load.connections + load.fixed < 2:
                self._full_looks[giver] = 0
                continue
            self._full_looks[giver] += 1
            if self._full_looks[giver] < LOOKS:
                continue
            takers.discard(giver)
            taker = min(takers, key=lambda number: (loads[number].busy, number), default=giver)
            gap = load.busy - loads[taker].busy
            if gap < GAP:
                continue
            if not self.open[taker]:
                if idle < ROOM:
                    continue
                idle -= ROOM
                self._open(now, taker)
            takers.discard(taker)
            self._full_looks[giver] = 0
            moves.append(Migration(giver, taker, gap / 2 / load.busy))
        return moves

    def _pause(self, loads: Sequence[Load]) -> None:
        """Pause who is full while another open process has room: its connections stay, and new ones go to the other."""
        serving = [number for number, is_open in enumerate(self.open) if is_open]
        for number, load in enumerate(loads):
            room = load.busy - min(loads[other].busy for other in serving)
            if not self.open[number] or room <= 0 or load.busy < FULL - RELIEF:
                self.paused[number] = False
            elif load.busy >= FULL and room >= GAP:
                self.paused[number] = True

    def _open(self, now: float, number: int) -> None:
        self.open[number] = True
        if now - self._gathered_at < max(RELAPSE, self._patience):
            self._patience = min(2 * self._patience, MOST_PATIENCE)
        else:
            self._patience = PATIENCE

    def _gather(self, now: float, loads: Sequence[Load], idle: float) -> list[Migration]:
        """Close the process that does least when the others have the time; who is closed keeps nothing it can give."""
        serving = [number for number, is_open in enumerate(self.open) if is_open]
        busy = sum(loads[number].busy for number in serving)
        if busy > (len(serving) - 1) * (FULL if idle < CROWDED else 0.6):
            self._loose_since = None
        elif self._loose_since is None:
            self._loose_since = now
        elif now - self._loose_since >= self._patience and len(serving) > 1:
            least = min(serving[1:], key=lambda number: loads[number].busy)
            self.open[least] = False
            serving.remove(least)
            self._loose_since, self._gathered_at = None, now
        taker = min(serving, key=lambda number: loads[number].busy)
        return [
            Migration(number, taker, 1.0)
            for number, is_open in enumerate(self.open)
            if not is_open and self.present[number] and loads[number].connections
        ]


def queue_share(queue_size: int, count: int) -> int:
    """What each of so many processes has of a bound on a queue.

    >>> queue_share(100, 3), queue_share(1, 2)
    (33, 1)
    """
    return max(1, queue_size // count)
