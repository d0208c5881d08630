"""Windows: what is counted, when they open again, and what is too much."""

import pytest
from fake_http2 import FakeStream

from mooring.web.http2 import frames
from mooring.web.http2.errors import ErrorCode, Http2Error
from mooring.web.http2.flow_control import FlowControl, grow_stream_window

DEFAULT = frames.DEFAULT_WINDOW


def test_the_connections_window_is_opened_in_full_at_the_start():
    flow = FlowControl(1_000_000, 1 << 20)
    assert flow.refill_receive_window() == 1_000_000 - DEFAULT
    assert flow.receive_window == 1_000_000


def test_it_opens_again_when_half_of_it_is_used():
    flow = FlowControl(100, 1 << 20)
    flow.refill_receive_window()
    assert flow.count_received(50) == 0
    assert flow.count_received(1) == 51
    assert flow.receive_window == 100


def test_more_than_the_window_is_the_clients_error():
    flow = FlowControl(100, 1 << 20)
    flow.refill_receive_window()
    assert flow.count_received(100) == 100  # all of it, and no byte more
    with pytest.raises(Http2Error) as raised:
        flow.count_received(101)
    assert raised.value.code is ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    ("increment", "code"),
    [(0, ErrorCode.PROTOCOL_ERROR), (frames.MAX_WINDOW, ErrorCode.FLOW_CONTROL_ERROR)],
)
def test_a_window_grows_by_something_and_not_beyond_2_gb(increment, code):
    flow, stream = FlowControl(1, 1), FakeStream()
    with pytest.raises(Http2Error) as raised:
        flow.grow_send_window(increment)
    assert raised.value.code is code
    assert grow_stream_window(stream, increment) is code


def test_a_window_may_be_as_large_as_2_gb():
    flow, stream = FlowControl(1, 1), FakeStream()
    flow.grow_send_window(frames.MAX_WINDOW - DEFAULT)
    assert grow_stream_window(stream, frames.MAX_WINDOW - DEFAULT) is None
    assert flow.send_window == stream.send_window == frames.MAX_WINDOW


def test_a_new_first_window_moves_those_of_open_streams_by_the_difference():
    flow, stream = FlowControl(1, 1), FakeStream()
    stream.send_window = 10
    flow.set_initial_send_window(100, [stream])
    assert stream.send_window == 10 + 100 - DEFAULT  # below zero: it owes what it has sent (6.9.2)
    flow.set_initial_send_window(200, [stream])
    assert stream.send_window == 110 + 100 - DEFAULT
    assert flow.initial_send_window == 200
    assert flow.send_window == DEFAULT  # the connection's is another


def test_a_first_window_beyond_2_gb_is_refused_for_any_stream():
    flow, stream = FlowControl(1, 1), FakeStream()
    stream.send_window += 1
    flow.set_initial_send_window(frames.MAX_WINDOW, [])
    for value, streams in ((frames.MAX_WINDOW + 1, []), (frames.MAX_WINDOW, [stream])):
        flow.initial_send_window = DEFAULT
        with pytest.raises(Http2Error) as raised:
            flow.set_initial_send_window(value, streams)
        assert raised.value.code is ErrorCode.FLOW_CONTROL_ERROR
