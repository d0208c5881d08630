"""A whole server whose connections go from process to process all the time: nobody loses anything by it."""

import itertools
import json
import select
import signal
import sys
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
import tritonclient.http as triton
from e2e_kit import PATIENCE, Server, Wire, assert_gone, frontends, request, until

MODEL = """
import pathlib, time
import numpy as np

def double(x: np.ndarray):
    return {"y": x * 2}

def slow(x: np.ndarray):
    while not pathlib.Path(__file__).with_name("go").exists():
        time.sleep(0.01)
    return {"y": x}
"""
HERE = Path(__file__).parent


class Eager(Server):
    """A server that spreads its connections as soon as there is anything to do."""

    PROGRAM = (sys.executable, HERE / "eager.py")


class Restless(Server):
    """A server that deals its connections out at random."""

    PROGRAM = (sys.executable, HERE / "restless.py")

    def moved(self) -> int:
        """How many connections went over a passage from the first process so far, about."""
        lines = [line for line in self.log.splitlines() if line.startswith("connections moved:")]
        return int(lines[-1].split()[-1]) if lines else 0


@pytest.fixture
def start(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    servers = []

    def begin(kind=Restless, *arguments):
        servers.append(kind(tmp_path, "model.py:double", "--frontends=3", *arguments))
        return servers[-1].started()

    yield begin
    for server in servers:
        server.kill()


def tcp(process):
    """The connections that a process has."""
    return [each for each in process.net_connections("tcp") if each.status != psutil.CONN_LISTEN]


class Clients:
    """Clients of many kinds that ask until they are told to stop, or the server closes their connection."""

    def __init__(self, server):
        self.server = server
        self.stop = threading.Event()
        self.answered = [0] * 8
        self.faults = []
        self._numbers = itertools.count(1)
        kinds = [self._session, self._triton, self._wire, self._pipelined] * 2
        self._threads = [threading.Thread(target=self._run, args=(kind, at)) for at, kind in enumerate(kinds)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a client still waits"

    def _run(self, kind, at):
        try:
            kind(at)
        except Exception as error:
            self.faults.append(f"{kind.__name__}: {error!r} {error}")

    def _session(self, at):
        with requests.Session() as session:
            while not self.stop.is_set():
                number = next(self._numbers)
                answer = session.post(
                    f"{self.server.url}/predictions/double", json={"x": [number]}, timeout=PATIENCE
                )
                assert answer.json() == {"y": [2 * number]}
                self.answered[at] += 1

    def _triton(self, at):
        client = triton.InferenceServerClient(f"127.0.0.1:{self.server.port}")
        size = itertools.cycle([1, 40_000])  # one of them is written where the worker reads it
        while not self.stop.is_set():
            values = np.full(next(size), next(self._numbers), np.int64)
            tensor = triton.InferInput("x", values.shape, "INT64").set_data_from_numpy(values)
            np.testing.assert_array_equal(client.infer("double", [tensor]).as_numpy("y"), 2 * values)
            self.answered[at] += 1
        client.close()

    def _wire(self, at):
        with Wire(self.server.port) as wire:
            while not self.stop.is_set():
                number = next(self._numbers)
                wire.send(request("POST", "/predictions/double", b'{"x": [%d]}' % number))
                assert wire.answer().json() == {"y": [2 * number]}
                self.answered[at] += 1

    def _pipelined(self, at):
        with Wire(self.server.port) as wire:
            while not self.stop.is_set():
                numbers = [next(self._numbers) for _ in range(5)]
                for number in numbers:
                    wire.send(request("POST", "/predictions/double", b'{"x": [%d]}' % number))
                assert [wire.answer().json()["y"] for _ in numbers] == [[2 * number] for number in numbers]
                self.answered[at] += len(numbers)


def test_nothing_is_lost_while_connections_move_hundreds_of_times(start, long_run):
    server = start()
    with Clients(server) as clients:
        enough = 1000 if long_run else 300
        until(lambda: clients.faults or (min(clients.answered) > 30 and server.moved() > enough))
    assert not clients.faults
    assert server.stop() == 0
    assert not server.faults(), server.log[-5000:]


def test_what_was_asked_is_answered_when_the_server_ends_while_connections_move(start, contexts):
    server = start()
    family = server.family()
    wires = [contexts.enter_context(Wire(server.port)) for _ in range(24)]
    for wire in wires:
        wire.send(request("POST", "/predictions/double", b'{"x": [1]}'))
        assert wire.answer().code == 200
    asked = []
    for turn in range(30):
        for wire in wires:
            wire.send(request("POST", "/predictions/double", b'{"x": [%d]}' % turn))
        if turn == 29:
            server.process.send_signal(signal.SIGTERM)
        asked.append([wire.answer().json() for wire in wires])
    assert asked == [[{"y": [2 * turn]}] * len(wires) for turn in range(30)]
    assert all(wire.ended() for wire in wires)
    assert server.process.wait(PATIENCE) == 0
    assert_gone(family)
    assert not server.faults(), server.log[-5000:]


def test_a_frontend_that_is_killed_while_connections_move_takes_only_its_own_with_it(start):
    server = start()
    # By chance all eight connections may be in the one process: hardly ever five times in a row.
    for listening in range(3, 8):
        with Clients(server) as clients:
            until(lambda: clients.faults or min(clients.answered) > 20)
            frontends(server)[0].kill()
            until(lambda wanted=listening: server.log.count("frontend listening") == wanted)
        if len(clients.faults) < 8:
            break
    assert len(clients.faults) < 8
    assert server.predict("double", '{"x": [4]}').json() == {"y": [8]}
    with Clients(server) as clients:
        until(lambda: clients.faults or min(clients.answered) > 20)
    assert not clients.faults
    assert server.stop() == 0
    assert not server.faults(), server.log[-5000:]


def test_connections_spread_with_the_load_and_come_back_when_it_goes(start):
    server = start(Eager)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(server.port)) for _ in range(12)]
        with Clients(server) as clients:
            until(lambda: clients.faults or "connections are dealt out processes=3" in server.log)
            until(lambda: clients.faults or all(tcp(each) for each in frontends(server)))
        assert not clients.faults
        until(lambda: "connections are dealt out processes=1" in server.log)
        until(lambda: not any(tcp(each) for each in frontends(server)))
        for wire in wires:
            wire.send(request("POST", "/predictions/double", b'{"x": [3]}'))
            assert wire.answer().json() == {"y": [6]}
    assert server.stop() == 0
    assert not server.faults(), server.log[-5000:]


@pytest.mark.parametrize(("dealt", "most"), [("by_load", 10), ("evenly", 4)])
def test_a_bound_on_a_queue_is_divided_among_those_that_take_connections(start, tmp_path, dealt, most):
    server = start(Server, f"--deal-connections={dealt}", "model.py:slow", "--job-queue-size=9")
    frontend = frontends(server)[0]
    with ExitStack() as stack:
        wires = []
        while len(wires) < 20:  # all of one process
            wire = stack.enter_context(Wire(server.port))
            port = wire.socket.getsockname()[1]
            if dealt == "by_load" or any(each.raddr.port == port for each in tcp(frontend) if each.raddr):
                wires.append(wire)
        for wire in wires:
            wire.send(request("POST", "/predictions/slow", b'{"x": [1]}'))
        sockets = [wire.socket for wire in wires]
        until(lambda: len(select.select(sockets, [], [], 0)[0]) == 20 - most)  # who is refused is so at once
        (tmp_path / "go").touch()
        codes = Counter(wire.answer().code for wire in wires)
    assert codes == {200: most, 503: 20 - most}


def test_few_requests_are_the_first_process_s(start):
    server = start(Server)
    assert len(frontends(server)) == 2
    for number in range(30):
        assert server.predict("double", json.dumps({"x": [number]})).json() == {"y": [2 * number]}
    assert not any(tcp(each) for each in frontends(server))
