"""How a number is made: rounds that alternate with the floor, on a machine as quiet as it gets.

CPU per request is what repeats from run to run; requests per second follow whatever else the machine does. A
repetition during which other processes used more than ``FOREIGN`` of the machine is thrown away and repeated a few
times; what stays noisy is marked.
"""

import os
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from load import Outcome, drive, drive_grpc
from targets import Target
from workloads import Body

FOREIGN = 0.15
QUIET = 0.08
RETRIES = 3


@dataclass(frozen=True, slots=True)
class Shot:
    """One thing to load: a path of a server (of gRPC a method), with a body, on so many connections."""

    name: str
    target: Target
    path: str
    body: Body
    file: Path
    connections: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One repetition. ``front`` and ``workers`` are seconds of CPU per request, ``foreign`` a share of the machine."""

    rps: float
    p50: float
    p99: float
    front: float
    workers: float
    errors: int
    foreign: float
    client: float

    @property
    def cpu(self) -> float:
        """Of the whole server."""
        return self.front + self.workers

    @property
    def noisy(self) -> bool:
        """Whether somebody else was at work."""
        return self.foreign > FOREIGN


class Patience:
    """How long this run may still wait for others to be quiet, in seconds. Shared by all of it."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def wait(self) -> None:
        """Return when the machine is quiet, or patience ends."""
        while self._left > 0.0:
            began, busy = time.perf_counter(), busy_seconds()
            time.sleep(0.3)
            took = time.perf_counter() - began
            if busy_seconds() - busy < QUIET * took * machine_cores():
                return
            self._left -= took


def repeat(
    shots: Iterable[Shot], repetitions: int, seconds: float, patience: Patience
) -> Iterator[tuple[Shot, list[Sample]]]:
    """Load all of them in turn, so many times over; the samples of each, quiet ones only where there are enough."""
    taken: dict[Shot, list[Sample]] = {shot: [] for shot in shots}
    for shot in taken:
        _drive(shot, shot.target.warm_up)
    for _ in range(repetitions):
        for shot, samples in taken.items():
            samples.append(_quiet_sample(shot, seconds, patience))
    yield from taken.items()


def _quiet_sample(shot: Shot, seconds: float, patience: Patience) -> Sample:
    best: Sample | None = None
    for _ in range(1 + RETRIES):
        patience.wait()
        sample = measure(shot, seconds)
        if best is None or sample.foreign < best.foreign:
            best = sample
        if not best.noisy:
            break
    assert best is not None
    return best


def measure(shot: Shot, seconds: float) -> Sample:
    """Load it once."""
    front, workers = shot.target.cpu()
    busy, began = busy_seconds(), time.perf_counter()
    outcome = _drive(shot, seconds)
    took, busy = time.perf_counter() - began, busy_seconds() - busy
    front_now, workers_now = shot.target.cpu()
    front, workers = front_now - front, workers_now - workers
    requests = max(outcome.requests, 1)
    return Sample(
        rps=outcome.requests / outcome.seconds,
        p50=outcome.p50,
        p99=outcome.p99,
        front=front / requests,
        workers=workers / requests,
        errors=outcome.errors if outcome.requests else 1,
        foreign=max(0.0, busy - front - workers - outcome.client_cpu) / (took * machine_cores()),
        client=outcome.client_cpu / requests,
    )


def median(samples: list[Sample]) -> Sample:
    """The middle of every figure for itself; errors add up. Noise counts if most repetitions were noisy."""
    first = samples[0]
    figures = {name: statistics.median(getattr(each, name) for each in samples) for name in first.__slots__}
    return replace(first, **figures | {"errors": sum(each.errors for each in samples)})


def _drive(shot: Shot, seconds: float) -> Outcome:
    if shot.body.grpc:
        return drive_grpc(shot.target.grpc_port, shot.path, shot.file, shot.connections, seconds)
    return drive(shot.target.port, shot.path, shot.file, shot.body.headers, shot.connections, seconds)


def busy_seconds() -> float:
    """CPU seconds that the whole machine has worked, for us or for a neighbor on the same host."""
    times = psutil.cpu_times()
    return float(
        sum(times)
        - times.idle
        - getattr(times, "iowait", 0.0)
        - getattr(times, "guest", 0.0)
        - getattr(times, "guest_nice", 0.0)
    )


def machine_cores() -> int:
    """All cores, whether or not this process may use them: ``busy_seconds`` is about all."""
    return os.cpu_count() or 1
