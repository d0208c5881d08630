"""A TLS listener at its edges: who does not speak TLS, who takes for ever, who reads slowly, and the end."""

import asyncio
import gc
import socket
import ssl

import pytest
from tls_kit import Authority
from web_client import Client, echo, eventually, hello

from mooring.web import connection, tls_listener
from mooring.web.http1 import header_lines

pytestmark = pytest.mark.sockets

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def https_only(exchange):
    exchange.respond(403, b"only https", header_lines([("content-type", "text/plain")]), close=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="module")
def context(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue())
    return context


@pytest.fixture
def served(serve, context):
    return lambda app=hello, **options: serve(app, tls=lambda: context, plain=https_only, **options)


@pytest.fixture
def connect(authority):
    trusting = ssl.create_default_context(cafile=str(authority.ca))

    def make(served, **options):
        raw = served.connect(**options)
        raw.sock = trusting.wrap_socket(raw.sock, server_hostname="localhost")
        return raw

    return make


def test_plain_http_is_told_that_tls_is_spoken_here(served, connect):
    listener = served()
    for request in (GET, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000):
        client = listener.connect()
        answer = client.ask(request)
        assert (answer.status, answer.body) == (403, b"only https")
        assert client.ended()
    assert listener.seen == []
    assert connect(listener).ask(GET).body == b"hello"


def test_what_is_neither_tls_nor_http_is_answered_and_ended(served):
    client = served().connect()
    assert client.ask(b"\x00\x01\x02\x03\r\n\r\n").status == 400
    assert client.ended()


def test_a_broken_handshake_ends_that_connection_and_no_other(served, connect, caplog):
    listener = served()
    client = listener.connect().send(b"\x16\x03\x01\x00\x05nonsense" * 20)
    client.read_all()
    assert connect(listener).ask(GET).body == b"hello"
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


def test_clients_that_do_not_trust_the_server_leave_no_trace(served, connect, caplog):
    listener = served()
    for _ in range(5):
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(listener.connect().sock, server_hostname="localhost")
    assert connect(listener).ask(GET).body == b"hello"
    eventually(lambda: listener.connections == 1)
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


@pytest.mark.parametrize("opening", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_who_never_ends_the_handshake_is_let_go(served, monkeypatch, opening):
    monkeypatch.setattr(tls_listener, "HANDSHAKE", 0.2)
    client = served().connect().send(opening)
    assert client.ended()


def test_one_who_leaves_without_a_word_is_no_matter(served, connect):
    listener = served()
    for _ in range(20):
        listener.connect().close()
    assert connect(listener).ask(GET).body == b"hello"
    eventually(lambda: not listener.server._servers[0].handshaking)


def test_a_handshake_that_has_begun_goes_on_where_no_more_are_accepted(served, authority):
    listener = served()
    (listening,) = listener.soon(listener.server.share_sockets)
    trusting = ssl.create_default_context(cafile=str(authority.ca))
    begun = listener.connect()
    eventually(lambda: listener.server._servers[0].handshaking)
    listener.soon(listener.server.set_accepting, False)
    listener.run(listener.server.adjusted())
    begun.sock = trusting.wrap_socket(begun.sock, server_hostname="localhost")
    assert begun.ask(GET).body == b"hello"
    waiting = listener.connect()  # in the backlog, which the other processes that listen there take from
    with listening.dup() as other:
        other.setblocking(True)
        taken, _ = other.accept()
        assert taken.getpeername() == waiting.sock.getsockname()
        taken.close()
    waiting.close()
    listener.soon(listener.server.set_accepting, True)
    listener.run(listener.server.adjusted())
    again = listener.connect()
    again.sock = trusting.wrap_socket(again.sock, server_hostname="localhost")
    assert again.ask(GET).body == b"hello"


def test_the_end_cuts_handshakes_off_of_connections_that_were_accepted_before_a_pause(served):
    listener = served()
    listener.soon(listener.server.share_sockets)
    begun = listener.connect()
    eventually(lambda: listener.server._servers[0].handshaking)
    listener.soon(listener.server.set_accepting, False)
    listener.run(listener.server.adjusted())
    listener.run(listener.server.drain(0.0))
    assert begun.ended()


def test_a_head_in_many_records_is_one_request(served, connect):
    client = connect(served(echo))
    for byte in b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc":
        client.send(bytes([byte]))
    assert client.response().body == b"abc"


def test_a_client_that_reads_slowly_gets_the_whole_of_a_last_answer(served, connect, monkeypatch):
    monkeypatch.setattr(tls_listener, "FAREWELL", 1.0)
    body = b"0123456789abcdef" * 400_000
    listener = served(lambda exchange: exchange.respond(200, body))
    client = connect(listener, receive=65_536)
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    head = client.read_until(b"\r\n\r\n")
    assert b"connection: close" in head
    # Longer than the farewell, while most of the answer is still the server's to send.
    listener.run(asyncio.sleep(1.5))
    whole = client.read_exactly(len(body)) == body
    assert whole
    assert client.ended()


def test_a_client_that_does_not_read_stops_the_producer_and_is_let_go(served, connect):
    sent = []

    def pour(exchange):
        def more():
            while exchange.writable:
                sent.append(len(sent))
                exchange.send(b"z" * 100_000)

        exchange.start(200)
        exchange.on_writable = more
        more()

    listener = served(pour, write_timeout=0.5)
    connect(listener, receive=4096).send(GET)
    eventually(lambda: len(listener.seen) == 1)
    eventually(lambda: listener.connections == 0)
    assert len(sent) < 100  # 10 MB: what the kernel and the buffers of TLS take


def test_drain_answers_what_runs_over_tls_and_does_not_wait_for_the_idle(served, connect, monkeypatch):
    running = []
    listener = served(running.append)
    idle, busy, arriving = connect(listener), connect(listener), listener.connect()
    busy.send(GET)
    eventually(lambda: len(running) == 1)
    listener.soon(lambda: listener.loop.call_later(0.3, running[0].respond, 200, b"last"))
    drained = asyncio.run_coroutine_threadsafe(listener.server.drain(20), listener.loop)
    answer = busy.response()
    assert (answer.body, answer.headers["connection"]) == (b"last", "close")
    busy.close()
    drained.result(5)
    assert idle.ended()
    assert arriving.ended()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", listener.server.port), timeout=5)


def test_the_context_is_the_one_of_the_moment(serve, authority):
    contexts = []

    def current():
        return contexts[-1]

    def renew():
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(*authority.issue())
        contexts.append(made)

    renew()
    listener = serve(hello, tls=current)
    trusting = ssl.create_default_context(cafile=str(authority.ca))

    def shown():
        sock = trusting.wrap_socket(listener.connect().sock, server_hostname="localhost")
        client = Client(sock)
        listener.clients.append(client)
        return client, sock.getpeercert()["serialNumber"]

    before, first = shown()
    renew()
    _, second = shown()
    assert first != second
    assert before.ask(GET).body == b"hello"


def test_pipelined_requests_are_answered_in_order_over_tls(served, connect):
    client = connect(served(echo))
    requests = [b"%d" % number * 5 for number in range(40)]
    client.send(
        b"".join(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            for body in requests
        )
    )
    assert [client.response().body for _ in requests] == requests


def test_a_large_upload_that_is_refused_gets_its_answer(served, connect):
    client = connect(served(echo, max_body_bytes=1000))
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n")
    client.send(b"x" * 200_000)
    assert client.response().status == 413


def test_nothing_is_left_of_connections_over_tls(served, connect):
    gc.collect()
    before = [each for each in gc.get_objects() if type(each) is connection.Connection]  # other tests'
    listener = served(echo)
    for _ in range(5):
        client = connect(listener)
        client.ask(GET)
        client.close()
    eventually(lambda: listener.connections == 0)
    listener.seen.clear()
    gc.collect()
    now = [each for each in gc.get_objects() if type(each) is connection.Connection]
    assert not [each for each in now if not any(each is other for other in before)]
