"""A model that has no room: who comes is told at the head of its request, and nothing is received in vain."""

import json

import pytest
from e2e_kit import JSON, Server, Wire, request, until

SLOW = """
import pathlib, time

def infer(inputs):
    pathlib.Path(__file__).with_name("begun").touch()
    end = pathlib.Path(__file__).with_name("go")
    while not end.exists():
        time.sleep(0.01)
    return {"y": [1]}
"""
BODY = b'{"x": [1]}'
LARGE = 1_000_000


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A server whose model ``full`` runs one request and has another waiting, which is all that may."""
    place = tmp_path_factory.mktemp("full")
    (place / "models/full/1").mkdir(parents=True)
    (place / "models/full/config.toml").write_text('name = "full"\nqueue_size = 1\n')
    (place / "models/full/1/model.py").write_text(SLOW)
    (place / "models/echo").mkdir()
    (place / "models/echo/config.toml").write_text('name = "echo"\nplatform = "builtin"\n')
    server = Server(place, "--model-repository", place / "models")
    wires = []
    try:
        server.started()
        for waiting in (0, 1):
            wires.append(Wire(server.port))
            wires[-1].send(request("POST", "/predictions/full", BODY))
            until((place / "models/full/1/begun").exists)
            until(lambda count=waiting: pending(server) == count)
        yield server
        (place / "models/full/1/go").touch()
        assert [wire.answer().code for wire in wires] == [200, 200]
        assert server.predict("full", BODY).code == 200
        assert server.stop() == 0
        assert not server.faults(), server.log[-9000:]
    finally:
        for wire in wires:
            wire.__exit__()
        server.kill()


def pending(server):
    with Wire(server.ports[1]) as wire:
        wire.send(request("GET", "/models/full"))
        (described,) = wire.answer().json()
    return described["jobQueueStatus"]["pendingRequests"]


def only_head(path, *lines):
    return request("POST", path, b"", f"Content-Length: {LARGE}", f"Content-Type: {JSON}", *lines)


PATHS = {
    "torchserve": "/predictions/full",
    "version": "/predictions/full/1",
    "invocation": "/models/full/invoke",
    "explanation": "/explanations/full",
    "v1": "/v1/models/full:predict",
    "v2": "/v2/models/full/infer",
    "generate": "/v2/models/full/generate",
}


@pytest.mark.parametrize("expecting", [False, True])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_large_body_is_refused_before_it_is_sent(full, path, expecting):
    with Wire(full.port) as wire:
        wire.send(only_head(path, *(["Expect: 100-continue"] if expecting else [])))
        assert wire.line() == b"HTTP/1.1 503 Service Unavailable\r\n"
        lines = iter(wire.line, b"\r\n")
        assert any(line.startswith(b"retry-after: ") for line in lines)


def test_the_refusal_is_worded_as_every_other(full):
    small = full.ask("POST", "/v2/models/full/infer", b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}')  # fmt: skip
    with Wire(full.port) as wire:
        wire.send(only_head("/v2/models/full/infer"))
        large = wire.answer()
    assert (small.code, large.code) == (503, 503)
    assert small.json() == large.json()
    assert small.headers["retry-after"] == large.headers["retry-after"]
    assert (small.headers["connection"], large.headers["connection"]) == ("keep-alive", "close")


def test_a_client_that_sends_on_reads_its_refusal_all_the_same(full):
    with Wire(full.port) as wire:
        wire.send(only_head("/predictions/full") + b"x" * LARGE)
        assert wire.answer().code == 503


def test_a_head_that_is_known_is_refused_as_well_and_served_elsewhere(full):
    body = json.dumps({"input": "x" * LARGE}).encode()
    with Wire(full.port) as wire:
        for _ in range(4):
            wire.send(request("POST", "/predictions/echo", body))
            assert wire.answer().code in (200, 400)
    for _ in range(4):
        with Wire(full.port) as wire:
            wire.send(request("POST", "/predictions/full", body))
            assert wire.answer().code == 503


def test_what_asks_no_model_is_heard(full):
    assert full.ask("GET", "/ping").code == 200
    assert full.ask("GET", "/v2/health/ready").code == 200
    assert full.ask("POST", "/v2/repository/models/full/unload", b'{"x": "' + b"x" * LARGE).code == 400


def test_large_bodies_of_all_models_together_have_a_bound(tmp_path):
    """Shared memory is full with the first of them; two more lie on the heap, and then there is no room."""
    for name in ("one", "two"):
        (tmp_path / f"models/{name}/1").mkdir(parents=True)
        (tmp_path / f"models/{name}/1/model.py").write_text(SLOW)
    server = Server(
        tmp_path, "--model-repository", tmp_path / "models", "--arena-size", "1048576", "--max-body-memory", "2500000"
    )  # fmt: skip
    body = json.dumps({"x": [1], "y": "x" * LARGE}).encode()
    wires = []
    try:
        server.started()
        for name in ("one", "two", "one"):
            wires.append(Wire(server.port))
            wires[-1].send(request("POST", f"/predictions/{name}", body))
            until(lambda: refused_at_head(server) is (len(wires) == 3))
        for name in ("one", "two"):
            (tmp_path / f"models/{name}/1/go").touch()
        assert [wire.answer().code for wire in wires] == [200] * 3
        until(lambda: not refused_at_head(server))
        assert server.predict("two", body).code == 200
        assert server.stop() == 0
    finally:
        for wire in wires:
            wire.__exit__()
        server.kill()


def refused_at_head(server):
    """Whether a large body would be refused, asked by one that waits for leave to send it."""
    with Wire(server.port) as wire:
        wire.send(only_head("/predictions/one", "Expect: 100-continue"))
        return wire.line().startswith(b"HTTP/1.1 503")
