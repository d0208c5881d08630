"""Open-loop load: requests leave at a fixed rate, whether or not earlier ones were answered, like independent clients.

The wait of a request counts from the moment when it was due, so that a late generator hides nothing.

    python open_loop.py http PORT PATH BODY_FILE RATE SECONDS
    python open_loop.py grpc PORT METHOD MESSAGE_FILE RATE SECONDS

The last line of the output is JSON: the number of answers of every status, and their waits.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import grpc
from grpc_load import OPTIONS
from load import summarize

# Seconds until a request without an answer counts as hung.
ANSWER_TIMEOUT = 20.0


@dataclass(slots=True)
class OpenLoopResult:
    """The answers to one load. Waits are in seconds; ``after`` counts the values of Retry-After."""

    sent: int = 0
    seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    waits: dict[str, dict[str, float]] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    hung: int = 0
    broken: int = 0

    def count(self, status: str) -> int:
        """Return the number of answers with this status."""
        return self.statuses.get(status, 0)

    def p99(self, status: str) -> float:
        """Return the 99th percentile of the waits for answers with this status; 0 where there were none."""
        return self.waits.get(status, {}).get("p99", 0.0)


class AnswerLog:
    """Collects the answers to one load."""

    def __init__(self) -> None:
        self.sent = self.broken = 0
        self.waits: dict[str, list[float]] = {}
        self.after: Counter[str] = Counter()

    def add(self, status: str, wait: float, after: str = "") -> None:
        """Add one answer; ``wait`` is in seconds."""
        self.waits.setdefault(status, []).append(wait)
        if after:
            self.after[after] += 1

    def summarize(self, seconds: float) -> OpenLoopResult:
        """Return the result of a load that took ``seconds``."""
        answered = sum(map(len, self.waits.values()))
        return OpenLoopResult(
            self.sent,
            seconds,
            {status: len(waits) for status, waits in self.waits.items()},
            {
                status: summarize(waits, seconds, 0) | {"max": max(waits)}
                for status, waits in self.waits.items()
            },
            dict(self.after),
            self.sent - answered - self.broken,
            self.broken,
        )


Send = Callable[[float], Awaitable[None]]


async def send_at_rate(send: Send, rate: float, seconds: float, answers: AnswerLog) -> OpenLoopResult:
    """Send ``rate`` requests a second for ``seconds``, then wait for the missing answers."""
    began = time.perf_counter()
    tasks: set[asyncio.Task[None]] = set()
    for number in range(round(rate * seconds)):
        due = began + number / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        answers.sent += 1
        task = asyncio.ensure_future(send(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        _, hung = await asyncio.wait(tasks, timeout=ANSWER_TIMEOUT)
        for task in hung:
            task.cancel()
    return answers.summarize(time.perf_counter() - began)


class ConnectionPool:
    """Connections to one path; a request without an idle connection opens a new one."""

    def __init__(self, port: int, path: str, body: bytes, answers: AnswerLog) -> None:
        self._port = port
        lines = [f"POST {path} HTTP/1.1", "Host: bench", "Content-Type: application/json"]
        self._request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
        self._answers = answers
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, due: float) -> None:
        """Send one request on an idle connection; ``due`` is a time of ``perf_counter``."""
        try:
            reader, writer = (
                self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
            )
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
            await reader.readexactly(int(fields["content-length"]))
        except (OSError, asyncio.IncompleteReadError):
            self._answers.broken += 1
            return
        self._answers.add(head.split()[1], time.perf_counter() - due, fields.get("retry-after", ""))
        self._idle.append((reader, writer))

    async def close(self) -> None:
        """Close the idle connections."""
        for _, writer in self._idle:
            writer.close()


async def run_http(port: int, path: str, body: bytes, rate: float, seconds: float) -> OpenLoopResult:
    """Load a path over HTTP."""
    answers = AnswerLog()
    clients = ConnectionPool(port, path, body, answers)
    try:
        return await send_at_rate(clients.send, rate, seconds, answers)
    finally:
        await clients.close()


async def run_grpc(port: int, method: str, message: bytes, rate: float, seconds: float) -> OpenLoopResult:
    """Load a method over gRPC."""
    answers = AnswerLog()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)

        async def send(due: float) -> None:
            status = "OK"
            try:
                await call(message)
            except grpc.aio.AioRpcError as error:
                status = error.code().name
            answers.add(status, time.perf_counter() - due)

        return await send_at_rate(send, rate, seconds, answers)


def start_load(kind: str, port: int, path: str, body: Path, rate: float, seconds: float) -> "RunningLoad":
    """Start the load in a process of its own."""
    command = [sys.executable, __file__, kind, str(port), path, str(body), str(rate), str(seconds)]
    return RunningLoad(subprocess.Popen(command, stdout=subprocess.PIPE, text=True), seconds)


class RunningLoad:
    """A load that runs in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", seconds: float) -> None:
        self._process = process
        self._limit = seconds + ANSWER_TIMEOUT + 20

    def wait(self) -> OpenLoopResult:
        """Wait for the end of the load; return its result. Raises ``RuntimeError`` where the process failed."""
        output, _ = self._process.communicate(timeout=self._limit)
        if self._process.returncode:
            raise RuntimeError(f"the load generator failed: {output[-300:]}")
        return OpenLoopResult(**cast("Mapping[str, object]", json.loads(output.splitlines()[-1])))  # type: ignore[arg-type]


def main() -> None:
    import uvloop  # noqa: PLC0415 - others import this file and need no loop

    kind, port, path, body, rate, seconds = sys.argv[1:]
    run = run_http if kind == "http" else run_grpc
    found = run(int(port), path, Path(body).read_bytes(), float(rate), float(seconds))
    print(json.dumps(asdict(uvloop.run(found))))


if __name__ == "__main__":
    main()
