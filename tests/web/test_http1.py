"""The listener: addresses, TLS, drain and end."""

import concurrent.futures
import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
from web_client import Client, echo, eventually

from mooring.core.buffers import HeapAllocator
from mooring.web.http1 import HttpServer, Limits

pytestmark = pytest.mark.sockets

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def post(body):
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def in_background(function, *args):
    """Start something that blocks; ``result`` of what it returns waits for it."""
    future = concurrent.futures.Future()
    threading.Thread(target=lambda: future.set_result(function(*args))).start()
    return future


def refuses_connections(served):
    with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
        served.connect()
        return False
    return True


def test_many_connections_are_served_side_by_side(serve, loop):
    served = serve(lambda exchange: loop.call_later(0.05, exchange.respond, 200, exchange.take_body()))
    clients = [served.connect() for _ in range(100)]
    bodies = [b"%d" % number * 20_000 for number in range(100)]
    for client, body in zip(clients, bodies, strict=True):
        client.send(post(body)[:50_000])
    for client, body in zip(clients, bodies, strict=True):
        client.send(post(body)[50_000:])
    for client, body in zip(clients, bodies, strict=True):
        assert client.response().body == body


def test_drain_answers_what_runs_and_closes_what_is_idle(serve):
    served = serve(lambda exchange: None)
    idle, running, sending = served.connect(), served.connect(), served.connect()
    running.send(GET * 2)
    sending.send(post(b"x" * 100_000)[:-1])
    eventually(lambda: len(served.seen) == 2 and served.allocator.given == 1)
    drained = in_background(served.run, served.server.drain(10))
    assert idle.ended()
    assert refuses_connections(served)
    served.app = echo
    sending.send(b"x")
    answer = sending.response()
    assert (len(answer.body), answer.headers["connection"]) == (100_000, "close")
    served.soon(lambda: [each.respond(200, b"done") for each in served.seen[:2]])
    assert [running.response().headers["connection"] for _ in range(2)] == ["keep-alive", "close"]
    assert running.ended()
    assert sending.ended()
    drained.result(5)
    assert served.connections == 0


def test_drain_does_not_wait_for_ever(serve):
    served = serve(lambda exchange: None)
    told = []
    client = served.connect().send(GET)
    eventually(lambda: len(served.seen) == 1)
    served.seen[0].on_abandoned = lambda: told.append(1)
    began = time.monotonic()
    served.run(served.server.drain(0.2))
    assert 0.15 < time.monotonic() - began < 5
    assert client.ended()
    assert told == [1]


def test_a_stream_that_runs_is_finished_by_drain(serve):
    served = serve(lambda exchange: exchange.start(200))
    client = served.connect().send(GET)
    eventually(lambda: len(served.seen) == 1)
    drained = in_background(served.run, served.server.drain(10))
    eventually(lambda: served.server.draining)
    served.soon(lambda: None)
    assert refuses_connections(served)
    served.soon(served.seen[0].finish, b"the end")
    assert client.response().body == b"the end"
    assert client.ended()
    drained.result(5)


def test_close_ends_everything_and_may_be_called_again(serve):
    served = serve(lambda exchange: None)
    client = served.connect().send(GET)
    eventually(lambda: len(served.seen) == 1)
    served.run(served.server.close())
    served.run(served.server.close())
    assert client.ended()
    assert refuses_connections(served)


def test_a_unix_socket_is_served_and_its_file_goes_with_the_listener(serve, tmp_path):
    path = tmp_path / "front.sock"
    served = serve(lambda exchange: exchange.respond(200, b"unix" + exchange.peer.encode()), path=str(path))
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(path))
    client = Client(sock)
    served.clients.append(client)
    assert client.ask(GET).body == b"unix"
    served.run(served.server.close())
    assert not path.exists()


def test_an_address_in_use_is_said_at_once(serve):
    served = serve()
    second = HttpServer(
        served.app, limits=Limits(), allocator=HeapAllocator(), render_error=lambda *_: (b"", b"")
    )
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already in use$"):
        served.run(second.start("127.0.0.1", served.server.port))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


@pytest.fixture
def secure(serve, certificate):
    def make(app):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        served = serve(app, tls=lambda: context)
        trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        sock = trusting.wrap_socket(served.connect().sock, server_hostname="localhost")
        served.clients.append(Client(sock))
        return served, served.clients[-1]

    return make


def test_bodies_and_answers_of_all_sizes_pass_tls(secure):
    served, client = secure(echo)
    for size in (0, 10, 66_000, 3_000_000):
        body = bytes(range(256)) * (size // 256)
        assert client.ask(post(body)).body == body
    client.send(GET * 3 + post(b"y" * 300_000) + GET)
    assert [len(client.response().body) for _ in range(5)] == [0, 0, 0, 300_000, 0]
    eventually(lambda: not served.allocator.live)


def test_a_refusal_passes_tls(secure):
    _, client = secure(echo)
    assert client.ask(b"FOO / HTTP/1.1\r\n\r\n").status == 400
    assert client.ended()


def test_a_client_that_leaves_tls_abandons_its_request(secure):
    served, client = secure(lambda exchange: None)
    told = []
    client.send(post(b"y" * 300_000))
    eventually(lambda: len(served.seen) == 1)
    served.seen[0].on_abandoned = lambda: told.append(1)
    client.close()
    eventually(lambda: told == [1])
    assert served.allocator.live == {}
