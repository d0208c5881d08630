"""Metrics of what a server has to do now, while it really has to: requests that wait, workers that go, bytes on the wire."""

import json
import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from e2e_kit import PATIENCE, Server, free_ports, request, until

import mooring

SLEEPY = """
import os, time

def infer(inputs, parameters):
    time.sleep(float(inputs.get("seconds", 0)))
    return {"pid": os.getpid()}
"""
FAT = """
held = []

def infer(inputs, parameters):
    held.append(bytearray(400_000_000))
    held[0][::4096] = b"x" * len(held[0][::4096])
    return {"size": len(held[0])}
"""
UNLUCKY = "raise RuntimeError('there is no network')\n"
LATE = "import time\ntime.sleep(60)\n"
MIRROR = """
def infer(inputs, parameters):
    return {"x": inputs["x"]}
"""
# By reason: the model whose worker is lost for it, and what its configuration has for that.
MODELS = {
    "died": (SLEEPY, ""),
    "frozen": (SLEEPY, ""),
    "response_timeout": (SLEEPY, "response_timeout = 1"),
    "request_limit": (SLEEPY, "[workers]\nmax_requests = 2"),
    "memory_limit": (FAT, "[workers]\nmemory_limit = 300000000"),
    "load_failed": (UNLUCKY, ""),
    "startup_timeout": (LATE, "startup_timeout = 1"),
}
GAUGES = ("waiting_requests", "in_flight_requests", "workers_ready", "workers_wanted", "oldest_wait_seconds")


def write_model(repository, name, source, config=""):
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder.parent / "config.toml").write_text(f'name = "{name}"\n{config}\n')
    (folder / "model.py").write_text(source)


class Raw:
    """Keep-alive connections to a server that count every byte, both ways."""

    def __init__(self):
        self.sent = self.received = 0
        self._sockets = {}

    def ask(self, port, data):
        """The body of the answer to these bytes."""
        if port not in self._sockets:
            self._sockets[port] = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._sockets[port].sendall(data)
        self.sent += len(data)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._sockets[port].recv(65_536)
        head, _, body = answer.partition(b"\r\n\r\n")
        size = int(re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)[1])
        while len(body) < size:
            body += self._sockets[port].recv(1 << 20)
        self.received += len(head) + 4 + size
        return body

    def close(self):
        for each in self._sockets.values():
            each.close()


def page(server):
    raw = Raw()
    try:
        return raw.ask(server.ports[2], request("GET", "/metrics")).decode()
    finally:
        raw.close()


def values(text, name):
    """The values of a metric by their labels as they stand there."""
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def gauges(server, model):
    text, labels = page(server), f'model_name="{model}",model_version="1"'
    return [values(text, f"mooring_{name}").get(labels) for name in GAUGES]


def sleep(server, model, seconds=0.0):
    body = json.dumps({"seconds": seconds}).encode()
    return server.predict(model, body, "content-type: application/json")


def workers_of(server, model):
    """The processes of a model's workers, by their titles."""
    found = []
    for process in server.family():
        try:
            words = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if re.search(rf"worker .*\b{model}\b", words):
            found.append(process)
    return found


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "with a frontend"])
def server(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("live")
    write_model(folder / "models", "sleepy", SLEEPY)
    write_model(folder / "models", "mirror", MIRROR)
    grpc = f"127.0.0.1:{free_ports(1)[0]}"
    arguments = ["--deal-connections=evenly"] if request.param > 1 else []
    server = Server(
        folder, "--model-repository", "models", f"--frontends={request.param}", f"--grpc-address={grpc}", *arguments
    )  # fmt: skip
    server.grpc = grpc
    try:
        yield server.started()
        assert server.stop() == 0
        assert not server.faults()
    finally:
        server.kill()


def test_what_waits_and_what_runs_is_told_over_all_processes(server):
    assert gauges(server, "sleepy") == [0, 0, 1, 1, 0]
    with ThreadPoolExecutor(12) as clients:
        asked = [clients.submit(sleep, server, "sleepy", 0.3) for _ in range(12)]

        def all_there():
            waiting, running, ready, wanted, oldest = gauges(server, "sleepy")
            return waiting + running == 12 and waiting > 0 and oldest > 0 and (ready, wanted) == (1, 1)

        until(all_there)
        assert {each.result().code for each in asked} == {200}
    until(lambda: gauges(server, "sleepy") == [0, 0, 1, 1, 0])
    labels = 'model_name="sleepy",model_version="1"'
    until(lambda: values(page(server), "mooring_batch_requests_count")[labels] == 12)


def test_a_load_of_each_version_was_timed(server):
    text = page(server)
    loads = values(text, "mooring_model_load_duration_seconds_count")
    assert loads == {f'model_name="{name}",model_version="1"': 1 for name in ("mirror", "sleepy")}
    assert all(
        0 < seconds < 60 for seconds in values(text, "mooring_model_load_duration_seconds_sum").values()
    )


def test_bytes_are_those_that_a_client_has_sent_and_received(server):
    raw = Raw()
    try:
        totals = []

        def look():
            """What the server has counted at a scrape, less what the client has."""
            sent_before = raw.received
            text = raw.ask(server.ports[2], request("GET", "/metrics")).decode()
            labels = 'protocol="http"'
            totals.append(
                (
                    values(text, "mooring_received_bytes_total")[labels] - raw.sent,
                    values(text, "mooring_sent_bytes_total")[labels] - sent_before,
                )
            )
            return totals[-1]

        time.sleep(0.5)  # whatever came before is reported
        before = look()
        for size in (1, 1000, 100_000, 700_000):
            body = json.dumps({"x": "y" * size}).encode()
            raw.ask(
                server.port, request("POST", "/predictions/sleepy", body, "content-type: application/json")
            )
            data = np.zeros(size, np.float32).tobytes()
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, size],
                      "parameters": {"binary_data_size": len(data)}}  # fmt: skip
            head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
            lines = (
                "content-type: application/octet-stream",
                f"Inference-Header-Content-Length: {len(head)}",
            )
            answer = raw.ask(server.port, request("POST", "/v2/models/mirror/infer", head + data, *lines))
            assert answer.endswith(data)
        raw.ask(server.port, request("GET", "/nothing"))
        until(lambda: look() == before)
    finally:
        raw.close()


def test_bytes_over_grpc_are_counted_apart(server):
    def counted():
        text = page(server)
        return [values(text, f"mooring_{way}_bytes_total")['protocol="grpc"'] for way in ("received", "sent")]

    until(lambda: counted() == counted())
    before = counted()
    x = np.zeros((1, 250_000), np.float32)
    with mooring.Client(f"grpc://{server.grpc}") as client:
        assert client.infer("mirror", {"x": x})["x"].nbytes == 1_000_000

    def grown():
        return [after - first for after, first in zip(counted(), before, strict=True)]

    until(lambda: all(1_000_000 <= more <= 1_010_000 for more in grown()))


def test_memory_and_event_loops_of_all_processes_are_told(server):
    processes = 2 if "--frontends=2" in " ".join(server.process.cmdline()) else 1

    def lags():
        return values(page(server), "mooring_event_loop_lag_seconds_count")

    until(lambda: len(lags()) == processes and all(lags().values()), within=2 * PATIENCE)
    assert (
        set(lags()) == {'process="server"', 'process="frontend-1"'} if processes > 1 else {'process="server"'}
    )
    text = page(server)
    (size,) = values(text, "mooring_arena_size_bytes").values()
    assert size > 0
    assert size % processes == 0
    assert values(text, "mooring_arena_used_bytes") == {"": 0.0}
    assert values(text, "mooring_body_memory_used_bytes") == {"": 0.0}


def test_names_that_clients_make_up_are_on_no_page(server):
    before = {line.rpartition(" ")[0] for line in page(server).splitlines()}
    for number in range(20):
        assert server.predict(f"made-up-{number}", "{}").code == 404
        assert server.ask("POST", f"/v2/models/sleepy/versions/{number + 2}/infer", b"{}").code == 404
        assert server.ask("GET", f"/v1/models/made-up-{number}").code == 404
    after = {line.rpartition(" ")[0] for line in page(server).splitlines()}
    assert "made-up" not in "".join(after)
    assert after - before == set()


def test_workers_that_are_lost_are_counted_by_the_reason(tmp_path):
    for name, (source, config) in MODELS.items():
        write_model(tmp_path / "models", name, source, config)
    server = Server(tmp_path, "--model-repository", "models", "--heartbeat-timeout=1")
    try:
        until(lambda: "Mooring is up." in server.log, within=3 * PATIENCE)

        def reasons():
            """By model, why its workers were replaced."""
            found = values(page(server), "mooring_worker_restarts_total")
            named = [(re.findall(r'="([^"]*)"', labels), count) for labels, count in found.items()]
            return {(model, reason) for (model, _, reason), count in named if count}

        until(lambda: gauges(server, "died")[2:4] == [1, 1], within=2 * PATIENCE)
        (worker,) = workers_of(server, "died")
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: gauges(server, "died")[2] == 0 or workers_of(server, "died") not in ([worker], []))
        (worker,) = workers_of(server, "frozen")
        os.kill(worker.pid, signal.SIGSTOP)
        assert sleep(server, "response_timeout", 30.0).code >= 500
        for _ in range(3):
            assert sleep(server, "request_limit").code == 200
        assert sleep(server, "memory_limit").code == 200
        until(lambda: reasons() >= {(name, name) for name in MODELS}, within=2 * PATIENCE)
        assert {model for model, reason in reasons() if model != reason} == set()
        until(lambda: gauges(server, "died")[2:4] == [1, 1])
        assert gauges(server, "load_failed")[2] == 0
        unload = b"POST /v2/repository/models/died/unload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}"
        assert server.raw(unload).code == 200
        text, labels = page(server), 'model_name="died",model_version="1"'
        assert gauges(server, "died") == [None] * len(GAUGES)
        assert values(text, "mooring_worker_restarts_total")[f'{labels},reason="died"'] == 1
        assert server.stop() == 0
    finally:
        server.kill()
