"""Load and memory of NVIDIA GPUs, from the driver's library (NVML). Without that library there are none."""

import ctypes
import threading
from collections.abc import Iterator
from typing import NamedTuple

_LIBRARY = "libnvidia-ml.so.1"


class Gpu(NamedTuple):
    """One GPU: percentages of its time and memory, and bytes. Values that the driver lacks are None (as under MIG)."""

    utilization: float | None
    memory_utilization: float | None
    memory_used: float | None


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Gpus:
    """The GPUs that the driver shows to this process."""

    def __init__(self, library: str = _LIBRARY) -> None:
        self._nvml: ctypes.CDLL | None = None
        self._handles: list[ctypes.c_void_p] = []
        try:
            nvml = ctypes.CDLL(library)
        except OSError:
            return
        # In a thread: an idle driver takes a second to initialize, and a broken one may hang.
        threading.Thread(target=self._find_gpus, args=(nvml,), name="gpus", daemon=True).start()

    def _find_gpus(self, nvml: ctypes.CDLL) -> None:
        count = ctypes.c_uint()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return
        handles = []
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == 0:
                handles.append(handle)
        self._handles, self._nvml = handles, nvml

    def read_all(self) -> Iterator[tuple[int, Gpu]]:
        """Return each GPU's index and values of now; none before the driver has been initialized."""
        nvml = self._nvml
        if nvml is None:
            return
        for index, handle in enumerate(self._handles):
            rates, memory = _Utilization(), _Memory()
            has_rates = nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(rates)) == 0
            has_memory = nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0 and memory.total
            yield (
                index,
                Gpu(
                    float(rates.gpu) if has_rates else None,
                    100.0 * memory.used / memory.total if has_memory else None,
                    float(memory.used) if has_memory else None,
                ),
            )
