"""What devices this machine has, as far as the operating system tells without a library of theirs."""

import functools
import math
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mooring.cgroups import cpu_quota

CPU = "CPU"
_AMD = "0x1002"
# Seconds; on a busy machine its driver may take long to answer, or hang.
_PATIENCE = 10.0


@functools.cache
def devices() -> Mapping[str, int]:
    """How many there are of each: of "CPU" the logical cores this process may use, of accelerators by their names.

    Looked up once: the first call may take a second where a driver has to be asked.
    """
    return {CPU: cores(), **Counter(_accelerators(Path("/")))}


def cores() -> int:
    """How many logical cores this process may use: those it may run on, or as many as its CPU quota is worth."""
    # Not cpu_count: in a container, or under taskset, a process may have fewer than the machine. What --cpus and
    # limits.cpu set is a quota, which no affinity shows; threads beyond it only wait for each other.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return usable if math.isinf(quota) else max(1, min(usable, math.ceil(quota)))


def _accelerators(root: Path) -> Iterator[str]:
    """The name of each, once per device."""
    yield from list(_nvidia_proc(root)) or _nvidia_smi()
    yield from _amd_sys(root)


def _nvidia_proc(root: Path) -> Iterator[str]:
    for card in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        for line in _text(card).splitlines():
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
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):  # a tool without a driver
        return []
    return [line.strip() for line in asked.stdout.splitlines() if line.strip()]


def _amd_sys(root: Path) -> Iterator[str]:
    for card in sorted(root.glob("sys/class/drm/card*/device")):
        # Beside card0 stand its outputs, card0-DP-1 and so on.
        if card.parent.name.removeprefix("card").isdigit() and _text(card / "vendor") == _AMD:
            yield _text(card / "product_name") or f"AMD GPU {_text(card / 'device')}".rstrip()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
