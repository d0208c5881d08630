"""What the control groups of this process allow it, in version 1 and version 2: containers are limited by nothing else.

A group's limit holds for all groups in it, so every ancestor is asked and the least counts.
"""

import math
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")

# Version 1 says "no limit" of memory by a number near the end of its range.
_NO_MEMORY_LIMIT = 1 << 62


class CpuGroup:
    """A control group, as far as it concerns CPU time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def quota(self) -> float:
        """Cores that it may use; infinity without a limit."""
        try:
            if (self._folder / "cpu.max").exists():
                most, _, period = (self._folder / "cpu.max").read_text().partition(" ")
                return math.inf if most == "max" else int(most) / int(period)
            most = (self._folder / "cpu.cfs_quota_us").read_text()
            period = (self._folder / "cpu.cfs_period_us").read_text()
            return math.inf if int(most) < 0 else int(most) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            return math.inf

    def used(self) -> float:
        """Seconds of CPU time that it has used; 0 where it does not say."""
        for line in _text(self._folder / "cpu.stat").splitlines():
            key, _, value = line.partition(" ")
            if key == "usage_usec" and value.isdecimal():
                return int(value) / 1e6
        nanoseconds = _text(self._folder / "cpuacct.usage").strip()
        return int(nanoseconds) / 1e9 if nanoseconds.isdecimal() else 0.0


def cpu_groups(root: Path = ROOT, own: Path = OWN) -> list[CpuGroup]:
    """Those of this process that can limit its CPU time, its own first."""
    return [
        CpuGroup(folder)
        for folder in _groups(root, own, "cpu")
        if (folder / "cpu.max").exists() or (folder / "cpu.cfs_quota_us").exists()
    ]


def cpu_quota(root: Path = ROOT, own: Path = OWN) -> float:
    """Cores that this process may use; infinity without a limit."""
    return min((group.quota() for group in cpu_groups(root, own)), default=math.inf)


def memory_limit(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Bytes of memory that this process and those beside it in its groups may use; None without a limit."""
    found = _least(root, own, "memory", ("memory.max", "memory.limit_in_bytes"))
    return None if found is None or found >= _NO_MEMORY_LIMIT else found


def process_limit(root: Path = ROOT, own: Path = OWN) -> int | None:
    """How many processes and threads there may be in the groups of this process; None without a limit."""
    return _least(root, own, "pids", ("pids.max",))


def _least(root: Path, own: Path, controller: str, files: tuple[str, ...]) -> int | None:
    texts = (_text(folder / name).strip() for folder in _groups(root, own, controller) for name in files)
    return min((int(text) for text in texts if text.isdecimal()), default=None)


def _groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """The folders of a controller's groups that this process is in, from its own to the top."""
    for line in _text(own).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            tops = [root, root / "unified"]
        elif controller in controllers.split(","):
            tops = [root / controllers, root / controller]
        else:
            continue
        top = next((top for top in tops if (top / path.lstrip("/")).is_dir()), None)
        if top is None:  # a container sees its own group as the top, under a path of the machine
            top, path = next((top for top in tops if top.is_dir()), root), ""
        folder = top / path.lstrip("/")
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(top))


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
