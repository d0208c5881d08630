"""Which processes are frozen: they live, but neither answer nor work. Rules, and what the kernel says of a process.

Templates and frontends have a loop that answers at once, so they are pinged. A worker answers nobody while its model runs,
which may take minutes and no CPU: of workers only those count as frozen that a signal has stopped.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil


class Deadlines(NamedTuple):
    """Seconds after which a process that does not answer is frozen (0.0: never), and in which one must have started."""

    heartbeat: float = 10.0
    startup: float = math.inf


DEADLINES = Deadlines()

# How often a process is looked at within the time-out.
_LOOKS = 5
# One that works, but does not answer for so many times the time-out, is frozen all the same.
_PATIENCE_WITH_BUSY = 6


class Clock:
    """Counts the seconds between looks. What the server slept through counts as one look: nobody could answer then."""

    def __init__(self, timeout: float) -> None:
        self._interval = timeout / _LOOKS
        self._looked = 0.0

    def step(self, now: float) -> float:
        """The seconds to count; 0.0 where it is too soon for another look, and always without a time-out."""
        passed = now - self._looked
        if passed < self._interval:
            return 0.0
        self._looked = now
        return min(passed, 2 * self._interval)


class Heartbeat:
    """Whether one process that answers pings is frozen. With ``timeout`` 0.0 it never is.

    It is when it has not answered for ``timeout`` seconds and has used no CPU meanwhile: on a loaded machine, and while it
    does something that takes long, it uses some. One that only works is given up after six times as long.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._clock = Clock(timeout)
        self._asked = False
        self._silent = self._idle = 0.0
        self._used = -1.0

    def record_pong(self) -> None:
        """The process has answered."""
        self._asked = False

    def is_frozen(self, now: float, *, ping: Callable[[], None], used: Callable[[], float]) -> bool:
        """Call this a few times a second. Calls ``ping`` when it is time; ``used`` is the CPU seconds of the process."""
        if not self._timeout or not (step := self._clock.step(now)):
            return False
        if not self._asked:
            self._asked, self._silent, self._idle, self._used = True, 0.0, 0.0, -1.0
            ping()
            return False
        self._silent += step
        before, self._used = self._used, used()
        self._idle = self._idle + step if self._used <= before or before < 0 else 0.0
        return self._idle >= self._timeout or self._silent >= _PATIENCE_WITH_BUSY * self._timeout


class StopWatch:
    """Whether a signal has stopped a process for too long, whatever it was doing. With ``timeout`` 0.0 it never has.

    A process that a debugger has stopped is in another state, and left alone.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._clock = Clock(timeout)
        self._stopped = 0.0

    def is_frozen(self, now: float, *pids: int) -> bool:
        """Call this a few times a second. ``pids`` are processes that work together, one of which may be stopped."""
        if not self._timeout or not (step := self._clock.step(now)):
            return False
        self._stopped = self._stopped + step if any(map(is_stopped, pids)) else 0.0
        return self._stopped >= self._timeout


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process (Linux; False elsewhere, and where there is no such process)."""
    # Not psutil, which takes ten times as long: every worker is looked at.
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b") ")[2][:1] == b"T"


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used; 0.0 where there is none."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or only still to be waited for."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
