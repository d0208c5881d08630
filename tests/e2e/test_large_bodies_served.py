"""Bodies that find no room in the arena: they are answered at a cost that grows with their bytes, and no faster."""

import json
import resource
import socket
import threading
from contextlib import ExitStack, suppress

import hpack
import psutil
import pytest
from e2e_kit import Server, free_ports, until
from hyperframe.frame import Frame

from mooring.web.http2 import frames

ARENA = 1 << 20
MODEL = """
import numpy as np

def infer(inputs):
    x = inputs["x"]
    return {"ends": np.array([[int(x[0, 0]), int(x[0, -1]), x.shape[1]]], np.int64)}
"""
ZEROS = """
import numpy as np

def infer(inputs):
    return {"zeros": np.zeros(int(inputs["megabytes"][0]) << 20, np.uint8)}
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
    (folder / "zeros/1").mkdir(parents=True)
    (folder / "zeros/1/model.py").write_text(ZEROS)
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


@pytest.fixture
def short_of_memory(served):
    """Leaves a process so many bytes of addresses and no more, until the end of the test."""
    limited = []

    def limit(process, spare):
        limited.append(process)
        most = process.memory_info().vms + spare
        process.rlimit(psutil.RLIMIT_AS, (most, resource.RLIM_INFINITY))

    yield limit
    for process in limited:
        process.rlimit(psutil.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def answer_to(server, megabytes):
    """Status and text, read as soon as they come, while the body is being sent."""
    document, head = head_of(megabytes * MEGABYTE)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(head + document)
        with suppress(OSError):
            for _ in range(megabytes):
                client.sendall(bytes(MEGABYTE))
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head[9:12]), json.loads(body)["error"]


def test_a_body_that_the_server_has_no_memory_for_is_a_507(served, short_of_memory):
    short_of_memory(served.process, 60 * MEGABYTE)
    assert answer_to(served, 200) == (507, "there is no memory for the request's body")
    assert ask(served, 2) == [1, 2, 2 * MEGABYTE]


def test_a_body_that_its_worker_has_no_memory_for_is_a_507_and_the_worker_lives(served, short_of_memory):
    workers = served.workers("ends")
    for pid in workers:
        short_of_memory(psutil.Process(pid), 60 * MEGABYTE)
    assert answer_to(served, 200) == (
        507,
        "there is no memory for the payloads of this request or its answer",
    )
    assert ask(served, 2) == [1, 2, 2 * MEGABYTE]
    assert served.workers("ends") == workers


def zeros(server, megabytes):
    """The status, and how many bytes an answer beside the arena has."""
    tensor = {"name": "megabytes", "datatype": "INT64", "shape": [1], "data": [megabytes]}
    document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    answer = server.ask("POST", "/v2/models/zeros/infer", json.dumps(document).encode())
    return answer.code, len(answer.body)


def test_an_answer_that_the_server_has_no_memory_for_is_a_507_and_smaller_ones_go_on(served, short_of_memory):
    workers = served.workers("zeros")
    code, size = zeros(served, 100)
    assert code == 200
    assert size > 100 * MEGABYTE
    short_of_memory(served.process, 60 * MEGABYTE)
    assert zeros(served, 200)[0] == 507
    assert zeros(served, 2)[0] == 200
    assert served.workers("zeros") == workers


def test_bodies_that_only_trickle_lock_nobody_out(served):
    """As many announce what fills the memory for bodies, and send a byte: the others are served as before."""
    with ExitStack() as idle:
        for _ in range(4):
            client = idle.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=10))
            client.sendall(head_of(1000 * MEGABYTE)[1] + b"{")
        assert ask(served, 2) == [1, 2, 2 * MEGABYTE]
        assert ask(served, 20) == [1, 2, 20 * MEGABYTE]
        assert served.process.memory_info().rss < 400 * MEGABYTE


ROOM = 50 * MEGABYTE
INFER = "/inference.GRPCInferenceService/ModelInfer"


class HalfSent:
    """A call by hand whose message is announced, and of which a part is sent."""

    def __init__(self, port, announced, sent):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        names = {":method": "POST", ":scheme": "http", ":path": INFER, "te": "trailers"}
        block = hpack.Encoder().encode([*names.items(), ("content-type", "application/grpc")])
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frames.pack_frame(frames.SETTINGS, 0, 0, b"")
            + frames.pack_frame(frames.HEADERS, frames.END_HEADERS, 1, block)
            + frames.pack_frame(frames.DATA, 0, 1, b"\0" + announced.to_bytes(4, "big"))
        )
        piece = frames.pack_frame(frames.DATA, 0, 1, bytes(1 << 16))
        with suppress(OSError):
            for _ in range(0, sent, 1 << 16):
                self.socket.sendall(piece)

    def refusal(self):
        """The status and the text that it ended with, empty while it waits."""
        self.socket.settimeout(0.5)
        data, decoder, fields = b"", hpack.Decoder(), {}
        with suppress(OSError):
            while more := self.socket.recv(65_536):
                data += more
        while len(data) >= frames.HEAD_SIZE:
            frame, size = Frame.parse_frame_header(memoryview(data[: frames.HEAD_SIZE]))
            if type(frame).__name__ == "HeadersFrame":
                fields |= dict(decoder.decode(data[frames.HEAD_SIZE : frames.HEAD_SIZE + size]))
            data = data[frames.HEAD_SIZE + size :]
        return fields.get("grpc-status", ""), fields.get("grpc-message", "")


def test_messages_of_grpc_count_as_bodies_do(tmp_path):
    """Six calls announce 40 MB and send 30, where bodies and messages may have 50 MB together."""
    (rpc,) = free_ports(1)
    server = Server(
        tmp_path, "--model-repository", write_model(tmp_path / "models"), f"--grpc-address=127.0.0.1:{rpc}",
        f"--arena-size={ARENA}", f"--max-body-memory={ROOM}",
    )  # fmt: skip
    try:
        server.started()
        before = server.process.memory_info().rss
        calls = [HalfSent(rpc, 40 * MEGABYTE, 30 * MEGABYTE) for _ in range(6)]
        ends = [call.refusal() for call in calls]
        assert ends[0] == ("", "")
        assert {code for code, _ in ends[1:]} == {"8"}
        assert all(text.startswith("memory for request bodies has no room") for _, text in ends[1:])
        assert server.process.memory_info().rss - before < ROOM + 10 * MEGABYTE
        status, text = answer_to(server, 30)
        assert status == 503
        assert text.startswith("memory for request bodies has no room")
        for call in calls:
            call.socket.close()
        until(lambda: answer_of(server, 30) == 200)
        assert server.stop() == 0
        assert not server.faults()
    finally:
        server.kill()


def answer_of(server, megabytes):
    with suppress(KeyError):
        return answer_to(server, megabytes)[0]
    return 200
