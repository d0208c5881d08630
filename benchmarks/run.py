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

from measuring import Patience, Shot, median, repeat
from report import Row, describe_conditions, format_loads, format_starts
from starting import Figure, figures
from targets import NGINX, BareFront, BareGrpc, Mooring, Nginx, Target, nginx_version
from workloads import MODELS, OPTIONS, Body, Group, Workload, groups

RESULTS = Path(__file__).parent / "results"
START = "start"


def main() -> int:
    """Measure and print; the exit status is 1 when an answer was wrong or a request failed."""
    options = parse(sys.argv[1:])
    chosen = [group for group in groups() if group.name in options.cases]
    rows: list[Row] = []
    starts: list[Figure] = []
    with (RESULTS / "latest.jsonl").open("w", buffering=1) as log:
        if START in options.cases:
            starts = figures(options.repetitions)
            log.writelines(f"{json.dumps(asdict(figure))}\n" for figure in starts)
            print(format_starts(starts), end="\n\n", flush=True)
        for row in measured(chosen, options) if chosen else ():
            print(progress(row), flush=True)
            rows.append(row)
            about = {"name": row.name, "connections": row.connections}
            log.writelines(f"{json.dumps(about | asdict(sample))}\n" for sample in row.samples)
    parts = [describe_conditions(method(options.seconds, options.repetitions))]
    parts += [format_starts(starts)] * bool(starts) + [format_loads(rows)] * bool(rows)
    text = "\n\n".join(parts)
    print(f"\n{text}")
    if options.record:
        (RESULTS / f"{options.record}.md").write_text(f"# Benchmark of {options.record}\n\n{text}\n")
    return int(any(row.middle.errors for row in rows))


def method(seconds: float, repetitions: int) -> str:
    """How everything is measured, in words."""
    floors = ["bare front (uvloop and httptools)", "bare gRPC (grpc.aio on uvloop)", nginx_version()]
    alternate = f"that\nalternate with the floors ({', '.join(filter(None, floors))})."
    return f"Medians of {repetitions} repetitions of {seconds:g} s {alternate}"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with the list of cases as a set."""
    names = [START, *(group.name for group in groups())]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(names), help=f"comma-separated, of {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a repetition")
    parser.add_argument("--repetitions", type=int, default=3)
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
    return options


def measured(chosen: Sequence[Group], options: argparse.Namespace) -> Iterator[Row]:
    """Every workload of the groups, each beside its floors."""
    patience = Patience(options.patience)
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
                check(server, workload)
            for connections in group.concurrencies:
                shots = shots_of(group, floors, server, connections, folder)
                taken = list(repeat(shots, options.repetitions, options.seconds, patience))
                middles = {shot.name: median(samples) for shot, samples in taken[: len(floors)]}
                yield from (Row(shot.name, connections, samples, middles) for shot, samples in taken)


def shots_of(
    group: Group, floors: Sequence[Target], server: Target, connections: int, folder: Path
) -> list[Shot]:
    """The floors first, then the workloads."""
    body = group.workloads[0].body
    for floor in floors:
        answer_of(floor, group.floor, body)
    shots = [
        Shot(floor.label, floor, group.floor, body, file_of(body, folder), connections) for floor in floors
    ]
    return shots + [
        Shot(each.name, server, each.path, each.body, file_of(each.body, folder), connections)
        for each in group.workloads
    ]


def check(server: Target, workload: Workload) -> None:
    """Ask once. Raises ``RuntimeError`` for a wrong answer: its speed would mean nothing."""
    answer = answer_of(server, workload.path, workload.body)
    if not workload.right(answer):
        raise RuntimeError(f"{workload.name}: wrong answer {answer[:300]!r}")


def answer_of(server: Target, path: str, body: Body) -> bytes:
    """What a server says, as soon as it says something."""
    if body.grpc:
        return server.call(path, body.content)
    return server.wait_for(path, body.content, body.headers)


def file_of(body: Body, folder: Path) -> Path:
    """The body as a file, for a load generator to read."""
    file = folder / body.name.replace(" ", "-")
    if not file.exists():
        file.write_bytes(body.content)
    return file


def progress(row: Row) -> str:
    """A line while it runs."""
    middle = row.middle
    return f"{row.name:24} c={row.connections:<3} {middle.rps:8.0f} req/s  {middle.cpu * 1e6:7.1f} us CPU  foreign {middle.foreign:.0%}"


if __name__ == "__main__":
    sys.exit(main())
