"""Every kind of connection to a server of several processes: all processes take some, and all answer alike."""

import socket
import ssl
import struct
import sys
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import psutil
import pytest
from e2e_kit import PATIENCE, Server, Wire, assert_gone, free_ports, frontends, request, until
from tls_kit import Authority

from mooring.codecs.proto import inference_pb2 as pb

FRONTENDS = 3
MODEL = "def double(x: 'ndarray'):\n    return x * 2\n"
ASKED = request("POST", "/predictions/double", b'{"x": [4]}')
ANSWER = {"output": [8]}
HERE = Path(__file__).parent


class Eager(Server):
    """A server that opens frontend processes as soon as there is anything to do."""

    PROGRAM = (sys.executable, HERE / "eager.py")


class OnlyFrontends(Server):
    """A server whose first process leaves all connections to frontend processes."""

    PROGRAM = (sys.executable, HERE / "only_frontends.py")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


class HttpWire(Wire):
    """One connection of HTTP/1.1 over any socket."""

    def __init__(self, sock):
        self.socket = sock
        self._file = sock.makefile("rb")

    def ask(self):
        self.send(ASKED)
        answer = self.answer()
        assert answer.code == 200, answer
        return answer.json()


class Plain:
    """Connections of HTTP over TCP, and the flags of a server that takes them."""

    def __init__(self, folder, authority):
        self.port = free_ports(1)[0]
        self.flags = [f"--inference-address=http://127.0.0.1:{self.port}"]

    def connect(self):
        return HttpWire(self.socket())

    def socket(self):
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)


class Unix(Plain):
    """Connections of HTTP over a unix socket."""

    def __init__(self, folder, authority):
        self.path = f"{folder}/http.sock"
        self.flags = [f"--inference-address=unix:{self.path}"]

    def socket(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(self.path)
        return sock


class Secure(Plain):
    """Connections of HTTP over TLS."""

    def __init__(self, folder, authority):
        super().__init__(folder, authority)
        self.flags = [f"--inference-address=https://127.0.0.1:{self.port}", *authority.issue().flags]
        self.context = ssl.create_default_context(cafile=str(authority.ca))

    def socket(self):
        return self.context.wrap_socket(super().socket(), server_hostname="localhost")


class RpcChannel:
    """One connection of gRPC."""

    def __init__(self, target, credentials=None):
        own = [("grpc.use_local_subchannel_pool", 1)]  # or channels to one target share a connection
        if credentials is None:
            self.channel = grpc.insecure_channel(target, own)
        else:
            self.channel = grpc.secure_channel(target, credentials, own)
        self._infer = self.channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

    def __enter__(self):
        self.ask()  # which connects
        return self

    def __exit__(self, *_):
        self.channel.close()

    def ask(self):
        asked = pb.ModelInferRequest(model_name="double")
        asked.inputs.add(name="x", datatype="INT64", shape=[1]).contents.int64_contents.append(4)
        answer = self._infer(asked, timeout=PATIENCE)
        return {answer.outputs[0].name: list(struct.unpack("<q", answer.raw_output_contents[0]))}


class Rpc(Plain):
    """Connections of gRPC over TCP."""

    def __init__(self, folder, authority):
        self.target = f"127.0.0.1:{free_ports(1)[0]}"
        self.flags = [f"--grpc-address={self.target}"]

    def connect(self):
        return RpcChannel(self.target)


class RpcUnix(Rpc):
    """Connections of gRPC over a unix socket."""

    def __init__(self, folder, authority):
        self.target = f"unix:{folder}/rpc.sock"
        self.flags = [f"--grpc-address={self.target}"]


class RpcSecure(Rpc):
    """Connections of gRPC over TLS."""

    def __init__(self, folder, authority):
        super().__init__(folder, authority)
        self.flags += ["--enable-grpc-ssl", *authority.issue().flags]
        self.credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())

    def connect(self):
        return RpcChannel(self.target, self.credentials)


KINDS = {
    "http": Plain, "unix": Unix, "https": Secure, "grpc": Rpc, "grpc unix": RpcUnix, "grpc TLS": RpcSecure,
}  # fmt: skip


@pytest.fixture
def start(tmp_path, authority):
    servers = []

    def begin(program, kind, *flags):
        (tmp_path / "model.py").write_text(MODEL)
        clients = KINDS[kind](tmp_path, authority)
        server = program(tmp_path, "model.py:double", f"--frontends={FRONTENDS}", *clients.flags, *flags)
        servers.append(server)
        until(lambda: "Mooring is up." in server.log or server.process.poll() is not None, within=60)
        assert server.process.poll() is None, server.log
        return server, clients

    yield begin
    for server in servers:
        server.kill()


def sockets(process):
    """How many sockets a process has open."""
    folder, count = Path(f"/proc/{process.pid}/fd"), 0
    for each in folder.iterdir():
        with suppress(OSError):
            count += str(each.readlink()).startswith("socket:")
    return count


def stopped(server):
    family = server.family()
    assert server.stop() == 0, server.log[-5000:]
    assert_gone(family)
    assert not server.faults(), server.log[-5000:]


@pytest.mark.parametrize("kind", KINDS)
def test_connections_that_are_dealt_evenly_reach_every_process(start, contexts, kind):
    server, clients = start(Server, kind, "--deal-connections=evenly")
    processes = [psutil.Process(server.process.pid), *frontends(server)]
    before = [sockets(each) for each in processes]

    def taken():
        return [sockets(each) - had for each, had in zip(processes, before, strict=True)]

    connections = []
    until(lambda: connections.append(contexts.enter_context(clients.connect())) or min(taken()) > 0)
    answers = [each.ask() for each in connections * 2]
    assert answers == [ANSWER] * len(answers)
    assert sum(taken()) >= len(connections)
    stopped(server)


@pytest.mark.parametrize("kind", KINDS)
def test_connections_spread_as_the_load_does(start, contexts, kind):
    server, clients = start(Eager, kind)
    assert contexts.enter_context(clients.connect()).ask() == ANSWER
    idle = [sockets(each) for each in frontends(server)]
    connections = []
    reached = set()

    def spread():
        if len(connections) < 100:
            connections.extend(contexts.enter_context(clients.connect()) for _ in range(4))
        for each in connections[-40:] * 5:
            assert each.ask() == ANSWER
        reached.update(at for at, each in enumerate(frontends(server)) if sockets(each) > idle[at])
        return len(reached) == FRONTENDS - 1

    until(spread)
    assert Counter(map(str, (each.ask() for each in connections))) == {str(ANSWER): len(connections)}
    stopped(server)


def test_few_connections_are_the_first_process_s_whatever_their_kind(start):
    for kind in KINDS:
        server, clients = start(Server, kind)
        idle = [sockets(each) for each in frontends(server)]
        with ExitStack() as stack:
            connections = [stack.enter_context(clients.connect()) for _ in range(20)]
            assert [each.ask() for each in connections] == [ANSWER] * 20
            assert [sockets(each) for each in frontends(server)] == idle
        stopped(server)


def test_every_process_shows_a_renewed_certificate(start, authority):
    server, clients = start(OnlyFrontends, "https", "--deal-connections=evenly")

    def shown():
        address = "127.0.0.1", clients.port
        return {ssl.get_server_certificate(address, timeout=PATIENCE) for _ in range(8)}

    (before,) = shown()
    after = authority.issue().cert.read_text()
    assert after != before
    until(lambda: shown() == {after})
    stopped(server)
