"""The figures of a run as Markdown tables, which are read in a terminal as well."""

import platform
import timeit
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from load import DRIVER
from measuring import MAX_FOREIGN_SHARE, RETRIES, Sample, median
from starting import Figure
from targets import count_cores

PACKAGES = ("mooring", "uvloop", "httptools", "msgspec", "orjson", "pysimdjson", "grpcio", "numpy", "torch")
TITLES = ["workload", "c", "req/s", "p50 ms", "p99 ms", "front us", "workers us", "CPU us", "client us", "/ bare", "/ nginx", ""]  # fmt: skip


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

    def ratio(self, floor: str) -> str:
        """Return how many times the CPU of the floor whose name begins so it needs; "" where that was not measured."""
        base = next((each for name, each in self.floors.items() if name.startswith(floor)), None)
        return f"{self.middle.cpu / base.cpu:.2f}" if base is not None and base.cpu else ""


def format_loads(rows: Iterable[Row]) -> str:
    """Return one line for each workload and concurrency."""
    lines = [TITLES]
    for row in rows:
        middle = row.middle
        marks = [f"{middle.errors} errors"] * bool(middle.errors) + ["noisy"] * middle.noisy
        times = (f"{each * 1e3:.2f}" for each in (middle.p50, middle.p99))
        cpu = (f"{each * 1e6:.1f}" for each in (middle.front, middle.workers, middle.cpu, middle.client))
        ratios = (row.ratio("bare"), row.ratio("nginx"))
        rate = f"{middle.rps:.0f}"
        lines.append([row.name, str(row.connections), rate, *times, *cpu, *ratios, ", ".join(marks)])
    return format_table(lines)


def format_starts(figures: Iterable[Figure]) -> str:
    """Return one line for each figure, with the limit that it must keep."""
    lines = [["figure", "value", "limit", ""]]
    for each in figures:
        limit = "" if each.limit is None else f"{each.limit:g} {each.unit}"
        over = each.limit is not None and each.value >= each.limit
        lines.append([each.name, f"{each.value:.3g} {each.unit}", limit, "OVER" if over else ""])
    return format_table(lines)


def describe_conditions(method: str) -> str:
    """Return machine, versions and method: without them the figures mean nothing."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"""Machine: {_read_cpu_model()}, {count_cores()} cores, {platform.system()} {platform.release()}.
Versions: Python {platform.python_version()} ({_time_call() * 1e9:.0f} ns for a call of int.__add__), {versions}.
Load: {DRIVER}, closed loop, on the same cores. {method}
A repetition with more than {MAX_FOREIGN_SHARE:.0%} of the machine used by others is repeated up to {RETRIES} times while patience lasts, then marked noisy.
CPU is user and system time per request, of the process that listens (front) and of all below it (workers); client is the load generator's own, which is grpcio for gRPC."""


def format_table(lines: Sequence[Sequence[str]]) -> str:
    """Return the lines as a Markdown table; the first has the titles, and all are equally long."""
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(lines[0]))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        f"| {' | '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])} |"
        for line in (lines[0], rule, *lines[1:])
    )


def _time_call() -> float:
    """Return the seconds of one method call that adds: how fast this interpreter is on this machine."""
    times = timeit.repeat("for each in calls: each(1)", "calls = [(1).__add__] * 1000", number=100, repeat=5)
    return min(times) / 100_000


def _read_cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
