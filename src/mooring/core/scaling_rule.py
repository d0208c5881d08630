"""How many units a version should have by how long its requests wait: the rule alone, without a clock or a process.

A *unit* is a worker where a server scales the workers of a version, and a replica where the controller of a cluster scales
those. Runs in the first process of a server, and in the controller.
"""

import math
from collections import deque

import msgspec

# A decision has at most so many times the units that are ready now: what more would do is not known before they answer.
_MOST_GROWTH = 4.0
# The share of their time that units may be busy. More, and those that wait at random wait long.
_BUSY_SHARE = 0.7


class ScalingBounds(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator wants of a version. Times are in seconds.

    95 of 100 requests should wait for less than ``target``, with ``least`` to ``most`` units. Waiting and work are measured over
    a ``window``. Units go once fewer were enough for the whole of a ``cool_down``.
    """

    target: float
    least: int
    most: int
    window: float
    cool_down: float


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What a version has to do, and what it has for it.

    ``units`` are kept up, of which ``ready`` can answer; ``busy`` of these work at the moment, in units, with fractions. ``waiting``
    requests have no unit yet, and the oldest of them has waited ``oldest_wait`` seconds. ``queue_p95`` is the 95th percentile
    of the seconds that those answered within the window had waited, 0.0 where there were none. ``requests`` counts all
    that ever went to a unit: it tells of those that came and went between two looks.
    """

    units: int
    ready: int
    busy: float = 0.0
    waiting: int = 0
    oldest_wait: float = 0.0
    queue_p95: float = 0.0
    requests: int = 0


class ScalingRule:
    """Decides for one version how many units it should have. Call ``decide`` a few times a second.

    How this works: each look says how many units are *needed*. While requests wait longer than the target, these are as many
    times the ready ones as the wait is times the target, at most four times as many. Otherwise they are those that would
    be busy for 70 % of their time. More than there are is granted at once; fewer only where no look of the last
    ``cool_down`` needed more, and then at most half of the units go. So a burst gets units at once, and they outlast a pause in it.

    The wait is that of the oldest request that waits, so that a burst counts before its first answer. What answered
    requests had waited counts, too, once the same number of units has been ready for a whole window: until then it tells of
    fewer units than there are. A pause in the looks longer than a window begins a cool-down anew. Without a request for a ``cool_down`` the last unit goes, where ``least`` is 0.
    """

    def __init__(self) -> None:
        self.needed = 0
        """The units that the last look needed, whatever the bounds allow."""
        self._since: float | None = None  # when the first look was, or the last time that units went
        self._looked = 0.0
        self._ready = 0
        self._ready_since = 0.0
        self._busy = 0.0  # the mean of a window
        self._used = 0.0  # when anything was to do last
        self._requests = 0
        # The most units needed, from each of these times on: the numbers fall, so there are few.
        self._maxima: deque[tuple[float, int]] = deque()

    def decide(self, now: float, bounds: ScalingBounds, demand: Demand) -> int:
        """Return the number of units to keep up from now on, within the bounds. ``now`` is in seconds of any steady clock."""
        if self._since is None or now - self._looked > bounds.window:
            self._since, self._looked, self._requests = now, now, demand.requests
        self._note_demand(now, bounds, demand)
        self.needed = max(self._units_needed(now, bounds, demand), bounds.least)
        highest = self._note_needed(now, bounds.cool_down)
        wanted = demand.units
        if self.needed > wanted:
            wanted = self.needed
        elif highest < wanted and now - self._since >= bounds.cool_down:
            fewest = (wanted + 1) // 2 if wanted > 1 else 0
            wanted, self._since = max(highest, fewest), now
        return min(max(wanted, bounds.least), bounds.most)

    def _note_demand(self, now: float, bounds: ScalingBounds, demand: Demand) -> None:
        if demand.ready != self._ready:
            self._ready, self._ready_since = demand.ready, now
        if demand.waiting or demand.busy or demand.requests > self._requests:
            self._used = now
        fresh = -math.expm1(-(now - self._looked) / bounds.window)
        self._busy += (demand.busy - self._busy) * fresh
        if now - self._used >= bounds.window:
            self._busy = 0.0
        self._requests, self._looked = demand.requests, now

    def _units_needed(self, now: float, bounds: ScalingBounds, demand: Demand) -> int:
        in_use = self._used == now
        if not demand.ready:  # nothing is known of what one does
            return max(demand.units, in_use)
        wait = demand.oldest_wait
        if now - self._ready_since >= bounds.window:
            wait = max(wait, demand.queue_p95)
        if wait > bounds.target:
            growth = min(wait / bounds.target, _MOST_GROWTH)
            return max(math.ceil(demand.ready * growth), demand.ready + 1, demand.units)
        needed = max(math.ceil(self._busy / _BUSY_SHARE - 1e-9), in_use)
        # Those that still start are part of an answer that is not known yet; and near the target none can be spared.
        if demand.ready < demand.units or wait > bounds.target / 2:
            needed = max(needed, demand.units)
        return needed

    def _note_needed(self, now: float, cool_down: float) -> int:
        """Note the units that this look needed; return the most that any look of the last ``cool_down`` did."""
        maxima = self._maxima
        while maxima and maxima[-1][1] <= self.needed:
            maxima.pop()
        maxima.append((now, self.needed))
        while maxima[0][0] < now - cool_down:
            maxima.popleft()
        return maxima[0][1]
