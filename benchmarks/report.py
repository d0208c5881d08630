"""The figures of a run as a Markdown text, which is a table to read in a terminal as well."""

import platform
import timeit
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from load import DRIVER
from measuring import FOREIGN, RETRIES, Sample, median
from starting import Figure
from targets import cores, nginx_version

PACKAGES = ("mooring", "uvloop", "httptools", "msgspec", "orjson", "pysimdjson", "grpcio", "numpy", "torch")


@dataclass(frozen=True, slots=True)
class Row:
    """The samples of one workload at one concurrency, and the medians of its floors by name."""

    name: str
    connections: int
    samples: Sequence[Sample]
    floors: dict[str, Sample]

    @property
    def middle(self) -> Sample:
        """The median repetition."""
        return median(list(self.samples))

    @property
    def bare(self) -> str:
        """Which of the bare fronts it is compared with."""
        return next((name for name in self.floors if name.startswith("bare")), "")

    def over(self, floor: str) -> float | None:
        """How many times the floor's CPU it needs; None where that floor was not measured."""
        base = self.floors.get(floor)
        return self.middle.cpu / base.cpu if base is not None and base.cpu else None


def load_table(rows: Iterable[Row]) -> str:
    """One line per workload and concurrency."""
    lines = [
        [
            "workload",
            "c",
            "req/s",
            "p50 ms",
            "p99 ms",
            "front us",
            "workers us",
            "CPU us",
            "client us",
            "/ bare",
            "/ nginx",
            "",
        ]
    ]
    for row in rows:
        middle = row.middle
        marks = [f"{middle.errors} errors"] * bool(middle.errors) + ["noisy"] * middle.noisy
        lines.append(
            [
                row.name,
                str(row.connections),
                f"{middle.rps:.0f}",
                f"{middle.p50 * 1e3:.2f}",
                f"{middle.p99 * 1e3:.2f}",
                f"{middle.front * 1e6:.1f}",
                f"{middle.workers * 1e6:.1f}",
                f"{middle.cpu * 1e6:.1f}",
                f"{middle.client * 1e6:.1f}",
                *(_ratio(row.over(floor)) for floor in (row.bare, "nginx")),
                ", ".join(marks),
            ]
        )
    return table(lines)


def start_table(figures: Iterable[Figure]) -> str:
    """One line per figure, with the limit it must keep."""
    lines = [["figure", "value", "limit", ""]]
    for each in figures:
        limit = "" if each.limit is None else f"{each.limit:g} {each.unit}"
        over = each.limit is not None and each.value >= each.limit
        lines.append([each.name, f"{each.value:.3g} {each.unit}", limit, "OVER" if over else ""])
    return table(lines)


def conditions(method: str) -> str:
    """Machine, versions and method: without them the figures mean nothing."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return "\n".join(
        [
            f"Machine: {_cpu_model()}, {cores()} cores, {platform.system()} {platform.release()}.",
            f"Versions: Python {platform.python_version()} ({_call_time() * 1e9:.0f} ns for a call of int.__add__), {versions}.",
            f"Load: {DRIVER}, closed loop, on the same cores. {method}",
            f"A repetition with more than {FOREIGN:.0%} of the machine used by others is repeated up to {RETRIES} times while patience lasts, then marked noisy. CPU is user and system time per request,",
            "of the process that listens (front) and of all below it (workers); client is the load generator's own,",
            "which is grpcio for gRPC.",
        ]
    )


def beside_floors(seconds: float, repetitions: int) -> str:
    """The method of ``make bench``."""
    floors = ", ".join(
        filter(None, ["bare front (uvloop and httptools)", "bare gRPC (grpc.aio on uvloop)", nginx_version()])
    )
    return (
        f"Medians of {repetitions} repetitions of {seconds:g} s that\nalternate with the floors ({floors})."
    )


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def table(lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * max(width, 3) for width in widths])

    def cells(line: list[str]) -> list[str]:
        first, *others = (
            cell.ljust(widths[0]) if not index else cell.rjust(widths[index])
            for index, cell in enumerate(line)
        )
        return [first, *others]

    return "\n".join("| " + " | ".join(cells(line)) + " |" for line in lines)


def _call_time() -> float:
    """Seconds of one method call that adds: how fast this interpreter is on this machine, whatever built it."""
    times = timeit.repeat("for each in calls: each(1)", "calls = [(1).__add__] * 1000", number=100, repeat=5)
    return min(times) / 100_000


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
