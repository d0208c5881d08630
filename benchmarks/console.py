"""What the console costs: the server with one page open under a steady load, and the page itself over time.

    python console.py                 turns of five seconds with and without a page, then a page for ten minutes
    python console.py --quick         the same, short
    python console.py load PORT RATE SECONDS

The server is charged for what the thread of its event loop used, which is all that a page costs it. Turns with and without a
page alternate under one load of a fixed rate, so that what else the machine does falls on both. The load is paced by this file,
over kept connections: what a busy machine did not let leave in time is left out and not sent later, and the rate is counted.
"""

import argparse
import asyncio
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from targets import Mooring
from workloads import MODELS, OPTIONS

RATE = 5_000.0
PATH = "/predictions/function"
BODY = b'{"x": 1.0}'
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
SETTLING = 2.0  # seconds of each turn that are not counted
# Of the load: seconds between two lots of requests, connections, and the largest lot.
_BEAT, _CONNECTIONS, _MOST_AT_ONCE = 0.005, 32, 128


@dataclass(slots=True)
class ConsoleFigures:
    """Shares are of one core, 0.0 to 1.0; ``heap`` has the seconds and the bytes of each reading of the page's memory."""

    models: int
    rate: float = 0.0
    without: list[float] = field(default_factory=list)
    watched: list[float] = field(default_factory=list)
    heap: list[tuple[float, int]] = field(default_factory=list)
    skipped: str = ""

    @property
    def cost(self) -> float:
        """The share of a core that an open page costs the server."""
        return statistics.mean(self.differences)

    @property
    def error(self) -> float:
        """The standard error of that mean."""
        pairs = self.differences
        return statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else float("nan")

    @property
    def differences(self) -> list[float]:
        """Each turn with a page less the one without beside it."""
        return [one - other for one, other in zip(self.watched, self.without, strict=True)]


def measure_console(turns: int, seconds: float, minutes: float) -> ConsoleFigures:
    """Measure both; the page is skipped where there is no browser."""
    figures = ConsoleFigures(len(MODELS))
    with Mooring(MODELS, OPTIONS) as server:
        server.wait_for_answer(PATH, BODY, {"content-type": "application/json"})
        running = _start_load(server.port, RATE, 2 * turns * (seconds + SETTLING) + 2)
        time.sleep(2)
        for turn in range(turns):
            # In turn the one and the other is first, so that no drift falls on one of them.
            for watched in (bool(turn % 2), not turn % 2):
                figures_of_turn = figures.watched if watched else figures.without
                figures_of_turn.append(_measure_turn(server, seconds, watched=watched))
        figures.rate = float(running.communicate()[0])
        if minutes:
            _measure_page(server.port, minutes, figures)
    return figures


def _measure_turn(server: Mooring, seconds: float, *, watched: bool) -> float:
    with _watching(server.port) if watched else nullcontext():
        time.sleep(SETTLING)
        used, began = thread_seconds(server.server.pid), time.monotonic()
        time.sleep(seconds)
        return (thread_seconds(server.server.pid) - used) / (time.monotonic() - began)


def _start_load(port: int, rate: float, seconds: float) -> "subprocess.Popen[str]":
    """Start the load in a process of its own, which prints the answers a second at its end."""
    command = [sys.executable, __file__, "load", str(port), str(rate), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def send_paced(port: int, rate: float, seconds: float) -> float:
    """Send requests at this rate over kept connections, a few every ``_BEAT``; return the answers a second."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    request = head.encode() + BODY
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(_CONNECTIONS)]
    answers = [0]

    async def count(reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65_536):
            answers[0] += data.count(b"HTTP/1.1 200")

    readers = [asyncio.ensure_future(count(reader)) for reader, _ in connections]
    began = time.monotonic()
    sent, turn = 0, 0
    while (passed := time.monotonic() - began) < seconds:
        due = min(round(rate * passed) - sent, _MOST_AT_ONCE)
        sent = round(rate * passed)  # what is above that is late, and left out
        for _ in range(due):
            turn += 1
            connections[turn % _CONNECTIONS][1].write(request)
        await asyncio.sleep(_BEAT)
    await asyncio.sleep(0.5)
    for reading in readers:
        reading.cancel()
    for _, writer in connections:
        writer.close()
    return answers[0] / seconds


def thread_seconds(pid: int) -> float:
    """Return the CPU seconds that the first thread of a process has used, as exactly as the system says."""
    file = Path(f"/proc/{pid}/task/{pid}/schedstat")
    with suppress(OSError):
        return int(file.read_text().split()[0]) / 1e9
    (first,) = [each for each in psutil.Process(pid).threads() if each.id == pid]
    return float(first.user_time + first.system_time)


@contextmanager
def _watching(port: int) -> Iterator[None]:
    """Read the console's stream as an open page does."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /console/api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        reader = threading.Thread(target=_read_all, args=(connection,), daemon=True)
        reader.start()
        try:
            yield
        finally:
            connection.shutdown(socket.SHUT_RDWR)
            reader.join()


def _read_all(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(65_536):
            pass


def _measure_page(port: int, minutes: float, figures: ConsoleFigures) -> None:
    """Read the memory of a page that is open for so long, under the load, each time after its garbage was collected."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None or shutil.which(DRIVER) is None:
        figures.skipped = f"no browser: {BROWSERS[0]} and {DRIVER} are not installed"
        return
    try:
        from selenium import webdriver  # noqa: PLC0415 - of the tests, and not of every run
        from selenium.webdriver.chrome.service import Service  # noqa: PLC0415
    except ImportError:
        figures.skipped = "selenium is not installed"
        return
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which(DRIVER)))
    try:
        driver.get(f"http://127.0.0.1:{port}/console")
        driver.execute_cdp_cmd("Performance.enable", {})
        began, end = time.monotonic(), time.monotonic() + 60 * minutes
        running = _start_load(port, RATE, 60 * minutes)
        while time.monotonic() < end:
            time.sleep(min(5.0, 6 * minutes))
            driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
            metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            used = next(each["value"] for each in metrics if each["name"] == "JSHeapUsedSize")
            figures.heap.append((time.monotonic() - began, int(used)))
        running.communicate()
    finally:
        driver.quit()


def growth(heap: Sequence[tuple[float, int]]) -> float:
    """Return by how many bytes a minute the page's memory grew, by least squares, once it was there."""
    settled = heap[len(heap) // 4 :]
    if len(settled) < 2:
        return 0.0
    slope, _ = statistics.linear_regression([at for at, _ in settled], [used for _, used in settled])
    return slope * 60


def format_console(figures: ConsoleFigures) -> str:
    """Return the figures as a table and a sentence."""
    rows = [
        "| the event loop's thread, share of a core | mean | least | most |",
        "|---|--:|--:|--:|",
        *(
            f"| {name} | {statistics.mean(shares):.2%} | {min(shares):.2%} | {max(shares):.2%} |"
            for name, shares in (("no page is open", figures.without), ("a page is open", figures.watched))
        ),
        "",
    ]
    rows.append(
        f"An open page of {figures.models} models at {figures.rate:.0f} answers a second costs the server "
        f"{figures.cost:.2%} of a core, with a standard error of {figures.error:.2%} ({len(figures.watched)} turns each way)."
    )
    if figures.skipped:
        rows.append(f"The page's memory was not measured: {figures.skipped}.")
    elif figures.heap:
        sizes = [used / 1e6 for _, used in figures.heap]
        rows.append(
            f"The page's JavaScript heap over {figures.heap[-1][0] / 60:.1f} minutes: {sizes[0]:.2f} MB at first, "
            f"{min(sizes):.2f} to {max(sizes):.2f} MB, {sizes[-1]:.2f} MB at last; it grew by {growth(figures.heap) / 1e3:.1f} KB a minute."
        )
    return "\n".join(rows)


def main() -> None:
    """Measure and print, or be the load."""
    if sys.argv[1:2] == ["load"]:
        port, rate, seconds = sys.argv[2:]
        print(asyncio.run(send_paced(int(port), float(rate), float(seconds))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a turn")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="how long the page is open; 0: not at all"
    )
    parser.add_argument("--quick", action="store_true", help="two turns of two seconds, half a minute")
    options = parser.parse_args()
    if options.quick:
        options.turns, options.seconds, options.minutes = 2, 2.0, 0.5
    print(format_console(measure_console(options.turns, options.seconds, options.minutes)))


if __name__ == "__main__":
    main()
