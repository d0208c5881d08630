"""Closed-loop load over gRPC: as many connections as asked for, each with one call under way at all times.

Messages are bytes, so that the client costs no more than grpcio itself; that is still more than most servers, so its
CPU stands beside the server's in the tables.

    python grpc_load.py PORT METHOD MESSAGE_FILE CONNECTIONS SECONDS
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
from load import summary

# One connection each: channels to the same address share theirs otherwise.
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


async def connection(
    port: int, method: str, message: bytes, end: float, latencies: list[float]
) -> tuple[int, float]:
    """Call until ``end``, a time of ``perf_counter``: how many calls failed, and when the last was over."""
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


async def load(port: int, method: str, message: bytes, count: int, seconds: float) -> dict[str, float]:
    """Keep ``count`` connections busy for so long."""
    latencies: list[float] = []
    began = time.perf_counter()
    ended = await asyncio.gather(
        *(connection(port, method, message, began + seconds, latencies) for _ in range(count))
    )
    took = max(last for _, last in ended) - began
    return summary(latencies, took, sum(errors for errors, _ in ended))


def main() -> None:
    port, method, message, count, seconds = sys.argv[1:]
    found = load(int(port), method, Path(message).read_bytes(), int(count), float(seconds))
    print(json.dumps(asyncio.run(found)))


if __name__ == "__main__":
    main()
