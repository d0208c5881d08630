"""Open-loop load: requests leave at a rate, whether or not those before them were answered, as clients do who do not
know of each other. A request's wait counts from the moment when it was due, so that a late generator hides nothing.

    python open_loop.py http PORT PATH BODY_FILE RATE SECONDS
    python open_loop.py grpc PORT METHOD MESSAGE_FILE RATE SECONDS

The last line is JSON: of every status how many answers there were, and what they waited.
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
from load import summary

# Seconds that the last answers get; whoever waits longer counts as hung.
PATIENCE = 20.0


@dataclass(slots=True)
class Seen:
    """What the clients saw. Waits are in seconds; ``after`` counts the values of Retry-After."""

    sent: int = 0
    seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    waits: dict[str, dict[str, float]] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    hung: int = 0
    broken: int = 0

    def share(self, status: str) -> int:
        """How many answers had this status."""
        return self.statuses.get(status, 0)


class Answers:
    """The answers of one run, as they come."""

    def __init__(self) -> None:
        self.sent = self.broken = 0
        self.waits: dict[str, list[float]] = {}
        self.after: Counter[str] = Counter()

    def add(self, status: str, wait: float, after: str = "") -> None:
        """One answer."""
        self.waits.setdefault(status, []).append(wait)
        if after:
            self.after[after] += 1

    def seen(self, seconds: float) -> Seen:
        """All of them."""
        answered = sum(map(len, self.waits.values()))
        return Seen(
            self.sent,
            seconds,
            {status: len(waits) for status, waits in self.waits.items()},
            {
                status: summary(waits, seconds, 0) | {"max": max(waits)}
                for status, waits in self.waits.items()
            },
            dict(self.after),
            self.sent - answered - self.broken,
            self.broken,
        )


Ask = Callable[[float], Awaitable[None]]


async def at_rate(ask: Ask, rate: float, seconds: float, answers: Answers) -> Seen:
    """Ask ``rate`` times a second for so long, then wait for what is not answered."""
    began = time.perf_counter()
    tasks: set[asyncio.Task[None]] = set()
    for number in range(round(rate * seconds)):
        due = began + number / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        answers.sent += 1
        task = asyncio.ensure_future(ask(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        _, hung = await asyncio.wait(tasks, timeout=PATIENCE)
        for task in hung:
            task.cancel()
    return answers.seen(time.perf_counter() - began)


class Clients:
    """Connections to one path, as many as are busy at a time."""

    def __init__(self, port: int, path: str, body: bytes, answers: Answers) -> None:
        self._port = port
        lines = [f"POST {path} HTTP/1.1", "Host: bench", "Content-Type: application/json"]
        self._request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
        self._answers = answers
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, due: float) -> None:
        """One request on a connection that nobody uses."""
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
        """End the connections."""
        for _, writer in self._idle:
            writer.close()


async def over_http(port: int, path: str, body: bytes, rate: float, seconds: float) -> Seen:
    """The load over HTTP."""
    answers = Answers()
    clients = Clients(port, path, body, answers)
    try:
        return await at_rate(clients.ask, rate, seconds, answers)
    finally:
        await clients.close()


async def over_grpc(port: int, method: str, message: bytes, rate: float, seconds: float) -> Seen:
    """The load over gRPC."""
    answers = Answers()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)

        async def ask(due: float) -> None:
            status = "OK"
            try:
                await call(message)
            except grpc.aio.AioRpcError as error:
                status = error.code().name
            answers.add(status, time.perf_counter() - due)

        return await at_rate(ask, rate, seconds, answers)


def drive(kind: str, port: int, path: str, body: Path, rate: float, seconds: float) -> "Driven":
    """Start the load in a process of its own."""
    command = [sys.executable, __file__, kind, str(port), path, str(body), str(rate), str(seconds)]
    return Driven(subprocess.Popen(command, stdout=subprocess.PIPE, text=True), seconds)


class Driven:
    """A load that runs."""

    def __init__(self, process: "subprocess.Popen[str]", seconds: float) -> None:
        self._process = process
        self._limit = seconds + PATIENCE + 20

    def seen(self) -> Seen:
        """Wait for its end. Raises ``RuntimeError`` where it failed."""
        said, _ = self._process.communicate(timeout=self._limit)
        if self._process.returncode:
            raise RuntimeError(f"the load generator failed: {said[-300:]}")
        return Seen(**cast("Mapping[str, object]", json.loads(said.splitlines()[-1])))  # type: ignore[arg-type]


def main() -> None:
    import uvloop  # noqa: PLC0415 - others import this file and need no loop

    kind, port, path, body, rate, seconds = sys.argv[1:]
    run = over_http if kind == "http" else over_grpc
    found = run(int(port), path, Path(body).read_bytes(), float(rate), float(seconds))
    print(json.dumps(asdict(uvloop.run(found))))


if __name__ == "__main__":
    main()
