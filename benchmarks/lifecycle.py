"""The life of a server: seconds to the first right answer, memory, and kill -9 of a worker under load."""

import http.client
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import in_process
import psutil
from targets import Target, make_environment, read_cpu_seconds
from workloads import Body

CLIENTS = 8
CLIENT_TIMEOUT = 10.0  # seconds after which a client says that it hangs
RECOVERY_LIMIT = 15.0  # seconds that a server has to come back
MEGABYTE = 1 << 20


@dataclass(slots=True)
class Kill:
    """What the clients saw of a kill. ``recovery`` is in seconds; None means not within ``RECOVERY_LIMIT``."""

    errors: int = 0
    hung: int = 0
    recovery: float | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """Seconds from a start to the first right answer, bytes of memory (PSS), and what clients saw of a kill.

    A bare script without a server has a start only.
    """

    server: str
    start: float
    memory: float = 0.0
    memory_of_two: float = 0.0
    alone: Kill | None = None  # with one worker
    pair: Kill | None = None  # with two
    engine: str = "torch"

    @property
    def serves(self) -> bool:
        """Whether this is a server, not a bare script."""
        return self.alone is not None


@dataclass(frozen=True, slots=True)
class Request:
    """One request, and the check of its answer."""

    path: str
    body: Body
    right: Callable[[bytes], bool]


def measure_life(
    fresh: Callable[[int], Target],
    request: Request,
    *,
    starts: int,
    engine: str = "torch",
    before: Callable[[], None] = lambda: None,
) -> Life:
    """Start a server ``starts`` times with one worker and once with two, and kill a worker of each. Raises ``RuntimeError``.

    ``fresh`` makes a server with that number of workers; ``before`` is called before each start that is timed. Start and
    memory are medians.
    """
    taken: list[tuple[float, float]] = []
    alone = Kill()
    for turn in range(max(1, starts)):
        before()
        with fresh(1) as server:
            taken.append(measure_start(server, request))
            if turn == max(1, starts) - 1:
                alone = kill_worker(server, request)
    with fresh(2) as server:
        _, of_two = measure_start(server, request)
        pair = kill_worker(server, request)
    start, memory = (statistics.median(each) for each in zip(*taken, strict=True))
    return Life(server.label, start, memory, of_two, alone, pair, engine)


def measure_start(server: Target, request: Request) -> tuple[float, float]:
    """Return the seconds until a server answers, and the memory of its processes. Raises ``RuntimeError`` for a wrong answer.

    Memory is read a second after a second of load, because a worker may have done nothing before that.
    """
    answer = server.wait_for_answer(request.path, request.body.content, request.body.headers, 120.0)
    seconds = time.perf_counter() - server.started
    if not request.right(answer):
        raise RuntimeError(f"{server.label}: wrong answer {answer[:200]!r}")
    with run_clients(server, request):
        time.sleep(1.0)
    time.sleep(1.0)
    return seconds, total_pss(server)


def measure_script_start(engine: str, model: str, folder: Path) -> float:
    """Return the seconds until a script that only imports, loads and calls the model has its first answer."""
    began = time.perf_counter()
    script = subprocess.Popen(
        in_process.make_command(engine, model, folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=make_environment(),
    )
    with script:
        assert script.stdout is not None
        script.stdout.readline()  # the first answer; the end of the process is not timed
        return time.perf_counter() - began


def total_pss(server: Target) -> float:
    """Return the PSS of all processes of a server, in bytes: shared pages count once."""
    total = 0.0
    for process in [server.server, *server.workers()]:
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


class Client(threading.Thread):
    """Sends a request again and again on one connection, and keeps the begin and end of every right answer."""

    def __init__(self, server: Target, request: Request, ended: threading.Event) -> None:
        super().__init__()
        self.right: list[tuple[float, float]] = []
        self.errors = self.hung = 0
        self._request, self._ended = request, ended
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=CLIENT_TIMEOUT)

    def run(self) -> None:
        while not self._ended.is_set():
            began = time.perf_counter()
            try:
                served = self._served()
            except TimeoutError:
                self.hung += 1
                self._connection.close()
                continue
            except (OSError, http.client.HTTPException):
                served = False
                self._connection.close()
            if served:
                self.right.append((began, time.perf_counter()))
            else:
                self.errors += 1
                time.sleep(0.02)

    def _served(self) -> bool:
        body = self._request.body
        self._connection.request("POST", self._request.path, body.content, body.headers)
        response = self._connection.getresponse()
        response.read()
        return response.status == 200


@contextmanager
def run_clients(server: Target, request: Request) -> Iterator[list[Client]]:
    """Run all clients while this context is open; all have ended when it is left."""
    ended = threading.Event()
    clients = [Client(server, request, ended) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        ended.set()
        for client in clients:
            client.join()


def kill_worker(server: Target, request: Request) -> Kill:
    """Kill -9 the busiest process after two seconds of load, and return what the clients saw.

    The load ends two seconds after the server is back, or after ``RECOVERY_LIMIT`` and two seconds.
    """
    with run_clients(server, request) as clients:
        time.sleep(1.0)
        victim = find_busiest(server)
        died = time.perf_counter()
        victim.kill()
        while (
            recovery := recovery_after(died, clients)
        ) is None and time.perf_counter() < died + RECOVERY_LIMIT:
            time.sleep(0.05)
        time.sleep(2.0)
    return Kill(sum(client.errors for client in clients), sum(client.hung for client in clients), recovery)


def recovery_after(died: float, clients: Sequence[Client]) -> float | None:
    """Return the seconds until a request sent after the kill was answered; None as long as none was."""
    ends = [end for client in clients for began, end in list(client.right) if began > died]
    return min(ends, default=died) - died or None


def find_busiest(server: Target) -> psutil.Process:
    """Return the process of the server that uses the most CPU in one second."""
    family = [server.server, *server.workers()]
    before = {process.pid: read_cpu_seconds(process) for process in family}
    time.sleep(1.0)
    return max(family, key=lambda process: read_cpu_seconds(process) - before[process.pid])
