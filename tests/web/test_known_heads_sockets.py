"""A head that comes again is not parsed again: whatever the chunks look like, the answers are the same."""

import itertools
import socket
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web_client import eventually

pytestmark = pytest.mark.sockets

LARGE = 70_000


def told(exchange):
    """What was understood: method, target, a header and the body."""
    seen = b" ".join([exchange.method.encode(), exchange.target, exchange.header(b"x-name") or b"-"])
    body = bytes(exchange.body)
    exchange.respond(200, seen + b" " + str(len(body)).encode() + b" " + body[:3] + body[-3:])


def request(target, name, body):
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nX-Name: %s\r\nContent-Length: %d\r\n\r\n" % (
        target,
        name,
        len(body),
    )
    return head + body, b"POST %s %s %d %s%s" % (target, name, len(body), body[:3], body[-3:])


def answers(sock, count):
    """So many answers' bodies, read by their lengths."""
    data, bodies = b"", []
    while len(bodies) < count:
        head, found, rest = data.partition(b"\r\n\r\n")
        if found:
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            if len(rest) >= length:
                assert head.startswith(b"HTTP/1.1 200 "), head
                bodies.append(rest[:length])
                data = rest[length:]
                continue
        more = sock.recv(1 << 20)
        assert more, data
        data += more
    return bodies


REQUESTS = st.tuples(
    st.sampled_from([b"/a", b"/b"]),
    st.sampled_from([b"x", b"yy"]),
    st.sampled_from([b"", b"1", b"abcdef", b"POST /z HTTP/1.1\r\n\r\n", b"q" * 3000, b"L" * LARGE]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(REQUESTS, min_size=1, max_size=8), cuts=st.lists(st.integers(0, 300_000), max_size=5))
def test_requests_in_any_chunks_are_understood_as_they_were_sent(serve, asked, cuts):
    server = getattr(serve, "server", None) or serve(told)
    serve.server = server
    sent, expected = zip(*(request(*each) for each in asked), strict=True)
    message = b"".join(sent)
    ends = sorted({cut % (len(message) + 1) for cut in cuts} | {0, len(message)})
    with socket.create_connection(("127.0.0.1", server.server.port), 10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(10)
        for begin, end in itertools.pairwise(ends):
            sock.sendall(message[begin:end])
            time.sleep(0.001)
        assert answers(sock, len(asked)) == list(expected)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(REQUESTS, min_size=3, max_size=12))
def test_requests_one_after_the_other_are_understood_as_they_were_sent(serve, asked):
    server = getattr(serve, "server", None) or serve(told)
    serve.server = server
    with socket.create_connection(("127.0.0.1", server.server.port), 10) as sock:
        sock.settimeout(10)
        for each in asked:
            sent, expected = request(*each)
            sock.sendall(sent)
            assert answers(sock, 1) == [expected]


@pytest.fixture
def client(serve):
    server = serve(told)
    with socket.create_connection(("127.0.0.1", server.server.port), 10) as sock:
        sock.settimeout(10)
        yield server.server, sock


def ask(sock, *, target=b"/a", name=b"x", body=b"abcdef"):
    sent, expected = request(target, name, body)
    sock.sendall(sent)
    assert answers(sock, 1) == [expected]


def test_a_head_is_known_from_its_second_time_on_a_connection(client):
    server, sock = client
    ask(sock)
    assert not server.known_heads
    ask(sock)
    eventually(lambda: len(server.known_heads) == 1)  # learned after the answer
    ask(sock, body=b"ghijkl")  # the same head, another body
    assert len(server.known_heads) == 1


@pytest.mark.parametrize(
    "line",
    [b"Connection: close", b"Expect: 100-continue", b"Transfer-Encoding: chunked", b"Upgrade: h2c", b"TE: trailers"],  # codespell:ignore
)  # fmt: skip
def test_a_head_that_asks_for_something_special_is_never_known(serve, line):
    server = serve(told)
    length = b"" if b"chunked" in line else b"Content-Length: 2\r\n"
    body = b"2\r\nok\r\n0\r\n\r\n" if b"chunked" in line else b"ok"
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", server.server.port), 10) as sock:
            sock.settimeout(10)
            for _ in range(1 if b"close" in line else 3):
                sock.sendall(b"POST /a HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n" + length + b"\r\n" + body)
                said = b""
                while b"ok" not in said:
                    said += sock.recv(65_536)
    assert not server.server.known_heads


def test_heads_that_are_all_different_are_not_kept(client):
    server, sock = client
    for number in range(600):
        ask(sock, name=b"n%d" % number)
    assert not server.known_heads


def test_a_known_head_without_its_body_is_still_a_request_that_takes_too_long(serve):
    server = serve(told, body_timeout=0.2)
    with socket.create_connection(("127.0.0.1", server.server.port), 10) as sock:
        sock.settimeout(10)
        for _ in range(3):
            ask(sock)
        sent, _ = request(b"/a", b"x", b"abcdef")
        sock.sendall(sent[:-1])
        assert b" 408 " in sock.recv(65_536)
