"""The limits of this process's control groups (cgroup v1 and v2), by which containers are limited.

A group's limit holds for all groups in it, so every ancestor is read and the lowest limit counts.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")

# Version 1 has a number near 2**63 for "no limit" of memory.
_NO_MEMORY_LIMIT = 1 << 62


class CpuGroup:
    """The CPU limits of a control group."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read_quota(self) -> float:
        """Return the cores that it may use; infinity without a limit."""
        try:
            if (self._folder / "cpu.max").exists():
                most, _, period = (self._folder / "cpu.max").read_text().partition(" ")
                return math.inf if most == "max" else int(most) / int(period)
            most = (self._folder / "cpu.cfs_quota_us").read_text()
            period = (self._folder / "cpu.cfs_period_us").read_text()
            return math.inf if int(most) < 0 else int(most) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            return math.inf

    def read_used_seconds(self) -> float:
        """Return the seconds of CPU time that it has used; 0 if that is unknown."""
        for line in _read_text(self._folder / "cpu.stat").splitlines():
            key, _, value = line.partition(" ")
            if key == "usage_usec" and value.isdecimal():
                return int(value) / 1e6
        nanoseconds = _read_text(self._folder / "cpuacct.usage").strip()
        return int(nanoseconds) / 1e9 if nanoseconds.isdecimal() else 0.0


def cpu_groups(root: Path = ROOT, own: Path = OWN) -> list[CpuGroup]:
    """Return the groups of this process that can limit its CPU time, its own group first."""
    return [
        CpuGroup(folder)
        for folder in _group_folders(root, own, "cpu")
        if (folder / "cpu.max").exists() or (folder / "cpu.cfs_quota_us").exists()
    ]


def cpu_quota(root: Path = ROOT, own: Path = OWN) -> float:
    """Return the cores that this process may use; infinity without a limit."""
    return min((group.read_quota() for group in cpu_groups(root, own)), default=math.inf)


def memory_limit(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Return the bytes of memory that all processes of its groups together may use; None without a limit."""
    # Above memory.high the kernel slows processes down and takes pages from them.
    limit = _lowest_limit(root, own, "memory", ("memory.max", "memory.high", "memory.limit_in_bytes"))
    return None if limit is None or limit >= _NO_MEMORY_LIMIT else limit


def memory_left(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Return the bytes of memory that its groups leave this process; None without a limit.

    What files have in the page cache counts as free where the kernel may drop it.
    """
    left = []
    for folder in _group_folders(root, own, "memory"):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            texts = [_read_text(folder / name).strip() for name in (limit, used)]
            if all(text.isdecimal() for text in texts) and int(texts[0]) < _NO_MEMORY_LIMIT:
                left.append(int(texts[0]) - int(texts[1]) + _inactive_files(folder))
    return max(min(left), 0) if left else None


def _inactive_files(folder: Path) -> int:
    """Return the bytes of a group's page cache that were not used lately."""
    for line in _read_text(folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key in ("inactive_file", "total_inactive_file") and value.isdecimal():
            return int(value)
    return 0


def process_limit(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Return the number of processes and threads that its groups may have; None without a limit."""
    return _lowest_limit(root, own, "pids", ("pids.max",))


def _lowest_limit(root: Path, own: Path, controller: str, files: tuple[str, ...]) -> int | None:
    texts = (
        _read_text(folder / name).strip()
        for folder in _group_folders(root, own, controller)
        for name in files
    )
    return min((int(text) for text in texts if text.isdecimal()), default=None)


def _group_folders(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """Return the folders of a controller's groups that this process is in, from its own to the root."""
    for line in _read_text(own).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            tops = [root, root / "unified"]
        elif controller in controllers.split(","):
            tops = [root / controllers, root / controller]
        else:
            continue
        top, folder = _find_folder(tops, path) or (root, root)
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(top))


def _find_folder(tops: Sequence[Path], path: str) -> tuple[Path, Path] | None:
    """Return the top of the groups that are mounted, and a group's folder in it.

    A container may see its own group as the top, and groups that it has made below that, under a path of the machine: so
    as much of the end of the path counts as there is.
    """
    names = [name for name in path.split("/") if name not in ("", "..")]
    for start in range(len(names) + 1):
        for top in tops:
            folder = top.joinpath(*names[start:])
            if folder.is_dir():
                return top, folder
    return None


def _read_text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
