"""Servers whose processes are stopped by a signal and live on: they are ended and replaced, and nobody waits for ever."""

import json
import os
import signal
import threading
import time
from contextlib import suppress

import psutil
import pytest
from e2e_kit import PATIENCE, Server, Wire, frontends, request, until

SLOW = """
import os, time

def infer(inputs, parameters):
    time.sleep(float(inputs.get("seconds", 0)))
    return {"pid": os.getpid()}
"""
ASLEEP = '{"seconds": 0}'
MIRROR = """
import time

def infer(inputs, parameters):
    time.sleep(3 * float(inputs["x"].sum() == 0))
    return {"x": inputs["x"]}
"""


@pytest.fixture
def start(tmp_path):
    """Starts a server that notices after a second what is frozen."""
    for name, source in (("slow", SLOW), ("mirror", MIRROR)):
        (tmp_path / f"models/{name}/1").mkdir(parents=True)
        (tmp_path / f"models/{name}/config.toml").write_text(f'name = "{name}"\n')
        (tmp_path / f"models/{name}/1/model.py").write_text(source)
    servers = []

    def start(*arguments, wait=True):
        models = ("--model-repository", tmp_path / "models")
        servers.append(Server(tmp_path, *models, "--heartbeat-timeout=1", *arguments))
        return servers[-1].started() if wait else servers[-1]

    yield start
    for server in servers:
        server.kill()


def running(processes):
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


@pytest.mark.parametrize("deal", ["evenly", "by_load"])
def test_a_frozen_frontend_is_replaced(start, deal):
    server = start("--frontends=2", f"--deal-connections={deal}")
    (frontend,) = frontends(server)
    frontend.suspend()
    until(lambda: frontend.pid not in running(frontends(server)) and len(running(frontends(server))) == 1)
    until(lambda: server.log.count("frontend listening") == 2)
    assert {server.predict("slow", ASLEEP).code for _ in range(40)} == {200}
    assert "frontend frozen" in server.log
    assert server.stop() == 0
    assert not server.faults()


def test_what_waits_for_a_frozen_frontend_goes_on_when_it_is_gone(start):
    server = start("--frontends=2", "--deal-connections=evenly")
    (frontend,) = frontends(server)
    frontend.suspend()
    with Wire(server.ports[1]) as wire:  # every frontend has to let go of the workers first
        wire.send(request("POST", "/v2/repository/models/slow/unload"))
        assert wire.answer().code in (200, 404)
    with Wire(server.ports[1]) as wire:
        wire.send(request("PUT", "/models/mirror?min_worker=0&max_worker=0&synchronous=true"))
        assert wire.answer().code == 200
    assert server.stop() == 0


def test_a_frontend_that_is_frozen_before_it_listens_does_not_stop_the_start(start):
    server = start("--frontends=2", wait=False)
    until(lambda: frontends(server))
    (frontend,) = frontends(server)
    frontend.suspend()
    server.started()
    assert frontend.pid not in running(frontends(server))
    assert server.stop() == 0


def test_a_frozen_codec_process_is_replaced_and_the_body_that_it_had_is_answered(start, tmp_path):
    server = start("--codec-processes=1", "--frontends=1")
    before = running(server.family())
    answers = []

    def ask(first):
        tensor = {
            "name": "x",
            "datatype": "FP64",
            "shape": [100_000],
            "data": [float(first)] + [0.0] * 99_999,
        }
        body = json.dumps({"inputs": [tensor]}).encode()
        answers.append((first, server.ask("POST", "/v2/models/mirror/infer", body)))

    def ask_both(meanwhile=lambda: None):
        """The first keeps the only worker busy while the second waits, which a codec process is to open."""
        threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 1)]
        for thread in threads:
            thread.start()
            time.sleep(0.5)
            meanwhile()
        for thread in threads:
            thread.join(PATIENCE)

    ask_both()
    # The last one that was started: the other one is what it was forked from.
    codec = max((one for one in server.family() if one.pid not in before), key=lambda one: one.create_time())
    ask_both(codec.suspend)
    assert len(answers) == 4
    for first, answer in answers:
        assert answer.code == 200
        assert answer.json()["outputs"][0]["data"][:2] == [float(first), 0.0]
    until(lambda: codec.pid not in running(server.family()))
    assert server.stop() == 0
    assert not server.faults()


def test_a_server_that_is_stopped_and_goes_on_as_a_whole_takes_nobody_for_frozen(start):
    server = start("--frontends=2")
    family = server.family()
    for number in (signal.SIGSTOP, signal.SIGCONT):  # as docker pause does, or the closed lid of a laptop
        for process in family:
            os.kill(process.pid, number)
        time.sleep(4 if number == signal.SIGSTOP else 3)
    assert running(server.family()) == running(family)
    assert "frozen" not in server.log
    assert server.predict("slow", ASLEEP).code == 200
    assert server.stop() == 0


def test_a_model_that_waits_without_working_is_not_frozen(start):
    server = start()
    (worker,) = server.workers("slow")
    assert server.predict("slow", '{"seconds": 4}').json() == {"pid": worker}
    assert "frozen" not in server.log
    assert server.stop() == 0
