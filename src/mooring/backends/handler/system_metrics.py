"""The metrics of the machine, as TorchServe's script ``ts.metrics.metric_collector`` prints them.

Mooring's own are elsewhere (observability/host.py); these are for scripts that import TorchServe's.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from types import ModuleType

import psutil

from mooring.backends.handler.metrics import Dimension, Metric
from mooring.backends.handler.process_memory import check_process_mem_usage

_log = logging.getLogger(__name__)
_MB, _GB = 2**20, 2**30

dimension = [Dimension("Level", "Host")]
system_metrics: list[Metric] = []
"""What the functions below have measured."""


def cpu_utilization() -> None:
    _add("CPUUtilization", psutil.cpu_percent(), "percent")


def memory_used() -> None:
    _add("MemoryUsed", psutil.virtual_memory().used / _MB, "MB")


def memory_available() -> None:
    _add("MemoryAvailable", psutil.virtual_memory().available / _MB, "MB")


def memory_utilization() -> None:
    _add("MemoryUtilization", psutil.virtual_memory().percent, "percent")


def disk_used() -> None:
    _add("DiskUsage", psutil.disk_usage("/").used / _GB, "GB")


def disk_utilization() -> None:
    _add("DiskUtilization", psutil.disk_usage("/").percent, "percent")


def disk_available() -> None:
    _add("DiskAvailable", psutil.disk_usage("/").free / _GB, "GB")


def collect_gpu_metrics(num_of_gpus: int) -> None:
    """Memory of the first GPUs, and the time in which they work, as torch tells them."""
    for number in range(num_of_gpus):
        import torch

        free, total = torch.cuda.mem_get_info(number)
        labels = [*dimension, Dimension("device_id", number)]
        _add("GPUMemoryUtilization", 100 * (total - free) / total, "percent", labels)
        _add("GPUMemoryUsed", (total - free) / _MB, "MB", labels)
        _add("GPUUtilization", torch.cuda.utilization(number), "percent", labels)


_COLLECTORS = (
    "cpu_utilization",
    "disk_available",
    "disk_used",
    "disk_utilization",
    "memory_available",
    "memory_used",
    "memory_utilization",
)


def collect_all(mod: ModuleType, num_of_gpus: int) -> None:
    """Measure everything by the functions of ``mod`` (this module, or its other name), and log each metric on a line."""
    for name in _COLLECTORS:
        getattr(mod, name)()
    mod.collect_gpu_metrics(num_of_gpus)
    for metric in system_metrics:
        _log.info("%s", metric)
    _log.info("")


def print_system_metrics(arguments: Sequence[str] | None = None) -> None:
    """Print what ``collect_all`` logs, then the memory of the processes whose numbers are on the first line of stdin."""
    parser = argparse.ArgumentParser(prog="ts.metrics.metric_collector")
    parser.add_argument("--gpu", type=int, default=0, help="number of GPUs")
    gpus = parser.parse_args(arguments).gpu
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    collect_all(sys.modules[__name__], gpus)
    check_process_mem_usage(sys.stdin)


def _add(name: str, value: float, unit: str, labels: Sequence[Dimension] = dimension) -> None:
    system_metrics.append(Metric(name, value, unit, labels))
