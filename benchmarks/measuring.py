"""Repetitions that alternate between servers and floors, on a machine as quiet as it gets.

CPU per request repeats from run to run; requests per second depend on what else the machine does. A
repetition during which other processes used more than ``MAX_FOREIGN_SHARE`` of the machine is thrown away and repeated a few
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
from load import LoadResult, run_grpc_load, run_load
from targets import Target
from workloads import Body

MAX_FOREIGN_SHARE = 0.15
QUIET_SHARE = 0.08
RETRIES = 2
DRAIN_SECONDS = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Sample:
    """One repetition. ``front``, ``workers`` and ``client`` are CPU seconds per request; ``foreign`` is a share of the machine."""

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
        """CPU seconds per request of the whole server."""
        return self.front + self.workers

    @property
    def noisy(self) -> bool:
        """Whether other processes disturbed the repetition."""
        return self.foreign > MAX_FOREIGN_SHARE


class Measurable(Protocol):
    """What alternates with others in a run."""

    @property
    def name(self) -> str: ...

    def warm(self) -> None:
        """Warm up."""

    def measure(self, seconds: float) -> Sample:
        """Run for ``seconds`` and return the figures."""


@dataclass(frozen=True, slots=True)
class LoadRun:
    """One load: a body that is sent to a path (or gRPC method) of a server on a number of connections.

    ``warm_up`` is in seconds. ``steady`` is for few and long answers: their rate is the slope of their count over time.
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
        """Load the server for ``warm_up`` seconds without measuring."""
        if self.warm_up:
            self._drive(self.warm_up)
            self._finish()

    def measure(self, seconds: float) -> Sample:
        """Load the server once. Calls that the end cuts off count as parts of an answer, for their CPU is counted."""
        front, workers = self.target.cpu()
        busy, began = read_busy_seconds(), time.perf_counter()
        outcome = self._drive(seconds)
        took, busy = time.perf_counter() - began, read_busy_seconds() - busy
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
            foreign=foreign_share(busy - front - workers - outcome.client_cpu, took),
            client=outcome.client_cpu / answers,
        )

    def _finish(self) -> None:
        """Wait until a slow server has ended the calls that were cut off: they would disturb the next server."""
        end = time.perf_counter() + DRAIN_SECONDS
        while self.steady and time.perf_counter() < end:
            used = sum(self.target.cpu())
            time.sleep(0.1)
            if sum(self.target.cpu()) - used < 0.03:
                return

    def _drive(self, seconds: float) -> LoadResult:
        if self.body.grpc:
            return run_grpc_load(self.target.grpc_port, self.path, self.file, self.connections, seconds)
        fields, steady = self.body.headers, self.steady
        return run_load(
            self.target.port, self.path, self.file, fields, self.connections, seconds, steady=steady
        )


T = TypeVar("T", bound=Measurable)


class WaitBudget:
    """Seconds that a run may still spend on waiting for a quiet machine and on disturbed repetitions."""

    def __init__(self, seconds: float) -> None:
        self._seconds_left = seconds

    def try_spend(self, seconds: float) -> bool:
        """Spend ``seconds`` on a repetition. Returns whether the budget allowed it."""
        self._seconds_left -= seconds
        return self._seconds_left > 0.0

    def wait_until_quiet(self) -> None:
        """Return when the machine is quiet, or when the budget is spent."""
        while self._seconds_left > 0.0:
            began, busy = time.perf_counter(), read_busy_seconds()
            time.sleep(0.3)
            took = time.perf_counter() - began
            if read_busy_seconds() - busy < QUIET_SHARE * took * count_machine_cores():
                return
            self._seconds_left -= took


def measure_in_turn(
    each: Iterable[T], repetitions: int, seconds: float, patience: WaitBudget
) -> Iterator[tuple[T, list[Sample]]]:
    """Warm all up, measure each in turn ``repetitions`` times, and yield each with its samples."""
    taken: list[tuple[T, list[Sample]]] = [(one, []) for one in each]
    for one, _ in taken:
        one.warm()
    for _ in range(repetitions):
        for one, samples in taken:
            samples.append(_take_quiet_sample(one, seconds, patience))
    yield from taken


def _take_quiet_sample(one: Measurable, seconds: float, patience: WaitBudget) -> Sample:
    best: Sample | None = None
    for _ in range(1 + RETRIES):
        patience.wait_until_quiet()
        sample = one.measure(seconds)
        if best is None or sample.foreign < best.foreign:
            best = sample
        if not best.noisy or not patience.try_spend(seconds):
            break
    assert best is not None
    return best


def measure_idle_cpu(targets: Sequence[Target]) -> list[float]:
    """Return the CPU seconds that each server uses in one idle second."""
    before = [sum(target.cpu()) for target in targets]
    time.sleep(1.0)
    return [sum(target.cpu()) - used for target, used in zip(targets, before, strict=True)]


def median(samples: list[Sample]) -> Sample:
    """Return the median of every figure by itself; errors add up."""
    first = samples[0]
    figures = {name: statistics.median(getattr(each, name) for each in samples) for name in first.__slots__}
    return replace(first, **figures | {"errors": sum(each.errors for each in samples)})


def foreign_share(seconds: float, took: float) -> float:
    """Return CPU seconds of other processes as a share of the machine over ``took`` seconds."""
    return max(0.0, seconds) / (took * count_machine_cores())


def read_busy_seconds() -> float:
    """Return the CPU seconds that the whole machine has worked since its start."""
    times = psutil.cpu_times()
    return float(
        sum(times)
        - times.idle
        - getattr(times, "iowait", 0.0)
        - getattr(times, "guest", 0.0)
        - getattr(times, "guest_nice", 0.0)
    )


def count_machine_cores() -> int:
    """Return the number of all cores, also those that this process may not use: ``read_busy_seconds`` counts them."""
    return os.cpu_count() or 1
