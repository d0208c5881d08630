"""Large bodies and the memory there is for them, over HTTP and websockets: announced bytes take none from others."""

import json
import socket
import time

import pytest
from test_websocket import parrots
from web_client import echo, eventually
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from mooring.core import buffers
from mooring.core.buffers import HeapAllocator
from mooring.core.memory import RESERVE, BodyMemory

pytestmark = pytest.mark.sockets

LIMIT = 2_000_000


def head(size, *lines):
    return b"\r\n".join([b"POST / HTTP/1.1", b"host: a", b"content-length: %d" % size, *lines, b"", b""])


CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(size):
    return b"%x\r\n%s\r\n" % (size, bytes(size))


def limited(serve, app=echo, limit=LIMIT, **options):
    served = serve(app, max_body_bytes=10 * LIMIT, **options)
    served.account = BodyMemory(limit)
    served.server.allocator = HeapAllocator(served.account)
    return served


def waiting(client):
    """What of an answer has come."""
    try:
        return client.sock.recv(100, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


def refusal(client):
    answer = client.response()
    document = json.loads(answer.body)
    return answer.status, document["message"]


def test_bodies_that_are_announced_and_do_not_come_lock_nobody_out(serve):
    served = limited(serve)
    for _ in range(5):
        served.connect().send(head(LIMIT - 1) + b"{")
    eventually(lambda: served.account.used > 0)
    assert served.connect().ask(head(LIMIT // 2) + bytes(LIMIT // 2)).status == 200


@pytest.mark.parametrize("known", [False, True], ids=["new head", "known head"])
def test_a_body_is_refused_at_its_head_while_others_fill_the_memory(serve, known):
    served = limited(serve)
    client = served.connect()
    if known:
        for _ in range(2):
            assert client.ask(head(1_500_000) + bytes(1_500_000)).status == 200
    holder = served.connect().send(head(1_900_000) + bytes(1_800_000))
    eventually(lambda: served.account.used >= 1_800_000)
    status, text = refusal(client.send(head(1_500_000)))
    assert status == 503
    assert text.startswith("memory for request bodies has no room: 18")
    assert holder.send(bytes(100_000)).response().status == 200
    eventually(lambda: not served.account.used)
    assert served.connect().ask(head(1_500_000) + bytes(1_500_000)).status == 200


def test_of_bodies_that_grow_together_one_is_refused_and_the_other_comes_through(serve):
    served = limited(serve)
    first, second = served.connect(), served.connect()
    for client in first, second:
        client.send(head(1_500_000) + b"x")
    eventually(lambda: served.account.used >= 2 * RESERVE)
    for client in first, second:
        client.send(bytes(899_999))
    eventually(lambda: served.account.used >= 1_800_000)
    second.send(bytes(300_000))
    assert refusal(second)[0] == 503
    assert first.send(bytes(600_000)).response().status == 200
    eventually(lambda: not served.account.used)


def test_a_chunked_body_counts_as_it_comes(serve):
    served = limited(serve)
    client = served.connect().send(CHUNKED + chunk(1_500_000))
    eventually(lambda: served.account.used >= 1_500_000)
    status, text = refusal(client.send(chunk(600_000)))
    assert (status, text[:38]) == (503, "memory for request bodies has no room:")
    eventually(lambda: not served.account.used)
    assert served.connect().ask(CHUNKED + chunk(900_000) + b"0\r\n\r\n").status == 200
    eventually(lambda: not served.account.used)


@pytest.mark.parametrize("chunked", [False, True])
def test_want_of_memory_is_no_fault_of_the_message(serve, monkeypatch, chunked):
    def nothing(_size):
        raise MemoryError

    served = limited(serve)
    monkeypatch.setattr(buffers, "heap", nothing)
    sent = CHUNKED + chunk(900_000) + b"0\r\n\r\n" if chunked else head(900_000)
    assert refusal(served.connect().send(sent)) == (507, "there is no memory for the request's body")
    monkeypatch.undo()
    assert served.connect().ask(head(900_000) + bytes(900_000)).status == 200
    eventually(lambda: not served.account.used)


@pytest.mark.parametrize("opening", [head(900_000), head(900), CHUNKED], ids=["large", "small", "chunked"])
def test_a_body_that_trickles_is_given_up(serve, opening):
    served = limited(serve, body_window=0.3, min_body_rate=1000)
    client = served.connect().send(opening)
    part = b"1\r\nx\r\n" if opening is CHUNKED else b"x"
    for _ in range(100):
        try:
            client.send(part)
        except OSError:
            break
        if b"HTTP/1.1 408" in waiting(client):
            break
        time.sleep(0.05)
    assert refusal(client)[1].startswith("Request body came too slowly: less than 1000 bytes a second")
    eventually(lambda: not served.account.used)


def test_a_body_has_its_time_and_no_more(serve):
    served = limited(serve, body_time_limit=0.3)
    client = served.connect().send(head(900_000))
    for _ in range(100):
        client.send(bytes(5000))
        if b"HTTP/1.1 408" in waiting(client):
            break
        time.sleep(0.05)
    assert refusal(client) == (408, "Request body took longer than 0.3 seconds (body_time_limit).")


def test_every_body_of_a_connection_has_a_pace_of_its_own(serve):
    served = limited(serve, body_time_limit=0.5)
    client = served.connect()
    for _ in range(4):
        client.send(head(100_000) + bytes(50_000))
        time.sleep(0.2)
        assert client.send(bytes(50_000)).response().status == 200


def test_a_socket_whose_message_finds_no_room_is_told_to_come_again(serve):
    served = limited(serve, parrots([]))
    address = f"ws://127.0.0.1:{served.server.port}/socket"
    with connect(address, open_timeout=5, close_timeout=5, max_size=None) as client:
        client.send(iter([b"x" * 900_000, b"y" * 900_000]))
        assert len(client.recv()) == 1_800_000
        eventually(lambda: not served.account.used)
        with pytest.raises(ConnectionClosed) as ended:  # noqa: PT012 - whichever of the two comes to see it
            client.send(iter([b"x" * 900_000] * 3))
            client.recv()
    assert ended.value.rcvd.code == 1013
    assert ended.value.rcvd.reason.startswith("memory for request bodies has no room")
    eventually(lambda: not served.account.used)
