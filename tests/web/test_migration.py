"""Connections that go from one listener to another between two requests: the client notices nothing of it."""

import random
import socket
import threading
import time

import pytest
import requests
from web_client import echo, eventually

from mooring.web.migration import SocketChannel

pytestmark = pytest.mark.sockets

PIECE = 70_000  # a body that gets a buffer of its own


class Pair:
    """Two listeners, and a channel from each to the other."""

    def __init__(self, serve, app=echo):
        self.served = [serve(app, migratable=True), serve(app, migratable=True)]
        self.moved = 0
        self.loop = self.served[0].loop
        self.served[0].soon(self._connect)

    def _connect(self):
        self.channels = [
            SocketChannel(end, lambda _mark, sock, to=to: self._arrived(to, sock))
            for to, end in enumerate(socket.socketpair())
        ]

    def _arrived(self, to, sock):
        self.moved += 1
        self.served[to].server.adopt(sock)

    def move(self, giver, share=1.0):
        """Have connections go from this one to the other."""
        self.served[0].soon(
            lambda: self.channels[giver].migrate(self.served[giver].server.connections, share, 0)
        )

    def close(self):
        for each in self.served:
            each.run(each.server.wait_adopted())
        self.served[0].soon(lambda: [channel.close() for channel in self.channels])

    @property
    def counts(self):
        return [each.connections for each in self.served]


@pytest.fixture
def pair(serve):
    pairs = []

    def make(app=echo):
        pairs.append(Pair(serve, app))
        return pairs[-1]

    yield make
    for each in pairs:
        each.close()


def ask(body=b"", *, close=False):
    end = b"Connection: close\r\n" if close else b""
    return b"POST /p HTTP/1.1\r\nHost: a\r\n%sContent-Length: %d\r\n\r\n" % (end, len(body)) + body


def test_a_connection_that_moved_is_served_by_the_other_and_moves_back(pair):
    two = pair()
    client = two.served[0].connect()
    for turn in range(20):
        giver = turn % 2
        assert client.ask(ask(b"x%d" % turn)).body == b"x%d" % turn
        two.move(giver)
        eventually(lambda giver=giver: two.counts == [giver, 1 - giver])
    assert len(two.served[0].seen) == len(two.served[1].seen) == 10


def test_what_the_client_sent_before_the_move_is_read_by_the_other(pair):
    two = pair()
    client = two.served[0].connect()
    assert client.ask(ask(b"first")).body == b"first"

    def at_once():
        # In one turn of the loop: nothing of it can have been read.
        client.send(ask(b"second"))
        two.channels[0].migrate(two.served[0].server.connections, 1.0, 0)

    two.served[0].soon(at_once)
    assert client.response().body == b"second"
    assert [len(each.seen) for each in two.served] == [1, 1]


def test_a_request_that_runs_is_answered_before_its_connection_moves(pair):
    held = []
    two = pair(held.append)
    client = two.served[0].connect()
    client.send(ask(b"a"))
    eventually(lambda: held)
    two.move(0)
    client.send(ask(b"b"))
    two.served[0].soon(lambda: held.pop().respond(200, b"A"))
    assert client.response().body == b"A"
    eventually(lambda: held)
    two.served[0].soon(lambda: held.pop().respond(200, b"B"))
    assert client.response().body == b"B"
    assert two.counts == [0, 1]


def test_a_request_that_takes_longer_than_a_moment_keeps_its_connection(pair):
    held = []
    two = pair(held.append)
    client = two.served[0].connect()
    client.send(ask(b"a"))
    eventually(lambda: held)
    two.move(0)
    time.sleep(0.2)  # it reads again after 0.1 s: so it sees that its client has gone
    gone = threading.Event()

    def watch():
        held[0].on_abandoned = gone.set

    two.served[0].soon(watch)
    client.close()
    assert gone.wait(10)


@pytest.mark.parametrize(
    "begun",
    [
        b"POST /p HTTP/1.1\r\nHo",  # a head
        ask(b"12345")[:-2],  # a body
        b"P",
        ask(b"x" * PIECE)[:-1],  # a body that is written where a worker reads it
        b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    ],
)
@pytest.mark.parametrize("before", [b"", ask(b"one"), ask(b"one") + ask(b"two")])
def test_a_connection_of_which_anything_is_read_stays(pair, begun, before):
    two = pair()
    client = two.served[0].connect()
    client.send(before + begun)
    for _ in range(before.count(b"POST")):
        client.response()
    # Whether it was read or lies in the kernel: the rest and the beginning must meet.
    time.sleep(0.02)
    two.move(0)
    time.sleep(0.02)
    assert two.counts == [1, 0]
    rest = b"0\r\n\r\n" if b"chunked" in begun else ask(b"z")
    client.send(rest)
    assert client.response().status in (200, 400)


@pytest.mark.parametrize("size", [0, 3, PIECE])
def test_whoever_sends_heads_and_bodies_apart_or_in_chunks_may_move_too(pair, size):
    two = pair()
    client = two.served[0].connect()
    body = b"x" * size
    chunked = b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"%x\r\n%s\r\n" % (size, body) if size else b""
    for turn in range(6):
        if turn % 3 == 2:
            client.send(chunked)
            time.sleep(0.005)
            client.send(chunks + b"0\r\n\r\n")
        else:
            whole = ask(body)
            cut = (20, whole.index(b"\r\n\r\n") + 4)[turn % 3]
            client.send(whole[:cut])
            time.sleep(0.005)
            client.send(whole[cut:])
        assert client.response().body == body
        two.move(turn % 2)
        eventually(lambda turn=turn: two.counts == [turn % 2, 1 - turn % 2])


def test_a_head_in_two_pieces_that_was_answered_at_once_is_over(serve):
    served = serve(echo)
    client = served.connect()
    whole = ask(b"x")
    client.send(whole[:20])
    eventually(lambda: served.connections == 1)
    time.sleep(0.02)
    assert client.ask(whole[20:]).body == b"x"
    served.run(served.server.drain(10))  # which waits for whoever is in the middle of a request
    assert client.ended()


def test_a_share_is_of_those_that_are_active_and_never_all_of_them(pair):
    two = pair()
    clients = [two.served[0].connect() for _ in range(9)]
    for client in clients:
        client.ask(ask(b"x"))
    two.move(0, 0.5)
    eventually(lambda: two.counts == [5, 4])
    for _ in range(12):
        two.move(0, 0.9)
        time.sleep(0.005)
    assert two.counts[0] >= 1
    assert [client.ask(ask(b"y")).body for client in clients] == [b"y"] * 9


def test_a_listener_that_drains_answers_what_came_with_a_connection_and_closes_others(pair):
    two = pair()
    asking, idle = two.served[0].connect(), two.served[0].connect()
    asking.ask(ask(b"x"))
    idle.ask(ask(b"x"))

    def at_once():
        asking.send(ask(b"last"))
        two.served[1].server.draining = True
        two.channels[0].migrate(two.served[0].server.connections, 1.0, 0)

    two.served[0].soon(at_once)
    answer = asking.response()
    assert (answer.body, answer.headers["connection"]) == (b"last", "close")
    assert asking.ended()
    assert idle.ended()


def test_a_listener_that_drains_reads_what_came_while_connections_were_to_leave(pair):
    two = pair()
    clients = [two.served[0].connect() for _ in range(6)]
    for client in clients:
        client.ask(ask(b"x"))

    def at_once():
        two.channels[0].migrate(two.served[0].server.connections, 1.0, 0)
        for client in clients[:3]:
            client.send(ask(b"last"))
        two.channels[0].cancel()
        two.served[0].server.draining = True
        for connection in tuple(two.served[0].server.connections):
            connection.drain()

    two.served[0].soon(at_once)
    for client in clients[:3]:
        assert client.response().body == b"last"
    assert all(client.ended() for client in clients)


def test_nothing_is_lost_in_a_thousand_moves_under_load(pair):
    two = pair()
    stop = threading.Event()
    faults, answered = [], [0] * 8
    clients = [two.served[0].connect() for _ in answered]

    def one_by_one(at):
        with requests.Session() as session:
            while not stop.is_set():
                body = random.randbytes(random.choice([1, 300, PIECE]))
                answer = session.post(
                    f"http://127.0.0.1:{two.served[0].server.port}/p", data=body, timeout=30
                )
                if answer.content != body:
                    faults.append(body)
                answered[at] += 1

    def pipelined(at):
        client = clients[at]
        while not stop.is_set():
            bodies = [random.randbytes(random.choice([1, 300])) for _ in range(4)]
            for each in bodies:
                client.send(ask(each))
            for each in bodies:
                if client.response().body != each:
                    faults.append(each)  # noqa: PERF401 - each answer is read, right or wrong
            answered[at] += 1

    threads = [
        threading.Thread(target=kind, args=(at,)) for at, kind in enumerate([one_by_one, pipelined] * 4)
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: [two.move(giver) for giver in (0, 1)] and two.moved >= 1000, 30)
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert all(answered)
    assert all(each.seen for each in two.served)


def test_a_channel_that_is_full_leaves_connections_where_they_are(serve):
    served = serve(echo, migratable=True)
    clients = [served.connect() for _ in range(10)]
    for client in clients:
        client.ask(ask(b"x"))
    ours, unread = socket.socketpair()
    channel = served.soon(SocketChannel, ours, lambda _mark, sock: sock.close())
    while served.soon(channel.send, 1, unread.fileno()):
        pass
    served.soon(channel.migrate, served.server.connections, 1.0, 0)
    assert [client.ask(ask(b"y")).body for client in clients] == [b"y"] * 10
    assert served.connections == 10
    served.soon(channel.close)
    unread.close()


def test_two_listeners_share_a_socket_and_either_may_leave_new_connections_to_the_other(pair):
    two = pair()
    first, second = two.served

    def share():
        (listening,) = first.server.share_sockets()
        second.server.set_accepting(False)
        second.server.add_socket(socket.socket(fileno=socket.dup(listening.fileno())))
        second.server.set_accepting(True)

    def answered_by(server):
        before = len(server.seen)
        for _ in range(40):
            client = first.connect()
            assert client.ask(ask(b"x", close=True)).body == b"x"
        return len(server.seen) - before

    second.soon(share)
    second.run(second.server.adjusted())
    for pausing, other in ((second, first), (first, second), (second, first)):
        pausing.soon(pausing.server.set_accepting, False)
        pausing.run(pausing.server.adjusted())
        assert answered_by(other) == 40
        pausing.soon(pausing.server.set_accepting, True)
        pausing.run(pausing.server.adjusted())
