"""The models without a server, in as many processes as the servers have workers, measured in turn with those."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from measuring import Sample, busy_seconds, foreign

from mooring.workers.library_process import ENVIRONMENT

HERE = Path(__file__).parent


def command(engine: str, model: str, folder: Path) -> list[str]:
    """The process of limits.py that calls this model."""
    return [sys.executable, str(HERE / "limits.py"), engine, model, str(folder)]


class Callers:
    """So many processes that have loaded a model and wait, while this context is open."""

    def __init__(self, engine: str, model: str, folder: Path, processes: int) -> None:
        self.engine = engine
        self._command = command(engine, model, folder)
        self._wanted = processes
        self._stack = ExitStack()
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        for _ in range(self._wanted):
            pipes = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=ENVIRONMENT | os.environ,  # as our workers have it: memory is kept from call to call
                text=True,
            )
            self._running.append(self._stack.enter_context(pipes))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()  # they end with their input

    def ready(self) -> None:
        """Return when all have had their first answer. Raises ``RuntimeError`` when one ended."""
        for process in self._running:
            if _pipe(process.stdout).readline() != "ready\n":
                raise RuntimeError(f"{' '.join(self._command)} has ended")

    def call(self, processes: int, batch: int, seconds: float) -> list[dict[str, float]]:
        """What limits.py says of so many of them at once."""
        chosen = self._running[:processes]
        for process in chosen:
            _pipe(process.stdin).write(f"{batch} {seconds}\n")
            _pipe(process.stdin).flush()
        return [json.loads(_pipe(process.stdout).readline()) for process in chosen]


@dataclass(frozen=True, slots=True)
class Limit:
    """What so many of them do with so many rows a call."""

    name: str
    callers: Callers
    processes: int
    batch: int

    @property
    def engine(self) -> str:
        """Whose limit it is: torch or onnx."""
        return "onnx" if self.callers.engine == "onnx" else "torch"

    def warm(self) -> None:
        """Let every shape be seen once."""
        self.callers.call(self.processes, self.batch, 0.0)

    def measure(self, seconds: float) -> Sample:
        """Call for so long. Of a row: the rate of all, the mean time of a call, the CPU."""
        busy, began = busy_seconds(), time.perf_counter()
        said = self.callers.call(self.processes, self.batch, seconds)
        took, busy = time.perf_counter() - began, busy_seconds() - busy
        used, rows = sum(each["cpu"] for each in said), self.batch * sum(each["calls"] for each in said)
        warming = used * (took / said[0]["seconds"] - 1.0)  # its first calls are not in its figures
        return Sample(
            rps=sum(each["calls"] * self.batch / each["seconds"] for each in said),
            p50=said[0]["seconds"] / said[0]["calls"],
            p99=0.0,
            front=used / rows,
            workers=0.0,
            errors=0,
            foreign=foreign(busy - used - warming, took),
            client=0.0,
        )


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None  # as it was asked for
    return pipe
