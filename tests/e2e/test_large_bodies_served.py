"""Bodies that find no room in the arena: they are answered at a cost that grows with their bytes, and no faster."""

import json
import socket
import threading

import pytest
from e2e_kit import Server

ARENA = 1 << 20
MODEL = """
import numpy as np

def infer(inputs):
    x = inputs["x"]
    return {"ends": np.array([[int(x[0, 0]), int(x[0, -1]), x.shape[1]]], np.int64)}
"""
CONFIG = """
inputs = [{name = "x", datatype = "UINT8", shape = [-1, -1]}]
outputs = [{name = "ends", datatype = "INT64", shape = [-1, 3]}]
"""
MEGABYTE = 1 << 20


def write_model(folder):
    (folder / "ends/1").mkdir(parents=True)
    (folder / "ends/1/model.py").write_text(MODEL)
    (folder / "ends/config.toml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    models = write_model(folder / "models")
    server = Server(folder, "--model-repository", models, "--arena-size", str(ARENA)).started()
    yield server
    server.stop()


def head_of(size):
    tensor = {"name": "x", "datatype": "UINT8", "shape": [1, size], "parameters": {"binary_data_size": size}}
    document = json.dumps({"inputs": [tensor]}).encode()
    return document, (
        b"POST /v2/models/ends/infer HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
        b"inference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n"
        % (len(document), len(document) + size)
    )


def ask(server, megabytes):
    """The body is made as it is sent: its first byte is 1 and its last one 2."""
    document, head = head_of(megabytes * MEGABYTE)
    piece = bytearray(MEGABYTE)
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as client:
        client.sendall(head + document)
        for number in range(megabytes):
            piece[0], piece[-1] = number == 0, 2 * (number == megabytes - 1)
            client.sendall(piece)
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    status, _, rest = answer.partition(b"\r\n")
    assert status == b"HTTP/1.1 200 OK", answer
    (output,) = json.loads(rest.partition(b"\r\n\r\n")[2])["outputs"]
    return output["data"]


def test_a_body_of_300_mb_is_answered_outside_the_arena(served):
    assert ask(served, 300) == [1, 2, 300 * MEGABYTE]
    assert not served.faults()


def test_a_large_body_costs_the_server_one_copy_of_it(served):
    (before,) = [served.process.memory_info().rss]
    peak = 0

    def watch():
        nonlocal peak
        peak = max(peak, served.process.memory_info().rss)

    with Sampling(watch):
        assert ask(served, 100) == [1, 2, 100 * MEGABYTE]
    assert peak - before < 160 * MEGABYTE


class Sampling:
    """Calls something again and again meanwhile."""

    def __init__(self, sample):
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(sample,))

    def run(self, sample):
        while not self.over.wait(0.01):
            sample()

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *exc):
        self.over.set()
        self.thread.join()
