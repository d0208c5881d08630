"""The record of a comparison with the peers: results as JSON lines, and the Markdown page made of them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lifecycle import MEGABYTE, RECOVERY_LIMIT, Kill, Life
from report import format_table

OURS = "mooring"
LIMIT = "no server, "  # how the names of limits begin


@dataclass(frozen=True, slots=True)
class Result:
    """One server at one workload and concurrency. Times are in seconds; ``cpu`` is per request (of a limit, per row)."""

    workload: str
    server: str
    connections: int
    rps: float
    p50: float
    p99: float | None = None
    cpu: float | None = None
    errors: int = 0
    noisy: bool = False
    engine: str = ""  # what calculates, of our own server and of limits: "torch" or "onnx"


class Record:
    """``NAME-peers.jsonl`` and ``NAME-peers.md`` in a folder; both are on the disk after each step.

    ``resume`` keeps the steps of an interrupted run. A line that was cut off while it was written is dropped.
    """

    def __init__(self, folder: Path, name: str, *, resume: bool) -> None:
        self._name = name
        self._log = folder / f"{name}-peers.jsonl"
        self._page = folder / f"{name}-peers.md"
        text = self._log.read_text() if resume and self._log.exists() else ""
        self._entries: list[dict[str, Any]] = [
            json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()
        ]
        self._log.write_text("".join(f"{json.dumps(entry)}\n" for entry in self._entries))

    def has(self, step: str) -> bool:
        """Whether the step was measured, in this run or before an interruption."""
        return any(entry.get("step") == step for entry in self._entries)

    def add(self, **entry: Any) -> None:
        """Keep one entry: ``conditions``, ``step`` with ``results`` or ``lives``, ``note`` or ``failure``."""
        for kind in ("note", "failure"):
            if kind in entry:
                print(entry[kind], flush=True)
        self._entries.append({"at": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"), **entry})
        with self._log.open("a") as log:
            log.write(f"{json.dumps(self._entries[-1])}\n")
        self._page.write_text(f"# Our server beside its peers, {self._name}\n\n{self.format()}\n")

    def texts(self, kind: str) -> list[str]:
        """Every text of a kind once, in order."""
        return list(dict.fromkeys(entry[kind] for entry in self._entries if kind in entry))

    def results(self) -> list[Result]:
        """Those of all steps."""
        return [Result(**each) for entry in self._entries for each in entry.get("results", ())]

    def lives(self) -> list[Life]:
        """Those of all servers."""
        found = [dict(each) for entry in self._entries for each in entry.get("lives", ())]
        for each in found:
            each |= {kind: Kill(**each[kind]) for kind in ("alone", "pair") if each.get(kind)}
        return [Life(**each) for each in found]

    def format(self) -> str:
        """The whole page without its title."""
        results, lives = self.results(), self.lives()
        times = self.texts("at")
        runs = sum("conditions" in entry for entry in self._entries)
        return "\n\n".join(
            [
                f"Measured from {times[0]} to {times[-1]}" + (f" in {runs} runs." if runs > 1 else "."),
                *self.texts("conditions"),
                *self.texts("note"),
                *([format_results(results)] if results else []),
                *([f"## Start, memory, kill -9\n\n{format_lives(lives)}"] if lives else []),
                *self.texts("failure"),
            ]
        )


def format_progress(result: Result) -> str:
    """Return the line that is printed while a comparison runs."""
    return f"{result.workload:16} {result.server:28} c={result.connections:<3} {result.rps:9.1f} req/s  p50 {result.p50 * 1e3:9.2f} ms"


def format_results(results: Iterable[Result]) -> str:
    """Return one table for each workload and concurrency, the fastest server first."""
    groups: dict[tuple[str, int], list[Result]] = {}
    for each in results:
        groups.setdefault((each.workload, each.connections), []).append(each)
    return "\n\n".join(
        f"## {workload}, c={connections}\n\n{_format_group(group)}"
        for (workload, connections), group in groups.items()
    )


def _format_group(group: list[Result]) -> str:
    ours = next((each.rps for each in group if each.server == OURS), None)
    limits = {each.engine: each.rps for each in sorted(group, key=_rate) if each.server.startswith(LIMIT)}
    rows = [["server", "req/s", "p50 ms", "p99 ms", "CPU us", "mooring is", "of limit", ""]]
    rows += [
        [
            each.server,
            f"{each.rps:.1f}" if each.rps < 1000 else f"{each.rps:.0f}",
            f"{each.p50 * 1e3:.2f}",
            "" if each.p99 is None else f"{each.p99 * 1e3:.2f}",
            "" if each.cpu is None else f"{each.cpu * 1e6:.0f}",
            f"{ours / each.rps:.2f} x" if ours and each.rps else "",
            f"{each.rps / limits[each.engine]:.0%}" if limits.get(each.engine) else "",
            ", ".join([f"{each.errors} errors"] * bool(each.errors) + ["noisy"] * each.noisy),
        ]
        for each in sorted(group, key=_rate, reverse=True)
    ]
    return format_table(rows)


def _rate(result: Result) -> float:
    return result.rps


def format_lives(lives: Iterable[Life]) -> str:
    """Return one row for each server; a start stands beside that of the script with the same engine."""
    lives = list(lives)
    scripts = {each.engine: each.start for each in lives if not each.serves}
    rows = [["server", "start s", "of script", "PSS MB, 1 worker", "2 workers", "the second adds",
             "errors, 1 worker", "back after s", "errors, 2 workers", "hung"]]  # fmt: skip
    for each in lives:
        script = scripts.get(each.engine)
        row = [each.server, f"{each.start:.2f}", f"{each.start / script:.2f} x" if script else ""]
        if each.alone and each.pair:
            sizes = (each.memory, each.memory_of_two, each.memory_of_two - each.memory)
            row += [f"{size / MEGABYTE:.0f}" for size in sizes]
            back = each.alone.recovery
            row += [str(each.alone.errors), f"not in {RECOVERY_LIMIT:g}" if back is None else f"{back:.2f}"]
            row += [str(each.pair.errors), str(each.alone.hung + each.pair.hung)]
        rows.append(row + [""] * (len(rows[0]) - len(row)))
    return format_table(rows)
