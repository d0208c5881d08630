"""Signals that ask a server to stop, whoever in it gets them and whenever they come: nothing that was asked is lost."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from e2e_kit import PATIENCE, Server, Wire, assert_gone, free_ports, frontends, pack, request, until

ONCE = """
import os, pathlib, time

def infer(inputs, parameters):
    with pathlib.Path(__file__).with_name("begun").open("a") as file:
        print(inputs["n"], file=file)
    time.sleep(0.8)
    return {"n": inputs["n"]}
"""
STREAM = """
import time

def infer(inputs, parameters):
    for number in range(8):
        time.sleep(0.1)
        yield {"n": [number]}
"""
SUM = """
import time

class Model:
    def load(self, context):
        self.total = 0

    def infer(self, x, sequence_start):
        time.sleep(0.8)
        self.total = float(x.ravel()[0]) + (0 if sequence_start[0] else self.total)
        return {"total": x * 0 + self.total}
"""
SEQUENCES = '[sequences]\n[[inputs]]\nname = "x"\ndatatype = "FP64"\nshape = [-1, 1]\n'
OWN = """
import multiprocessing, os, signal, time

CAUGHT = []
signal.signal(signal.SIGTERM, lambda *_: CAUGHT.append("SIGTERM"))

def infer(inputs, parameters):
    if inputs.get("fork"):
        signal.signal(signal.SIGTERM, BEFORE)
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        process.start()
        process.terminate()
        process.join(20)
        return {"exit": process.exitcode}
    os.kill(os.getpid(), signal.SIGTERM)
    return {"caught": "".join(CAUGHT)}
"""
OWN = OWN.replace("CAUGHT = []", "BEFORE = signal.getsignal(signal.SIGTERM)\nCAUGHT = []")


@pytest.fixture
def start(tmp_path):
    """Starts a server of models that must run once only, stream, and keep state."""
    for name, source, more in (("once", ONCE, "retry = false\n"), ("stream", STREAM, ""), ("sum", SUM, SEQUENCES), ("own", OWN, "")):  # fmt: skip
        (tmp_path / f"models/{name}/1").mkdir(parents=True)
        (tmp_path / f"models/{name}/config.toml").write_text(f'name = "{name}"\n{more}')
        (tmp_path / f"models/{name}/1/model.py").write_text(source)
    servers = []

    def start(*arguments, **how):
        servers.append(Server(tmp_path, "--model-repository", tmp_path / "models", *arguments, **how))
        return servers[-1].started()

    yield start
    for server in servers:
        server.kill()


def signalled(processes, number):
    """Signal all of these, as a terminal, systemd or a supervisor does."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def step(number, *, start=False):
    tensors = [{"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [number]}]
    parameters = {"sequence_id": 7, "sequence_start": start, "sequence_end": False}
    return request("POST", "/v2/models/sum/infer", json.dumps({"inputs": tensors, "parameters": parameters}).encode())  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda one: one.name)
@pytest.mark.parametrize("frontends", [1, 2])
def test_a_signal_to_every_process_loses_no_request(start, tmp_path, number, frontends):
    server = start("--frontends", str(frontends))
    family = server.family()
    with ExitStack() as stack:
        once, stream, sums = (stack.enter_context(Wire(server.port)) for _ in range(3))
        sums.send(step(1, start=True))
        assert sums.answer().json()["outputs"][0]["data"] == [1.0]
        once.send(request("POST", "/predictions/once", b'{"n": 5}'))
        stream.send(request("POST", "/predictions/stream", b'{"n": 1}'))
        sums.send(step(2))
        until((tmp_path / "models/once/1/begun").exists)
        signalled(family, number)
        assert once.answer().json() == {"n": 5}
        assert stream.answer().body.count(b'{"n":') == 8
        assert sums.answer().json()["outputs"][0]["data"] == [3.0]
    assert server.process.wait(PATIENCE) == 0
    assert_gone(family)
    assert (tmp_path / "models/once/1/begun").read_text() == "5\n"
    assert "died" not in server.log, server.log
    assert "lost" not in server.log, server.log
    assert not server.faults()


def test_what_says_the_same_twice_is_no_second_signal(start):
    server = start()
    with Wire(server.port) as wire:
        wire.send(request("POST", "/predictions/once", b'{"n": 5}'))
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)  # as systemd with SendSIGHUP, and as timeout does
        until(lambda: "stopping" in server.log)
        server.process.send_signal(signal.SIGHUP)
        assert wire.answer().json() == {"n": 5}
    assert server.process.wait(PATIENCE) == 0
    assert "second signal" not in server.log


def test_a_hangup_that_is_ignored_from_the_start_stays_ignored(start):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup, and inherited
    try:
        server = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    signalled(server.family(), signal.SIGHUP)
    time.sleep(0.3)
    assert server.ask("GET", "/ping").code == 200
    assert "stopping" not in server.log
    assert server.stop() == 0


def test_signals_to_all_but_the_first_process_change_nothing(start):
    server = start("--frontends", "2")
    others = server.family()[1:]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signalled(others, number)
    time.sleep(0.3)
    assert all(process.is_running() for process in others)
    assert len(frontends(server)) == 1
    assert server.predict("stream", '{"n": 1}').code == 200
    assert server.stop() == 0
    assert not server.faults()


def test_a_model_acts_on_signals_as_it_likes(start):
    server = start()
    assert server.predict("own", '{"n": 1}').json() == {"caught": "SIGTERM"}
    assert server.predict("own", '{"fork": 1}').json() == {"exit": -15}
    assert server.stop() == 0


@pytest.mark.parametrize("round_", range(3))
def test_whoever_finds_the_server_ready_finds_all_of_it_and_may_stop_it(tmp_path, round_):
    pack(tmp_path, "rows", "rows_handler.py")
    (grpc,) = free_ports(1)
    words = ("--model-store", tmp_path, "--models", "rows.mar", "--grpc-address", f"127.0.0.1:{grpc}")
    server = Server(tmp_path, *words, "--token-authorization=on", "--temporary-folder", tmp_path)
    try:

        def ready():
            with suppress(OSError):
                return server.ask("GET", "/v2/health/ready").code == 200
            return False

        until(ready)
        keys = json.loads((tmp_path / "key_file.json").read_text())
        socket.create_connection(("127.0.0.1", grpc)).close()
        for port in server.ports:
            socket.create_connection(("127.0.0.1", port)).close()
        with Wire(server.port) as wire:
            wire.send(request("POST", "/predictions/rows", b"x", f"Authorization: Bearer {keys['inference']['key']}"))  # fmt: skip
            time.sleep(0.05 * round_)
            server.process.send_signal(signal.SIGTERM)
            assert wire.answer().code == 200
        assert server.process.wait(PATIENCE) == 0
    finally:
        server.kill()
    assert not list(tmp_path.glob("mooring-*"))
    assert not server.faults()


def has_handler(pid: int) -> bool:
    """Whether a process has a handler of its own for SIGTERM, as Python's programs have not."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the signals that a process handles are in /proc"
)
def test_a_signal_at_any_moment_of_the_start_ends_it_cleanly(tmp_path, long_run):
    pack(tmp_path, "rows", "rows_handler.py")
    words = [sys.executable, "-m", "mooring", "serve", "--model-store", tmp_path, "--models", "rows.mar"]
    words += [f"--{name}-address=http://127.0.0.1:0" for name in ("inference", "management", "metrics")]
    words += ["--grpc-address=127.0.0.1:0", "--grpc-management-address=127.0.0.1:0"]
    words += ["--temporary-folder", tmp_path]
    handled = []
    numbers = itertools.cycle((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    for tenths, number in zip(range(1, 16, 1 if long_run else 3), numbers, strict=False):
        process = subprocess.Popen(
            list(map(str, words)), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        time.sleep(tenths / 10)
        handled.append(has_handler(process.pid))
        os.killpg(process.pid, number)
        said, _ = process.communicate(timeout=PATIENCE)  # which whoever lived on would hold open
        # Before the first line of ours has run the signal does what it does to every program of Python's.
        assert process.returncode == 0 or not handled[-1], (tenths, said)
        assert "Traceback" not in said or (not handled[-1] and "KeyboardInterrupt" in said), (tenths, said)
        assert "died" not in said, (tenths, said)
        assert not list(tmp_path.glob("mooring-*")), (tenths, said)
    assert any(handled)


def test_a_server_removes_what_killed_ones_have_unpacked(tmp_path):
    pack(tmp_path, "rows", "rows_handler.py")
    words = ("--model-store", tmp_path, "--models", "rows.mar", "--temporary-folder", tmp_path)
    seen = set()
    for _ in range(2):
        server = Server(tmp_path, *words).started()
        (folder,) = tmp_path.glob("mooring-*")
        seen.add(folder)
        server.kill()
        assert folder.exists()
    server = Server(tmp_path, *words).started()
    (folder,) = tmp_path.glob("mooring-*")
    assert folder not in seen
    assert server.stop() == 0
    assert not list(tmp_path.glob("mooring-*"))


def test_an_idle_server_whose_terminal_is_gone_ends(start):
    server = start()
    thread = threading.Timer(0.1, server.process.send_signal, [signal.SIGHUP])
    thread.start()
    assert server.process.wait(PATIENCE) == 0
    assert "stopping" in server.log
