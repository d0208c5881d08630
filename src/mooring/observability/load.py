"""CPU load of a thread and of the machine, between two readings."""

import os
import time
from pathlib import Path

import psutil

from mooring import cgroups


class ThreadLoad:
    """The load of the calling thread."""

    def __init__(self) -> None:
        self._used, self._at = time.thread_time(), time.monotonic()

    def read_share(self) -> float:
        """Return the share of a core that the thread has used since the last call, 0.0 to 1.0."""
        used_seconds, now = time.thread_time(), time.monotonic()
        share = (used_seconds - self._used) / max(now - self._at, 1e-3)
        self._used, self._at = used_seconds, now
        return min(share, 1.0)


class IdleCores:
    """The idle cores among those that this process may use, within the quotas of its control groups."""

    def __init__(self, root: Path = cgroups.ROOT, own: Path = cgroups.OWN) -> None:
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        self._groups = cgroups.cpu_groups(root, own)
        self._before = self._sample_times()

    def read_idle_cores(self) -> float:
        """Return the mean number of idle cores since the last call."""
        (at, idle, used_seconds), self._before = self._before, self._sample_times()
        now, idle_now, used_now = self._before
        seconds = max(now - at, 1e-3)
        left = [
            group.read_quota() - (after - before) / seconds
            for group, before, after in zip(self._groups, used_seconds, used_now, strict=True)
        ]
        return max(min([(idle_now - idle) / seconds, *left]), 0.0)

    def _sample_times(self) -> tuple[float, float, list[float]]:
        """Return the clock, and the seconds that the cores were idle and that each control group has used."""
        cores = psutil.cpu_times(percpu=True)
        usable = [
            cores[format_number]
            for format_number in self._cores or range(len(cores))
            if format_number < len(cores)
        ]
        idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in usable)
        return time.monotonic(), idle, [group.read_used_seconds() for group in self._groups]
