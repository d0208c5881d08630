"""How the servers of the comparison stand: the figures as lines, the lines as tables."""

from collections.abc import Iterable
from dataclasses import dataclass

from lifecycle import MEGABYTE, WATCHED, Killed, Life
from report import table

OURS, OURS_ONNX = "mooring", "mooring, ONNX"
LIMIT = "no server, "
FLOOR = "nginx, a file"


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
    ours = next((each.rps for each in lines if each.server == OURS), None)
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


LIFE_TITLES = [
    "server", "start s", "of script", "PSS MB, 1 worker", "2 workers", "the second adds", "errors, 1 worker", "back after s",
    "errors, 2 workers", "hung",
]  # fmt: skip


def told_back(killed: Killed) -> str:
    """How many seconds a server was away."""
    return f"not in {WATCHED:g}" if killed.back is None else f"{killed.back:.2f}"


def life_table(lives: Iterable[Life]) -> str:
    """One row by server; starts beside the script that uses the same engine."""
    lives = list(lives)
    scripts = {each.engine: each.start for each in lives if not each.serves}
    return table([LIFE_TITLES, *(life_row(each, scripts.get(each.engine)) for each in lives)])


def life_row(life: Life, script: float | None) -> list[str]:
    """What a table says of it."""
    row = [life.server, f"{life.start:.2f}", f"{life.start / script:.2f} x" if script else ""]
    if life.alone is None or life.pair is None:
        return row + [""] * (len(LIFE_TITLES) - len(row))
    megabytes = (life.memory, life.memory_of_two, life.memory_of_two - life.memory)
    row += [f"{each / MEGABYTE:.0f}" for each in megabytes]
    row += [str(life.alone.errors), told_back(life.alone)]
    return [*row, str(life.pair.errors), str(life.alone.hung + life.pair.hung)]
