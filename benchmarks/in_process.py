"""The models without a server, in as many processes as the servers have workers: the limit of what a server can reach."""

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

from measuring import Sample, foreign_share, read_busy_seconds

from mooring.workers.library_process import ENVIRONMENT

HERE = Path(__file__).parent


def make_command(engine: str, model: str, folder: Path) -> list[str]:
    """Return the command that starts limits.py with this model."""
    return [sys.executable, str(HERE / "limits.py"), engine, model, str(folder)]


class CallerPool:
    """Processes that have loaded a model and wait for work, while this context is open."""

    def __init__(self, engine: str, model: str, folder: Path, processes: int) -> None:
        self.engine = engine
        self._command = make_command(engine, model, folder)
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
        self._stack.close()  # each process ends when its input ends

    def wait_until_ready(self) -> None:
        """Return when every process has called its model once. Raises ``RuntimeError`` when one ended."""
        for process in self._running:
            if _require_pipe(process.stdout).readline() != "ready\n":
                raise RuntimeError(f"{' '.join(self._command)} has ended")

    def call(self, processes: int, batch: int, seconds: float) -> list[dict[str, float]]:
        """Call the model in the first ``processes`` processes at once; return the figures that limits.py prints."""
        chosen = self._running[:processes]
        for process in chosen:
            _require_pipe(process.stdin).write(f"{batch} {seconds}\n")
            _require_pipe(process.stdin).flush()
        return [json.loads(_require_pipe(process.stdout).readline()) for process in chosen]


@dataclass(frozen=True, slots=True)
class Limit:
    """The limit with a number of processes and of rows a call."""

    name: str
    pool: CallerPool
    processes: int
    batch: int

    @property
    def engine(self) -> str:
        """The engine that calculates: torch or onnx."""
        return "onnx" if self.pool.engine == "onnx" else "torch"

    def warm(self) -> None:
        """Call the model once with the shape that is measured."""
        self.pool.call(self.processes, self.batch, 0.0)

    def measure(self, seconds: float) -> Sample:
        """Call for ``seconds``; return the rate of rows, the mean time of a call, and the CPU of a row."""
        busy, began = read_busy_seconds(), time.perf_counter()
        calls = self.pool.call(self.processes, self.batch, seconds)
        took, busy = time.perf_counter() - began, read_busy_seconds() - busy
        used, rows = sum(each["cpu"] for each in calls), self.batch * sum(each["calls"] for each in calls)
        warming = used * (took / calls[0]["seconds"] - 1.0)  # the figures leave its first calls out
        return Sample(
            rps=sum(each["calls"] * self.batch / each["seconds"] for each in calls),
            p50=calls[0]["seconds"] / calls[0]["calls"],
            p99=0.0,
            front=used / rows,
            workers=0.0,
            errors=0,
            foreign=foreign_share(busy - used - warming, took),
            client=0.0,
        )


def _require_pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None  # Popen was given PIPE
    return pipe
