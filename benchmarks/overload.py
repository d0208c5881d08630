"""Overload: throughput, refusals, and the effect on other models and probes when a model gets more than it can serve.

    make overload                       two minutes; the table of docs/RELIABILITY.md
    make overload ARGS="--seconds 2"    in short

A model sleeps 20 ms on two workers, so it can serve 100 requests a second. Clients in other processes, which do not wait for
each other, send 0.9, 2 and 10 times that. Another model and the probes get a request now and then.
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
from open_loop import OpenLoopResult, start_load
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
class Observations:
    """The slowest probe and the waits of the other model in seconds, and how many of these requests failed."""

    probe: float = 0.0
    neighbor: list[float] = field(default_factory=list)
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Phase:
    """One load and its result. ``memory`` is the RSS of the server in bytes at its end; ``good`` and ``full`` are statuses."""

    name: str
    factor: float
    result: OpenLoopResult
    observations: Observations
    memory: int
    good: str
    full: str

    @property
    def throughput(self) -> float:
        """Right answers a second."""
        return self.result.count(self.good) / self.result.seconds


def write_models(folder: Path) -> Path:
    """Write a repository with the flooded model and the other one."""
    for name, workers in (("slow", 2), ("other", 1)):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1/model.py").write_text(SLEEP)
        declared = f'name = "{name}"\nqueue_size = {QUEUE}\n[workers]\nmin = {workers}\nmax = {workers}\n'
        inputs = '[[inputs]]\nname = "x"\ndatatype = "FP64"\nshape = [1]\n'
        (folder / name / "config.toml").write_text(declared + inputs)
    return folder


def make_message() -> bytes:
    """Return the gRPC message of the same request."""
    request = triton.service_pb2.ModelInferRequest(model_name="slow")
    tensor = request.inputs.add(name="x", datatype="FP64", shape=[1])
    tensor.contents.fp64_contents.append(1.0)
    data: bytes = request.SerializeToString()
    return data


class Observer:
    """Sends requests to the probes and the other model while this context is open."""

    def __init__(self, server: Mooring) -> None:
        self.observations = Observations()
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
                self.observations.probe = max(self.observations.probe, self._time_request(path, b""))

    def _neighbor(self) -> None:
        while not self._stop.wait(0.1):
            self.observations.neighbor.append(self._time_request("/predictions/other", BODY))

    def _time_request(self, path: str, body: bytes) -> float:
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
        try:
            connection.request("POST" if body else "GET", path, body or None)
            self.observations.failed += connection.getresponse().status != 200
        finally:
            connection.close()
        return time.perf_counter() - began


def run_phases(seconds: float, loads: Sequence[tuple[str, float]] = LOADS) -> list[Phase]:
    """Run the loads in turn on one server; each is a protocol and a multiple of the capacity."""
    found: list[Phase] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        server = Mooring(options=["--model-repository", str(write_models(folder / "models"))])
        (folder / "body").write_bytes(BODY)
        (folder / "message").write_bytes(make_message())
        with server:
            for name in ("slow", "other"):
                server.wait_for_answer(f"/predictions/{name}", BODY, {"Content-Type": "application/json"})
            for name, factor in loads:
                http = name == "HTTP"
                with Observer(server) as observer:
                    load = start_load(
                        name.lower(),
                        server.port if http else server.grpc_port,
                        "/predictions/slow" if http else INFER,
                        folder / ("body" if http else "message"),
                        CAPACITY * factor,
                        # A second after the flood all must be as it was.
                        seconds if factor != 0.5 else max(2.0, seconds / 4),
                    )
                    result = load.wait()
                memory = server.server.memory_info().rss
                good, full = ("200", "503") if http else ("OK", "RESOURCE_EXHAUSTED")
                found.append(Phase(name, factor, result, observer.observations, memory, good, full))
                time.sleep(1.0)
    return found


def format_table(found: Sequence[Phase]) -> str:
    """Return the table of docs/RELIABILITY.md."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for phase in found:
        result = phase.result
        right, refused = result.count(phase.good), result.count(phase.full)
        neighbor = sorted(phase.observations.neighbor) or [0.0]
        cells = [
            f"{phase.name}, {phase.factor:g} x",
            result.sent,
            right,
            refused,
            result.sent - right - refused,
            f"{phase.throughput:.1f}",
            f"{result.p99(phase.good) * 1000:.0f} ms",
            f"{result.p99(phase.full) * 1000:.0f} ms" if refused else "",
            f"{phase.observations.probe * 1000:.0f} ms",
            f"{neighbor[round((len(neighbor) - 1) * 0.99)] * 1000:.0f} ms",
            f"{phase.memory / MEGABYTE:.0f} MB",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def find_missed_thresholds(found: Sequence[Phase]) -> list[str]:
    """Return the thresholds that were missed, in words."""
    peak = max(phase.throughput for phase in found)
    # Those that wait, and those that run.
    bound = (QUEUE + 2) / CAPACITY * 1.1
    faults: list[str] = []
    for phase in found:
        result, flood = phase.result, phase.factor > 1
        rules = {
            "every answer is right or says that the queue is full": result.sent
            == result.count(phase.good) + result.count(phase.full),
            "throughput is at least 95 % of its peak": not flood or phase.throughput >= 0.95 * peak,
            "nobody is refused below the capacity": flood or not result.count(phase.full),
            "refusals come within 50 ms": not flood or result.p99(phase.full) < 0.05,
            "refusals say when to come again": not flood
            or phase.name == "gRPC"
            or sum(result.after.values()) == result.count("503"),
            "p99 of the right stays within the queue's bound": result.p99(phase.good) < bound,
            "probes answer within 100 ms": phase.observations.probe < 0.1,
            "the other model and the probes answer": not phase.observations.failed,
        }
        faults += [f"{phase.name} {phase.factor:g} x: {rule}" for rule, kept in rules.items() if not kept]
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description="Load a server with more than it can do.")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load (15)")
    found = run_phases(parser.parse_args().seconds)
    print(format_table(found))
    print(json.dumps({f"{phase.name} {phase.factor:g}": phase.result.after for phase in found}))
    faults = find_missed_thresholds(found)
    for fault in faults:
        print("missed:", fault)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
