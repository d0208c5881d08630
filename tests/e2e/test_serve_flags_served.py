"""The usual flags of ``mooring serve``, as a real server obeys them."""

import re
import socket
import sys

import pytest
from e2e_kit import Server, Wire, frontends, request, until
from port_kit import free_row

pytestmark = pytest.mark.processes

FUNCTION = """
import os


def seen(inputs):
    return {"gpus": [repr(os.environ.get("CUDA_VISIBLE_DEVICES"))]}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "see.py").write_text(FUNCTION)
    return tmp_path


@pytest.fixture
def start(folder):
    servers = []

    def start(*arguments, ports):
        servers.append(Server(folder, "see.py:seen", *arguments, ports=ports))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def addresses(server):
    """What the start names: inference, gRPC, management, its gRPC, metrics."""
    named = re.findall(r"(\d+\.\d+\.\d+\.\d+):(\d+)", server.log.partition("Mooring is starting.")[2])
    return named[:5]


def test_one_port_moves_all_addresses_past_those_that_are_taken(start):
    port = free_row(6)
    with socket.create_server(("127.0.0.1", port + 2)):
        server = start(
            f"--port={port}",
            "--host=0.0.0.0",
            "--workers=2",
            "--device=cpu",
            ports=[port, port + 1, port + 3],
        )
        server.started()
        assert addresses(server) == [
            ("0.0.0.0", str(port)),
            ("0.0.0.0", str(port + 4)),
            ("127.0.0.1", str(port + 1)),
            ("127.0.0.1", str(port + 5)),
            ("127.0.0.1", str(port + 3)),
        ]
        assert len(server.workers("seen")) == 2
        with Wire(port + 3) as wire:
            wire.send(request("GET", "/metrics"))
            assert wire.answer().code == 200
        answer = server.ask("POST", "/predictions/seen", b'{"x": [1]}', "content-type: application/json")
        assert answer.json()["gpus"] == ["''"]
        assert server.stop() == 0


def test_a_second_server_at_the_same_port_ends_and_the_first_goes_on(start):
    port = free_row(5)
    first = start(f"--port={port}", ports=[port, port + 1, port + 2]).started()
    second = start(f"--port={port}", ports=[port, port + 1, port + 2])
    assert second.process.wait(30) == 1
    assert f"127.0.0.1:{port}" in second.log
    assert first.ask("GET", "/ping").code == 200
    assert first.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="processes have titles on Linux")
def test_the_processes_of_a_server_say_what_they_are(start):
    server = start("--port=0", "--frontends=2", "--workers=2", ports=[0, 0, 0])
    until(lambda: "Mooring is up." in server.log)
    until(lambda: frontends(server))

    def titles():
        return sorted(" ".join(each.cmdline()).strip() for each in server.process.children(recursive=True))

    assert titles() == ["mooring: frontend 1", "mooring: template", *["mooring: worker seen 1"] * 2]
    assert server.process.cmdline()[-3:] == ["--port=0", "--frontends=2", "--workers=2"]
    assert server.stop() == 0
