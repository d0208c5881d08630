"""Closed-loop load over gRPC: every connection has one call under way at all times.

Messages are bytes, so that the client costs no more than grpcio itself. That is still more than most servers cost, so the
tables show the CPU of the client beside that of the server.

    python grpc_load.py PORT METHOD MESSAGE_FILE CONNECTIONS SECONDS
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
from load import summarize

# One connection each: channels to the same address share theirs otherwise.
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


async def run_connection(
    port: int, method: str, message: bytes, end: float, latencies: list[float]
) -> tuple[int, float]:
    """Call until ``end``, a time of ``perf_counter``; return the number of failed calls and the end of the last."""
    errors = 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        now = time.perf_counter()
        while now < end:
            began = now
            try:
                await call(message)
            except grpc.aio.AioRpcError:
                errors += 1
            now = time.perf_counter()
            latencies.append(now - began)
    return errors, now


async def keep_busy(port: int, method: str, message: bytes, count: int, seconds: float) -> dict[str, float]:
    """Keep ``count`` connections busy for ``seconds``; return the summary."""
    latencies: list[float] = []
    began = time.perf_counter()
    ended = await asyncio.gather(
        *(run_connection(port, method, message, began + seconds, latencies) for _ in range(count))
    )
    took = max(last for _, last in ended) - began
    return summarize(latencies, took, sum(errors for errors, _ in ended))


def main() -> None:
    port, method, message, count, seconds = sys.argv[1:]
    found = keep_busy(int(port), method, Path(message).read_bytes(), int(count), float(seconds))
    print(json.dumps(asyncio.run(found)))


if __name__ == "__main__":
    main()
