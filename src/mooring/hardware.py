"""What this process may use: cores, memory, processes, and devices, found without any vendor's library. Runs in any process.

The machine may have more: a container has limits (cgroups.py), which no count of the machine's own shows. So whatever is
chosen by the cores or the memory that there are asks here.
"""

import functools
import math
import os
import resource
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mooring.cgroups import cpu_quota, memory_left, memory_limit, process_limit

CPU = "CPU"
_AMD = "0x1002"
# Seconds; a driver may take long to answer on a busy machine, or hang.
_TOOL_TIMEOUT = 10.0


@functools.cache
def find_devices() -> Mapping[str, int]:
    """Return the number of each kind of device: "CPU" for the logical cores that this process may use, else its name.

    The result is cached: the first call may take a second for a driver to answer.
    """
    return {CPU: count_cores(), **Counter(_find_accelerators(Path("/")))}


def count_cores() -> int:
    """Return how many logical cores this process may use: its affinity, limited by its CPU quota (rounded up)."""
    # Not cpu_count: in a container, or under taskset, a process may have fewer than the machine. What --cpus and
    # limits.cpu set is a quota, which no affinity shows; threads beyond it only wait for each other.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return usable if math.isinf(quota) else max(1, min(usable, math.ceil(quota)))


def usable_memory() -> int:
    """Return the bytes of memory that this process and all others of its control groups may use together."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = memory_limit()
    return machine if limit is None else min(machine, limit)


def free_memory() -> int:
    """Return the bytes of memory that new processes may take, of the machine and of the container."""
    import psutil  # noqa: PLC0415 - who only counts cores is spared it

    free, left = int(psutil.virtual_memory().available), memory_left()
    return free if left is None else min(free, left)


def most_processes() -> int | None:
    """Return how many processes and threads there may be, all others of its groups and its user included; None: any number."""
    own = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    limits = [each for each in (process_limit(), own) if each not in (None, resource.RLIM_INFINITY)]
    return min(limits, default=None)


def explain_process_limit() -> str:
    """Return the end of a sentence for who could start no process or thread; empty where their number has no limit."""
    most = most_processes()
    where = "a container's pids limit, TasksMax of systemd, or ulimit -u"
    return "" if most is None else f"; there may be {most} processes and threads here ({where})"


def count_pool_threads() -> int:
    """Return the most threads of an event loop's pool: as many as asyncio has, but for the cores that may be used."""
    return min(32, count_cores() + 4)


def _find_accelerators(root: Path) -> Iterator[str]:
    """Return the name of each accelerator, once per device."""
    yield from list(_nvidia_proc(root)) or _nvidia_smi()
    yield from _amd_sys(root)


def _nvidia_proc(root: Path) -> Iterator[str]:
    for card in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        for line in _read_text(card).splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "Model" and name.strip():
                yield name.strip()


def _nvidia_smi() -> list[str]:
    # Where the driver has no /proc of its own: WSL, and containers that get the devices alone.
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):  # a tool without a driver
        return []
    return [line.strip() for line in result.stdout.splitlines() if line.strip()]


def _amd_sys(root: Path) -> Iterator[str]:
    for card in sorted(root.glob("sys/class/drm/card*/device")):
        # Beside card0 stand its outputs, card0-DP-1 and so on.
        if card.parent.name.removeprefix("card").isdigit() and _read_text(card / "vendor") == _AMD:
            yield _read_text(card / "product_name") or f"AMD GPU {_read_text(card / 'device')}".rstrip()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
