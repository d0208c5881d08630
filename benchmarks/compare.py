"""Measure our own server beside its peers: the same models, one driver, in turn.

    make bench-peers                                       everything, an hour or so
    make bench-peers ARGS="--quick --cases echo,binary"    one short repetition of some
    make bench-peers ARGS="--servers mooring,tritonserver,fastapi"
    make bench-peers ARGS="--record 2026-01-31"            keep the tables as results/2026-01-31-peers.md

Peers are installed by peers/install.py; those that are not there are left out, and said so.
"""

import argparse
import json
import math
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import lifecycle
import limits
import open_inference as v2
from measuring import Patience, Sample, Shot, median, repeat
from peer_targets import (
    BATCH,
    PEER_KINDS,
    TORCH,
    WORKERS,
    BatchedFastApi,
    FastApi,
    Ours,
    Peer,
    TorchServe,
    install,
)
from report import conditions, table
from run import file_of
from workloads import BOUNDARY, BYTES, JSON, Body

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import models

RESULTS = Path(__file__).parent / "results"
Server = Peer | Ours


@dataclass(frozen=True, slots=True)
class Case:
    """Workloads that are measured with the same servers running. ``expected`` is the beginning of a right answer."""

    name: str
    models: tuple[str, ...]
    workloads: tuple[str, ...]
    concurrencies: tuple[int, ...]


CASES = (
    Case("echo", ("echo",), ("echo", "echo v2"), (1, 16, 64)),
    Case("json", ("total", "identity"), ("total JSON", "identity JSON"), (1, 8)),
    Case("binary", ("total", "identity"), ("total binary", "identity binary"), (1, 8)),
    Case("body", ("echo",), ("length raw", "length form"), (1, 16)),
    Case("resnet18", ("resnet18",), ("resnet18",), (1, 8, 32)),
    Case("transformer", ("transformer",), ("transformer",), (1, 32)),
    Case("grpc", ("echo", "identity"), ("gRPC echo", "gRPC identity"), (1, 8, 16)),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One server at one workload and concurrency; of a limit the rate, the time of a call and the CPU of a row are known."""

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


class Bodies:
    """What is sent, by kind, and what must come back, by model."""

    def __init__(self) -> None:
        image = models.example("resnet18", 1)
        words = models.example("transformer", 1)
        picture = image.tobytes()[:102_400]
        nested = json.dumps(
            {"input": [[[[round(float(v), 6) for v in row] for row in plane] for plane in image[0]]]}
        )
        shape = [1, *models.IMAGE]
        self.kinds: dict[str, Callable[[], Body]] = {
            "number": lambda: Body("number", b'{"input":1.0}', JSON),
            "number v2": lambda: Body("number-v2", v2.json_body("x", [1, 1], struct.pack("<f", 1.0)), JSON),
            "image": lambda: Body("image", image.tobytes(), BYTES),
            "image json": lambda: Body("image-json", nested.encode(), JSON),
            "image v2 json": lambda: Body("image-v2-json", v2.json_body("x", shape, image.tobytes()), JSON),
            "image v2": lambda: _binary("image-v2", "FP32", shape, image.tobytes()),
            "image form": lambda: _form("image-form", image.tobytes()),
            "words": lambda: Body("words", words.tobytes(), BYTES),
            "words v2": lambda: _binary("words-v2", "INT64", [1, models.TOKENS], words.tobytes()),
            "words json": lambda: Body("words-json", json.dumps({"input": words.tolist()}).encode(), JSON),
            "words form": lambda: _form("words-form", words.tobytes()),
            "picture": lambda: Body("picture", picture, "image/jpeg"),
            "picture form": lambda: _form("picture-form", picture),
        }
        for model in ("echo", "echo_function", "identity", "identity_function"):
            raw, size = (struct.pack("<f", 1.0), [1, 1]) if "echo" in model else (image.tobytes(), shape)
            for kind in ("number message", "image message"):
                message = v2.message(model, "x", size, raw)
                self.kinds[f"{kind} {model}"] = lambda message=message, model=model: Body(
                    f"message-{model}", message, grpc=True
                )
        self.expected: dict[str, list[float]] = {
            "echo": [2.0],
            "total": [math.fsum(map(float, image.ravel()))],
            "identity": image.ravel()[:8].tolist(),
            "length": [102_400.0],
        }
        self._made: dict[str, Body] = {}

    def body(self, kind: str) -> Body:
        """One of each kind."""
        if kind not in self._made:
            self._made[kind] = self.kinds[kind]()
        return self._made[kind]

    def right(self, workload: str, kind: str, answer: bytes) -> bool:
        """Whether this is the model's answer."""
        model = workload.replace("gRPC ", "").split()[0]
        if model not in self.expected:
            self.expected[model] = models.load(model, 1)(models.example(model, 1))[0, :4].tolist()
        expected = self.expected[model]
        tolerance = 0.5 if model == "total" else 1e-3
        found = numbers(kind, answer)
        return len(found) >= len(expected) and all(
            abs(mine - theirs) <= tolerance for mine, theirs in zip(expected, found, strict=False)
        )


def _binary(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Body:
    content, size = v2.binary_body("x", shape, raw, datatype=datatype, output="y")
    return Body(name, content, BYTES, size)


def _form(name: str, content: bytes) -> Body:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="data"; filename="data"\r\n'
    head += "Content-Type: application/octet-stream\r\n\r\n"
    whole = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    return Body(name, whole, f"multipart/form-data; boundary={BOUNDARY}")


def numbers(kind: str, answer: bytes) -> list[float]:
    """The numbers that an answer carries, in order."""
    if kind == "message":
        answer, kind = v2.from_message(answer), "raw"
    if kind == "v2":
        document, end = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
        if len(answer) > end:
            answer, kind = answer[end:], "raw"
        else:
            return list(_floats(document["outputs"][0]["data"]))
    if kind == "raw":
        return list(struct.unpack(f"<{len(answer) // 4}f", answer)) if len(answer) % 4 == 0 else []
    return list(_floats(json.loads(answer)))


def _floats(value: object) -> Iterator[float]:
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _floats(each)


def main() -> int:
    """Measure and print; the exit status is 1 when our own server gave a wrong answer or none."""
    options = parse(sys.argv[1:])
    lines: list[Line] = []
    failed: list[str] = []
    bodies = Bodies()
    lives: list[list[str]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        for model in TORCH:
            if LIFE in options.cases or any(
                model in case.models for case in CASES if case.name in options.cases
            ):
                models.export(model, folder / "exported" / model)
        for case in CASES:
            if case.name in options.cases:
                for line in measured(case, options, bodies, folder, failed):
                    print(told(line), flush=True)
                    lines.append(line)
        if LIFE in options.cases:
            lives = list(lived(options, bodies, folder / "exported", failed))
    life = [f"## Start, memory, kill -9\n\n{table([LIFE_TITLES, *lives])}"] if lives else []
    text = "\n\n".join(
        [conditions(options.seconds, options.repetitions), versions(), tables(lines), *life, *failed]
    )
    print(f"\n{text}")
    keep(lines)
    if options.record:
        (RESULTS / f"{options.record}-peers.md").write_text(
            f"# Our server beside its peers, {options.record}\n\n{text}\n"
        )
    return int(any("mooring" in each for each in failed))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with lists as sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*(case.name for case in CASES), LIFE]
    parser.add_argument("--cases", default=",".join(names), help=f"comma-separated, of {', '.join(names)}")
    parser.add_argument("--servers", default="", help="comma-separated; all that are installed by default")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a repetition")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one repetition of a second each")
    parser.add_argument(
        "--patience", type=float, default=300.0, help="seconds to wait, in all, for a quiet machine"
    )
    parser.add_argument("--record", metavar="NAME", help="keep the tables as results/NAME-peers.md")
    options = parser.parse_args(arguments)
    options.cases = set(options.cases.split(","))
    options.servers = set(filter(None, options.servers.split(",")))
    if options.quick:
        options.seconds, options.repetitions = 1.0, 1
    return options


def servers(case: Case, wanted: set[str], folder: Path) -> Iterator[Server]:
    """Those that take part."""

    def takes_part(name: str) -> bool:
        return not wanted or name in wanted

    exported = folder / "exported"
    if takes_part("mooring"):
        yield Ours(case.models, exported)
        if case.models[0] in TORCH:
            yield Ours(case.models, exported, engine="onnx")
    for kind in PEER_KINDS:
        if takes_part(kind.name) and install.installed(kind.package()):
            yield kind(case.models)
            if kind is TorchServe and case.name == "echo":
                yield TorchServe(case.models, echo_batch=16)
            if kind is FastApi and case.models[0] in TORCH:
                yield BatchedFastApi(case.models)


# Models that our server rearranges; their limit is the better one of as they are and rearranged.
CONVOLUTIONS = ("resnet18",)
LIMIT = "no server, "
LIFE = "life"
LIFE_TITLES = [
    "server", "start s", "PSS MB, 1 worker", "2 workers", "errors, 1 worker", "back after s", "errors, 2 workers",
    "hung", "",
]  # fmt: skip


def lived(
    options: argparse.Namespace, bodies: Bodies, exported: Path, failed: list[str]
) -> Iterator[list[str]]:
    """How every server starts, what memory it takes, and what eight clients see when a worker of it is killed."""
    workload = "resnet18"
    for engine in ("torch", "onnx"):
        bare = sorted(lifecycle.bare_start(engine, workload, exported) for _ in range(options.repetitions))
        yield [f"bare script, {engine}", f"{bare[len(bare) // 2]:.2f}", *[""] * 7]
    case = Case("life", (workload,), (workload,), ())
    kinds = [
        server for server in servers(case, options.servers, exported.parent) if workload in server.ways()
    ]
    for template in kinds:
        if isinstance(template, BatchedFastApi):
            continue

        def fresh(workers: int, template: Server = template) -> Server:
            if isinstance(template, Ours):
                return Ours(case.models, exported, engine=template.engine, workers=workers)
            return type(template)(case.models, workers=workers)

        way = template.ways()[workload]
        body = bodies.body(way.body)

        def right(answer: bytes, kind: str = way.answer) -> bool:
            return bodies.right(workload, kind, answer)

        try:
            ones = [lifecycle.started(fresh(1), way.path, body, right) for _ in range(options.repetitions)]
            two = lifecycle.started(fresh(2), way.path, body, right)
            alone, pair = (lifecycle.killed(fresh(workers), way.path, body) for workers in (1, 2))
        except RuntimeError as error:
            failed.append(f"{template.label}, life: {error}")
            continue
        one = sorted(ones, key=lambda each: each.seconds)[len(ones) // 2]
        row = [
            template.label, f"{one.seconds:.2f}", f"{one.memory / lifecycle.MEGABYTE:.0f}",
            f"{two.memory / lifecycle.MEGABYTE:.0f}", str(alone.errors),
            "never" if alone.back is None else f"{alone.back:.2f}", str(pair.errors), str(alone.hung + pair.hung), "",
        ]  # fmt: skip
        print("life ", *row, flush=True)
        yield row


def measured(
    case: Case, options: argparse.Namespace, bodies: Bodies, folder: Path, failed: list[str]
) -> Iterator[Line]:
    """Every server at every workload of the case, in turn, after each has answered right once."""
    patience = Patience(options.patience)
    with ExitStack() as stack:
        running = []
        for server in servers(case, options.servers, folder):
            if any(workload in server.ways() for workload in case.workloads):
                stack.enter_context(server)
                running.append(server)
        for workload in case.workloads:
            able = [server for server in running if answers(server, workload, bodies, failed)]
            for connections in case.concurrencies:
                shots = [shot(server, workload, bodies, folder, connections) for server in able]
                for each, samples in repeat(shots, options.repetitions, options.seconds, patience):
                    yield line(workload, each, median(samples))
                if workload in TORCH:
                    yield from limit_lines(workload, connections, folder / "exported", options)


def answers(server: Server, workload: str, bodies: Bodies, failed: list[str]) -> bool:
    """Whether it can do this, and does it right; what it did wrong goes to ``failed``."""
    way = server.ways().get(workload)
    if way is None:
        return False
    body = bodies.body(way.body)
    try:
        if body.grpc:
            answer = server.call(way.path, body.content, 120.0)
        else:
            answer = server.wait_for(way.path, body.content, body.headers, 120.0)
    except RuntimeError as error:
        failed.append(f"{server.label}, {workload}: {error}")
        return False
    if not bodies.right(workload, way.answer, answer):
        failed.append(f"{server.label}, {workload}: wrong answer {answer[:200]!r}")
        return False
    return True


def shot(server: Server, workload: str, bodies: Bodies, folder: Path, connections: int) -> Shot:
    """One load of a server."""
    way = server.ways()[workload]
    body = bodies.body(way.body)
    return Shot(server.label, server, way.path, body, file_of(body, folder), connections)


def limit_lines(model: str, connections: int, folder: Path, options: argparse.Namespace) -> Iterator[Line]:
    """The model without a server, with as many processes and rows a call as so many clients can keep busy."""
    processes = min(WORKERS, connections)
    batch = min(BATCH, max(1, connections // processes))
    for engine in ("torch", *["optimized"] * (model in CONVOLUTIONS), "onnx"):
        tries = [
            limits.measured(engine, model, folder, processes, batch, options.seconds)
            for _ in range(options.repetitions)
        ]
        rate, seconds, cpu = sorted(tries)[len(tries) // 2]
        family = "onnx" if engine == "onnx" else "torch"
        yield Line(
            model,
            f"{LIMIT}{engine}, {processes} x {batch} rows",
            connections,
            rate,
            seconds,
            cpu=cpu,
            engine=family,
        )


def line(workload: str, shot: Shot, middle: Sample) -> Line:
    """What a table says of it."""
    return Line(
        workload,
        shot.name,
        shot.connections,
        middle.rps,
        middle.p50,
        middle.p99,
        middle.cpu,
        middle.errors,
        middle.noisy,
        shot.target.engine if isinstance(shot.target, Ours) else "",
    )


def told(line: Line) -> str:
    """A line while it runs."""
    return f"{line.workload:16} {line.server:28} c={line.connections:<3} {line.rps:9.1f} req/s  p50 {line.p50 * 1e3:9.2f} ms"


def tables(lines: Iterable[Line]) -> str:
    """One table by workload and concurrency, the fastest first."""
    groups: dict[tuple[str, int], list[Line]] = {}
    for each in lines:
        groups.setdefault((each.workload, each.connections), []).append(each)
    return "\n\n".join(_table_of(*key, group) for key, group in groups.items())


def _table_of(workload: str, connections: int, lines: list[Line]) -> str:
    ours = next((each.rps for each in lines if each.server == "mooring"), None)
    best = {engine: limit_of(engine, lines) for engine in ("torch", "onnx")}
    titles = ["server", "req/s", "p50 ms", "p99 ms", "CPU us", "mooring is", "of limit", ""]
    rows = [
        [
            each.server,
            f"{each.rps:.1f}" if each.rps < 1000 else f"{each.rps:.0f}",
            f"{each.p50 * 1e3:.2f}",
            "" if each.p99 is None else f"{each.p99 * 1e3:.2f}",
            "" if each.cpu is None else f"{each.cpu * 1e6:.0f}",
            "" if ours is None or each.rps == 0 else f"{ours / each.rps:.2f} x",
            f"{each.rps / best[each.engine]:.0%}" if best.get(each.engine) else "",
            ", ".join([f"{each.errors} errors"] * bool(each.errors) + ["noisy"] * each.noisy),
        ]
        for each in sorted(lines, key=lambda line: -line.rps)
    ]
    return f"## {workload}, c={connections}\n\n{table([titles, *rows])}"


def limit_of(engine: str, lines: Iterable[Line]) -> float | None:
    """The best that this engine did without a server, in any of its variants; None where nobody measured."""
    return max(
        (each.rps for each in lines if each.engine == engine and each.server.startswith(LIMIT)), default=None
    )


def versions() -> str:
    """Of the peers."""
    found = []
    for kind in PEER_KINDS:
        if install.installed(kind.package()):
            packages = install.versions(kind.package())
            of = "nvidia-pytriton" if kind.package() == "pytriton" else kind.package()
            found.append(f"{kind.name} {packages.get(of, '?')}")
    return f"Peers: {', '.join(found)}."


def keep(lines: Iterable[Line]) -> None:
    """As JSON lines, for whoever wants to reckon with them."""
    text = "".join(
        json.dumps({name: getattr(each, name) for name in Line.__slots__}) + "\n" for each in lines
    )
    (RESULTS / "latest-peers.jsonl").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
