"""The cost of a start: time to the first answered prediction, time to import, memory when idle."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
from targets import Mooring
from workloads import DIGITS, HERE, JSON, SEVEN

MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, with its limit where it has one."""

    name: str
    value: float
    unit: str
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """A model to start with, and the check of its answer."""

    name: str
    models: tuple[str, ...]
    path: str
    body: bytes
    content_type: str
    is_right: Callable[[bytes], bool]
    limit: float | None = 1.0


STARTS = (
    Start("builtin", (f"{HERE / 'models' / 'builtin'}",), "/predictions/builtin", b'{"input": [1]}', JSON, lambda answer: b"2" in answer),
    Start("function", (f"f={HERE / 'models' / 'function.py'}:plus_one",), "/predictions/f", b'{"x": 1.0}', JSON, lambda answer: b"2.0" in answer),
    Start("handler", (f"h={HERE / 'models' / 'echo'}",), "/predictions/h", b'{"x": 1.0}', JSON, lambda answer: b"2.0" in answer),
    Start("digits (torch)", (f"d={DIGITS}",), "/predictions/d", SEVEN.read_bytes(), "image/png", lambda answer: b'"7"' in answer, None),
)  # fmt: skip


def measure_starts(repetitions: int) -> list[Figure]:
    """Return the medians of ``repetitions`` starts of each kind of model."""
    found = [Figure("import mooring", statistics.median(_time_import() for _ in range(5)) * 1000, "ms", 150)]
    for start in STARTS:
        starts = [_measure_start(start) for _ in range(repetitions)]
        middle = [statistics.median(each) for each in zip(*starts, strict=True)]
        seconds, server, template, worker, share = middle
        found += [
            Figure(f"{start.name}: first answer", seconds, "s", start.limit),
            Figure(f"{start.name}: server RSS", server / MEGABYTE, "MB", 80),
            Figure(f"{start.name}: template RSS", template / MEGABYTE, "MB"),
            Figure(f"{start.name}: worker RSS", worker / MEGABYTE, "MB"),
            Figure(f"{start.name}: worker PSS", share / MEGABYTE, "MB"),
        ]
    return found


def _measure_start(start: Start) -> tuple[float, float, float, float, float]:
    """Return the seconds to the first answer, then bytes: RSS of server, template and worker, and PSS of the worker."""
    with Mooring(start.models) as server:
        answer = server.wait_for_answer(start.path, start.body, {"Content-Type": start.content_type})
        took = time.perf_counter() - server.started
        if not start.is_right(answer):
            raise RuntimeError(f"{start.name} answers {answer[:300]!r}")
        time.sleep(0.5)  # memory of the start itself is free again
        templates = server.server.children()
        workers = [worker for template in templates for worker in template.children()]
        return (
            took,
            server.server.memory_info().rss,
            sum(template.memory_info().rss for template in templates),
            sum(worker.memory_info().rss for worker in workers),
            sum(_read_pss(worker) for worker in workers),
        )


def _read_pss(process: psutil.Process) -> float:
    """Return the PSS of a process in bytes; its unique memory (USS) where the system has no PSS."""
    memory = process.memory_full_info()
    return float(getattr(memory, "pss", memory.uss))


def _time_import() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import mooring"], check=True)
    return time.perf_counter() - began
