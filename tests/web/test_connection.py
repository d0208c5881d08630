"""What a connection does with its transport: when it reads, what takes too long, and how it parts with its client."""

import asyncio

import pytest
from fake_transport import FakeTransport
from http1_kit import GET, FakeHttpContext, connected, feed, post, status_of

from mooring.web import connection as module
from mooring.web.connection import TRANSITIONS, ConnectionState
from mooring.web.http1_format import CONTINUE
from mooring.web.listener import ClientConnection, Limits
from mooring.web.migration import MigratableConnection

BIG = b"x" * 300_000


def pass_time(connection, context, seconds):
    """Let time pass and sweep once."""
    context.now += seconds
    connection.check_timeouts(context.now)


# Time-outs


def test_an_idle_connection_is_closed_after_its_time_and_not_before():
    connection, context, transport = connected(FakeHttpContext(limits=Limits(idle_timeout=10)))
    pass_time(connection, context, 10)
    assert not transport.closing
    feed(connection, GET)
    pass_time(connection, context, 1000)  # a request runs: that is the app's time
    assert not transport.closing
    context.seen[0].respond(200, b"")
    pass_time(connection, context, 10)
    assert not transport.closing
    pass_time(connection, context, 0.1)
    assert transport.closing


@pytest.mark.parametrize(
    ("beginning", "limit", "text"),
    [(GET[:-1], "header_timeout", b"header"), (post(b"body")[:-1], "body_timeout", b"body"), (post(BIG)[:-1], "body_timeout", b"body")],
)  # fmt: skip
def test_a_request_that_does_not_come_to_its_end_is_refused_in_time(beginning, limit, text):
    limits = Limits(**{limit: 5, "min_body_rate": 0})
    connection, context, transport = connected(FakeHttpContext(limits=limits))
    feed(connection, beginning)
    pass_time(connection, context, 5)
    assert transport.sent == b""
    pass_time(connection, context, 0.1)
    assert status_of(transport.sent) == 408
    assert text in transport.sent
    assert transport.ended


def test_a_client_that_reads_nothing_of_its_answer_is_cut_off():
    connection, context, transport = connected(FakeHttpContext(limits=Limits(write_timeout=10)), slow=True)
    feed(connection, GET)
    context.seen[0].respond(200, BIG)
    pass_time(connection, context, 10)
    pass_time(connection, context, 9)
    transport.unsent = transport.unsent[1:]  # it reads, slowly
    pass_time(connection, context, 9)
    pass_time(connection, context, 9)
    assert not transport.aborted
    pass_time(connection, context, 2)
    assert transport.aborted


def test_a_client_that_the_server_makes_wait_is_in_no_hurry():
    connection, context, transport = connected()
    feed(connection, GET + post(BIG)[:70_000])
    assert not transport.reading
    for _ in range(100):
        pass_time(connection, context, 60)
    context.seen[0].respond(200, b"")
    assert transport.reading
    pass_time(connection, context, 50)
    assert not transport.closing
    assert b"408" not in transport.sent


# When it reads


def test_a_client_that_does_not_read_is_not_read():
    connection, context, transport = connected(slow=True)
    feed(connection, GET)
    context.seen[0].respond(200, BIG)
    feed(connection, GET)
    assert not transport.reading
    transport.drain()
    assert transport.reading
    assert len(context.seen) == 2


def test_a_client_that_asks_faster_than_it_is_answered_is_not_read():
    connection, context, transport = connected(FakeHttpContext(limits=Limits(max_pipelined=2)))
    feed(connection, GET * 3)
    assert not transport.reading
    context.seen[0].respond(200, b"")
    assert transport.reading


def test_a_large_body_waits_for_the_answers_before_it():
    connection, context, transport = connected()
    feed(connection, GET + post(BIG)[:1000])
    assert not transport.reading
    context.seen[0].respond(200, b"")
    assert transport.reading


# The end


def test_a_client_that_was_refused_may_still_send_for_a_while_and_is_not_answered():
    connection, context, transport = connected()
    feed(connection, b"nonsense\r\n\r\n")
    assert status_of(transport.sent) == 400
    assert transport.ended
    assert not transport.closing
    for _ in range(10):
        feed(connection, GET)
        pass_time(connection, context, module.LINGER_SILENCE)
        assert not transport.closing
    assert not context.seen
    pass_time(connection, context, module.LINGER_SILENCE + 0.1)
    assert transport.aborted


def test_a_client_that_never_stops_sending_is_left_all_the_same():
    connection, context, transport = connected()
    feed(connection, b"nonsense\r\n\r\n")
    for _ in range(31):
        assert not transport.aborted
        feed(connection, GET)
        pass_time(connection, context, 1)
    assert transport.aborted


def test_a_client_that_is_sent_away_before_its_next_body_is_read_to_its_end():
    connection, context, transport = connected()
    feed(connection, GET + post(BIG)[:1000])
    assert not transport.reading
    context.seen[0].respond(200, b"", close=True)
    assert transport.ended
    assert transport.reading


def test_over_tls_the_answer_itself_is_the_end_and_the_client_is_given_time_to_read_it():
    connection, context, transport = connected(FakeHttpContext(secure=True), eof=False)
    feed(connection, b"nonsense\r\n\r\n")
    assert not transport.closing
    pass_time(connection, context, module.LINGER_SILENCE + 0.1)
    assert transport.closing
    assert not transport.aborted
    pass_time(connection, context, module.LINGER_SILENCE + 0.1)
    assert transport.aborted


def test_a_client_that_asks_for_the_end_gets_it_after_its_answer():
    connection, context, transport = connected()
    feed(connection, post(b"", b"Connection: close") + GET)
    context.seen[0].respond(200, b"")
    assert b"connection: close" in transport.sent
    assert transport.closing
    assert not transport.ended  # nothing of it is unread that would be worth waiting for
    assert len(context.seen) == 1


async def test_a_client_that_sends_no_more_still_gets_its_answer():
    connection, context, transport = connected()
    feed(connection, GET + GET[:5])
    assert connection.eof_received()
    context.seen[0].respond(200, b"late")
    assert transport.sent.endswith(b"connection: close\r\n\r\nlate")
    assert transport.closing
    assert not transport.ended


def test_a_client_that_ends_without_a_question_is_not_kept():
    connection, _, _ = connected()
    feed(connection, GET[:5])
    assert not connection.eof_received()


class Socket:
    error = 0

    def getsockopt(self, *_):
        return self.error


async def test_a_client_that_sends_no_more_is_asked_once_whether_it_is_there(monkeypatch):
    monkeypatch.setattr(module, "PROBE", 0.001)
    connection, context, transport = connected()
    sock = Socket()
    transport.get_extra_info = {"socket": sock}.get
    feed(connection, GET)
    connection.eof_received()
    await asyncio.sleep(0.05)
    assert transport.sent == CONTINUE
    for _ in range(3):
        pass_time(connection, context, 1)
    assert transport.sent == CONTINUE
    assert not transport.aborted
    sock.error = 104
    pass_time(connection, context, 1)
    assert transport.aborted


def test_a_listener_that_drains_ends_what_is_idle_and_lets_the_rest_finish():
    idle, _, its = connected()
    idle.drain()
    assert its.closing
    asking, _, its = connected()
    feed(asking, GET[:5])
    asking.drain()
    assert not its.closing
    waiting, context, its = connected()
    feed(waiting, GET)
    waiting.drain()
    assert not its.closing
    context.seen[0].respond(200, b"")
    assert b"connection: close" in its.sent
    assert its.closing


def test_a_connection_that_is_lost_leaves_its_listener_and_tells_the_app():
    connection, context, _ = connected()
    assert context.connections == {connection}
    feed(connection, GET + post(b"body")[:-1])
    gone = []
    context.seen[0].on_abandoned = lambda: gone.append(True)
    connection.connection_lost(None)
    assert gone == [True]
    assert not context.connections


def test_no_state_follows_the_end_and_no_other_move_is_made():
    assert not TRANSITIONS[ConnectionState.LOST]
    connection, _, _ = connected()
    connection.connection_lost(None)
    with pytest.raises(AssertionError):
        connection._enter(ConnectionState.LINGERING)


# Other protocols, other processes


class Successor(ClientConnection):
    data = b""

    def __init__(self, _context):
        pass

    def connection_made(self, transport):
        self.transport = transport

    def feed(self, data):
        self.data += data


UPGRADE = b"GET /s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"


def test_a_connection_may_become_one_of_another_protocol():
    made = []

    def app(exchange):
        assert exchange.switch_protocol(
            b"upgrade: other\r\n", lambda each: made.append(Successor(each)) or made[-1]
        )

    connection, context, transport = connected(FakeHttpContext(app=app))
    feed(connection, UPGRADE + b"words")
    (successor,) = made
    assert transport.sent == b"HTTP/1.1 101 Switching Protocols\r\nupgrade: other\r\n\r\n"
    assert transport.protocol is successor.transport.protocol is successor
    assert successor.data == b"words"
    assert context.connections == {successor}


def test_a_client_that_did_not_ask_for_it_keeps_its_protocol():
    connection, context, transport = connected()
    feed(connection, GET)
    assert not context.seen[0].switch_protocol(b"", Successor)
    feed(connection, UPGRADE)
    assert not context.seen[1].switch_protocol(b"", Successor)  # the answer before it is not written
    assert transport.sent == b""
    assert context.connections == {connection}


class SocketWithNumber:
    def fileno(self):
        return 7


def migratable():
    context = FakeHttpContext()
    connection, transport = MigratableConnection(context), FakeTransport()
    transport.get_extra_info = {"socket": SocketWithNumber()}.get
    connection.connection_made(transport)
    return connection, context, transport


@pytest.mark.parametrize("beginning", [GET[:5], post(b"body")[:-1], post(BIG)[:1000], GET + GET[:5]])
async def test_a_connection_does_not_migrate_in_the_middle_of_a_request(beginning):
    connection, _, _ = migratable()
    feed(connection, beginning)
    assert not connection.start_migration(lambda _: True)


async def test_a_connection_migrates_when_its_last_answer_is_written():
    connection, context, transport = migratable()
    feed(connection, GET)
    sent = []
    assert connection.start_migration(lambda descriptor: sent.append(descriptor) or True)
    assert not transport.reading
    await asyncio.sleep(0)
    assert sent == []
    context.seen[0].respond(200, b"")
    await asyncio.sleep(0)
    assert sent == [7]
    assert transport.aborted


async def test_a_connection_that_could_not_be_sent_reads_on():
    connection, _, transport = migratable()
    assert connection.start_migration(lambda _: False)
    await asyncio.sleep(0)
    assert transport.reading
    assert not transport.closing
    assert connection.start_migration(lambda _: True)
    connection.cancel_migration()
    await asyncio.sleep(0)
    assert transport.reading
    assert not transport.closing
