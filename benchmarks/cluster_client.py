"""A client of the cluster's benchmark, on the host that it asks. It prints its figures as JSON.

python cluster_client.py latency HOST PORT PATH BYTES COUNT           seconds of each request
python cluster_client.py rate HOST PORT PATH BYTES SECONDS CLIENTS    answers per second, as a slope over time
"""

import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Sequence

HEADERS = {"content-type": "application/octet-stream"}


def connect(host: str, port: int) -> http.client.HTTPConnection:
    """A connection that sends small requests at once."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(connection: http.client.HTTPConnection, path: str, body: bytes) -> None:
    """One request. Raises ``RuntimeError`` for an answer that is not right."""
    connection.request("POST", path, body, HEADERS)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200 or ("bytes" in path and json.loads(text) != {"bytes": len(body)}):
        raise RuntimeError(f"{answer.status}: {text[:500]!r}")


def time_requests(host: str, port: int, path: str, body: bytes, count: int) -> list[float]:
    """Seconds of each request, one after another."""
    connection = connect(host, port)
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        ask(connection, path, body)
        taken.append(time.perf_counter() - began)
    return taken


def count_answers(host: str, port: int, path: str, body: bytes, seconds: float, clients: int) -> float:
    """Answers per second to clients that ask again at once: the least-squares slope of their count over time."""
    end = time.perf_counter() + seconds
    moments: list[float] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            connection = connect(host, port)
            while time.perf_counter() < end:
                ask(connection, path, body)
                moments.append(time.perf_counter())
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return slope(sorted(moments))


def slope(moments: Sequence[float]) -> float:
    """How fast their number grows."""
    count = len(moments)
    mean_time, mean_number = sum(moments) / count, (count - 1) / 2
    above = sum((moment - mean_time) * (number - mean_number) for number, moment in enumerate(moments))
    return above / sum((moment - mean_time) ** 2 for moment in moments)


if __name__ == "__main__":
    what, host, port, path, size, *numbers = sys.argv[1:]
    body = bytes(int(size))
    if what == "latency":
        print(json.dumps(time_requests(host, int(port), path, body, int(numbers[0]))))
    else:
        print(json.dumps([count_answers(host, int(port), path, body, float(numbers[0]), int(numbers[1]))]))
