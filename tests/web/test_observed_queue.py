"""Every request has a call that ends with its answer, whoever writes that, and however it ends."""

import pytest
from http1_kit import GET, FakeHttpContext, connected, feed, post

from mooring.observability.call_log import CallLog
from mooring.observability.calls import CLIENT_GONE, CURRENT, ModelCall
from mooring.observability.observed_statistics import ObservedStatistics
from mooring.web.http1 import add_headers


class Seen:
    """A writer that keeps the calls."""

    def __init__(self):
        self.calls = []

    def add(self, _name, call):
        self.calls.append(call)


@pytest.fixture
def observed():
    writer = Seen()
    context = FakeHttpContext()
    context.calls = CallLog(writer, access=True, metrics=None)
    connection, _, transport = connected(context)
    return context, connection, transport, writer.calls


def told(calls):
    return [(call.method, call.target, call.status, call.broken_off) for call in calls]


def test_a_request_has_a_line_when_it_is_answered_and_not_before(observed):
    context, connection, _, calls = observed
    feed(connection, GET)
    (exchange,) = context.seen
    assert calls == []
    exchange.respond(404, b"no")
    assert told(calls) == [("GET", b"/a", 404, False)]
    assert calls[0].seconds >= 0


def test_a_streamed_answer_ends_its_call_with_its_last_piece(observed):
    context, connection, _, calls = observed
    feed(connection, GET)
    (exchange,) = context.seen
    exchange.start(200)
    exchange.send(b"piece")
    assert calls == []
    exchange.finish()
    assert told(calls) == [("GET", b"/a", 200, False)]


def test_requests_of_one_connection_have_a_call_each_whatever_the_order_of_the_answers(observed):
    context, connection, transport, calls = observed
    feed(connection, GET + post(b"body"))
    first, second = context.seen
    second.respond(201, b"second")
    first.respond(200, b"first")
    assert told(calls) == [("POST", b"/b", 201, False), ("GET", b"/a", 200, False)]
    written = transport.take()
    assert written.index(b"first") < written.index(b"second")


def test_headers_that_are_added_hide_no_call(observed):
    context, connection, _, calls = observed
    feed(connection, GET)
    (exchange,) = context.seen
    add_headers(exchange, b"x: y\r\n")
    exchange.respond(200, b"")
    assert told(calls) == [("GET", b"/a", 200, False)]


def test_what_the_connection_refuses_by_itself_has_a_call(observed):
    _, connection, _, calls = observed
    feed(connection, b"nonsense\r\n\r\n")
    assert [(call.status, call.method) for call in calls] == [(400, "GET")]


@pytest.mark.parametrize(("begun", "status"), [(False, CLIENT_GONE), (True, 200)])
def test_a_client_that_leaves_ends_its_calls(observed, begun, status):
    context, connection, _, calls = observed
    feed(connection, GET)
    (exchange,) = context.seen
    if begun:
        exchange.start(200)
    connection.connection_lost(None)
    assert told(calls) == [("GET", b"/a", status, True)]


def test_an_answer_that_breaks_off_is_told_so(observed):
    context, connection, _, calls = observed
    feed(connection, GET)
    (exchange,) = context.seen
    exchange.start(200)
    exchange.abort()
    assert told(calls) == [("GET", b"/a", 200, True)]


def test_the_call_is_the_current_one_while_the_app_has_its_request():
    writer, current = Seen(), []
    context = FakeHttpContext(app=lambda _exchange: current.append(CURRENT.get()))
    context.calls = CallLog(writer, access=True, metrics=None)
    connection, _, _ = connected(context)
    feed(connection, GET)
    assert (current[0].method, current[0].target) == ("GET", b"/a")
    assert CURRENT.get() is None


def test_a_connection_that_nobody_observes_has_a_plain_queue():
    context = FakeHttpContext()
    connection, _, _ = connected(context)
    feed(connection, GET)
    assert type(context.seen[0].transport).__name__ == "ResponseQueue"


def test_what_a_model_took_is_told_with_the_call_that_was_shared():
    log = CallLog(Seen(), access=True, metrics=None)
    statistics = ObservedStatistics("m", "1", log, None, lambda: ())
    statistics.observe_batches([(3, 0.5, 2), (1, 0.25, 1)])
    found = []
    for rows in (1, 2, 1, 1):
        statistics.observe_request(1.0, 0.125, ok=True, rows=rows)
        found.append(log.model_call)
    assert found == [
        ModelCall(0.125, 1, 3, 0.5), ModelCall(0.125, 2, 3, 0.5), ModelCall(0.125, 1, 1, 0.25), ModelCall(0.125, 1),
    ]  # fmt: skip
    assert statistics.counts.outcomes == [0, 4]


def test_of_a_chain_the_line_of_a_call_tells_what_its_last_model_took():
    log = CallLog(Seen(), access=True, metrics=None)
    last, chain = (ObservedStatistics(name, "1", log, None, lambda: ()) for name in ("last", "chain"))
    last.observe_batches([(1, 0.5, 1)])
    last.observe_request(1.0, 0.125, ok=True)
    chain.observe_run(2.0, True, False)
    assert log.model_call == ModelCall(0.125, 1, 1, 0.5)
    assert chain.counts.outcomes == [0, 1]
