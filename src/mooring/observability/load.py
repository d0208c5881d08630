"""How busy this process and this machine are, from one look to the next."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")


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
    """How many of the cores that this process may use, and of the CPU that its control group may, nobody uses."""

    def __init__(self, cgroups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> None:
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        self._group = _group(cgroups, own)
        self._before = self._sample()

    def look(self) -> float:
        """The mean since the last look."""
        before, self._before = self._before, self._sample()
        at, idle, used = (now - then for now, then in zip(self._before, before, strict=True))
        seconds = max(at, 1e-3)
        quota = _quota(self._group)
        return max(min(idle / seconds, quota - used / seconds), 0.0)

    def _sample(self) -> tuple[float, float, float]:
        """The clock, and the seconds that the cores were idle and that the control group has used."""
        cores = psutil.cpu_times(percpu=True)
        usable = [cores[number] for number in self._cores or range(len(cores)) if number < len(cores)]
        idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in usable)
        used = float(_values(self._group, "cpu.stat").get("usage_usec", 0)) / 1e6
        return time.monotonic(), idle, used


def _group(root: Path, own: Path) -> Path | None:
    """The folder of this process's control group (version 2), if it has one that limits it."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        number, _, path = line.partition("::")
        folder = root / path.lstrip("/")
        if number == "0" and (folder / "cpu.max").exists():
            return folder
    return None


def _quota(group: Path | None) -> float:
    """Cores that a control group may use."""
    try:
        most, _, period = (
            (group / "cpu.max").read_text().partition(" ") if group is not None else ("max", "", "")
        )
        return float("inf") if most == "max" else int(most) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return float("inf")


def _values(group: Path | None, name: str) -> Mapping[str, str]:
    """The lines of one of its files, a name and a value each."""
    if group is None:
        return {}
    try:
        pairs = (line.split() for line in (group / name).read_text().splitlines())
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    except OSError:
        return {}
