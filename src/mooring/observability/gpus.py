"""What NVIDIA's GPUs are doing, as their driver's own library (NVML) says. A machine without one has no GPUs here."""

import ctypes
import threading
from collections.abc import Iterator
from typing import NamedTuple

_LIBRARY = "libnvidia-ml.so.1"


class Gpu(NamedTuple):
    """One GPU: percents of its time and memory, and bytes. None is what its driver does not tell (under MIG, say)."""

    utilization: float | None
    memory_utilization: float | None
    memory_used: float | None


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Gpus:
    """Every GPU the driver shows to this process."""

    def __init__(self, library: str = _LIBRARY) -> None:
        self._nvml: ctypes.CDLL | None = None
        self._handles: list[ctypes.c_void_p] = []
        try:
            nvml = ctypes.CDLL(library)
        except OSError:
            return
        # In a thread: a driver that nobody uses takes a second to begin, and may hang where it is broken.
        threading.Thread(target=self._find, args=(nvml,), name="gpus", daemon=True).start()

    def _find(self, nvml: ctypes.CDLL) -> None:
        count = ctypes.c_uint()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return
        handles = []
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == 0:
                handles.append(handle)
        self._handles, self._nvml = handles, nvml

    def read(self) -> Iterator[tuple[int, Gpu]]:
        """Each with its number, as it is now; none before the driver has answered for the first time."""
        nvml = self._nvml
        if nvml is None:
            return
        for index, handle in enumerate(self._handles):
            rates, memory = _Utilization(), _Memory()
            rated = nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(rates)) == 0
            told = nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0 and memory.total
            yield (
                index,
                Gpu(
                    float(rates.gpu) if rated else None,
                    100.0 * memory.used / memory.total if told else None,
                    float(memory.used) if told else None,
                ),
            )
