"""What failed in a pool of workers, and when its next worker may be started. Pure rules: time comes in as an argument."""

import math

from mooring.core.errors import MooringError
from mooring.workers.retries import backoff

# A pool that had all its workers for so many seconds has recovered, whether or not they were asked for anything. It is
# longer than the longest pause between two tries.
_RECOVERED_AFTER = 60.0


class FailureHistory:
    """The failures in a row of one pool's workers.

    How this works: every worker that dies or cannot load its model adds one to ``in_a_row``, which sets the pause before
    the next try (``backoff``). The row ends when a worker that was started after the last failure answers something,
    or when the pool had all its workers for a minute. An older worker's answers end nothing: the next one may still
    fail at once, and would be tried again without a pause.

    All times are seconds on the monotonic clock.
    """

    def __init__(self) -> None:
        self.in_a_row = 0
        self.since: float | None = None  # the first failure of the row
        self.load_failures = 0  # workers that never had the model, over all time
        self.last_load_error: MooringError | None = None
        self._last = -math.inf
        self._complete_since = math.inf
        self._not_before = -math.inf

    def record(self, error: MooringError, now: float, *, loading: bool) -> None:
        """Count a worker that died, or with ``loading`` one that never had the model."""
        if loading:
            self.load_failures += 1
            self.last_load_error = error
        if now - self._complete_since > _RECOVERED_AFTER:
            self._forget()
        self._complete_since, self._last = math.inf, now
        if self.since is None:
            self.since = now
        self.in_a_row += 1

    def record_answer(self, worker_started: float) -> None:
        """End the row if a worker that was started after the last failure has answered."""
        if worker_started > self._last:
            self._forget()

    def record_complete(self, now: float) -> None:
        """Note that the pool has all its workers."""
        self._complete_since = now

    def record_no_room(self, now: float) -> None:
        """Start no process for a while: the machine has no room for one."""
        self._not_before = now + backoff(self.in_a_row)

    def pause(self, now: float) -> float:
        """Seconds until a process may be started at all; negative when that was earlier."""
        return self._not_before - now

    def retry_delay(self, now: float) -> float:
        """Seconds before a worker is started in the place of one that failed."""
        return max(backoff(self.in_a_row), self.pause(now))

    def _forget(self) -> None:
        self.in_a_row = 0
        self.since = None
