"""What it costs a server to be there, and to lose a worker: time to the first right answer, memory, kill -9 under load."""

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
from targets import Target, kept, seconds_of
from workloads import Body

CLIENTS = 8
PATIENCE = 10.0  # seconds after which a client says that it hangs
WATCHED = 15.0  # seconds that a server has to come back
MEGABYTE = 1 << 20


@dataclass(slots=True)
class Killed:
    """What eight clients saw when a model's process was killed. Times in seconds; ``back`` None: not in time."""

    errors: int = 0
    hung: int = 0
    back: float | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """Of a server (or a bare script): seconds to the first right answer, bytes of memory (PSS), what clients saw of a kill."""

    server: str
    start: float
    memory: float = 0.0
    memory_of_two: float = 0.0
    alone: Killed | None = None  # with one worker
    pair: Killed | None = None  # with two
    engine: str = "torch"

    @property
    def serves(self) -> bool:
        """Whether it is a server."""
        return self.alone is not None


@dataclass(frozen=True, slots=True)
class Question:
    """What a server is asked, and how to know that it is right."""

    path: str
    body: Body
    right: Callable[[bytes], bool]


def lived(
    fresh: Callable[[int], Target],
    question: Question,
    *,
    starts: int,
    engine: str = "torch",
    before: Callable[[], None] = lambda: None,
) -> Life:
    """Start a server so many times with one worker and once with two; kill one of each. Raises ``RuntimeError``.

    ``fresh`` makes one of so many workers; ``before`` is called before each start that is timed. Start and memory are medians.
    """
    taken: list[tuple[float, float]] = []
    alone = Killed()
    for turn in range(max(1, starts)):
        before()
        with fresh(1) as server:
            taken.append(started(server, question))
            if turn == max(1, starts) - 1:
                alone = killed(server, question)
    with fresh(2) as server:
        _, of_two = started(server, question)
        pair = killed(server, question)
    start, memory = (statistics.median(each) for each in zip(*taken, strict=True))
    return Life(server.label, start, memory, of_two, alone, pair, engine)


def started(server: Target, question: Question) -> tuple[float, float]:
    """Seconds until it answers, and the memory of all its processes. Raises ``RuntimeError`` for a wrong answer.

    Memory is looked at a second after a second of load: before that a worker may have done nothing yet.
    """
    answer = server.wait_for(question.path, question.body.content, question.body.headers, 120.0)
    seconds = time.perf_counter() - server.started
    if not question.right(answer):
        raise RuntimeError(f"{server.label}: wrong answer {answer[:200]!r}")
    with asking(server, question):
        time.sleep(1.0)
    time.sleep(1.0)
    return seconds, memory_of(server)


def bare_start(engine: str, model: str, folder: Path) -> float:
    """Seconds until a script that only imports, loads and calls the model has its first answer."""
    began = time.perf_counter()
    script = subprocess.Popen(
        in_process.command(engine, model, folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=kept(),
    )
    with script:
        assert script.stdout is not None
        script.stdout.readline()  # it has its answer; what it takes to end is not counted
        return time.perf_counter() - began


def memory_of(server: Target) -> float:
    """PSS of all its processes: what is shared counts once."""
    total = 0.0
    for process in [server.server, *server.workers()]:
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


class Client(threading.Thread):
    """Asks again and again, on one connection as long as that lasts, and notes every answer's beginning and end."""

    def __init__(self, server: Target, question: Question, ended: threading.Event) -> None:
        super().__init__()
        self.right: list[tuple[float, float]] = []
        self.errors = self.hung = 0
        self._question, self._ended = question, ended
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)

    def run(self) -> None:
        while not self._ended.is_set():
            began = time.perf_counter()
            try:
                served = self._ask()
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

    def _ask(self) -> bool:
        body = self._question.body
        self._connection.request("POST", self._question.path, body.content, body.headers)
        response = self._connection.getresponse()
        response.read()
        return response.status == 200


@contextmanager
def asking(server: Target, question: Question) -> Iterator[list[Client]]:
    """All clients at work while this is open; afterwards none waits for anything."""
    ended = threading.Event()
    clients = [Client(server, question, ended) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        ended.set()
        for client in clients:
            client.join()


def killed(server: Target, question: Question) -> Killed:
    """Kill -9 the process that works hardest, after two seconds of load, and watch what its clients are told.

    Until two seconds after the server is back, or ``WATCHED`` is over.
    """
    with asking(server, question) as clients:
        time.sleep(1.0)
        victim = busiest(server)
        died = time.perf_counter()
        victim.kill()
        while (back := back_after(died, clients)) is None and time.perf_counter() < died + WATCHED:
            time.sleep(0.05)
        time.sleep(2.0)
    return Killed(sum(client.errors for client in clients), sum(client.hung for client in clients), back)


def back_after(died: float, clients: Sequence[Client]) -> float | None:
    """Seconds until a request that was sent after the kill was answered; None as long as none was."""
    ends = [end for client in clients for began, end in list(client.right) if began > died]
    return min(ends, default=died) - died or None


def busiest(server: Target) -> psutil.Process:
    """The process below the server (or the server itself) that used most of a second."""
    family = [server.server, *server.workers()]
    before = {process.pid: seconds_of(process) for process in family}
    time.sleep(1.0)
    return max(family, key=lambda process: seconds_of(process) - before[process.pid])
