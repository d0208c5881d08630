"""The timing of an answer over HTTP: in its head, or in a trailer of a streamed one."""

import re

import pytest
from fake_transport import FakeResponseTransport

from mooring.core.timing import RequestTiming
from mooring.web.exchange import Exchange
from mooring.web.server_timing import takes_trailers, time_exchange


def timed(*, method="POST", lines=b"", version="1.1", **fields):
    written = FakeResponseTransport()
    fields = {name.encode(): value for name, value in fields.items()}
    exchange = Exchange(method, b"/", [], fields, True, written, version=version)
    time_exchange(exchange, lines)
    return exchange, written


def told(raw):
    """The answer with every duration as N."""
    return re.sub(rb"dur=[0-9.]+", b"dur=N", raw)


TOTAL = b"\r\nconnection: keep-alive\r\nserver-timing: total;dur=N"


@pytest.mark.parametrize("size", [2, 100_000])
def test_head_of_an_answer_has_the_timing(size):
    exchange, written = timed()
    exchange.respond(200, b"x" * size, b"a: b\r\n")
    head, _, body = written.raw.partition(b"\r\n\r\n")
    assert told(head).startswith(b"HTTP/1.1 200 OK\r\na: b\r\n")
    assert told(head).endswith(TOTAL)
    assert body == b"x" * size


def test_every_way_to_answer_has_it_once():
    for answer in (
        lambda exchange: exchange.respond_ok((b"a: b\r\n", b"", b""), b"ok"),
        lambda exchange: exchange.respond_in_pieces(200, [b"x" * 50_000, b"y"]),
        lambda exchange: exchange.respond(503, b"no"),
    ):
        exchange, written = timed()
        answer(exchange)
        assert written.raw.count(b"server-timing: total;dur=") == 1


def test_pages_of_other_sites_may_see_it():
    exchange, written = timed(lines=b"timing-allow-origin: *\r\n")
    exchange.respond(200, b"ok")
    assert told(written.raw).endswith(TOTAL + b"\r\ntiming-allow-origin: *\r\n\r\nok")


def test_stream_has_a_trailer_where_the_client_takes_trailers():
    exchange, written = timed(te=b"deflate, Trailers;q=0.5")
    exchange.start(200, b"a: b\r\n")
    exchange.send(b"one")
    exchange.timing.note_call(1, 0.0, 0.0, (0.0, 0.0, 1, 1))
    exchange.finish(b"two")
    head, _, body = told(written.raw).partition(b"\r\n\r\n")
    assert b"\r\ntrailer: server-timing" in head
    assert b"\r\nserver-timing" not in head
    assert body == (
        b"3\r\none\r\n3\r\ntwo\r\n0\r\nserver-timing: "
        b'queue;dur=N, batch;dur=N;desc="1 row", model;dur=N, encode;dur=N, total;dur=N\r\n\r\n'
    )


def test_stream_without_trailers_has_what_is_known_at_its_head():
    exchange, written = timed()
    exchange.timing.note_call(1, 0.0, 0.0, (0.0, 0.0, 1, 1))
    exchange.start(200)
    exchange.finish(b"one")
    assert b'\r\nserver-timing: queue;dur=N, batch;dur=N;desc="1 row"\r\n' in told(written.raw)
    assert written.raw.endswith(b"\r\n\r\n3\r\none\r\n0\r\n\r\n")


def test_stream_to_an_old_client_has_no_trailer():
    exchange, written = timed(te=b"trailers", version="1.0")
    exchange.start(200)
    exchange.finish(b"one")
    assert b"trailer" not in written.raw
    assert written.raw.endswith(b"\r\n\r\none")


def test_stream_that_answers_head_ends_with_its_head():
    exchange, written = timed(method="HEAD", te=b"trailers")
    exchange.timing.note_call(1, 0.0, 0.0, (0.0, 0.0, 1, 1))
    exchange.start(200)
    exchange.send(b"one")
    exchange.finish(b"two")
    head, end, rest = told(written.raw).partition(b"\r\n\r\n")
    assert (end, rest) == (b"\r\n\r\n", b"")
    assert b"\r\ntrailer:" not in head
    assert b'\r\nserver-timing: queue;dur=N, batch;dur=N;desc="1 row"' in head


def test_answer_that_comes_from_another_process_stays_as_it_is():
    exchange, written = timed(lines=b"timing-allow-origin: *\r\n")
    exchange.timing = None
    exchange.respond(200, b"ok", b"server-timing: total;dur=5\r\n")
    assert written.raw.count(b"server-timing") == 1
    assert b"timing-allow-origin: *" in written.raw


def test_everything_else_is_the_transports():
    exchange, written = timed()
    assert exchange.writable
    assert exchange.peer == "here"
    assert exchange.switch_protocol(b"", None)
    exchange, written = timed()
    exchange.abort()
    assert written.aborted


@pytest.mark.parametrize(
    ("te", "takes"), [(None, False), (b"trailers", True), (b"gzip", False), (b"gzip , TRAILERS", True)]
)
def test_client_says_whether_it_takes_trailers(te, takes):
    exchange, _ = timed(**({} if te is None else {"te": te}))
    assert takes_trailers(exchange) is takes


def test_timing_begins_with_the_exchange():
    exchange, _ = timed()
    assert isinstance(exchange.timing, RequestTiming)
    assert Exchange("GET", b"/", [], {}, True, FakeResponseTransport()).timing is None
