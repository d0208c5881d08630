"""What the project wants to reach beside its peers, as data, and what a run shows of it.

An aim is met only by figures of the run: one that was not measured, or that had errors, never is.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lifecycle import MEGABYTE, Life
from report import table
from standings import FLOOR, LIMIT, OURS, OURS_ONNX, Line, limit_of, told_back


@dataclass(frozen=True, slots=True)
class Shown:
    """What a run shows: of a comparison the figure and whether it is enough; ``met`` None where there is no threshold."""

    figure: str
    met: bool | None
    noisy: bool = False


class Run:
    """The figures of a run, by what was asked."""

    def __init__(self, lines: Iterable[Line], lives: Iterable[Life]) -> None:
        self._lines = list(lines)
        self.lives = list(lives)

    def at(self, workload: str, connections: int) -> list[Line]:
        """All that were asked this."""
        return [each for each in self._lines if each.workload == workload and each.connections == connections]

    def ours(self, workload: str, connections: int, server: str = OURS) -> Line | None:
        """Our own, if it was measured and never failed."""
        found = (each for each in self.at(workload, connections) if each.server == server)
        return next((each for each in found if each.rps and not each.errors), None)

    def peers(self, workload: str, connections: int, name: str = "") -> list[Line]:
        """Those whose name begins so, in all their settings, that answered."""
        return [
            each
            for each in self.at(workload, connections)
            if each.rps and is_peer(each.server) and each.server.startswith(name)
        ]

    def life(self, server: str) -> Life | None:
        """How one lives."""
        return next((each for each in self.lives if each.server == server), None)


def is_peer(server: str) -> bool:
    """Whether it is somebody else's server."""
    return not server.startswith((OURS, LIMIT, FLOOR, "bare script"))


Judge = Callable[[Run], Shown | None]


@dataclass(frozen=True, slots=True)
class Aim:
    """One of them: about what, in words, and how a run is judged."""

    about: str
    wish: str
    judge: Judge


def faster(workload: str, connections: int, times: float, than: str = "", of: str = "") -> Aim:
    """So many times the rate of the best peer of this name (of all); ``of`` is the peers' workload if it is another."""

    def judge(run: Run) -> Shown | None:
        return ratio(run.ours(workload, connections), run.peers(of or workload, connections, than), times)

    whose = f"{than}'s" + (f" {of}" if of else "") if than else "the best peer's"
    return Aim(f"{workload}, c={connections}", f">= {times:g} x {whose}", judge)


def reported(workload: str, connections: int) -> Aim:
    """The ONNX model's ratio to the best peer, for which no threshold is set."""

    def judge(run: Run) -> Shown | None:
        return ratio(run.ours(workload, connections, OURS_ONNX), run.peers(workload, connections), None)

    return Aim(f"{workload} from ONNX, c={connections}", "reported, beside the best peer's", judge)


def ratio(ours: Line | None, peers: Sequence[Line], times: float | None) -> Shown | None:
    """Our rate over the best of theirs."""
    if ours is None or not peers:
        return None
    best = max(peers, key=lambda line: line.rps)
    found = ours.rps / best.rps
    met = None if times is None else found >= times
    return Shown(f"{found:.2f} x {best.server}", met, ours.noisy or best.noisy)


def sooner(figure: str, workload: str, connections: int, others: Sequence[str] = ()) -> Aim:
    """p50 or p99 below every peer's, at this workload and at ``others``."""

    def judge(run: Run) -> Shown | None:
        ours = run.ours(workload, connections)
        peers = [peer for each in (workload, *others) for peer in run.peers(each, connections)]
        peers = [peer for peer in peers if getattr(peer, figure)]
        if ours is None or not peers:
            return None
        best = min(peers, key=lambda line: float(getattr(line, figure)))
        mine, theirs = float(getattr(ours, figure)), float(getattr(best, figure))
        text = f"{mine * 1e3:.3g} ms, {best.server} {theirs * 1e3:.3g} ms"
        return Shown(text, mine < theirs, ours.noisy or best.noisy)

    return Aim(f"{workload}, c={connections}, {figure}", "below every peer's", judge)


def of_limit(workload: str, connections: int, share: float) -> Aim:
    """The share of what the same engine does without a server in the same run."""

    def judge(run: Run) -> Shown | None:
        ours = run.ours(workload, connections)
        limit = limit_of("torch", run.at(workload, connections))
        if ours is None or not limit:
            return None
        found = ours.rps / limit
        return Shown(f"{found:.1%} of the limit", found >= share, ours.noisy)

    return Aim(f"{workload}, c={connections}", f">= {share:.0%} of the limit", judge)


def near_limit(workload: str, seconds: float) -> Aim:
    """One client's median above a call without a server."""

    def judge(run: Run) -> Shown | None:
        ours = run.ours(workload, 1)
        limits = [
            each.p50
            for each in run.at(workload, 1)
            if each.server.startswith(LIMIT) and each.engine == "torch"
        ]
        if ours is None or not limits:
            return None
        found = ours.p50 - min(limits)
        return Shown(f"+ {found * 1e3:.2f} ms", found <= seconds, ours.noisy)

    return Aim(f"{workload}, c=1, p50", f"<= in process + {seconds * 1e3:g} ms", judge)


def over_floor(workload: str, connections: int, times: float) -> Aim:
    """CPU of the whole server for a request beside nginx answering with a file."""

    def judge(run: Run) -> Shown | None:
        ours = run.ours(workload, connections)
        floor = run.ours("echo", connections, FLOOR)
        if ours is None or floor is None or not ours.cpu or not floor.cpu:
            return None
        found = ours.cpu / floor.cpu
        text = f"{found:.2f} x ({ours.cpu * 1e6:.1f} us, nginx {floor.cpu * 1e6:.1f} us)"
        return Shown(text, found <= times, ours.noisy or floor.noisy)

    return Aim(f"{workload}, c={connections}, server CPU", f"<= {times:g} x nginx static", judge)


def start_over_script(times: float) -> Aim:
    """The start of the torch model beside a bare script's."""

    def judge(run: Run) -> Shown | None:
        ours = run.life(OURS)
        script = run.life("bare script, torch")
        if ours is None or script is None:
            return None
        found = ours.start / script.start
        return Shown(f"{found:.2f} x ({ours.start:.2f} s)", found <= times)

    return Aim("start to the first right answer, torch", f"<= {times:g} x a bare script", judge)


def start_within(seconds: float) -> Aim:
    """The start of the ONNX model."""

    def judge(run: Run) -> Shown | None:
        ours = run.life(OURS_ONNX)
        return ours and Shown(f"{ours.start:.2f} s", ours.start <= seconds)

    return Aim("start to the first right answer, ONNX", f"<= {seconds:.1f} s", judge)


def least_memory() -> Aim:
    """With one worker."""

    def judge(run: Run) -> Shown | None:
        ours = run.life(OURS)
        peers = [each for each in run.lives if each.serves and is_peer(each.server)]
        if ours is None or not peers:
            return None
        best = min(peers, key=lambda life: life.memory)
        text = f"{ours.memory / MEGABYTE:.0f} MB, {best.server} {best.memory / MEGABYTE:.0f} MB"
        return Shown(text, ours.memory < best.memory)

    return Aim("memory (PSS) with one worker", "below every peer's", judge)


def second_worker(megabytes: float) -> Aim:
    """What it adds."""

    def judge(run: Run) -> Shown | None:
        ours = run.life(OURS)
        if ours is None:
            return None
        found = (ours.memory_of_two - ours.memory) / MEGABYTE
        return Shown(f"{found:.0f} MB", found <= megabytes)

    return Aim("memory that the second worker adds", f"<= {megabytes:g} MB", judge)


def no_errors_of_two() -> Aim:
    """What clients see of a kill where another worker is there."""

    def judge(run: Run) -> Shown | None:
        ours = run.life(OURS)
        if ours is None or ours.pair is None:
            return None
        lost = ours.pair.errors + ours.pair.hung
        return Shown(f"{ours.pair.errors} errors, {ours.pair.hung} hung", not lost)

    return Aim("kill -9 with two workers, 8 clients", "0 errors", judge)


def back_within(seconds: float) -> Aim:
    """How long nobody serves where the only worker was killed."""

    def judge(run: Run) -> Shown | None:
        ours = run.life(OURS)
        if ours is None or ours.alone is None:
            return None
        back = ours.alone.back
        return Shown(f"{told_back(ours.alone)} s", back is not None and back <= seconds)

    return Aim("kill -9 with one worker, serving again", f"<= {seconds:g} s", judge)


AIMS = (
    faster("echo", 64, 3.0, "tritonserver", of="echo v2"),
    faster("echo", 64, 5.0, "torchserve"),
    faster("echo v2", 64, 3.0, "tritonserver"),
    faster("echo v2", 16, 3.0, "tritonserver"),
    sooner("p50", "echo", 1, ["echo v2"]),
    sooner("p50", "echo v2", 1, ["echo"]),
    over_floor("echo", 64, 2.1),
    over_floor("echo v2", 64, 2.1),
    faster("total JSON", 8, 2.5, "tritonserver"),
    faster("identity JSON", 8, 3.0, "tritonserver"),
    faster("total binary", 8, 2.5, "tritonserver"),
    faster("identity binary", 8, 3.0, "tritonserver"),
    *(faster(f"length {way}", 16, 2.0, "fastapi") for way in ("raw", "form")),
    *(faster(f"length {way}", 16, 8.0, "torchserve") for way in ("raw", "form")),
    *(of_limit("resnet18", connections, 0.97) for connections in (1, 8, 32)),
    *(sooner("p99", "resnet18", connections) for connections in (1, 8, 32)),
    *(reported("resnet18", connections) for connections in (1, 8, 32)),
    near_limit("transformer", 0.3e-3),
    sooner("p50", "transformer", 1),
    of_limit("transformer", 32, 0.97),
    faster("transformer", 32, 1.0),
    faster("gRPC echo", 16, 1.0, "tritonserver"),
    faster("gRPC identity", 8, 1.5, "kserve"),
    start_over_script(1.1),
    start_within(1.0),
    least_memory(),
    second_worker(100.0),
    no_errors_of_two(),
    back_within(0.5),
)


def aims_table(lines: Iterable[Line], lives: Iterable[Life]) -> str:
    """What was wanted, what is there, and whether that is enough."""
    run = Run(lines, lives)
    rows = [["about", "aim", "reached", "met"]]
    for aim in AIMS:
        shown = aim.judge(run)
        rows.append([aim.about, aim.wish, *verdict(shown)])
    return f"## Against the aims\n\n{table(rows)}"


def verdict(shown: Shown | None) -> tuple[str, str]:
    """The last two cells."""
    if shown is None:
        return "not measured", "no"
    figure = f"{shown.figure} (noisy)" if shown.noisy else shown.figure
    return figure, {None: "", True: "yes", False: "no"}[shown.met]
