"""Workers that are killed, servers that are told to end, servers that are killed: nobody hangs, nothing is left."""

import json
import os
import signal
import struct
import threading
import time
from collections import Counter

import pytest
from e2e_kit import PATIENCE, Server, Wire, answered, assert_gone, free_ports, pack, request, until

SLEEP = """
import os, time

def infer(inputs, parameters):
    time.sleep(float(inputs.get("seconds", 0)))
    return {"pid": [os.getpid()]}
"""

ASLEEP = '{"seconds": 0}'


@pytest.fixture
def start(tmp_path):
    """Starts a server over a repository of models that sleep: ``single`` has one worker, ``twin`` has two."""
    for name, workers in (("single", 1), ("twin", 2)):
        (tmp_path / f"models/{name}/1").mkdir(parents=True)
        declared = f'name = "{name}"\n[workers]\nmin = {workers}\nmax = {workers}\n'
        (tmp_path / f"models/{name}/config.toml").write_text(declared)
        (tmp_path / f"models/{name}/1/model.py").write_text(SLEEP)
    servers = []

    def start(*arguments, ping=200):
        servers.append(Server(tmp_path, "--model-repository", tmp_path / "models", *arguments))
        return servers[-1].started(ping=ping)

    yield start
    for server in servers:
        server.kill()


class Load:
    """Clients that ask one after another until they are told to stop; what they were told, and how long each waited."""

    def __init__(self, server, model, *, clients=16, seconds=0.005, body=b""):
        self.statuses = Counter()
        self.waits = []
        self.broken = []
        self._server = server
        self._body = body
        self._raw = request("POST", f"/predictions/{model}", body or b'{"seconds": %g}' % seconds)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.waits) >= len(self._threads))
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a client still waits for its answer"

    def _ask(self):
        try:
            with Wire(self._server.port) as wire:
                while not self._stop.is_set():
                    begin = time.monotonic()
                    wire.send(self._raw)
                    answer = wire.answer()
                    self.statuses[answer.code] += 1
                    self.waits.append(time.monotonic() - begin)
                    assert answer.code != 200 or answer.body == (self._body or answer.body)
                    if answer.headers["connection"] == "close":
                        return
        except (OSError, AssertionError) as error:
            self.broken.append(error)


def test_a_killed_worker_is_replaced_and_no_request_hangs(start):
    server = start()
    with Load(server, "single") as load:
        for _ in range(2):
            (pid,) = server.workers("single")
            os.kill(pid, signal.SIGKILL)
            until(lambda gone=pid: server.workers("single") not in ([], [gone]))
            before = len(load.waits)
            until(lambda reached=before: len(load.waits) > reached + 32)
    assert not load.broken
    assert load.statuses[200] > 64
    # A request that was running twice when its worker was killed is given up; all others wait for the next worker.
    assert set(load.statuses) <= {200, 500}
    assert load.statuses[500] <= 2
    assert max(load.waits) < 10
    assert server.ask("GET", "/ping").code == 200
    assert server.stop() == 0
    assert not server.faults(), server.log[-9000:]


def test_with_a_second_worker_nobody_notices_that_the_first_was_killed(start):
    server = start()
    with Load(server, "twin") as load:
        for _ in range(3):
            workers = server.workers("twin")
            os.kill(workers[0], signal.SIGKILL)
            until(lambda gone=workers[0]: len(w := server.workers("twin")) == 2 and gone not in w)
    assert not load.broken
    assert set(load.statuses) == {200}
    assert max(load.waits) < 10
    assert server.stop() == 0


def test_large_bodies_stay_their_own_when_workers_are_killed_under_them(start, tmp_path):
    (tmp_path / "models/fake").mkdir(parents=True)
    declared = 'name = "fake"\nplatform = "builtin"\n[workers]\nmin = 2\nmax = 2\n'
    (tmp_path / "models/fake/config.toml").write_text(declared)
    server = start("--arena-size", "2097152")  # too small for all of them at once
    with (
        Load(server, "fake", clients=6, body=b"a" * 300_000) as one,
        Load(server, "fake", clients=6, body=b"b" * 300_001) as two,
    ):
        for _ in range(5):
            workers = server.workers("fake")
            os.kill(workers[0], signal.SIGKILL)
            until(lambda gone=workers[0]: len(w := server.workers("fake")) == 2 and gone not in w)
    for load in (one, two):
        assert not load.broken
        assert load.statuses[200] > 20
        # Nobody's request ran twice on a worker that was killed, but it may happen.
        assert load.statuses.total() - load.statuses[200] <= 2
    assert server.stop() == 0
    assert not server.faults(), server.log[-9000:]


def test_a_killed_template_is_replaced_when_the_next_worker_is_needed(start):
    server = start()
    children = server.process.children()
    (pid,) = server.workers("single")
    templates = [child for child in children if child.pid != pid and child.children()]
    assert templates
    for template in templates:
        template.kill()
    until(lambda: server.workers("single") not in ([], [pid]))
    assert server.predict("single", ASLEEP).code == 200
    assert server.stop() == 0


def test_every_accepted_request_is_answered_when_the_server_is_told_to_end(start):
    server = start()
    family = server.family()
    with Load(server, "twin", seconds=0.02) as load:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
    assert set(load.statuses) == {200}
    # What a client sent after the server had said goodbye was not accepted; it was never left half answered.
    assert all("no response, but ''" in str(error) or isinstance(error, OSError) for error in load.broken)
    assert_gone(family)
    assert not server.faults(), server.log[-9000:]


def test_a_long_request_is_waited_for(start):
    server = start()
    with Wire(server.port) as wire:
        wire.send(request("POST", "/predictions/single", b'{"seconds": 1.0}'))
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        answer = wire.answer()
        assert (answer.code, answer.headers["connection"]) == (200, "close")
        assert wire.ended()
    assert server.process.wait(PATIENCE) == 0


def test_new_clients_are_turned_away_while_the_server_ends(start):
    server = start()
    with Wire(server.port) as wire:
        wire.send(request("POST", "/predictions/single", b'{"seconds": 1.0}'))
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(ConnectionError):
            server.ask("GET", "/ping")
        assert wire.answer().code == 200
    assert server.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(start, first):
    server = start()
    family = server.family()
    with Wire(server.port) as wire:
        wire.send(request("POST", "/predictions/single", b'{"seconds": 60}'))
        time.sleep(0.2)
        server.process.send_signal(first)
        until(lambda: "stopping" in server.log)
        time.sleep(0.6)  # sooner it would be the first one once more
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(PATIENCE)
        assert time.monotonic() - begin < 5
        assert wire.rest()[:12] in (b"", b"reset", b"HTTP/1.1 500", b"HTTP/1.1 503")
    assert_gone(family)


def test_the_drain_has_an_end(start):
    server = start("--drain-timeout", "0.5")
    with Wire(server.port) as wire:
        wire.send(request("POST", "/predictions/single", b'{"seconds": 60}'))
        time.sleep(0.2)
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 8


def test_a_killed_server_leaves_nobody_behind(start):
    server = start()
    with Wire(server.port) as wire:
        wire.send(request("POST", "/predictions/single", b'{"seconds": 60}'))
        time.sleep(0.2)
        family = server.family()
        assert len(family) >= 5  # the server, a template, three workers
        os.kill(server.process.pid, signal.SIGKILL)
        assert_gone(family)


def test_a_model_that_cannot_be_loaded_says_why_and_keeps_nobody_from_being_served(start, tmp_path):
    (tmp_path / "models/broken/1").mkdir(parents=True)
    (tmp_path / "models/broken/1/model.py").write_text("raise RuntimeError('no such weights')\n")
    server = start(ping=500)
    assert "model       broken 1 failed\n" in server.log
    assert "no such weights" in server.log
    answer = server.predict("broken", ASLEEP)
    assert (answer.status, answer.json()["type"]) == (
        "503 Service Unavailable",
        "ServiceUnavailableException",
    )
    assert server.ask("GET", "/v1/models/broken").code == 503
    assert server.predict("single", ASLEEP).code == 200
    (tmp_path / "models/broken/1/model.py").write_text(SLEEP)
    until(lambda: server.predict("broken", ASLEEP).code == 200)  # it is tried again
    assert server.ask("GET", "/ping").code == 200
    assert server.stop() == 0


def test_torchserves_start_command_serves_its_model_store(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    pack(store, "rows", "rows_handler.py")
    pack(store, "answers", "answers_handler.py")
    inference, management, metrics = ports = free_ports(3)
    (tmp_path / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{inference}\nmanagement_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\nnumber_of_netty_threads=4\ngrpc_inference_port=0\ngrpc_management_port=0\n"
    )
    server = Server(
        tmp_path, "--start", "--foreground", "--ncs", "--model-store", store, "--models", "rows=rows.mar", "answers.mar",
        command="torchserve", ports=ports,
    )  # fmt: skip
    try:
        server.started("Model server started.")
        assert server.predict("rows", "x") == answered("{'body': bytearray(b'x')}")
        assert server.predict("answers", "str") == answered("plain \u00e9")
        assert server.stop() == 0
    finally:
        server.kill()


SPOILER = """
import os, pathlib, signal

def infer(x: 'ndarray'):
    total = float(x.sum())
    x[...] = -1
    died = pathlib.Path(__file__).with_name("died")
    if not died.exists():
        died.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return {"total": [total], "spoiled": x}
"""


def test_a_request_that_runs_again_finds_what_was_sent_though_the_function_wrote_over_it(start, tmp_path):
    (tmp_path / "models/spoiler/1").mkdir(parents=True)
    (tmp_path / "models/spoiler/1/model.py").write_text(SPOILER)
    server = start()
    count = 40_000
    entry = {"name": "x", "datatype": "FP32", "shape": [count], "parameters": {"binary_data_size": 4 * count}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    line = f"Inference-Header-Content-Length: {len(head)}"
    raw = request("POST", "/v2/models/spoiler/infer", head + struct.pack("<f", 1.0) * count, line)
    with Wire(server.port) as wire:
        for _ in range(4):  # the first one runs twice, later ones the way of what is known
            wire.send(raw)
            answer = wire.answer()
            assert answer.code == 200
            behind = answer.body[int(answer.headers["inference-header-content-length"]) :]
            assert behind == struct.pack("<d", float(count)) + struct.pack("<f", -1.0) * count
    assert (tmp_path / "models/spoiler/1/died").exists()
    assert server.stop() == 0
