"""Servers that are told to stop under load: every request that reached a model was answered, once, to whoever sent it.

The models write down the id of every request that reaches them, so that a request is accounted for although its client
may be cut off: what was not begun was not accepted.
"""

import itertools
import json
import signal
import threading
import time
from collections import Counter

import grpc
import numpy as np
import pytest
import requests
import tritonclient.grpc as triton
from e2e_kit import JSON, PATIENCE, Server, Wire, assert_gone, request, until
from grpc_health.v1 import health_pb2, health_pb2_grpc

WRITING = """
import pathlib, time

BEGUN = pathlib.Path(__file__).with_name("begun")

def infer(x: 'ndarray'):
    with BEGUN.open("a") as file:
        print(int(x.ravel()[0]), file=file)
    time.sleep(0.005)
    return {"y": x}
"""
COUNTING = """
import time

def infer(to: 'ndarray'):
    for number in range(int(to.ravel()[0])):
        time.sleep(0.05)
        yield {"n": [number]}
"""
DECLARED = """
name = "{name}"
[workers]
min = 2
max = 2
[[inputs]]
name = "{input}"
datatype = "FP64"
shape = [1]
"""


@pytest.fixture
def start(tmp_path):
    for name, given, source in (("writing", "x", WRITING), ("counting", "to", COUNTING)):
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        (tmp_path / "models" / name / "config.toml").write_text(DECLARED.format(name=name, input=given))
        (tmp_path / "models" / name / "1/model.py").write_text(source)
    servers = []

    def start(*arguments):
        server = Server(tmp_path, "--model-repository", tmp_path / "models", *arguments)
        servers.append(server)
        server.started()
        return server

    yield start
    for server in servers:
        server.kill()


def tensor(name, value):
    given = triton.InferInput(name, [1], "FP64")
    given.set_data_from_numpy(np.array([value], np.float64))
    return [given]


class Accounts:
    """Clients of many kinds that ask until they are turned away; by its id, what each request was answered."""

    def __init__(self, server, place):
        self.answered = Counter()
        self.wrong = []
        self.turned_away = Counter()
        self._server = server
        self._begun = place / "models/writing/1/begun"
        self._ids = itertools.count(1)
        kinds = (self._keep_alive, self._keep_alive, self._anew, self._unary, self._streamed)
        self._threads = [threading.Thread(target=self._until_turned_away, args=(kind,)) for kind in kinds]

    def begun(self):
        return Counter(map(int, self._begun.read_text().split())) if self._begun.exists() else Counter()

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        until(lambda: self.answered.total() > 100)
        return self

    def __exit__(self, *exc):
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a client still waits"

    def settled(self):
        """Every request that a model has begun was answered once; nothing else was answered at all."""
        assert not self.wrong
        assert set(self.begun()) == set(self.answered), self.turned_away
        assert set(self.begun().values()) == {1}
        assert set(self.answered.values()) == {1}
        assert self.turned_away.total() == len(self._threads)

    def _until_turned_away(self, kind):
        try:
            kind()
        except (OSError, AssertionError, requests.ConnectionError, grpc.RpcError, triton.InferenceServerException) as error:  # fmt: skip
            self.turned_away[f"{kind.__name__}: {error!r}"] += 1
        else:
            self.turned_away[f"{kind.__name__}: told to go"] += 1

    def _told(self, number, value):
        if number == value:
            self.answered[number] += 1
        else:
            self.wrong.append((number, value))

    def _keep_alive(self):
        with Wire(self._server.port) as wire:
            while True:
                number = next(self._ids)
                wire.send(request("POST", "/predictions/writing", b'{"x": [%d]}' % number))
                answer = wire.answer()
                assert answer.code == 200, answer
                self._told(number, answer.json()["y"][0])
                if answer.headers["connection"] == "close":
                    return

    def _anew(self):
        while True:
            number = next(self._ids)
            inputs = [{"name": "x", "datatype": "FP64", "shape": [1], "data": [number]}]
            answer = requests.post(
                f"{self._server.url}/v2/models/writing/infer", json={"inputs": inputs}, timeout=PATIENCE
            )
            if answer.status_code != 200:
                self.wrong.append((number, answer.text))
            self._told(number, answer.json()["outputs"][0]["data"][0])

    def _unary(self):
        with triton.InferenceServerClient(self._server.grpc) as client:
            while True:
                number = next(self._ids)
                self._told(number, client.infer("writing", tensor("x", number)).as_numpy("y")[0])

    def _streamed(self):
        told = []
        with triton.InferenceServerClient(self._server.grpc) as client:
            client.start_stream(lambda result, error: told.append((result, error)))
            while True:
                number, before = next(self._ids), len(told)
                client.async_stream_infer("writing", tensor("x", number))
                until(lambda count=before: len(told) > count)
                result, error = told[before]
                if error is not None:
                    raise error
                self._told(number, result.as_numpy("y")[0])


def health(server):
    with grpc.insecure_channel(server.grpc) as channel:
        return (
            health_pb2_grpc.HealthStub(channel)
            .Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            .status
        )


@pytest.mark.parametrize("frontends", [1, 2])
def test_a_server_that_is_told_to_stop_under_load_answers_all_that_it_has_begun(start, tmp_path, frontends):
    server = start("--frontends", str(frontends))
    family = server.family()
    with Accounts(server, tmp_path) as accounts:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
    accounts.settled()
    assert_gone(family)
    assert not server.faults(), server.log[-9000:]


@pytest.mark.parametrize("frontends", [1, 2])
def test_readiness_goes_first_and_all_is_served_until_it_has_been_noticed(start, tmp_path, frontends):
    server = start("--pre-stop-delay", "2", "--frontends", str(frontends))
    assert health(server) == health_pb2.HealthCheckResponse.SERVING
    with Accounts(server, tmp_path) as accounts:
        server.process.send_signal(signal.SIGTERM)
        for _ in range(4 * frontends):  # whichever process answers
            until(lambda: server.ask("GET", "/ping").code == 500)
            until(lambda: server.ask("GET", "/v2/health/ready").code == 503)
        assert server.ask("GET", "/v2/health/live").code == 200
        assert health(server) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert server.ask("GET", "/v2/models/writing/ready").code == 200
        before = accounts.answered.total()
        until(lambda: accounts.answered.total() > before + 50)
        assert not accounts.turned_away
        assert server.process.wait(PATIENCE) == 0
    accounts.settled()
    assert not server.faults(), server.log[-9000:]


def test_a_second_signal_does_not_wait_for_anybody_to_notice(start):
    server = start("--pre-stop-delay", "600")
    family = server.family()
    server.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping" in server.log)
    time.sleep(0.6)  # sooner it would be the first one once more
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 0
    assert_gone(family)


def test_streams_in_flight_come_to_their_end(start):
    server = start()
    told = []
    with Wire(server.port) as wire, triton.InferenceServerClient(server.grpc) as client:
        inputs = [{"name": "to", "datatype": "FP64", "shape": [1], "data": [20]}]
        body = json.dumps({"inputs": inputs}).encode()
        wire.send(request("POST", "/v2/models/counting/generate_stream", body, f"Content-Type: {JSON}"))
        client.start_stream(lambda result, error: told.append((result, error)))
        client.async_stream_infer("counting", tensor("to", 20))
        until(lambda: told)
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        pieces = wire.answer().body.count(b"data: ")
        until(lambda: len([result for result, _ in told if result is not None]) >= 20)
        assert pieces == 20
        assert server.process.wait(PATIENCE) == 0
        assert time.monotonic() - begin < PATIENCE
    values = [int(result.as_numpy("n")[0]) for result, _ in told if result is not None and result.as_numpy("n") is not None]  # fmt: skip
    assert values == list(range(20))
