"""Measure our own server beside its peers: the same models, one driver, in turn.

    make bench-peers                                       everything, some forty-five minutes
    make bench-peers ARGS="--quick --cases echo,binary"    one short repetition of some
    make bench-peers ARGS="--servers mooring,tritonserver,fastapi"
    make bench-peers ARGS="--record 2026-01-31"            keep the tables as results/2026-01-31-peers.md

What was found is written after every step, so an interrupted run keeps it: the same --record again, or --resume, goes on
with what is missing. Peers are installed by peers/install.py; those that are not there are left out, and said so.
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import lifecycle
from in_process import Callers, Limit
from lifecycle import Life, Request
from measuring import Patience, Sample, Shot, idle_load, median, repeat
from peer_cases import CASES, Bodies, Case, models
from peer_report import LIMIT, Record, Result, format_progress
from peer_targets import BATCH, PEER_KINDS, TORCH, WORKERS, Ours, Peer, Server, StaticFile, install
from report import describe_conditions
from run import file_of

RESULTS = Path(__file__).parent / "results"
LIFE, LIFE_MODEL = "life", "resnet18"
# Models that our server rearranges; their limit is the better one of as they are and rearranged.
REARRANGED = ("resnet18", "transformer")
BUSY = 0.03  # of a core: an idle server that uses more disturbs the others


def main() -> int:
    """Measure and print; the exit status is 1 when our own server gave a wrong answer or none."""
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        record = Record(RESULTS, options.record or "latest", resume=bool(options.record) or options.resume)
        record.add(conditions=f"{describe_conditions(method(options))}\n\n{peers()}")
        run = Run(options, record, folder)
        run.export()
        for case in CASES:
            if case.name in options.cases:
                run.measure(case)
        if LIFE in options.cases:
            run.live()
    print(f"\n{record.format()}")
    return int(any("mooring" in each for each in record.texts("failure")))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with lists as sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*(case.name for case in CASES), LIFE]
    parser.add_argument("--cases", default=",".join(names), help=f"comma-separated, of {', '.join(names)}")
    parser.add_argument("--servers", default="", help="comma-separated; all that are installed by default")
    parser.add_argument("--seconds", type=float, help="length of a repetition; by default the case's own")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one repetition of a second each")
    parser.add_argument(
        "--patience", type=float, default=120.0, help="seconds, in all, to wait for others or repeat for them"
    )
    parser.add_argument("--record", metavar="NAME", help="keep the tables as results/NAME-peers.md")
    parser.add_argument("--resume", action="store_true", help="go on with the last run that has no name")
    options = parser.parse_args(arguments)
    options.cases = set(options.cases.split(","))
    unknown = options.cases - set(names)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    options.servers = set(filter(None, options.servers.split(",")))
    if options.quick:
        options.seconds, options.repetitions = options.seconds or 1.0, 1
    return options


class Run:
    """One sitting: what is missing in the record is measured and added to it."""

    def __init__(self, options: argparse.Namespace, record: Record, folder: Path) -> None:
        self._options = options
        self._record = record
        self._folder = folder
        self._exported = folder / "exported"
        self._bodies = Bodies()
        self._patience = Patience(options.patience)
        self._left = [step for step in self._plan() if not record.has(step)]

    def _plan(self) -> Iterator[str]:
        """The steps of the record."""
        for case in (case for case in CASES if case.name in self._options.cases):
            for workload, concurrencies in case.workloads.items():
                yield from (step_of(workload, connections) for connections in concurrencies)
        if LIFE in self._options.cases:
            yield from (f"{LIFE} {server.label}" for server in self.living())

    def _seconds(self, case: Case) -> float:
        return float(self._options.seconds or case.seconds)

    def servers(self, case: Case) -> Iterator[Server]:
        """Those that take part, peers in every setting that suits the case."""
        if self._wanted("mooring"):
            yield Ours(case.models, self._exported)
            if case.models[0] in TORCH:
                yield Ours(case.models, self._exported, engine="onnx")
        if case.name == "echo" and StaticFile.there():
            yield StaticFile()
        for kind in PEER_KINDS:
            if self._wanted(kind.name) and install.installed(kind.package()):
                yield from kind.settings(case.name, case.models)

    def _wanted(self, name: str) -> bool:
        return not self._options.servers or name in self._options.servers

    def export(self) -> None:
        """Write the files of the models that missing steps need."""
        for model in TORCH:
            if any(step.startswith((model, LIFE)) for step in self._left):
                models.export(model, self._exported / model)

    def measure(self, case: Case) -> None:
        """Every server at every workload of the case, in turn, after each has answered right once."""
        missing = {
            workload: [each for each in concurrencies if step_of(workload, each) in self._left]
            for workload, concurrencies in case.workloads.items()
        }
        if not any(missing.values()):
            return
        chosen = [each for each in self.servers(case) if any(missing.get(way) for way in each.ways())]
        with started(chosen), ExitStack() as stack:
            callers = self._callers(case, stack)
            able = {
                workload: [server for server in chosen if self._answers(server, workload)]
                for workload, concurrencies in missing.items()
                if concurrencies
            }
            self._look_at_idle(chosen)
            for workload, servers in able.items():
                for turn, connections in enumerate(missing[workload]):
                    shots = [
                        self._shot(server, workload, connections, case, first=not turn) for server in servers
                    ]
                    self._step(case, workload, connections, [*shots, *limits_of(callers, connections)])

    def _step(self, case: Case, workload: str, connections: int, each: Sequence[Shot | Limit]) -> None:
        taken = repeat(each, self._options.repetitions, self._seconds(case), self._patience)
        results = [result_of(workload, connections, one, median(samples)) for one, samples in taken]
        for result in results:
            print(format_progress(result), flush=True)
        self._done(step_of(workload, connections), results=[asdict(result) for result in results])

    def _done(self, step: str, **found: object) -> None:
        self._record.add(step=step, **found)
        self._left.remove(step)
        print(f"-- {step} is written; {len(self._left)} steps left", flush=True)

    def _callers(self, case: Case, stack: ExitStack) -> list[Callers]:
        model = case.models[0]
        if model not in TORCH:
            return []
        engines = ("torch", *["optimized"] * (model in REARRANGED), "onnx")
        found = [stack.enter_context(Callers(engine, model, self._exported, WORKERS)) for engine in engines]
        for callers in found:
            callers.ready()
        return found

    def _answers(self, server: Server, workload: str) -> bool:
        """Whether it can do this, and does it right; what it did wrong goes to the record."""
        way = server.ways().get(workload)
        if way is None:
            return False
        body = self._bodies.body(way.body)
        try:
            if body.grpc:
                answer = called(server, way.path, body.content, 90.0)
            else:
                answer = server.wait_for(way.path, body.content, body.headers, 90.0)
        except RuntimeError as error:
            self._record.add(failure=f"{server.label}, {workload}: {error}")
            return False
        if not self._bodies.right(workload, way.answer, answer):
            self._record.add(failure=f"{server.label}, {workload}: wrong answer {answer[:200]!r}")
            return False
        return True

    def _look_at_idle(self, running: Sequence[Server]) -> None:
        """Say which servers work while nobody asks them: that disturbs the others."""
        self._patience.wait()
        for server, share in zip(running, idle_load(running), strict=True):
            if share > BUSY:
                self._record.add(note=f"{server.label} uses {share:.0%} of a core while nobody asks it.")

    def _shot(self, server: Server, workload: str, connections: int, case: Case, *, first: bool) -> Shot:
        """One load of a server. It is warmed up once for a workload, and models for every size of their batches."""
        way = server.ways()[workload]
        body = self._bodies.body(way.body)
        warm_up = server.warm_up if first else float(workload in TORCH)
        file = file_of(body, self._folder)
        return Shot(server.label, server, way.path, body, file, connections, warm_up, case.steady)

    def living(self) -> list[Peer | Ours]:
        """Those whose start, memory and end are looked at, in their first setting."""
        case = Case(LIFE, (LIFE_MODEL,), {})
        return [
            server
            for server in self.servers(case)
            if not isinstance(server, StaticFile) and LIFE_MODEL in server.ways()
        ]

    def live(self) -> None:
        """How every server starts, what memory it takes, and what clients see when a worker of it is killed."""
        if not any(step.startswith(LIFE) for step in self._left):
            return
        for server in self.living():
            if f"{LIFE} {server.label}" not in self._left:
                continue
            try:
                lives = self._live(server)
            except RuntimeError as error:
                self._record.add(failure=f"{server.label}, {LIFE}: {error}")
                continue
            self._done(f"{LIFE} {server.label}", lives=[asdict(each) for each in lives])

    def _live(self, server: Peer | Ours) -> list[Life]:
        """The server's, and before our own that of the bare script, which started in turn with it."""
        way, starts = server.ways()[LIFE_MODEL], self._options.repetitions
        request = Request(way.path, self._bodies.body(way.body), self._right(way.answer))
        if not isinstance(server, Ours):
            return [lifecycle.measure_life(server.with_workers, request, starts=starts)]
        engine, scripts = server.engine, []

        def script() -> None:
            scripts.append(lifecycle.measure_script_start(engine, LIFE_MODEL, self._exported))

        life = lifecycle.measure_life(
            server.with_workers, request, starts=starts, engine=engine, before=script
        )
        return [Life(f"bare script, {engine}", statistics.median(scripts), engine=engine), life]

    def _right(self, kind: str) -> Callable[[bytes], bool]:
        return lambda answer: self._bodies.right(LIFE_MODEL, kind, answer)


def called(server: Server, method: str, message: bytes, limit: float) -> bytes:
    """The first answer over gRPC: some listen before their models are there. Raises ``RuntimeError`` when none comes."""
    end = time.perf_counter() + limit
    while True:
        try:
            return server.call(method, message, limit)
        except RuntimeError:
            if time.perf_counter() > end:
                raise
            time.sleep(0.2)


def method(options: argparse.Namespace) -> str:
    """How everything is measured, in words."""
    chosen = sorted({options.seconds or case.seconds for case in CASES if case.name in options.cases})
    spans = [f"{each:g}" for each in (chosen[:1] + chosen[-1:] if len(chosen) > 1 else chosen)]
    length = f" of {' to '.join(spans)} s" if spans else ""
    alternate = "in which\nservers and, of models, processes without a server alternate."
    return f"Medians of {options.repetitions} repetitions{length}, {alternate}"


def step_of(workload: str, connections: int) -> str:
    """What one step of the record is called: all that alternates."""
    return f"{workload}, c={connections}"


@contextmanager
def started(servers: Sequence[Server]) -> Iterator[None]:
    """All of them at once, and ended at once: each takes seconds for both."""
    with ThreadPoolExecutor(max(1, len(servers))) as pool, ExitStack() as stack:
        for server in servers:
            server.__enter__()
            stack.callback(pool.submit, server.__exit__, None, None, None)
        yield


def limits_of(callers: Sequence[Callers], connections: int) -> list[Limit]:
    """As many processes and rows a call as so many clients can keep busy."""
    processes = min(WORKERS, connections)
    batch = min(BATCH, max(1, connections // processes))
    return [
        Limit(f"{LIMIT}{each.engine}, {processes} x {batch} rows", each, processes, batch) for each in callers
    ]


def result_of(workload: str, connections: int, one: Shot | Limit, middle: Sample) -> Result:
    """What the record says of the median repetition."""
    server = one.target if isinstance(one, Shot) else one
    engine = server.engine if isinstance(server, Ours | Limit) else ""
    figures = (middle.rps, middle.p50, middle.p99 or None, middle.cpu, middle.errors, middle.noisy)
    return Result(workload, one.name, connections, *figures, engine)


def peers() -> str:
    """Their versions."""
    found = []
    for kind in PEER_KINDS:
        if install.installed(kind.package()):
            packages = install.versions(kind.package())
            of = "nvidia-pytriton" if kind.package() == "pytriton" else kind.package()
            found.append(f"{kind.name} {packages.get(of, '?')}")
        else:
            found.append(f"{kind.name} is not installed")
    return f"Peers: {', '.join(found)}."


if __name__ == "__main__":
    sys.exit(main())
