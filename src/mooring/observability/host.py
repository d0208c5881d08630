"""Gauges of the machine and of the way to the workers, under TorchServe's names; read at a scrape."""

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import psutil
from prometheus_client import Metric
from prometheus_client.registry import Collector

from mooring.observability.gpus import Gpus

_MB = 1 << 20
_GB = 1 << 30
# Seconds between two readings of the CPU; over a shorter time they are meaningless.
_MIN_CPU_INTERVAL = 1.0

SYSTEM: Mapping[str, str] = {
    "CPUUtilization": "Percent",
    "MemoryUsed": "Megabytes",
    "MemoryAvailable": "Megabytes",
    "MemoryUtilization": "Percent",
    "DiskUsage": "Gigabytes",
    "DiskAvailable": "Gigabytes",
    "DiskUtilization": "Percent",
    "GPUMemoryUtilization": "Percent",
    "GPUMemoryUsed": "Megabytes",
    "GPUUtilization": "Percent",
}
"""What is told of the machine itself, and in which unit."""

LoadTimes = Callable[[], Iterable[tuple[str, float]]]
"""The name of every worker that has its model, and how many seconds it took to have it."""


class HostMetrics(Collector):
    """``paths`` tells the seconds that the last request waited, and that its worker's message was on the way.

    None of both when there was none. Without ``system`` nothing is said of the machine.
    """

    def __init__(self, paths: Callable[[], tuple[float, float] | None], *, system: bool = True) -> None:
        self._load_times: LoadTimes = lambda: ()
        self._paths = paths
        self._host = socket.gethostname()
        self.machine = Machine() if system else None

    def read_load_times(self, source: LoadTimes) -> None:
        """Ask ``source`` at every scrape how long the workers took to load their models."""
        self._load_times = source

    def load_times(self) -> Iterable[tuple[str, float]]:
        """Return the name of every worker that has its model, and the seconds that it took to have it."""
        return self._load_times()

    def collect(self) -> Iterator[Metric]:
        """Every gauge anew. Those of GPUs have no samples where there is none."""
        paths = self._paths()
        for index, name in enumerate(("QueueTime", "WorkerThreadTime")):
            family = new_gauge(name, "Milliseconds")
            if paths is not None:
                family.add_sample(name, self._host_labels(), paths[index] * 1000)
            yield family
        loads = new_gauge("WorkerLoadTime", "Milliseconds")
        for worker, seconds in self._load_times():
            loads.add_sample(loads.name, {"WorkerName": worker} | self._host_labels(), seconds * 1000)
        yield loads
        yield from self.machine_families()

    def machine_families(self) -> Iterator[Metric]:
        """Return the gauges of the machine, read now; none without ``system``."""
        machine = self.machine
        if machine is None:
            return
        families = {name: new_gauge(name, unit) for name, unit in SYSTEM.items()}
        for name, value in machine.read_gauges():
            families[name].add_sample(name, self._host_labels(), value)
        for number, values in machine.read_gpu_gauges():
            for name, value in values.items():
                families[name].add_sample(name, self._host_labels() | {"DeviceId": str(number)}, value)
        yield from families.values()

    def _host_labels(self) -> dict[str, str]:
        return {"Level": "Host", "Hostname": self._host}


class Machine:
    """Reads the machine's load, memory and disk."""

    def __init__(self) -> None:
        self._gpus = Gpus()
        psutil.cpu_percent()  # the result of the first call is meaningless
        self._cpu = 0.0
        self._cpu_at = time.monotonic()

    def read_gauges(self) -> Iterator[tuple[str, float]]:
        """Return the gauges of the host by name."""
        memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
        yield "CPUUtilization", self.cpu_percent()
        yield "MemoryUsed", memory.used / _MB
        yield "MemoryAvailable", memory.available / _MB
        yield "MemoryUtilization", memory.percent
        yield "DiskUsage", disk.used / _GB
        yield "DiskAvailable", disk.free / _GB
        yield "DiskUtilization", disk.percent

    def read_gpu_gauges(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Return each GPU's index and those gauges that its driver has."""
        for number, gpu in self._gpus.read_all():
            values = {
                "GPUMemoryUtilization": gpu.memory_utilization,
                "GPUMemoryUsed": gpu.memory_used and gpu.memory_used / _MB,
                "GPUUtilization": gpu.utilization,
            }
            yield number, {name: value for name, value in values.items() if value is not None}

    def cpu_percent(self) -> float:
        """Return how busy all cores together were since the last reading, in percent."""
        now = time.monotonic()
        if now - self._cpu_at >= _MIN_CPU_INTERVAL:
            self._cpu, self._cpu_at = psutil.cpu_percent(), now
        return self._cpu


def new_gauge(name: str, unit: str) -> Metric:
    """Return a family without samples."""
    return Metric(name, f"Torchserve prometheus gauge metric with unit: {unit}", "gauge")
