"""How much memory processes use, for whoever feeds TorchServe's script with their numbers."""

from typing import TextIO

import psutil


def check_process_mem_usage(stdin: TextIO) -> None:
    """Print ``pid:bytes`` for every process of a line of comma-separated numbers; 0 for one that is gone."""
    for pid in stdin.readline().strip().split(","):
        if pid:
            print(f"{pid}:{_resident_bytes(int(pid))}")  # noqa: T201 - its caller reads this


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
