"""How busy this process and this machine are, from one look to the next."""

import os
import time
from pathlib import Path

import psutil

from mooring import cgroups


class ThreadLoad:
    """Of the thread that asks."""

    def __init__(self) -> None:
        self._used, self._at = time.thread_time(), time.monotonic()

    def look(self) -> float:
        """The share of a core that it has used since it last asked, 0.0 to 1.0."""
        used, now = time.thread_time(), time.monotonic()
        share = (used - self._used) / max(now - self._at, 1e-3)
        self._used, self._at = used, now
        return min(share, 1.0)


class IdleCores:
    """How many of the cores that this process may use, and of the CPU that its control groups may, nobody uses."""

    def __init__(self, root: Path = cgroups.ROOT, own: Path = cgroups.OWN) -> None:
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        self._groups = cgroups.cpu_groups(root, own)
        self._before = self._sample()

    def look(self) -> float:
        """The mean since the last look."""
        (at, idle, used), self._before = self._before, self._sample()
        now, idle_now, used_now = self._before
        seconds = max(now - at, 1e-3)
        left = [
            group.quota() - (after - before) / seconds
            for group, before, after in zip(self._groups, used, used_now, strict=True)
        ]
        return max(min([(idle_now - idle) / seconds, *left]), 0.0)

    def _sample(self) -> tuple[float, float, list[float]]:
        """The clock, and the seconds that the cores were idle and that each control group has used."""
        cores = psutil.cpu_times(percpu=True)
        usable = [cores[number] for number in self._cores or range(len(cores)) if number < len(cores)]
        idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in usable)
        return time.monotonic(), idle, [group.used() for group in self._groups]
