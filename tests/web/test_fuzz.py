"""Whatever comes in: a valid answer, a refusal or the end of the connection; and the next client is served."""

import re
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web_client import Served, eventually

pytestmark = pytest.mark.sockets

HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n(?:[^\r\n:]+: [^\r\n]*\r\n)*\r\n")
LIMITS = {"max_body_bytes": 200_000, "max_header_bytes": 8_192, "header_timeout": 5.0, "body_timeout": 5.0}
SEEDS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/b?c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n<70000>",
    b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: u\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
]
TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"-1", b"+1", b"99999999999999999999", b"\xff",
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"GET ", b"CONNECT ", b"Host: b\r\n", b"Content-Length: 5\r\n",
    b"Content-Length: 70001\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n",
    b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n", b"Expect: 100-continue\r\n", b"\r\n\r\n",
    b"0\r\n\r\n", b"<9000>",
]  # fmt: skip


@st.composite
def mutated(draw):
    """A few good requests one after the other, with a few bytes of them changed, doubled or missing."""
    message = b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(message)))
        width = draw(st.integers(0, 12))
        message = (
            message[:place] + draw(st.sampled_from(TOKENS) | st.binary(max_size=4)) + message[place + width :]
        )
    return message


@pytest.fixture
def server(loop):
    """One for all cases: what an earlier one left behind must not hurt a later one."""

    def echo(exchange):
        exchange.respond(200, exchange.take_body())

    served = Served(loop, echo, **LIMITS)
    yield served
    served.run(served.server.close())
    assert served.allocator.live == {}


def exchange_bytes(port, message, cut):
    """Everything the server says to a client that sends a message in two pieces and then no more."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.settimeout(10)
        said = b""
        try:
            sock.sendall(message[:cut])
            sock.sendall(message[cut:])
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(1 << 20):
                said += data
        except TimeoutError:
            raise
        except OSError:  # the server ended the connection first
            pass
    return said


def check_answers(said):
    """What the server said is a sequence of whole answers; nothing follows one that closes."""
    while said:
        head = HEAD.match(said)
        assert head, said[:200]
        status = int(head[1])
        assert status in {100, 200} or 400 <= status < 500 or status == 505, said[:200]
        said = said[head.end() :]
        if status != 100:
            length = int(re.search(rb"content-length: (\d+)\r\n", head[0])[1])
            if said[:length] and not said.startswith(
                b"HTTP/1.1 "
            ):  # an answer to HEAD has a length and no body
                assert len(said) >= length
                said = said[length:]
            if b"connection: close\r\n" in head[0]:
                assert not said


def check(server, message, cut):
    for size in (9_000, 70_000):  # written out only here, so that a failing case can be read
        message = message.replace(b"<%d>" % size, b"y" * size)
    check_answers(exchange_bytes(server.server.port, message, cut))
    eventually(lambda: server.connections == 0)
    server.seen.clear()
    assert server.allocator.live == {}


FUZZ = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(message=mutated(), cut=st.integers(0, 500))
def test_mutated_requests_get_answers_refusals_or_the_end(server, message, cut):
    check(server, message, cut)


@FUZZ
@given(
    message=st.lists(st.sampled_from(TOKENS) | st.binary(max_size=20), max_size=30).map(b"".join),
    cut=st.just(7),
)
def test_noise_gets_refusals_or_the_end(server, message, cut):
    check(server, message, cut)
    check(server, SEEDS[0] + message, cut)
