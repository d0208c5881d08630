"""The client that accounts for each request finds what a server does wrong: here is one that does all of it."""

import json
import socketserver
import threading
import time
import zlib

import accounting
import pytest
from accounting import Account, Connection, Load, NoAnswer, judge


def answer(number, *, of=None, status=200, reason="OK", pad=""):
    told = {"n": of or number, "answer": 3 * (of or number) + 1, "pad": [len(pad), zlib.crc32(pad.encode())]}
    body = json.dumps(told if status == 200 else {"code": status, "message": reason}).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


class Liar(socketserver.StreamRequestHandler):
    """Does what the request's ``do`` says a server must not."""

    def handle(self):
        while True:
            length = 0
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length"):
                    length = int(line.split(b":")[1])
            if not line:
                return
            asked = json.loads(self.rfile.read(length))
            number, do = asked["n"], asked.get("do")
            if do == "lose":
                return
            if do == "half":
                self.wfile.write(answer(number)[:-5])
                return
            if do == "hang":
                self.server.over.wait(20)
                return
            self.wfile.write(
                {
                    "swap": answer(number, of=number + 7),
                    "repeat": answer(number, of=number - 1),
                    "damage": answer(number, pad="other"),
                    "mute": b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n",
                    "refuse": answer(number, status=503, reason="full"),
                    "twice": answer(number) * 2,
                }.get(do, answer(number))
            )


@pytest.fixture
def liar():
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        over = threading.Event()

    with Server(("127.0.0.1", 0), Liar) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("do", "verdict"),
    [
        ("nothing", "right"),
        ("refuse", "honest"),
        ("mute", "wrong"),  # an error without a reason
        ("swap", "wrong"),
        ("damage", "wrong"),
        ("repeat", "doubled"),
        ("lose", "lost"),
        ("half", "lost"),
        ("hang", "hung"),
    ],
)
def test_a_verdict_says_what_the_server_did(liar, do, verdict, monkeypatch):
    if do == "hang":
        monkeypatch.setattr(accounting, "PATIENCE", 0.3)
    connection = Connection(liar)
    assert judge(Account(), connection, "/predictions/liar", {"do": do}) == verdict
    connection.close()


def test_an_answer_that_nobody_asked_for_is_seen(liar):
    connection = Connection(liar)
    connection.ask("/predictions/liar", b'{"n": 1, "do": "twice"}')
    assert connection.stray()
    connection.close()


def test_a_connection_that_the_server_ended_is_no_answer(liar):
    connection = Connection(liar)
    for _ in range(2):
        with pytest.raises(NoAnswer, match="lost"):
            connection.ask("/predictions/liar", b'{"n": 1, "do": "lose"}')
    connection.close()


def test_requests_at_a_host_that_is_gone_are_broken_off_when_it_is_said_to_be(liar):
    asked = {"do": "nothing"}
    load = Load(liar, "liar", clients=3, mortal=True, asked=lambda: asked)
    with load:
        asked = {"do": "hang"}  # as if nothing came any more
        time.sleep(0.1)
        load.abandon()
    assert load.account.broken == 3
    assert load.account.sent == load.account.right + 3
