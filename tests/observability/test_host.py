"""The machine's gauges, under TorchServe's names."""

import socket
import types

import psutil
import pytest

from mooring.observability import gpus
from mooring.observability.gpus import Gpu, Gpus
from mooring.observability.host import SYSTEM, HostMetrics

HOST = socket.gethostname()


def read_samples(host):
    return {family.name: family.samples for family in host.collect()}


@pytest.mark.processes
def test_the_machine_is_told_as_psutil_reads_it():
    found = read_samples(HostMetrics(lambda: None))
    assert found["MemoryUsed"][0].labels == {"Level": "Host", "Hostname": HOST}
    assert found["MemoryUsed"][0].value < psutil.virtual_memory().total / 2**20
    assert 0 <= found["MemoryUtilization"][0].value <= 100
    disk = psutil.disk_usage("/")
    assert found["DiskUsage"][0].value == pytest.approx(disk.used / 2**30, rel=0.05)
    assert found["DiskUtilization"][0].value == pytest.approx(disk.percent, abs=1)
    assert 0 <= found["CPUUtilization"][0].value <= 100


def test_nothing_is_said_of_the_machine_where_nobody_wants_it():
    assert read_samples(HostMetrics(lambda: None, system=False)).keys() == {
        "QueueTime", "WorkerThreadTime", "WorkerLoadTime",
    }  # fmt: skip


def test_times_on_the_way_are_told_in_milliseconds_once_there_are_any():
    assert read_samples(HostMetrics(lambda: None))["QueueTime"] == []
    host = HostMetrics(lambda: (0.002, 0.0005))
    host.read_load_times(lambda: [("W-9000-m_1.0", 1.5)])
    found = read_samples(host)
    assert (found["QueueTime"][0].value, found["WorkerThreadTime"][0].value) == (2.0, 0.5)
    (load,) = found["WorkerLoadTime"]
    assert load.labels == {"WorkerName": "W-9000-m_1.0", "Level": "Host", "Hostname": HOST}
    assert load.value == 1500


def test_gpus_are_told_by_their_number_and_without_what_their_driver_hides():
    host = HostMetrics(lambda: None)
    seen = [(0, Gpu(7.0, 50.0, 2**21)), (1, Gpu(None, 10.0, 0.0))]
    host.machine._gpus = types.SimpleNamespace(read_all=lambda: iter(seen))
    found = read_samples(host)
    assert [(sample.labels["DeviceId"], sample.value) for sample in found["GPUUtilization"]] == [("0", 7.0)]
    assert [sample.value for sample in found["GPUMemoryUsed"]] == [2.0, 0.0]
    assert SYSTEM.keys() <= found.keys()


def test_a_machine_without_the_driver_has_no_gpus():
    assert list(Gpus("libno-such-driver.so").read_all()) == []


class Driver:
    """NVML with one GPU of its own, and one that tells nothing."""

    def nvmlInit_v2(self):  # noqa: N802 - NVML's names
        return 0

    def nvmlDeviceGetCount_v2(self, count):  # noqa: N802
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):  # noqa: N802
        handle._obj.value = index.value + 1
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle, rates):  # noqa: N802
        rates._obj.gpu = 42
        return 0 if handle.value == 1 else 3

    def nvmlDeviceGetMemoryInfo(self, handle, memory):  # noqa: N802
        memory._obj.total, memory._obj.used = 400, 100
        return 0 if handle.value == 1 else 3


def test_the_driver_is_asked_for_every_gpu(monkeypatch):
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda _name: Driver())
    monkeypatch.setattr(gpus.threading.Thread, "start", lambda thread: thread.run())
    assert list(Gpus().read_all()) == [(0, Gpu(42.0, 25.0, 100.0)), (1, Gpu(None, None, None))]
