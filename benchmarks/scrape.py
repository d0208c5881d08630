"""The cost of a scrape of 200 models: its time, its CPU, its bytes, and how long it keeps everybody else waiting.

The models are of the server's own platform, and most of them have no process (scale to zero), so that a small machine has
room for them. The page is as long as it would be with all their workers.
"""

import itertools
import re
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from load import run_load
from starting import Figure
from targets import Mooring
from workloads import HERE, JSON

MODELS = 200
_CONFIG = (HERE / "models" / "builtin" / "config.toml").read_text()
_BODY = b'{"input": [1]}'
_LOAD_CONNECTIONS = 8
_EVERY = 0.25  # seconds between two scrapes while requests run: sixty times what Prometheus does by default


class Scraped(Mooring):
    """A server of many models, whose page is read over a unix socket."""

    metrics_socket = ""

    def command(self, folder: Path) -> list[str]:
        self.metrics_socket = f"{folder}/metrics"
        return super().command(folder)


def measure_scrapes(repetitions: int, seconds: float) -> list[Figure]:
    """Return the figures: of an idle server, then while requests run for ``repetitions`` times so many seconds."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for number in range(MODELS):
            _write_model(Path(folder), f"model{number:03}")
        options = ["--model-repository", folder, "--scale-to-zero-processes", "4"]
        with Scraped(options=options) as server:
            for number in range(4):
                server.wait_for_answer(f"/predictions/model{number:03}", _BODY, {"Content-Type": JSON}, 120.0)
            return [
                *_measure_idle(server, max(10, 10 * repetitions)),
                *_measure_loaded(server, Path(folder), seconds * repetitions),
            ]


def _write_model(repository: Path, name: str) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.toml").write_text(_CONFIG.replace('name = "builtin"', f'name = "{name}"'))


def _measure_idle(server: Scraped, count: int) -> Iterator[Figure]:
    plain, packed = read_page(server), read_page(server, "gzip")
    yield Figure("samples on the page", float(len(re.findall(rb"^[^#]", plain, re.MULTILINE))), "")
    yield Figure("page", len(plain) / 1000, "kB")
    yield Figure("page, gzip", len(packed) / 1000, "kB")
    for name, coding in (("plain", ""), ("gzip", "gzip")):
        used, _ = server.cpu()
        times = [_time_scrape(server, coding) for _ in range(count)]
        used = server.cpu()[0] - used
        yield Figure(f"idle, {name}: wall", statistics.median(times) * 1e3, "ms")
        yield Figure(f"idle, {name}: CPU of the server", used / count * 1e3, "ms", 50.0)
    with _probing(server) as waits:
        time.sleep(1.0)
    yield Figure("idle: longest answer of /v2/health/live, not scraped", max(waits) * 1e3, "ms")
    with _probing(server) as waits:
        for _ in range(count):
            read_page(server)
    yield Figure("idle: longest answer of /v2/health/live, scraped", max(waits) * 1e3, "ms")


def _measure_loaded(server: Scraped, folder: Path, seconds: float) -> Iterator[Figure]:
    body = folder / "body"
    body.write_bytes(_BODY)
    path, headers = "/predictions/model000", {"Content-Type": JSON}
    run_load(server.port, path, body, headers, _LOAD_CONNECTIONS, 1.0)
    for scraped in (False, True):
        with _scraping(server, every=_EVERY if scraped else 0.0) as times:
            used, _ = server.cpu()
            outcome = run_load(server.port, path, body, headers, _LOAD_CONNECTIONS, seconds)
            used = server.cpu()[0] - used
        how = f"scraped every {_EVERY:g} s" if scraped else "not scraped"
        yield Figure(f"loaded, {how}: requests", outcome.rate, "req/s")
        yield Figure(f"loaded, {how}: p99", outcome.p99 * 1e3, "ms")
        yield Figure(f"loaded, {how}: CPU of the server", used / outcome.requests * 1e6, "us per request")
        if times:
            yield Figure("loaded: wall of a scrape", statistics.median(times) * 1e3, "ms")


def read_page(server: Scraped, coding: str = "") -> bytes:
    """Return the body of the metrics page as it was sent. Raises ``RuntimeError`` where it is not answered."""
    accept = f"accept-encoding: {coding}\r\n" if coding else ""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(server.metrics_socket)
        sock.sendall(
            f"GET /metrics HTTP/1.1\r\nhost: localhost\r\n{accept}connection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: sock.recv(1 << 20), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"no page of metrics: {head[:200]!r}")
    return body


def _time_scrape(server: Scraped, coding: str) -> float:
    began = time.perf_counter()
    read_page(server, coding)
    return time.perf_counter() - began


@contextmanager
def _probing(server: Scraped) -> Iterator[list[float]]:
    """Ask a route that needs nothing but the event loop again and again meanwhile; the list gets how long each took."""
    waits: list[float] = []
    request = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"

    def probe(stop: threading.Event) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            while not stop.is_set():
                began = time.perf_counter()
                sock.sendall(request)
                sock.recv(65_536)
                waits.append(time.perf_counter() - began)
                time.sleep(0.0005)

    with _running(probe):
        yield waits


@contextmanager
def _scraping(server: Scraped, *, every: float) -> Iterator[list[float]]:
    """Scrape meanwhile, unless ``every`` is 0; the list gets how long each scrape took."""
    times: list[float] = []

    def scrape(stop: threading.Event) -> None:
        for coding in itertools.cycle(("", "gzip")):
            if stop.wait(every):
                return
            times.append(_time_scrape(server, coding))

    if not every:
        yield times
        return
    with _running(scrape):
        yield times


@contextmanager
def _running(work: Callable[[threading.Event], None]) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
