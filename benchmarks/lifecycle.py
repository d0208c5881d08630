"""What it costs a server to be there, and to lose a worker: time to the first right answer, memory, kill -9 under load."""

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from targets import Target, seconds_of
from workloads import Body

HERE = Path(__file__).parent
CLIENTS = 8
MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Started:
    """Seconds to the first right answer, and the memory of all its processes two seconds later, in bytes."""

    seconds: float
    memory: float


def started(server: Target, path: str, body: Body, right: Callable[[bytes], bool]) -> Started:
    """Start a server and ask until it answers. Raises ``RuntimeError`` for a wrong answer, or none."""
    with server:
        answer = server.wait_for(path, body.content, body.headers, 180.0)
        seconds = time.perf_counter() - server.started
        if not right(answer):
            raise RuntimeError(f"{server.label}: wrong answer {answer[:200]!r}")
        time.sleep(2.0)
        return Started(seconds, memory_of(server))


def bare_start(engine: str, model: str, folder: Path) -> float:
    """Seconds until a script that only imports, loads and calls the model has its first answer."""
    command = [sys.executable, str(HERE / "limits.py"), engine, model, str(folder), "0", "1", "0"]
    began = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as script:
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


@dataclass(slots=True)
class Killed:
    """What eight clients saw when a model's process was killed. Times in seconds; ``back`` None: it never was."""

    answered: int = 0
    errors: int = 0
    hung: int = 0
    back: float | None = None


def killed(server: Target, path: str, body: Body, *, seconds: float = 12.0, patience: float = 10.0) -> Killed:
    """Kill -9 the process that works hardest, after three seconds of load, and watch what its clients are told."""
    outcome = Killed()
    lock = threading.Lock()
    with server:
        server.wait_for(path, body.content, body.headers, 180.0)
        died = [float("inf")]
        end = time.perf_counter() + seconds

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=patience)
            while time.perf_counter() < end:
                began = time.perf_counter()
                try:
                    connection.request("POST", path, body.content, body.headers)
                    response = connection.getresponse()
                    response.read()
                    right = response.status == 200
                except TimeoutError:
                    with lock:
                        outcome.hung += 1
                    connection.close()
                    continue
                except (OSError, http.client.HTTPException):
                    right = False
                    connection.close()
                with lock:
                    if right:
                        outcome.answered += 1
                        if began > died[0] and outcome.back is None:
                            outcome.back = time.perf_counter() - died[0]
                    else:
                        outcome.errors += 1
                if not right:
                    time.sleep(0.02)

        clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(3.0)
        victim = busiest(server)
        died[0] = time.perf_counter()
        victim.kill()
        for client in clients:
            client.join()
    return outcome


def busiest(server: Target) -> psutil.Process:
    """The process below the server (or the server itself) that used most of a second."""
    family = [server.server, *server.workers()]
    before = {process.pid: seconds_of(process) for process in family}
    time.sleep(1.0)
    return max(family, key=lambda process: seconds_of(process) - before[process.pid])
