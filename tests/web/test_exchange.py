"""Answers: whole, streamed, broken off, too late."""

import pytest
from web_client import eventually

from mooring.core.buffers import Buffer
from mooring.web.exchange import JOINED, TRANSITIONS, Exchange, ResponseState

pytestmark = pytest.mark.sockets

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")
OLD = b"GET / HTTP/1.0\r\n\r\n"


def buffer_of(served, content):
    buffer = served.allocator.allocate(len(content))
    buffer.view[:] = content
    return buffer


def test_a_reason_phrase_may_be_chosen_and_cannot_start_a_line(serve):
    served = serve(lambda exchange: exchange.respond(299, b"", reason="Quite\r\nfine: yes"))
    assert served.connect().send(GET).read_until(b"\r\n") == b"HTTP/1.1 299 Quite  fine: yes\r\n"


def test_a_status_without_a_phrase_of_its_own_is_named_by_its_class(serve):
    answer = serve(lambda exchange: exchange.respond(499, b"")).connect().ask(GET)
    assert (answer.status, answer.reason) == (499, "Client Error (499)")


def test_an_answer_may_close_the_connection(serve):
    client = serve(lambda exchange: exchange.respond(400, b"no", close=True)).connect()
    assert client.ask(GET).headers["connection"] == "close"
    assert client.ended()


def test_an_answer_that_closes_drops_what_was_asked_after_it(serve):
    served = serve(lambda exchange: None)
    client = served.connect().send(GET * 3)
    eventually(lambda: len(served.seen) == 3)
    told = []

    def answer():
        served.seen[2].on_abandoned = lambda: told.append(1)
        served.seen[1].respond(200, b"x" * 100_000)
        served.seen[0].respond(400, b"no", close=True)

    served.soon(answer)
    assert client.read_all().count(b"HTTP/1.1 ") == 1
    assert told == [1]


@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_head_gets_the_length_of_a_body_but_no_body(serve, size):
    served = serve(lambda exchange: exchange.respond(200, b"x" * size))
    client = served.connect()
    for _ in range(2):
        answer = client.ask(HEAD, bodiless=True)
        assert answer.headers["content-length"] == str(size)
    assert len(client.ask(GET).body) == size


def test_a_lent_answer_to_head_is_released(serve):
    served = serve(lambda exchange: exchange.respond(200, buffer_of(served, b"x" * 100_000)))
    assert served.connect().ask(HEAD, bodiless=True).headers["content-length"] == "100000"
    assert served.allocator.live == {}


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_content_has_neither_body_nor_length(serve, status):
    client = serve(lambda exchange: exchange.respond(status, b"ignored")).connect()
    for _ in range(2):
        answer = client.ask(GET, bodiless=True)
        assert "content-length" not in answer.headers
        assert answer.headers["connection"] == "keep-alive"


def test_a_status_that_is_no_final_one_is_a_fault_of_the_app(serve, caplog):
    assert serve(lambda exchange: exchange.respond(101, b"")).connect().ask(GET).status == 500
    assert "101" in caplog.text


@pytest.mark.parametrize("size", [1, 100, 16_000, 16_500, 200_000])
def test_lent_and_plain_answers_look_the_same(serve, size):
    content = b"y" * size
    served = serve(lambda exchange: exchange.respond(200, content))
    client = served.connect()
    plain = client.ask(GET)
    served.app = lambda exchange: exchange.respond(200, buffer_of(served, content))
    for _ in range(3):
        lent = client.ask(GET)
        assert (lent.headers, lent.body) == (plain.headers, plain.body)
    eventually(lambda: not served.allocator.live)


@pytest.mark.parametrize("sizes", [[5], [5, 0, 7], [100, 70_000], [70_000, 3, 70_000], [200, 20_000]])
def test_an_answer_in_pieces_looks_as_if_it_were_one(serve, sizes):
    content = [bytes([65 + at]) * size for at, size in enumerate(sizes)]
    served = serve(
        lambda exchange: exchange.respond_in_pieces(
            200,
            [buffer_of(served, each) if len(each) % 2 == 0 and each else each for each in content],
            b"x-a: b\r\n",
        )
    )
    client = served.connect()
    for _ in range(2):
        answer = client.ask(GET)
        assert answer.body == b"".join(content)
        assert answer.headers == {
            "x-a": "b", "content-length": str(sum(sizes)), "connection": "keep-alive",
        }  # fmt: skip
    assert client.ask(HEAD, bodiless=True).headers["content-length"] == str(sum(sizes))
    eventually(lambda: not served.allocator.live)


def test_a_body_answered_without_being_taken_is_written_before_it_is_released(serve):
    served = serve(lambda exchange: exchange.respond(200, exchange.body))
    body = b"z" * 3_000_000
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert served.connect().ask(request + body).body == body
    eventually(lambda: not served.allocator.live)


def test_a_taken_body_is_the_takers_to_release(serve):
    served = serve(lambda exchange: None)
    client = served.connect().send(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n" + b"a" * 70_000
    )
    eventually(lambda: len(served.seen) == 1)
    body = served.soon(served.seen[0].take_body)
    assert served.seen[0].body == b""
    served.soon(served.seen[0].respond, 200, b"")
    assert client.response().status == 200
    assert bytes(body.view[:3]) == b"aaa"
    body.release()


def stream(exchange):
    exchange.start(200, b"x-a: b\r\n")
    exchange.send(b"one")
    exchange.send(b"")
    exchange.send(b"t" * 17)
    exchange.finish(b"three")


def test_a_streamed_answer_is_chunked_one_chunk_a_piece(serve):
    client = serve(stream).connect()
    expected = (
        b"HTTP/1.1 200 OK\r\nx-a: b\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n"
        b"3\r\none\r\n11\r\nttttttttttttttttt\r\n5\r\nthree\r\n0\r\n\r\n"
    )
    for _ in range(2):
        assert client.send(GET).read_exactly(len(expected)) == expected


def test_a_streamed_answer_to_http_1_0_ends_with_the_connection(serve):
    served = serve(stream)
    expected = b"HTTP/1.1 200 OK\r\nx-a: b\r\nconnection: close\r\n\r\none" + b"t" * 17 + b"three"
    assert served.connect().send(OLD).read_all() == expected
    alive = OLD.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")
    assert served.connect().send(alive).read_all() == expected


def test_a_streamed_answer_to_head_is_its_head(serve):
    client = serve(stream).connect()
    for _ in range(2):
        answer = client.ask(HEAD, bodiless=True)
        assert answer.headers["transfer-encoding"] == "chunked"


def test_a_stream_may_be_empty_lent_and_large(serve):
    def lent(exchange):
        exchange.start(200)
        for letter in b"abc":
            exchange.send(buffer_of(served, bytes([letter]) * 150_000))
        exchange.send(buffer_of(served, b""))
        exchange.finish()

    served = serve(lent)
    client = served.connect()
    for _ in range(2):
        assert client.ask(GET).body == b"a" * 150_000 + b"b" * 150_000 + b"c" * 150_000
    served.app = lambda exchange: (exchange.start(200), exchange.finish())
    assert client.ask(GET).body == b""
    eventually(lambda: not served.allocator.live)


def test_a_producer_sees_a_slow_client_and_is_told_when_it_may_go_on(serve):
    produced = []

    def produce(exchange):
        while exchange.writable and len(produced) < 400:
            produced.append(1)
            exchange.send(b"p" * 50_000)
        if len(produced) == 400:
            exchange.on_writable = None
            exchange.finish()

    def begin(exchange):
        exchange.on_writable = lambda: produce(exchange)
        exchange.start(200)
        produce(exchange)

    served = serve(begin)
    client = served.connect(receive=4096).send(GET)
    eventually(lambda: produced)
    eventually(lambda: not served.soon(lambda: served.seen[0].writable))
    assert len(produced) < 400
    assert client.response().body == b"p" * 20_000_000


def test_a_broken_stream_ends_the_connection_without_the_last_chunk(serve):
    def broken(exchange):
        exchange.start(200)
        exchange.send(b"half")
        exchange.abort()

    everything = serve(broken).connect().send(GET).read_all()
    assert everything.endswith(b"\r\n\r\n4\r\nhalf\r\n")


def test_a_broken_stream_without_chunks_resets_the_connection(serve):
    def broken(exchange):
        exchange.start(200)
        exchange.send(b"half")
        exchange.abort()

    with pytest.raises(ConnectionResetError):
        serve(broken).connect().send(OLD).read_all()


def test_a_broken_stream_breaks_off_in_its_turn(serve):
    served = serve(lambda exchange: None)
    client = served.connect().send(GET * 3)
    eventually(lambda: len(served.seen) == 3)

    def answer():
        served.seen[1].start(200)
        served.seen[1].send(b"half")
        served.seen[1].abort()
        served.seen[0].respond(200, b"whole")

    served.soon(answer)
    assert client.response().body == b"whole"
    assert client.read_all().endswith(b"4\r\nhalf\r\n")


def test_nothing_is_answered_twice(serve):
    served = serve(lambda exchange: None)
    client = served.connect().send(GET)
    eventually(lambda: len(served.seen) == 1)
    exchange = served.seen[0]
    with pytest.raises(RuntimeError, match="no answer was started"):
        served.soon(exchange.send, b"")
    served.soon(exchange.respond, 200, b"once")
    with pytest.raises(RuntimeError, match="answered already"):
        served.soon(lambda: exchange.respond(200, served.allocator.allocate(70_000)))
    with pytest.raises(RuntimeError, match="answered already"):
        served.soon(exchange.start, 200)
    with pytest.raises(RuntimeError, match="answered already"):
        served.soon(exchange.finish, b"")
    assert client.response().body == b"once"
    served.soon(exchange.abort)
    served.app = lambda exchange: exchange.respond(200, b"next")
    assert client.ask(GET).body == b"next"


def test_what_is_answered_to_a_client_that_is_gone_is_released(serve):
    served = serve(lambda exchange: None, body_timeout=0.1)
    client = served.connect().send(GET * 2)
    eventually(lambda: len(served.seen) == 2)
    served.soon(lambda: served.seen[1].respond(200, buffer_of(served, b"x" * 70_000)))
    client.close()
    eventually(lambda: served.connections == 0)
    assert served.allocator.live == {}
    first = served.seen[0]
    served.soon(lambda: first.respond(200, buffer_of(served, b"x" * 70_000)))
    served.soon(first.start, 200)
    served.soon(lambda: first.send(buffer_of(served, b"x" * 70_000)))
    served.soon(first.finish)
    assert not first.writable
    assert served.allocator.live == {}


def test_the_peer_is_the_clients_address(serve):
    served = serve(lambda exchange: exchange.respond(200, exchange.peer.encode()))
    client = served.connect()
    assert client.ask(GET).body == b"127.0.0.1:%d" % client.sock.getsockname()[1]


class Sink:
    """A connection that swallows everything."""

    peer = ""

    def write(self, exchange, pieces, *, last): ...

    def write_whole(self, exchange, answer): ...

    def abort(self, exchange): ...


class Tape(Sink):
    """A connection that keeps what is written."""

    def __init__(self):
        self.written = []

    def write(self, exchange, pieces, *, last):
        self.written += [*map(bytes, pieces), last]

    def write_whole(self, exchange, answer):
        self.written += [answer, True]


@pytest.mark.parametrize("body", [b"", b"x", b"x" * JOINED, b"x" * (JOINED + 1), Buffer(memoryview(b"xyz"))])
@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_a_200_whose_head_comes_in_pieces_is_the_bytes_of_any_other(method, keep_alive, body):
    tapes = Tape(), Tape()
    ones = [Exchange(method, b"/", [], {}, keep_alive, tape) for tape in tapes]
    ones[0].respond_ok((b"x-request-id: ", b"7", b"\r\nserver: here\r\n"), body)
    ones[1].respond(200, body, b"x-request-id: 7\r\nserver: here\r\n")
    assert tapes[0].written == tapes[1].written
    assert ones[0].state is ones[1].state is ResponseState.ANSWERED


OPERATIONS = (
    lambda each: each.respond(200, b""),
    lambda each: each.respond_ok((b"", b"", b""), b""),
    lambda each: each.respond_in_pieces(200, [b"x" * 9_000, b"y" * 9_000]),
    lambda each: each.start(200),
    lambda each: each.send(b"x"),
    lambda each: each.finish(),
    lambda each: each.abort(),
    lambda each: each.abandon(),
)


@pytest.mark.parametrize("state", ResponseState)
def test_an_answer_makes_the_moves_of_the_table_and_no_other(state):
    reached = set()
    for operation in OPERATIONS:
        each = Exchange("GET", b"/", [], {}, keep_alive=True, transport=Sink(), state=state)
        try:
            operation(each)
        except RuntimeError:
            assert each.state is state
        reached.add(each.state)
    assert reached - {state} == TRANSITIONS[state]
