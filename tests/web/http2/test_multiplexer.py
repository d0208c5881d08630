"""From frames to streams: what becomes a stream, what ends one, and what ends the connection."""

import pytest
from fake_http2 import FakeHttp2Context, parse_frames
from fake_transport import FakeTransport

from mooring.web.http2 import frames
from mooring.web.http2.errors import ErrorCode, Http2Error
from mooring.web.http2.hpack import encode
from mooring.web.http2.multiplexer import StreamMultiplexer
from mooring.web.http2.streams import CLOSED, HALF_CLOSED_REMOTE, OPEN
from mooring.web.listener import Limits

HEAD = encode([(b":method", b"POST"), (b":path", b"/good")])
BAD_HEAD = encode([(b":path", b"/bad")])
TRAILERS = encode([(b"x-sum", b"1")])


class Owner:
    def __init__(self):
        self.pings = []
        self.floods = self.empty = 0

    def ping_acknowledged(self, payload):
        self.pings.append(payload)

    def flood_noticed(self):
        self.floods += 1

    def last_stream_ended(self):
        self.empty += 1


class Multiplexed:
    """A multiplexer that is handed frames, and the frames that it has sent."""

    def __init__(self, **options):
        self.transport = FakeTransport()
        self.context = FakeHttp2Context(**options)
        self.owner = Owner()
        self.mux = StreamMultiplexer(self.context, self.transport, self.owner, "127.0.0.1")
        self.transport.protocol = self.mux.sender

    def begin(self, number, *, end_stream=False):
        """A stream that the client begins."""
        self.mux.headers_received(number, HEAD, end_stream=end_stream)
        return self.context.started[-1]

    def sent(self):
        return parse_frames(self.transport.take())

    def resets(self):
        return {
            number: int.from_bytes(payload, "big")
            for kind, _, number, payload in self.sent()
            if kind == frames.RST_STREAM
        }


@pytest.fixture
def each():
    return Multiplexed()


def test_the_client_is_told_what_is_allowed_when_it_has_begun():
    each = Multiplexed(max_streams=7, stream_window=123_456, connection_window=1_000_000)
    assert each.sent() == []
    each.mux.preface_received()
    settings, window = each.sent()
    assert settings[0] == frames.SETTINGS
    assert (3).to_bytes(2, "big") + (7).to_bytes(4, "big") in settings[3]
    assert (4).to_bytes(2, "big") + (123_456).to_bytes(4, "big") in settings[3]
    assert window == (frames.WINDOW_UPDATE, 0, 0, (1_000_000 - frames.DEFAULT_WINDOW).to_bytes(4, "big"))


def test_a_head_begins_a_stream_and_its_end_completes_the_request(each):
    stream = each.begin(1)
    assert stream.state is OPEN
    assert not stream.complete
    assert each.begin(3, end_stream=True).complete
    assert each.mux.streams.by_id == {1: stream, 3: each.context.started[1]}


def test_trailers_complete_a_request(each):
    stream = each.begin(1)
    each.mux.headers_received(1, TRAILERS, end_stream=True)
    assert stream.complete
    assert stream.state is HALF_CLOSED_REMOTE


@pytest.mark.parametrize(("block", "end_stream"), [(TRAILERS, False), (HEAD, True)])
def test_what_cannot_be_trailers_resets_the_stream_alone(each, block, end_stream):
    stream, other = each.begin(1), each.begin(3)
    each.mux.headers_received(1, block, end_stream=end_stream)
    assert each.resets() == {1: ErrorCode.PROTOCOL_ERROR}
    assert stream.resets == 1
    assert not stream.complete
    assert other.state is OPEN


def test_a_malformed_head_and_one_that_is_too_large_are_their_streams_fault():
    each = Multiplexed(limits=Limits(max_header_bytes=200))
    each.mux.headers_received(1, BAD_HEAD, end_stream=True)
    each.mux.headers_received(3, encode([(b"x", b"y" * 300)]), end_stream=True)
    assert each.resets() == {1: ErrorCode.PROTOCOL_ERROR, 3: ErrorCode.ENHANCE_YOUR_CALM}
    assert each.begin(5).state is OPEN


def test_streams_beyond_the_limit_are_refused_and_may_be_tried_again_elsewhere():
    each = Multiplexed(max_streams=1)
    each.begin(1)
    each.mux.headers_received(3, HEAD, end_stream=True)
    assert each.resets() == {3: ErrorCode.REFUSED_STREAM}
    assert len(each.context.started) == 1


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (lambda mux: mux.headers_received(2, HEAD, end_stream=True), ErrorCode.PROTOCOL_ERROR),
        (lambda mux: mux.headers_received(5, b"\x80", end_stream=True), ErrorCode.COMPRESSION_ERROR),
        (lambda mux: mux.admit_data(5, 1), ErrorCode.PROTOCOL_ERROR),
        (lambda mux: mux.window_update_received(5, 1), ErrorCode.PROTOCOL_ERROR),
        (lambda mux: mux.window_update_received(0, 0), ErrorCode.PROTOCOL_ERROR),
        (lambda mux: mux.rst_stream_received(5), ErrorCode.PROTOCOL_ERROR),
        (lambda mux: mux.settings_received([(4, 1 << 31)]), ErrorCode.FLOW_CONTROL_ERROR),
        (lambda mux: mux.settings_received([(5, 16_383)]), ErrorCode.PROTOCOL_ERROR),
        (lambda mux: mux.settings_received([(2, 2)]), ErrorCode.PROTOCOL_ERROR),
        (lambda mux: mux.admit_data(1, (1 << 26) + 1), ErrorCode.FLOW_CONTROL_ERROR),
    ],
)
def test_a_rule_of_the_connection_that_is_broken_is_raised(each, frame, code):
    each.begin(1)
    with pytest.raises(Http2Error) as raised:
        frame(each.mux)
    assert raised.value.code is code


def test_content_is_counted_in_both_windows():
    each = Multiplexed(stream_window=1000, connection_window=100_000)
    each.mux.preface_received()
    each.transport.take()
    stream = each.begin(1)
    each.context.now = 5000.0
    assert each.mux.admit_data(1, 400) is stream
    assert stream.receive_window == 600
    assert stream.last_progress == 5000.0
    assert each.sent() == []
    assert each.mux.admit_data(1, 601) is None
    assert each.resets() == {1: ErrorCode.FLOW_CONTROL_ERROR}


def test_content_of_a_stream_that_was_reset_here_is_dropped_and_of_one_that_its_client_ended_is_an_error(
    each,
):
    each.mux.reset(each.begin(1), ErrorCode.CANCEL)
    assert each.mux.admit_data(1, 5) is None
    each.begin(3, end_stream=True)
    with pytest.raises(Http2Error) as raised:
        each.mux.admit_data(3, 5)
    assert raised.value.code is ErrorCode.STREAM_CLOSED


def test_an_answer_takes_its_stream_away_and_a_request_that_is_still_coming_is_stopped(each):
    done, early = each.begin(1, end_stream=True), each.begin(3)
    each.mux.sender.send_end(done, 0, b"")
    each.mux.sender.send_end(early, 0, b"")
    assert each.resets() == {3: ErrorCode.NO_ERROR}
    assert each.mux.streams.by_id == {}
    assert done.state is early.state is CLOSED
    assert each.mux.admit_data(3, 5) is None  # it was on its way


def test_a_client_that_resets_a_stream_drops_its_answer(each):
    stream = each.begin(1, end_stream=True)
    stream.send_window = 0
    released = []
    stream.queue_content([b"x"], lambda: released.append(True))
    each.mux.sender.send_queued(stream)
    each.mux.rst_stream_received(1)
    assert stream.resets == 1
    assert stream.state is CLOSED
    assert released == [True]
    assert each.mux.streams.by_id == {}
    each.mux.window_update_received(1, 100)  # it crossed
    each.mux.rst_stream_received(1)
    assert stream.resets == 1


def test_a_second_reset_of_a_stream_does_nothing(each):
    stream = each.begin(1)
    each.mux.reset(stream, ErrorCode.CANCEL)
    each.mux.reset(stream, ErrorCode.CANCEL)
    assert stream.resets == 1
    assert each.resets() == {1: ErrorCode.CANCEL}


def test_windows_that_grow_let_more_leave(each):
    each.mux.settings_received([(4, 0)])
    stream = each.begin(1, end_stream=True)
    stream.queue_content([b"x" * 10], None)
    each.mux.sender.send_queued(stream)
    assert [kind for kind, *_ in each.sent()] == [frames.SETTINGS]
    each.mux.window_update_received(1, 3)
    assert each.sent() == [(frames.DATA, 0, 1, b"xxx")]
    each.mux.settings_received([(4, 2)])
    assert each.sent()[-1] == (frames.DATA, 0, 1, b"xx")


def test_a_stream_window_that_cannot_be_resets_the_stream(each):
    each.begin(1)
    each.mux.window_update_received(1, 0)
    assert each.resets() == {1: ErrorCode.PROTOCOL_ERROR}


def test_more_is_allowed_only_where_the_client_sends_and_is_heard(each):
    open_stream, complete = each.begin(1), each.begin(3, end_stream=True)
    each.mux.grant_window(open_stream, 7)
    each.mux.grant_window(complete, 7)
    assert each.sent() == [(frames.WINDOW_UPDATE, 0, 1, (7).to_bytes(4, "big"))]


def test_pings_are_answered_and_answers_handed_on(each):
    each.mux.ping_received(b"12345678", ack=False)
    each.mux.ping_received(b"87654321", ack=True)
    assert each.sent() == [(frames.PING, frames.ACK, 0, b"12345678")]
    assert each.owner.pings == [b"87654321"]


def test_a_flood_gets_no_new_streams_at_first_and_is_an_error_the_second_time():
    each = Multiplexed(frame_budget=10)
    stream = each.begin(1)
    each.mux.charge(11)
    assert each.owner.floods == 1
    assert not each.mux.accepting
    each.mux.headers_received(3, HEAD, end_stream=True)
    assert each.resets() == {3: ErrorCode.REFUSED_STREAM}
    assert stream.state is OPEN
    with pytest.raises(Http2Error) as raised:
        each.mux.charge(11)
    assert raised.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_a_flood_without_streams_is_an_error_at_once():
    each = Multiplexed(frame_budget=10)
    with pytest.raises(Http2Error):
        each.mux.charge(11)


def test_frames_of_a_client_that_does_not_read_count_tenfold():
    each = Multiplexed(frame_budget=10)
    each.begin(1)
    each.mux.charge(1)
    assert not each.mux.flooding
    each.mux.sender.pause()
    each.mux.charge(1)
    assert each.mux.flooding


@pytest.mark.parametrize("fault", ["the client resets", "the server is made to reset"])
def test_a_stream_that_is_reset_costs_four(fault):
    each = Multiplexed(frame_budget=7)
    each.begin(1)
    for number in (3, 5):
        each.begin(number)
        assert not each.mux.flooding
        if fault == "the client resets":
            each.mux.rst_stream_received(number)
        else:
            each.mux.window_update_received(number, 0)
    assert each.mux.flooding


def test_the_owner_hears_when_the_last_stream_is_over_and_no_more_are_taken(each):
    first, second = each.begin(1, end_stream=True), each.begin(3)
    each.mux.refuse_new_streams(ErrorCode.NO_ERROR)
    assert each.sent() == [(frames.GOAWAY, 0, 0, (3).to_bytes(4, "big") + bytes(4))]
    each.mux.sender.send_end(first, 0, b"")
    assert each.owner.empty == 0
    each.mux.reset(second, ErrorCode.CANCEL)
    assert each.owner.empty == 1


def test_the_owner_hears_nothing_while_new_streams_are_taken(each):
    each.mux.sender.send_end(each.begin(1, end_stream=True), 0, b"")
    assert each.owner.empty == 0


def test_streams_of_a_connection_that_is_over_are_given_up(each):
    streams = [each.begin(1), each.begin(3, end_stream=True)]
    each.mux.abandon_all()
    assert [stream.resets for stream in streams] == [1, 1]
    assert {stream.state for stream in streams} == {CLOSED}
    assert each.sent() == []
