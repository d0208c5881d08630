"""Measure our own server beside the least that is possible on this machine.

    make bench                                   everything, a few minutes
    make bench ARGS="--quick"                    one short repetition of each
    make bench ARGS="--cases tiny,start"         some of it
    make bench ARGS="--record today"             keep the table as results/today.md

Raw figures go to results/latest.jsonl, one line per repetition.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from console import format_console, measure_console
from measuring import LoadRun, WaitBudget, measure_in_turn, median
from report import Row, describe_conditions, format_loads, format_starts
from scrape import measure_scrapes
from starting import Figure, measure_starts
from targets import NGINX, BareFront, BareGrpc, Mooring, Nginx, Target, read_nginx_version
from workloads import MODELS, OPTIONS, Body, Group, Workload, make_groups

RESULTS = Path(__file__).parent / "results"
START, SCRAPE, CONSOLE = "start", "scrape", "console"


def main() -> int:
    """Measure and print; the exit status is 1 when an answer was wrong or a request failed."""
    options = parse_options(sys.argv[1:])
    chosen = [group for group in make_groups() if group.name in options.cases]
    rows: list[Row] = []
    starts: list[Figure] = []
    scrapes: list[Figure] = []
    console = ""
    with (RESULTS / "latest.jsonl").open("w", buffering=1) as log:
        if START in options.cases:
            starts = measure_starts(options.repetitions)
            log.writelines(f"{json.dumps(asdict(figure))}\n" for figure in starts)
            print(format_starts(starts), end="\n\n", flush=True)
        if SCRAPE in options.cases:
            scrapes = measure_scrapes(options.repetitions, options.seconds)
            log.writelines(f"{json.dumps(asdict(figure))}\n" for figure in scrapes)
            print(format_starts(scrapes), end="\n\n", flush=True)
        if CONSOLE in options.cases:
            figures = measure_console(options.turns, options.turn_seconds, options.minutes)
            console = format_console(figures)
            log.write(f"{json.dumps({'name': CONSOLE} | asdict(figures))}\n")
            print(console, end="\n\n", flush=True)
        for row in measure_groups(chosen, options) if chosen else ():
            print(format_progress(row), flush=True)
            rows.append(row)
            about = {"name": row.name, "connections": row.connections}
            log.writelines(f"{json.dumps(about | asdict(sample))}\n" for sample in row.samples)
    parts = [describe_conditions(describe_method(options.seconds, options.repetitions))]
    parts += [format_starts(each) for each in (starts, scrapes) if each] + [console] * bool(console)
    parts += [format_loads(rows)] * bool(rows)
    text = "\n\n".join(parts)
    print(f"\n{text}")
    if options.record:
        (RESULTS / f"{options.record}.md").write_text(f"# Benchmark of {options.record}\n\n{text}\n")
    return int(any(row.middle.errors for row in rows))


def describe_method(seconds: float, repetitions: int) -> str:
    """Return the sentence about lengths, repetitions and floors."""
    floors = ["bare front (uvloop and httptools)", "bare gRPC (grpc.aio on uvloop)", read_nginx_version()]
    alternate = f"that\nalternate with the floors ({', '.join(filter(None, floors))})."
    return f"Medians of {repetitions} repetitions of {seconds:g} s {alternate}"


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; the list of cases becomes a set."""
    names = [START, SCRAPE, CONSOLE, *(group.name for group in make_groups())]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(names), help=f"comma-separated, of {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a repetition")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--turns", type=int, default=10, help="of the console: turns with and without a page")
    parser.add_argument("--turn-seconds", type=float, default=5.0, help="of the console: length of a turn")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the console: how long a page is open")
    parser.add_argument("--quick", action="store_true", help="one repetition of a second each")
    parser.add_argument(
        "--patience", type=float, default=120.0, help="seconds, in all, to wait for others or repeat for them"
    )
    parser.add_argument("--record", metavar="NAME", help="keep the table as results/NAME.md")
    options = parser.parse_args(arguments)
    options.cases = set(options.cases.split(","))
    unknown = options.cases - set(names)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    if options.quick:
        options.seconds, options.repetitions = 1.0, 1
        options.turns, options.turn_seconds, options.minutes = 2, 1.0, 0.25
    return options


def measure_groups(chosen: Sequence[Group], options: argparse.Namespace) -> Iterator[Row]:
    """Measure every workload of the groups in turn with its floors."""
    patience = WaitBudget(options.patience)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server = stack.enter_context(Mooring(MODELS, OPTIONS))
        bare = stack.enter_context(BareFront())
        nginx = stack.enter_context(Nginx()) if NGINX else None
        bare_grpc = stack.enter_context(BareGrpc())
        for group in chosen:
            if group.workloads[0].body.grpc:
                floors: list[Target] = [bare_grpc]
            else:
                floors = [bare, *([nginx] if nginx is not None and group.nginx else [])]
            for workload in group.workloads:
                check_answer(server, workload)
            for connections in group.concurrencies:
                runs = make_load_runs(group, floors, server, connections, folder)
                taken = list(measure_in_turn(runs, options.repetitions, options.seconds, patience))
                middles = {run.name: median(samples) for run, samples in taken[: len(floors)]}
                yield from (Row(run.name, connections, samples, middles) for run, samples in taken)


def make_load_runs(
    group: Group, floors: Sequence[Target], server: Target, connections: int, folder: Path
) -> list[LoadRun]:
    """Return one load for each floor, then one for each workload."""
    body = group.workloads[0].body
    for floor in floors:
        fetch_answer(floor, group.floor, body)
    runs = [
        LoadRun(floor.label, floor, group.floor, body, write_body(body, folder), connections)
        for floor in floors
    ]
    return runs + [
        LoadRun(each.name, server, each.path, each.body, write_body(each.body, folder), connections)
        for each in group.workloads
    ]


def check_answer(server: Target, workload: Workload) -> None:
    """Send the workload once. Raises ``RuntimeError`` for a wrong answer, whose speed would mean nothing."""
    answer = fetch_answer(server, workload.path, workload.body)
    if not workload.is_right(answer):
        raise RuntimeError(f"{workload.name}: wrong answer {answer[:300]!r}")


def fetch_answer(server: Target, path: str, body: Body) -> bytes:
    """Return the first answer of a server that may still start."""
    if body.grpc:
        return server.call_rpc(path, body.content)
    return server.wait_for_answer(path, body.content, body.headers)


def write_body(body: Body, folder: Path) -> Path:
    """Write the body to a file for the load generators, once, and return the path."""
    file = folder / body.name.replace(" ", "-")
    if not file.exists():
        file.write_bytes(body.content)
    return file


def format_progress(row: Row) -> str:
    """Return the line that is printed while the benchmark runs."""
    middle = row.middle
    return f"{row.name:24} c={row.connections:<3} {middle.rps:8.0f} req/s  {middle.cpu * 1e6:7.1f} us CPU  foreign {middle.foreign:.0%}"


if __name__ == "__main__":
    sys.exit(main())
