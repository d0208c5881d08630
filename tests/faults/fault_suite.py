"""Play every case, on Mooring and where they are comparable on TorchServe, and write what came of it.

    python tests/faults/fault_suite.py [--only WORD [--add]] [--torchserve HOME] [--short] [--no-write]

The table of docs/RELIABILITY.md is written from a run; nothing in it is written by hand.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import cluster_cases  # noqa: F401 - enters its cases
import fault_report
import hosts_cases  # noqa: F401
import ray_cases
import server_cases  # noqa: F401
import store_cases  # noqa: F401
import worker_cases  # noqa: F401
from stage import CASES, Case, Line, Stage
from subjects import Mooring, Subject, TorchServe

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
LIMIT = 600.0
ORDER = ("worker_cases", "store_cases", "server_cases", "cluster_cases", "ray_cases", "hosts_cases")


def main() -> int:
    """0 where nothing happened that never may."""
    asked = _arguments()
    began = time.monotonic()
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        chosen = [case for case in CASES if asked.only in case.name and (case.short or not asked.short)]
        chosen.sort(key=lambda case: ORDER.index(case.play.__module__))
        for line in _played(chosen, Path(scratch), asked, began):
            lines.append(line)
            print(fault_report.told(line), flush=True)
    seconds = time.monotonic() - began
    print(f"{len(lines)} cases in {seconds:.0f} s")
    if not asked.no_write and not asked.only and not asked.short:
        facts = {
            "seconds": round(seconds),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            "load_average": round(os.getloadavg()[0], 1),
        }
        _write(facts, lines)
    elif asked.add:
        last = json.loads(RESULTS.read_text())
        _write(last["run"], _added(lines, [Line(**line) for line in last["lines"]]))
    return sum(not line.sound for line in lines if line.server == Mooring.name)


def _write(facts: dict[str, object], lines: Sequence[Line]) -> None:
    RESULTS.write_text(json.dumps({"run": facts, "lines": [asdict(line) for line in lines]}, indent=1) + "\n")
    fault_report.write(RESULTS)


def _added(lines: Sequence[Line], before: Sequence[Line]) -> list[Line]:
    """Those of the last run, in the order of the cases, with these in the place of what they were."""
    order = [case.name for case in sorted(CASES, key=lambda case: ORDER.index(case.play.__module__))]
    kept = {(line.server, line.case): line for line in (*before, *lines) if line.case in order}
    return sorted(kept.values(), key=lambda line: (line.server != Mooring.name, order.index(line.case)))


def _played(cases: Sequence[Case], scratch: Path, asked: argparse.Namespace, began: float) -> Iterator[Line]:
    span = 0.4 if asked.short else 2.0
    with ExitStack() as stack:
        stack.callback(ray_cases.close_cluster)
        server = _serving(Mooring(scratch / "mooring"), stack)
        for number, case in enumerate(cases):
            if time.monotonic() - began > LIMIT:
                yield Line(case.name, server.name, skipped="the suite took too long")
                continue
            if server.process.poll() is not None:
                server = _serving(Mooring(scratch / f"mooring{number}"), stack)
            yield case.line(Stage(scratch / f"case{number}", server, span=span))
    compared = [case for case in cases if case.compared]
    if not compared:
        return
    home = Path(asked.torchserve) if asked.torchserve else None
    if home is None or not (home / "bin/torchserve").exists():
        why = f"TorchServe is not installed in {home}" if home else "no TorchServe was named (--torchserve)"
        yield from (Line(case.name, TorchServe.name, skipped=why) for case in compared)
        return
    with ExitStack() as stack:
        peer = TorchServe(scratch / "torchserve", home)
        stack.callback(peer.kill)
        for number, case in enumerate(compared):
            yield case.line(Stage(scratch / f"peer{number}", peer, span=span))


def _serving(server: Mooring, stack: ExitStack) -> Subject:
    stack.callback(server.kill)
    server.await_start()
    return server


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="only cases whose name has this in it; writes nothing")
    parser.add_argument(
        "--add", action="store_true", help="with --only: put these lines among those of the last run"
    )
    parser.add_argument("--short", action="store_true", help="only the short form; writes nothing")
    parser.add_argument("--no-write", action="store_true", help="leave docs/RELIABILITY.md as it is")
    parser.add_argument(
        "--torchserve", default="", help="a virtual environment with TorchServe 0.12, to compare with"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
