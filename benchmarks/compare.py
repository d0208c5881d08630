"""Measure our own server beside its peers: the same models, one driver, in turn.

    make bench-peers                                       everything, some forty-five minutes
    make bench-peers ARGS="--quick --cases echo,binary"    one short repetition of some
    make bench-peers ARGS="--servers mooring,tritonserver,fastapi"
    make bench-peers ARGS="--record 2026-01-31"            keep the tables as results/2026-01-31-peers.md

Results are written after every step. After an interruption, the same --record (or --resume) continues with the missing steps.
peers/install.py installs the peers; a peer that is not installed is left out, and the page names it.
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
from in_process import CallerPool, Limit
from lifecycle import Life, Request
from measuring import LoadRun, Sample, WaitBudget, measure_idle_cpu, measure_in_turn, median
from peer_cases import CASES, Bodies, Case, models
from peer_report import LIMIT, Record, Result, format_progress
from peer_targets import BATCH, PEER_KINDS, TORCH, WORKERS, Ours, Peer, Server, StaticFile, install
from report import describe_conditions
from run import write_body

RESULTS = Path(__file__).parent / "results"
LIFE, LIFE_MODEL = "life", "resnet18"
# Models that our server rearranges; their limit is the better one of as they are and rearranged.
REARRANGED = ("resnet18", "transformer")
BUSY = 0.03  # of a core: an idle server that uses more disturbs the others


def main() -> int:
    """Measure and print; the exit status is 1 when our own server gave a wrong answer or none."""
    options = parse_options(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        record = Record(RESULTS, options.record or "latest", resume=bool(options.record) or options.resume)
        record.add(conditions=f"{describe_conditions(describe_method(options))}\n\n{describe_peers()}")
        run = Comparison(options, record, folder)
        run.export_models()
        for case in CASES:
            if case.name in options.cases:
                run.measure_case(case)
        if LIFE in options.cases:
            run.measure_lives()
    print(f"\n{record.format()}")
    return int(any("mooring" in each for each in record.texts("failure")))


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; lists become sets."""
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


class Comparison:
    """Measures the steps that the record lacks, and adds their results to it."""

    def __init__(self, options: argparse.Namespace, record: Record, folder: Path) -> None:
        self._options = options
        self._record = record
        self._folder = folder
        self._exported = folder / "exported"
        self._bodies = Bodies()
        self._patience = WaitBudget(options.patience)
        self._missing = [step for step in self._plan() if not record.has(step)]

    def _plan(self) -> Iterator[str]:
        """Yield the names of all steps that the options ask for."""
        for case in (case for case in CASES if case.name in self._options.cases):
            for workload, concurrencies in case.workloads.items():
                yield from (name_step(workload, connections) for connections in concurrencies)
        if LIFE in self._options.cases:
            yield from (f"{LIFE} {server.label}" for server in self.servers_with_life())

    def _seconds(self, case: Case) -> float:
        return float(self._options.seconds or case.seconds)

    def servers(self, case: Case) -> Iterator[Server]:
        """Yield the servers that take part, peers in every setting that suits the case."""
        if self._is_wanted("mooring"):
            yield Ours(case.models, self._exported)
            if case.models[0] in TORCH:
                yield Ours(case.models, self._exported, engine="onnx")
        if case.name == "echo" and StaticFile.is_installed():
            yield StaticFile()
        for kind in PEER_KINDS:
            if self._is_wanted(kind.name) and install.installed(kind.package()):
                yield from kind.settings(case.name, case.models)

    def _is_wanted(self, name: str) -> bool:
        return not self._options.servers or name in self._options.servers

    def export_models(self) -> None:
        """Write the files of the models that missing steps need."""
        for model in TORCH:
            if any(step.startswith((model, LIFE)) for step in self._missing):
                models.export(model, self._exported / model)

    def measure_case(self, case: Case) -> None:
        """Measure every server at every workload of the case, in turn, after each has answered right once."""
        missing = {
            workload: [each for each in concurrencies if name_step(workload, each) in self._missing]
            for workload, concurrencies in case.workloads.items()
        }
        if not any(missing.values()):
            return
        servers = [each for each in self.servers(case) if any(missing.get(route) for route in each.routes())]
        with run_servers(servers), ExitStack() as stack:
            pools = self._start_callers(case, stack)
            capable = {
                workload: [server for server in servers if self._check_answer(server, workload)]
                for workload, concurrencies in missing.items()
                if concurrencies
            }
            self._note_idle_cpu(servers)
            for workload, able in capable.items():
                for turn, connections in enumerate(missing[workload]):
                    runs = [
                        self._make_run(server, workload, connections, case, first=not turn) for server in able
                    ]
                    self._measure_step(case, workload, connections, [*runs, *make_limits(pools, connections)])

    def _measure_step(
        self, case: Case, workload: str, connections: int, each: Sequence[LoadRun | Limit]
    ) -> None:
        taken = measure_in_turn(each, self._options.repetitions, self._seconds(case), self._patience)
        results = [make_result(workload, connections, one, median(samples)) for one, samples in taken]
        for result in results:
            print(format_progress(result), flush=True)
        self._finish_step(name_step(workload, connections), results=[asdict(result) for result in results])

    def _finish_step(self, step: str, **found: object) -> None:
        self._record.add(step=step, **found)
        self._missing.remove(step)
        print(f"-- {step} is written; {len(self._missing)} steps left", flush=True)

    def _start_callers(self, case: Case, stack: ExitStack) -> list[CallerPool]:
        model = case.models[0]
        if model not in TORCH:
            return []
        engines = ("torch", *["optimized"] * (model in REARRANGED), "onnx")
        found = [
            stack.enter_context(CallerPool(engine, model, self._exported, WORKERS)) for engine in engines
        ]
        for pool in found:
            pool.wait_until_ready()
        return found

    def _check_answer(self, server: Server, workload: str) -> bool:
        """Return whether the server serves the workload and answers right; the record gets what went wrong."""
        route = server.routes().get(workload)
        if route is None:
            return False
        body = self._bodies.body(route.body)
        try:
            if body.grpc:
                answer = call_until_served(server, route.path, body.content, 90.0)
            else:
                answer = server.wait_for_answer(route.path, body.content, body.headers, 90.0)
        except RuntimeError as error:
            self._record.add(failure=f"{server.label}, {workload}: {error}")
            return False
        if not self._bodies.is_right(workload, route.answer, answer):
            self._record.add(failure=f"{server.label}, {workload}: wrong answer {answer[:200]!r}")
            return False
        return True

    def _note_idle_cpu(self, running: Sequence[Server]) -> None:
        """Note which servers use CPU while idle, because they disturb the others."""
        self._patience.wait_until_quiet()
        for server, share in zip(running, measure_idle_cpu(running), strict=True):
            if share > BUSY:
                self._record.add(note=f"{server.label} uses {share:.0%} of a core while idle.")

    def _make_run(
        self, server: Server, workload: str, connections: int, case: Case, *, first: bool
    ) -> LoadRun:
        """Make one load of a server. The first warms up the workload; models warm up for each size of their batches."""
        route = server.routes()[workload]
        body = self._bodies.body(route.body)
        warm_up = server.warm_up if first else float(workload in TORCH)
        file = write_body(body, self._folder)
        return LoadRun(server.label, server, route.path, body, file, connections, warm_up, case.steady)

    def servers_with_life(self) -> list[Peer | Ours]:
        """Return the servers whose start, memory and loss of a worker are measured, in their first setting."""
        case = Case(LIFE, (LIFE_MODEL,), {})
        return [
            server
            for server in self.servers(case)
            if not isinstance(server, StaticFile) and LIFE_MODEL in server.routes()
        ]

    def measure_lives(self) -> None:
        """Measure how every server starts, its memory, and what clients see when one of its workers is killed."""
        if not any(step.startswith(LIFE) for step in self._missing):
            return
        for server in self.servers_with_life():
            if f"{LIFE} {server.label}" not in self._missing:
                continue
            try:
                lives = self._measure_life(server)
            except RuntimeError as error:
                self._record.add(failure=f"{server.label}, {LIFE}: {error}")
                continue
            self._finish_step(f"{LIFE} {server.label}", lives=[asdict(each) for each in lives])

    def _measure_life(self, server: Peer | Ours) -> list[Life]:
        """Return the life of the server; before our own stands the bare script, which started in turn with it."""
        route, starts = server.routes()[LIFE_MODEL], self._options.repetitions
        request = Request(route.path, self._bodies.body(route.body), self._make_check(route.answer))
        if not isinstance(server, Ours):
            return [lifecycle.measure_life(server.with_workers, request, starts=starts)]
        engine, scripts = server.engine, []

        def script() -> None:
            scripts.append(lifecycle.measure_script_start(engine, LIFE_MODEL, self._exported))

        life = lifecycle.measure_life(
            server.with_workers, request, starts=starts, engine=engine, before=script
        )
        return [Life(f"bare script, {engine}", statistics.median(scripts), engine=engine), life]

    def _make_check(self, kind: str) -> Callable[[bytes], bool]:
        return lambda answer: self._bodies.is_right(LIFE_MODEL, kind, answer)


def call_until_served(server: Server, method: str, message: bytes, limit: float) -> bytes:
    """Return the first answer over gRPC; some servers listen before they have loaded. Raises ``RuntimeError`` after ``limit`` seconds."""
    end = time.perf_counter() + limit
    while True:
        try:
            return server.call_rpc(method, message, limit)
        except RuntimeError:
            if time.perf_counter() > end:
                raise
            time.sleep(0.2)


def describe_method(options: argparse.Namespace) -> str:
    """Return the sentence about lengths and repetitions."""
    lengths = sorted({options.seconds or case.seconds for case in CASES if case.name in options.cases})
    spans = [f"{each:g}" for each in (lengths[:1] + lengths[-1:] if len(lengths) > 1 else lengths)]
    length = f" of {' to '.join(spans)} s" if spans else ""
    alternate = "in which\nservers and, of models, processes without a server alternate."
    return f"Medians of {options.repetitions} repetitions{length}, {alternate}"


def name_step(workload: str, connections: int) -> str:
    """Return the name of the step in which all servers alternate at this workload."""
    return f"{workload}, c={connections}"


@contextmanager
def run_servers(servers: Sequence[Server]) -> Iterator[None]:
    """Run all servers at once and stop them at once, because each takes seconds for both."""
    with ThreadPoolExecutor(max(1, len(servers))) as pool, ExitStack() as stack:
        for server in servers:
            server.__enter__()
            stack.callback(pool.submit, server.__exit__, None, None, None)
        yield


def make_limits(pools: Sequence[CallerPool], connections: int) -> list[Limit]:
    """Return the limits with as many processes and rows a call as the clients of ``connections`` can keep busy."""
    processes = min(WORKERS, connections)
    batch = min(BATCH, max(1, connections // processes))
    return [
        Limit(f"{LIMIT}{each.engine}, {processes} x {batch} rows", each, processes, batch) for each in pools
    ]


def make_result(workload: str, connections: int, one: LoadRun | Limit, middle: Sample) -> Result:
    """Return the median repetition as the record keeps it."""
    server = one.target if isinstance(one, LoadRun) else one
    engine = server.engine if isinstance(server, Ours | Limit) else ""
    figures = (middle.rps, middle.p50, middle.p99 or None, middle.cpu, middle.errors, middle.noisy)
    return Result(workload, one.name, connections, *figures, engine)


def describe_peers() -> str:
    """Return the sentence about the versions of the peers."""
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
