"""What a server does with more than it can do: its throughput, its queue, and everybody else who asks it something.

    make overload                       two minutes; the table of docs/RELIABILITY.md
    make overload ARGS="--seconds 2"    in short

A model sleeps 20 ms on two workers, so it can do 100 requests a second. It is asked for 0.9, 2 and 10 times that,
by clients in other processes that do not wait for each other; meanwhile another model and the probes are asked now and then.
The exit status is 1 where an answer was lost or wrong, or a threshold was missed.
"""

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import tritonclient.grpc as triton
from open_loop import Seen, drive
from targets import Mooring

CAPACITY = 100.0
QUEUE = 100
SLEEP = "import time\n\n\ndef infer(x):\n    time.sleep(0.02)\n    return {'y': x}\n"
BODY = b'{"x": [1.0]}'
PROBES = ("/ping", "/v2/health/ready", "/v2/health/live")
MEGABYTE = 1 << 20
COLUMNS = (
    "load",
    "sent",
    "right",
    "refused",
    "lost, hung or other",
    "right a second",
    "p99 of the right",
    "p99 of the refused",
    "slowest probe",
    "p99 of the other model",
    "server RSS",
)
LOADS = (("HTTP", 0.9), ("HTTP", 2.0), ("HTTP", 10.0), ("gRPC", 2.0), ("gRPC", 10.0), ("HTTP", 0.5))
INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(slots=True)
class Watch:
    """What somebody sees who asks now and then: of probes and of another model the longest wait, and what failed."""

    probe: float = 0.0
    neighbor: list[float] = field(default_factory=list)
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Phase:
    """One load, and what was seen. ``memory`` is the server's resident memory in bytes at its end."""

    name: str
    times: float
    seen: Seen
    watch: Watch
    memory: int
    good: str
    full: str

    @property
    def throughput(self) -> float:
        """Right answers a second, while they came."""
        return self.seen.share(self.good) / self.seen.seconds


def repository(folder: Path) -> Path:
    """The flooded model and the other."""
    for name, workers in (("slow", 2), ("other", 1)):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1/model.py").write_text(SLEEP)
        declared = f'name = "{name}"\nqueue_size = {QUEUE}\n[workers]\nmin = {workers}\nmax = {workers}\n'
        inputs = '[[inputs]]\nname = "x"\ndatatype = "FP64"\nshape = [1]\n'
        (folder / name / "config.toml").write_text(declared + inputs)
    return folder


def message() -> bytes:
    """The same request for gRPC."""
    request = triton.service_pb2.ModelInferRequest(model_name="slow")
    tensor = request.inputs.add(name="x", datatype="FP64", shape=[1])
    tensor.contents.fp64_contents.append(1.0)
    data: bytes = request.SerializeToString()
    return data


class Watching:
    """Asks the probes and the other model for as long as this context is open."""

    def __init__(self, server: Mooring) -> None:
        self.watch = Watch()
        self._server = server
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._probe, self._neighbor)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _probe(self) -> None:
        while not self._stop.wait(0.05):
            for path in PROBES:
                self.watch.probe = max(self.watch.probe, self._asked(path, b""))

    def _neighbor(self) -> None:
        while not self._stop.wait(0.1):
            self.watch.neighbor.append(self._asked("/predictions/other", BODY))

    def _asked(self, path: str, body: bytes) -> float:
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
        try:
            connection.request("POST" if body else "GET", path, body or None)
            self.watch.failed += connection.getresponse().status != 200
        finally:
            connection.close()
        return time.perf_counter() - began


def phases(seconds: float, loads: Sequence[tuple[str, float]] = LOADS) -> list[Phase]:
    """Every load in turn, on one server: the protocol, and how many times the capacity."""
    found: list[Phase] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        server = Mooring(options=["--model-repository", str(repository(folder / "models"))])
        (folder / "body").write_bytes(BODY)
        (folder / "message").write_bytes(message())
        with server:
            for name in ("slow", "other"):
                server.wait_for(f"/predictions/{name}", BODY, {"Content-Type": "application/json"})
            for name, times in loads:
                http = name == "HTTP"
                with Watching(server) as watching:
                    load = drive(
                        name.lower(),
                        server.port if http else server.grpc_port,
                        "/predictions/slow" if http else INFER,
                        folder / ("body" if http else "message"),
                        CAPACITY * times,
                        # A second after the flood all must be as it was.
                        seconds if times != 0.5 else max(2.0, seconds / 4),
                    )
                    seen = load.seen()
                memory = server.server.memory_info().rss
                good, full = ("200", "503") if http else ("OK", "RESOURCE_EXHAUSTED")
                found.append(Phase(name, times, seen, watching.watch, memory, good, full))
                time.sleep(1.0)
    return found


def table(found: Sequence[Phase]) -> str:
    """What docs/RELIABILITY.md shows."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for phase in found:
        seen = phase.seen
        right, refused = seen.share(phase.good), seen.share(phase.full)
        neighbor = sorted(phase.watch.neighbor) or [0.0]
        cells = [
            f"{phase.name}, {phase.times:g} x",
            seen.sent,
            right,
            refused,
            seen.sent - right - refused,
            f"{phase.throughput:.1f}",
            f"{seen.waits.get(phase.good, {}).get('p99', 0) * 1000:.0f} ms",
            f"{seen.waits[phase.full]['p99'] * 1000:.0f} ms" if refused else "",
            f"{phase.watch.probe * 1000:.0f} ms",
            f"{neighbor[round((len(neighbor) - 1) * 0.99)] * 1000:.0f} ms",
            f"{phase.memory / MEGABYTE:.0f} MB",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def missed(found: Sequence[Phase]) -> list[str]:
    """The thresholds that were not kept."""
    peak = max(phase.throughput for phase in found)
    # Those that wait, and those that run.
    bound = (QUEUE + 2) / CAPACITY * 1.1
    faults: list[str] = []
    for phase in found:
        seen, flood = phase.seen, phase.times > 1
        rules = {
            "every answer is right or says that the queue is full": seen.sent
            == seen.share(phase.good) + seen.share(phase.full),
            "throughput is at least 95 % of its peak": not flood or phase.throughput >= 0.95 * peak,
            "nobody is refused below the capacity": flood or not seen.share(phase.full),
            "refusals come within 50 ms": not flood or seen.waits[phase.full]["p99"] < 0.05,
            "refusals say when to come again": not flood
            or phase.name == "gRPC"
            or sum(seen.after.values()) == seen.share("503"),
            "p99 of the right stays within the queue's bound": seen.waits[phase.good]["p99"] < bound,
            "probes answer within 100 ms": phase.watch.probe < 0.1,
            "the other model and the probes answer": not phase.watch.failed,
        }
        faults += [f"{phase.name} {phase.times:g} x: {rule}" for rule, kept in rules.items() if not kept]
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description="Load a server with more than it can do.")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load (15)")
    found = phases(parser.parse_args().seconds)
    print(table(found))
    print(json.dumps({f"{phase.name} {phase.times:g}": phase.seen.after for phase in found}))
    faults = missed(found)
    for fault in faults:
        print("missed:", fault)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
