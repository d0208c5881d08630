"""Answers leave in the order of the requests; nothing that was lent is kept or released too early."""

import socket

import pytest
from fake_transport import FakeTransport
from http1_kit import FakeHttpContext, FakeOwner, exchange
from hypothesis import given
from hypothesis import strategies as st
from web_client import CountingAllocator

from mooring.web.exchange import HeadCache, ResponseState
from mooring.web.http1_format import CONTINUE
from mooring.web.listener import Limits
from mooring.web.response_queue import ResponseQueue

SIZE = 100_000


class Bench:
    """A queue between an app that only keeps what it gets and a transport of the test's speed."""

    def __init__(self, *, slow=False, **options):
        self.context = FakeHttpContext(**options)
        self.owner = FakeOwner()
        self.transport = FakeTransport(slow=slow)
        self.queue = ResponseQueue(self.context, self.owner)
        self.transport.protocol = self.queue
        self.queue.open(self.transport, "10.0.0.1")
        self.seen = self.context.seen
        self.allocator = CountingAllocator()

    def submit(self, count=1, **options):
        """Requests for /0, /1 and so on."""
        made = [exchange(self.queue, b"/%d" % number, **options) for number in range(count)]
        for each in made:
            self.queue.submit(each)
        return made

    def lend(self):
        buffer = self.allocator.allocate(SIZE)
        buffer.view[:] = b"x" * SIZE
        return buffer


def bodies(sent):
    """The bodies of these answers, each of one byte."""
    return [answer.rpartition(b"\r\n\r\n")[2] for answer in sent.split(b"HTTP/1.1 200 OK\r\n")[1:]]


@given(st.permutations(range(6)))
def test_answers_in_any_order_leave_in_the_order_of_the_requests(order):
    bench = Bench()
    asked = bench.submit(6)
    for number in order:
        asked[number].respond(200, b"%d" % number)
    assert bodies(bench.transport.sent) == [b"%d" % number for number in range(6)]
    assert bench.queue.empty()
    assert bench.queue.last is None


def test_the_app_has_at_most_so_many_requests_of_a_connection():
    bench = Bench(limits=Limits(max_pipelined=3))
    asked = bench.submit(5)
    assert bench.seen == asked[:3]
    assert bench.queue.unseen
    asked[1].respond(200, b"1")  # answered, but it waits for its turn: it still counts
    assert bench.seen == asked[:3]
    asked[0].respond(200, b"0")
    assert bench.seen == asked
    assert not bench.queue.unseen


def test_the_last_request_is_the_one_that_came_last():
    bench = Bench()
    first, second = bench.submit(2)
    assert bench.queue.last is second
    second.respond(200, b"")
    assert bench.queue.last is second
    first.respond(200, b"")
    assert bench.queue.last is None


def test_a_stream_waits_for_its_turn_and_is_told_of_it():
    bench = Bench()
    first, second = bench.submit(2)
    told = []
    second.on_writable = lambda: told.append(second.writable)
    second.start(200)
    second.send(b"early")
    assert not second.writable
    assert bench.transport.sent == b""
    first.respond(200, b"1")
    assert told == [True]
    assert bench.transport.sent.endswith(b"5\r\nearly\r\n")
    second.finish(b"late")
    assert bench.transport.sent.endswith(b"4\r\nlate\r\n0\r\n\r\n")


def test_nothing_is_given_to_the_app_while_its_client_does_not_read():
    bench = Bench(slow=True)
    bench.submit()[0].respond(200, b"x" * SIZE)
    assert bench.queue.choked
    assert not bench.queue.empty()
    (second,) = bench.submit()
    assert second not in bench.seen
    bench.transport.drain()
    assert second in bench.seen


def test_a_stream_goes_on_when_its_client_reads():
    bench = Bench(slow=True)
    (streamed,) = bench.submit()
    told = []
    streamed.on_writable = lambda: told.append(streamed.writable)
    streamed.start(200)
    streamed.send(b"x" * SIZE)
    assert not streamed.writable
    bench.transport.drain()
    assert told == [True]


def test_lent_memory_is_given_back_when_the_transport_has_nothing_left():
    bench = Bench(slow=True)
    bench.submit()[0].respond(200, bench.lend())
    assert bench.allocator.live
    bench.transport.drain()
    assert not bench.allocator.live
    assert bench.transport.sent.endswith(b"x" * SIZE)
    assert bench.transport.high > 0  # small answers may wait in the transport again


def test_lent_memory_is_given_back_at_once_where_all_of_it_left():
    bench = Bench()
    bench.submit()[0].respond(200, bench.lend())
    assert not bench.allocator.live


def test_a_lost_connection_gives_everything_back_and_tells_the_app():
    bench = Bench(slow=True)
    first, second, third = bench.submit(3)
    gone = []
    for each in (second, third):
        each.on_abandoned = lambda each=each: gone.append(each)
    third.respond(200, bench.lend())
    first.respond(200, bench.lend())
    bench.queue.close()
    assert gone == [second]
    assert second.state is ResponseState.ABANDONED
    assert not bench.allocator.live
    second.respond(200, bench.lend())
    assert not bench.allocator.live
    assert bench.queue.last is None


def test_an_answer_to_a_transport_that_closes_is_dropped():
    bench = Bench()
    (asked,) = bench.submit()
    bench.transport.close()
    asked.respond(200, bench.lend())
    assert bench.transport.sent == b""
    assert not bench.allocator.live


# The end


def test_nothing_leaves_after_the_last_answer():
    bench = Bench()
    first, second = bench.submit(2)
    first.keep_alive = False
    second.respond(200, b"2")
    first.respond(200, b"1")
    assert bench.owner.last == 1
    assert bench.queue.abandon_later()
    assert bodies(bench.transport.sent) == [b"1"]
    assert bench.queue.current is first


def test_what_is_refused_is_answered_after_all_that_was_asked_before():
    bench = Bench()
    (asked,) = bench.submit()
    last = exchange(bench.queue)
    bench.queue.submit_last(last)
    last.respond(200, b"2")
    assert bench.transport.sent == b""
    asked.respond(200, b"1")
    assert bodies(bench.transport.sent) == [b"1", b"2"]
    assert last not in bench.seen
    assert bench.owner.last == 1


def test_an_answer_that_breaks_off_ends_the_connection():
    bench = Bench()
    (asked,) = bench.submit()
    asked.start(200)
    asked.abort()
    assert bench.transport.closing
    assert not bench.transport.aborted


def test_a_client_of_http_1_0_sees_that_an_answer_broke_off():
    bench = Bench()
    (asked,) = bench.submit()
    asked.version = "1.0"
    with socket.socket() as sock:
        bench.transport.get_extra_info = {"socket": sock}.get
        asked.start(200)
        asked.abort()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == b"\1\0\0\0\0\0\0\0"
    assert bench.transport.aborted


# The app


def test_an_app_that_raises_costs_its_request_alone():
    def app(asked):
        if asked.target == b"/1":
            raise ZeroDivisionError
        asked.respond(200, b"0")

    bench = Bench(app=app)
    bench.submit(2)
    assert b"\r\n\r\n0HTTP/1.1 500 " in bench.transport.sent
    assert b"500 internal Internal server error." in bench.transport.sent
    assert bench.owner.last == 1


def test_an_app_that_raises_in_its_answer_breaks_it_off():
    def app(asked):
        asked.start(200)
        raise ZeroDivisionError

    bench = Bench(app=app)
    bench.submit()
    assert bench.transport.closing
    assert b"500" not in bench.transport.sent


def test_a_prepared_handler_is_called_in_place_of_the_app():
    handled, failed = [], []

    def handler(asked):
        handled.append(asked)
        if asked.target == b"/bad":
            raise ZeroDivisionError
        asked.respond(200, b"h")

    cache = HeadCache(handler, lambda asked, error: failed.append((asked, type(error))))
    bench = Bench()
    bench.queue.submit_known(exchange(bench.queue), cache)
    assert bodies(bench.transport.sent) == [b"h"]
    bad = exchange(bench.queue, b"/bad")
    bench.queue.submit_known(bad, cache)
    assert failed == [(bad, ZeroDivisionError)]
    third = exchange(bench.queue)
    bench.queue.submit_known(third, cache)  # not its turn: it goes the way of all
    assert bench.seen == [third]
    bench = Bench()
    bench.queue.submit_known(third, HeadCache())
    assert bench.seen == [third]


# 100 Continue


def test_a_body_is_asked_for_after_the_answers_before_it():
    bench = Bench()
    bench.queue.send_continue()
    assert bench.transport.take() == CONTINUE
    (asked,) = bench.submit()
    bench.queue.send_continue()
    assert bench.transport.sent == b""
    assert bench.queue.holds_continue
    asked.respond(200, b"1")
    assert bench.transport.sent.endswith(b"1" + CONTINUE)
    assert not bench.queue.holds_continue


def test_a_body_that_came_unasked_or_was_dropped_is_not_asked_for():
    bench = Bench()
    first, *_ = bench.submit()
    bench.queue.send_continue()
    bench.queue.cancel_continue()
    first.respond(200, b"1")
    (second,) = bench.submit()
    bench.queue.send_continue()
    bench.submit()
    second.respond(200, b"2")
    assert CONTINUE not in bench.transport.sent


# Reading


def test_the_owner_hears_of_an_answer_while_nothing_is_read():
    bench = Bench()
    bench.submit()[0].respond(200, b"1")
    assert bench.owner.answered == 0  # nothing hangs on it
    bench.queue.set_reading(False)
    bench.queue.set_reading(False)
    assert not bench.transport.reading
    bench.submit()[0].respond(200, b"2")
    assert bench.owner.answered == 1
    bench.queue.set_reading(True)
    assert bench.transport.reading


@pytest.mark.parametrize("method", ["write_whole", "respond_ok"])
def test_the_time_of_the_last_answer_is_kept(method):
    bench = Bench()
    (asked,) = bench.submit()
    bench.context.now += 5
    asked.respond(200, b"") if method == "write_whole" else asked.respond_ok((b"", b"", b""), b"x")
    assert bench.queue.since == bench.context.now
