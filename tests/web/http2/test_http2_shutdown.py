"""How a connection ends, and which time-outs end it: with a fake transport and a clock that the test moves."""

import pytest
from fake_http2 import FakeHttp2Context, parse_frames
from fake_transport import FakeTransport

from mooring.web.http2 import frames
from mooring.web.http2.connection import Http2Connection
from mooring.web.http2.errors import ErrorCode
from mooring.web.http2.frames import pack_frame
from mooring.web.http2.hpack import encode
from mooring.web.http2.streams import CLOSED
from mooring.web.listener import Limits

HEAD = encode([(b":method", b"POST"), (b":path", b"/good")])
START = frames.PREFACE + pack_frame(frames.SETTINGS, 0, 0)


class Connected:
    """A connection, its client and its clock."""

    def __init__(self, *, start=True, slow=False, **options):
        self.context = FakeHttp2Context(**options)
        self.transport = FakeTransport(slow=slow)
        self.connection = Http2Connection(self.context)
        self.transport.protocol = self.connection
        self.connection.connection_made(self.transport)
        if start:
            self.feed(START)
            self.transport.take()

    def feed(self, data):
        buffer = self.connection.get_buffer(-1)
        buffer[: len(data)] = data
        self.connection.buffer_updated(len(data))

    def begin(self, number, *, end_stream=True):
        flags = frames.END_HEADERS | (frames.END_STREAM if end_stream else 0)
        self.feed(pack_frame(frames.HEADERS, flags, number, HEAD))
        return self.context.started[-1]

    def answer(self, stream):
        stream.sender.send_end(stream, 0, b"")

    def sweep(self, seconds):
        """Let time go by, and look at what has taken too long."""
        self.context.now += seconds
        self.connection.check_timeouts(self.context.now)

    def sent(self):
        return parse_frames(self.transport.take())

    def goaway(self):
        """The last stream and the code of the one GOAWAY that was sent; None without one."""
        found = [payload for kind, _, _, payload in self.sent() if kind == frames.GOAWAY]
        assert len(found) < 2
        return (int.from_bytes(found[0][:4], "big"), int.from_bytes(found[0][4:8], "big")) if found else None

    def answer_ping(self):
        pings = [payload for kind, flags, _, payload in self.sent() if kind == frames.PING and not flags]
        self.feed(pack_frame(frames.PING, frames.ACK, 0, pings[-1]))


def test_a_connection_belongs_to_its_listener_while_it_lasts():
    each = Connected()
    assert each.context.connections == {each.connection}
    stream = each.begin(1)
    each.connection.connection_lost(None)
    assert each.context.connections == set()
    assert stream.resets == 1


def test_a_client_that_breaks_a_rule_is_told_which_stream_was_the_last():
    each = Connected()
    stream = each.begin(5)
    each.feed(pack_frame(frames.DATA, 0, 0, b"x"))
    assert each.goaway() == (5, ErrorCode.PROTOCOL_ERROR)
    assert stream.state is CLOSED
    assert each.transport.ended
    assert not each.transport.closing
    each.feed(pack_frame(frames.PING, 0, 0, bytes(8)))  # dropped
    assert each.sent() == []


def test_what_a_client_still_sends_after_its_fault_is_dropped_until_it_is_silent():
    each = Connected()
    each.feed(pack_frame(frames.DATA, 0, 0, b"x"))
    each.sweep(2.0)
    assert not each.transport.aborted
    each.sweep(0.1)
    assert each.transport.aborted


def test_who_is_never_silent_after_its_fault_is_cut_off_after_half_a_minute():
    each = Connected()
    each.feed(pack_frame(frames.DATA, 0, 0, b"x"))
    for _ in range(15):
        each.sweep(2.0)
        each.feed(b"more")
    assert not each.transport.aborted
    each.sweep(0.1)
    assert each.transport.aborted


@pytest.mark.parametrize("how", ["the client goes away", "the server resets", "an answer"])
def test_memory_of_a_stream_that_is_over_is_not_written_any_more(how):
    each = Connected()
    stream = each.begin(1, end_stream=False)
    stream.own = bytearray(100)
    each.feed(frames.HEAD.pack(100 << 8 | frames.DATA, 0, 1) + b"x")
    assert each.connection.get_buffer(-1).obj is stream.own
    if how == "an answer":
        each.answer(stream)
    elif how == "the server resets":
        stream.connection.reset(stream, ErrorCode.CANCEL)
    else:
        each.connection.connection_lost(None)
    assert each.connection.get_buffer(-1) is each.context.receive_buffer


def test_a_fault_of_the_servers_own_is_logged_and_ends_the_connection(caplog):
    each = Connected()
    each.context.start_stream = lambda *_: 1 / 0
    each.feed(pack_frame(frames.HEADERS, frames.END_HEADERS, 1, HEAD))
    assert each.goaway() == (1, ErrorCode.INTERNAL_ERROR)


def test_who_speaks_no_http2_is_told_so_in_http1():
    each = Connected(start=False)
    each.feed(b"GET / HTTP/1.1\r\n\r\n")
    assert each.transport.sent.startswith(b"HTTP/1.1 505 ")
    assert each.transport.ended


def test_a_connection_that_drains_takes_what_is_on_its_way_until_the_client_has_seen_it():
    each = Connected()
    each.begin(1)
    each.connection.drain()
    sent = each.sent()
    assert [kind for kind, *_ in sent] == [frames.GOAWAY, frames.PING]
    assert int.from_bytes(sent[0][3][:4], "big") == frames.ID_MASK
    late = each.begin(3)
    assert late.state is not CLOSED
    each.feed(pack_frame(frames.PING, frames.ACK, 0, sent[1][3]))
    assert each.goaway() == (3, ErrorCode.NO_ERROR)
    each.feed(pack_frame(frames.HEADERS, frames.END_HEADERS, 5, HEAD))
    assert len(each.context.started) == 2
    for stream in each.context.started:
        assert not each.transport.closing
        each.answer(stream)
    assert each.transport.closing


def test_a_client_that_does_not_answer_the_ping_has_two_seconds():
    each = Connected()
    each.connection.drain()
    each.transport.take()
    each.sweep(1.9)
    assert not each.transport.closing
    each.sweep(0.2)
    assert each.goaway() == (0, ErrorCode.NO_ERROR)
    assert each.transport.closing


def test_a_connection_that_has_not_begun_is_closed_at_once():
    each = Connected(start=False)
    each.connection.drain()
    assert each.transport.closing
    assert each.transport.sent == b""


def test_a_flood_is_answered_what_it_asked_and_then_left_lingering():
    each = Connected(frame_budget=10)
    stream = each.begin(1)
    each.feed(pack_frame(frames.PING, 0, 0, bytes(8)) * 11)
    assert each.goaway() == (1, ErrorCode.ENHANCE_YOUR_CALM)
    each.answer(stream)
    assert each.transport.ended
    assert not each.transport.closing


def test_the_budget_is_full_again_after_a_sweep():
    each = Connected(frame_budget=20)
    each.begin(1)
    for _ in range(5):
        each.feed(pack_frame(frames.PING, 0, 0, bytes(8)) * 15)
        each.sweep(1)
    assert each.goaway() is None


def test_a_silent_client_is_asked_whether_it_is_there_and_stays_while_it_answers():
    each = Connected(keepalive=100.0, keepalive_timeout=20.0)
    each.sweep(99)
    assert each.sent() == []
    for _ in range(3):
        each.sweep(101)
        each.answer_ping()
    each.sweep(101)
    each.sweep(20)
    assert not each.transport.aborted
    each.sweep(1)
    assert each.transport.aborted


def test_an_old_connection_takes_no_new_streams_and_ends_after_its_grace():
    each = Connected(max_age=100.0, max_age_grace=50.0)
    each.sweep(89)
    assert each.sent() == []
    stream = each.begin(1, end_stream=False)
    each.sweep(22)  # between 90 and 110 seconds, so that not all that were made at once end at once
    assert each.goaway() == (frames.ID_MASK, ErrorCode.NO_ERROR)
    each.sweep(3)
    assert each.goaway() == (1, ErrorCode.NO_ERROR)
    each.sweep(46)
    assert stream.state is not CLOSED
    each.sweep(2)
    assert each.goaway() == (1, ErrorCode.NO_ERROR)
    assert stream.resets == 1


def test_who_does_not_begin_or_stops_inside_a_head_is_left():
    for start, data in ((False, b"PRI"), (True, pack_frame(frames.HEADERS, 0, 1, HEAD))):
        each = Connected(start=start, limits=Limits(header_timeout=30.0))
        each.feed(data)
        each.sweep(30)
        assert not each.transport.ended
        each.sweep(1)
        assert each.transport.ended


def test_who_reads_nothing_is_cut_off_and_who_reads_slowly_is_not():
    each = Connected(slow=True, limits=Limits(write_timeout=60.0))
    for _ in range(4):
        each.transport.write(b"x")  # what is unsent changes
        each.sweep(59)
    each.sweep(60)
    assert not each.transport.aborted
    each.sweep(1)
    assert each.transport.aborted


def test_streams_are_looked_at_and_one_that_fails_keeps_no_other_from_it(caplog):
    each = Connected()
    first, second = each.begin(1), each.begin(3)
    first.timeouts = None  # so that its check raises
    each.sweep(1)
    assert second.timeouts == [1001.0]


def test_a_client_that_ends_its_side_is_gone():
    assert Connected().connection.eof_received() is False
