"""Behind an ingress, a load balancer and on machines with two families of addresses."""

import socket

import grpc
import pytest
from e2e_kit import Server, Wire, free_ports, frontends, request, until

from mooring.codecs.proto import inference_pb2 as pb

MODEL = "def echo(x: 'ndarray'):\n    return x\n"
INFER = b'{"inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [7]}]}'


@pytest.fixture
def serve(tmp_path):
    servers = []

    def start(*flags, ports=()):
        (tmp_path / "model.py").write_text(MODEL)
        servers.append(Server(tmp_path, "model.py:echo", *flags, ports=ports))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.mark.parametrize("processes", [1, 2])
def test_paths_under_the_prefix_are_served_as_those_without(serve, processes):
    server = serve("--root-path=/triton/", f"--frontends={processes}").started()
    if processes > 1:
        until(lambda: frontends(server))
    for prefix in ("", "/triton"):
        for _ in range(3):
            assert server.ask("GET", f"{prefix}/v2/health/ready").code == 200
            assert server.ask("POST", f"{prefix}/v2/models/echo/infer", INFER).json()["outputs"][0][
                "data"
            ] == [7]
            assert server.predict("echo", b"[7]").code == 200
            assert server.ask("POST", f"{prefix}/predictions/echo", b"[7]").code == 200
        assert server.ask("GET", f"{prefix}/v2/nowhere").json() == {"error": "Not Found"}
        assert server.ask("OPTIONS", f"{prefix}/").json()["servers"] == [{"url": "/triton"}, {"url": "/"}]
    assert server.ask("GET", "/elsewhere/v2/health/ready").code == 404
    assert server.stop() == 0


def test_without_a_prefix_the_document_names_no_servers(serve):
    server = serve().started()
    assert "servers" not in server.ask("OPTIONS", "/").json()
    assert server.ask("GET", "/triton/v2/health/ready").code == 404


def test_an_idle_connection_is_kept_for_as_long_as_the_setting_says(serve):
    server = serve("--keep-alive-timeout=0.5").started()
    with Wire(server.port) as wire:
        for _ in range(2):
            wire.send(request("GET", "/ping"))
            assert wire.answer().code == 200
        assert wire.ended()


def test_all_addresses_of_ipv6_are_all_of_ipv4_too(serve):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    ports = free_ports(4)
    names = ("inference", "management", "metrics", "grpc")
    flags = [f"--{name}-address=[::]:{port}" for name, port in zip(names, ports, strict=True)]
    serve(*flags, "--insecure", "--grpc-management-address=127.0.0.1:0", ports=ports[:3]).started()
    for port in ports[:3]:
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=10) as client:
                client.sendall(request("GET", "/openapi.json", b"", "Connection: close"))
                assert client.recv(64).startswith(b"HTTP/1.1 200")
    for host in ("127.0.0.1", "[::1]"):
        with grpc.insecure_channel(f"{host}:{ports[3]}") as channel:
            live = channel.unary_unary(
                "/inference.GRPCInferenceService/ServerLive",
                pb.ServerLiveRequest.SerializeToString,
                pb.ServerLiveResponse.FromString,
            )
            assert live(pb.ServerLiveRequest(), timeout=10).live
