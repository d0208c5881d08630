"""Closed-loop load over HTTP: every connection has one request on the wire at all times.

wrk sends the requests where it is installed. Elsewhere this file does, as a process of its own that prints the same line of
JSON at its end. It costs more CPU than wrk, which the server lacks on a small machine. grpc_load.py is for gRPC.

    python load.py HOST PORT PATH BODY_FILE HEADERS CONNECTIONS SECONDS
"""

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

HERE = Path(__file__).parent
WRK = shutil.which("wrk")
DRIVER = "wrk" if WRK else "load.py"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The figures of one load. Times are in seconds, ``rate`` in answers per second; ``client_cpu`` is that of the load generator."""

    requests: int
    seconds: float
    p50: float
    p99: float
    errors: int
    rate: float
    client_cpu: float


def run_load(
    port: int,
    path: str,
    body: Path,
    headers: Mapping[str, str],
    connections: int,
    seconds: float,
    *,
    steady: bool = False,
) -> LoadResult:
    """Load one path of a server on this machine. Raises ``RuntimeError`` when the load generator fails.

    ``steady`` is for a few long calls: the rate is the slope of the count of answers over time, so that calls which the end
    cuts off do not lower it. Only wrk can do that; the other generator divides by the time.
    """
    lines = "".join(f"{name}: {value}\n" for name, value in headers.items())
    if WRK:
        # wrk counts whole seconds only.
        command = [WRK, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
        command += ["--latency", "-s", str(HERE / "post.lua"), f"http://127.0.0.1:{port}{path}"]
        environment = {"BENCH_BODY": str(body), "BENCH_HEADERS": lines}
        return _run_generator(command, seconds, environment | ({"BENCH_STEADY": "1"} if steady else {}))
    command = [sys.executable, __file__, "127.0.0.1", str(port), path, str(body), lines]
    return _run_generator([*command, str(connections), str(seconds)], seconds)


def run_grpc_load(port: int, method: str, message: Path, connections: int, seconds: float) -> LoadResult:
    """Load one unary gRPC method. Raises ``RuntimeError`` as ``run_load`` does."""
    command = [sys.executable, str(HERE / "grpc_load.py"), str(port), method, str(message)]
    return _run_generator([*command, str(connections), str(seconds)], seconds)


def _run_generator(command: Sequence[str], seconds: float, environment: Mapping[str, str] = {}) -> LoadResult:
    before = _read_children_cpu()
    done = subprocess.run(
        command,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 90,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"the load generator failed: {done.stdout[-300:]} {done.stderr[-300:]}")
    return LoadResult(**json.loads(lines[-1]), client_cpu=_read_children_cpu() - before)


def _read_children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class ClosedLoopClient(asyncio.Protocol):
    """Sends the request again as soon as it is answered. Answers have a content-length or are counted as errors."""

    def __init__(self, request: bytes, latencies: list[float]) -> None:
        self._request = request
        self._latencies = latencies
        self._missing = -1  # bytes of the answer still to come; below zero the head is not complete
        self._head = b""
        self.errors = 0
        self.ending = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._missing >= 0:
            self._missing -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            self._missing = _read_content_length(self._head[:end]) - (len(self._head) - end - 4)
            self.errors += not self._head.startswith(b"HTTP/1.1 200")
            self._head = b""
        if self._missing <= 0:
            self._missing = -1
            self._latencies.append(time.perf_counter() - self._sent)
            if not self.ending:
                self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self.errors += not self.ending


def _read_content_length(head: bytes) -> int:
    r"""Return the content-length of an answer.

    >>> _content_length(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\na: b")
    12
    """
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"an answer without content-length: {head!r}")


def summarize(latencies: list[float], seconds: float, errors: int) -> dict[str, float]:
    """Return what wrk's script prints, from the latencies of all answers."""
    ordered = sorted(latencies) or [0.0]
    last = len(ordered) - 1
    return {
        "requests": len(latencies),
        "seconds": seconds,
        "p50": ordered[round(last * 0.5)],
        "p99": ordered[round(last * 0.99)],
        "errors": errors,
        "rate": len(latencies) / seconds,
    }


async def keep_busy(
    host: str, port: int, path: str, body: bytes, headers: str, count: int, seconds: float
) -> dict[str, float]:
    """Keep ``count`` connections busy for ``seconds``; return the summary."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}:{port}", *headers.splitlines()]
    request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    opened = [
        await loop.create_connection(lambda: ClosedLoopClient(request, latencies), host, port)
        for _ in range(count)
    ]
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    for transport, connection in opened:
        connection.ending = True
        transport.abort()
    return summarize(latencies, took, sum(connection.errors for _, connection in opened))


def main() -> None:
    import uvloop  # noqa: PLC0415 - run.py imports this file and needs no loop

    host, port, path, body, headers, count, seconds = sys.argv[1:]
    found = keep_busy(host, int(port), path, Path(body).read_bytes(), headers, int(count), float(seconds))
    print(json.dumps(uvloop.run(found)))


if __name__ == "__main__":
    main()
