"""How a number is made: rounds that alternate with the floor, on a machine as quiet as it gets.

CPU per request is what repeats from run to run; requests per second follow whatever else the machine does. A
repetition during which other processes used more than ``FOREIGN`` of the machine is thrown away and repeated a few
times; what stays noisy is marked.
"""

import os
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import psutil
from load import Outcome, drive, drive_grpc
from targets import Target
from workloads import Body

FOREIGN = 0.15
QUIET = 0.08
RETRIES = 2
FINISHING = 5.0  # seconds


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


class Measured(Protocol):
    """Whatever alternates with others in a run."""

    @property
    def name(self) -> str: ...

    def warm(self) -> None:
        """Make it as fast as it gets."""

    def measure(self, seconds: float) -> Sample:
        """Let it work for so long."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One thing to load: a path of a server (of gRPC a method), with a body, on so many connections.

    ``warm_up`` are seconds of load before it is measured; of few and long answers (``steady``) the rate is their slope.
    """

    name: str
    target: Target
    path: str
    body: Body
    file: Path
    connections: int
    warm_up: float = 1.0
    steady: bool = False

    def warm(self) -> None:
        """Load it without looking."""
        if self.warm_up:
            self._drive(self.warm_up)
            self._finish()

    def measure(self, seconds: float) -> Sample:
        """Load it once. CPU is of an answer even where the end cut off calls that had cost some."""
        front, workers = self.target.cpu()
        busy, began = busy_seconds(), time.perf_counter()
        outcome = self._drive(seconds)
        took, busy = time.perf_counter() - began, busy_seconds() - busy
        front_now, workers_now = self.target.cpu()
        front, workers = front_now - front, workers_now - workers
        self._finish()
        answers = max(outcome.rate * outcome.seconds, 1.0)
        return Sample(
            rps=outcome.rate,
            p50=outcome.p50,
            p99=outcome.p99,
            front=front / answers,
            workers=workers / answers,
            errors=outcome.errors if outcome.requests else 1,
            foreign=foreign(busy - front - workers - outcome.client_cpu, took),
            client=outcome.client_cpu / answers,
        )

    def _finish(self) -> None:
        """Let a slow server end the calls that nobody waits for any more: they would take the next one's time."""
        end = time.perf_counter() + FINISHING
        while self.steady and time.perf_counter() < end:
            used = sum(self.target.cpu())
            time.sleep(0.1)
            if sum(self.target.cpu()) - used < 0.03:
                return

    def _drive(self, seconds: float) -> Outcome:
        if self.body.grpc:
            return drive_grpc(self.target.grpc_port, self.path, self.file, self.connections, seconds)
        fields, steady = self.body.headers, self.steady
        return drive(self.target.port, self.path, self.file, fields, self.connections, seconds, steady=steady)


Each = TypeVar("Each", bound=Measured)


class Patience:
    """How long this run may still wait for others to be quiet, or repeat what they disturbed, in seconds."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def repeats(self, seconds: float) -> bool:
        """Whether so much may be spent on a repetition, which then is."""
        self._left -= seconds
        return self._left > 0.0

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
    each: Iterable[Each], repetitions: int, seconds: float, patience: Patience
) -> Iterator[tuple[Each, list[Sample]]]:
    """Measure all of them in turn, so many times over; the samples of each, quiet ones only where there are enough."""
    taken: list[tuple[Each, list[Sample]]] = [(one, []) for one in each]
    for one, _ in taken:
        one.warm()
    for _ in range(repetitions):
        for one, samples in taken:
            samples.append(_quiet_sample(one, seconds, patience))
    yield from taken


def _quiet_sample(one: Measured, seconds: float, patience: Patience) -> Sample:
    best: Sample | None = None
    for _ in range(1 + RETRIES):
        patience.wait()
        sample = one.measure(seconds)
        if best is None or sample.foreign < best.foreign:
            best = sample
        if not best.noisy or not patience.repeats(seconds):
            break
    assert best is not None
    return best


def idle_load(targets: Sequence[Target]) -> list[float]:
    """How many cores each of them keeps busy for a second in which nobody asks anything."""
    before = [sum(target.cpu()) for target in targets]
    time.sleep(1.0)
    return [sum(target.cpu()) - used for target, used in zip(targets, before, strict=True)]


def median(samples: list[Sample]) -> Sample:
    """The middle of every figure for itself; errors add up. Noise counts if most repetitions were noisy."""
    first = samples[0]
    figures = {name: statistics.median(getattr(each, name) for each in samples) for name in first.__slots__}
    return replace(first, **figures | {"errors": sum(each.errors for each in samples)})


def foreign(seconds: float, took: float) -> float:
    """The share of the machine that somebody else's seconds of CPU were."""
    return max(0.0, seconds) / (took * machine_cores())


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
