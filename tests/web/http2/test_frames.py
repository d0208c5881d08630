"""The frames that a server sends, read by an independent library."""

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import strategies as st

from mooring.web.http2 import frames
from mooring.web.http2.errors import ErrorCode
from mooring.web.http2.frames import Setting


def parsed(data):
    found = []
    while data:
        frame, size = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + size]))
        found.append(frame)
        data = data[9 + size :]
    return found


@given(st.binary(max_size=100), st.integers(1, 40), st.booleans())
def test_a_header_block_goes_on_in_as_many_frames_as_it_takes(block, size, end_stream):
    first, *others = parsed(frames.pack_headers(5, block, size, end_stream=end_stream))
    assert type(first) is HeadersFrame
    assert {type(each) for each in others} <= {ContinuationFrame}
    assert {each.stream_id for each in (first, *others)} == {5}
    assert b"".join(each.data for each in (first, *others)) == block
    assert all(len(each.data) <= size for each in (first, *others))
    assert [("END_HEADERS" in each.flags) for each in (first, *others)] == [False] * len(others) + [True]
    assert ("END_STREAM" in first.flags) is end_stream


def test_what_is_allowed_is_said_in_settings():
    (frame,) = parsed(
        frames.pack_settings({Setting.MAX_FRAME_SIZE: 1 << 20, Setting.INITIAL_WINDOW_SIZE: 77})
    )
    assert type(frame) is SettingsFrame
    assert frame.settings == {SettingsFrame.MAX_FRAME_SIZE: 1 << 20, SettingsFrame.INITIAL_WINDOW_SIZE: 77}
    (ack,) = parsed(frames.SETTINGS_ACK)
    assert "ACK" in ack.flags


@pytest.mark.parametrize("stream", [0, 7])
def test_a_window_is_opened_for_a_stream_or_for_all(stream):
    (frame,) = parsed(frames.pack_window_update(stream, 1 << 20))
    assert (type(frame), frame.stream_id, frame.window_increment) == (WindowUpdateFrame, stream, 1 << 20)


@pytest.mark.parametrize("code", ErrorCode)
def test_an_end_has_its_code(code):
    (reset,) = parsed(frames.pack_rst_stream(7, code))
    assert (type(reset), reset.stream_id, reset.error_code) == (RstStreamFrame, 7, code)
    (goaway,) = parsed(frames.pack_goaway(9, code, "why"))
    assert (type(goaway), goaway.last_stream_id, goaway.error_code) == (GoAwayFrame, 9, code)
    assert goaway.additional_data == b"why"
