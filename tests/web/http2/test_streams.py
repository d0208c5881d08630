"""The states of a stream, and what of its queue leaves when."""

import pytest
from fake_http2 import FakeConnection, FakeSender, FakeStream, parse_frames
from hypothesis import given
from hypothesis import strategies as st

from mooring.web.http2 import frames
from mooring.web.http2.streams import (
    CLOSED,
    END_STREAM_RECEIVED,
    END_STREAM_SENT,
    HALF_CLOSED_LOCAL,
    HALF_CLOSED_REMOTE,
    HEADERS_RECEIVED,
    IDLE,
    OPEN,
    RESET,
    IllegalTransition,
    StreamEvent,
    StreamState,
)

LEGAL = {
    (IDLE, HEADERS_RECEIVED): OPEN,
    (OPEN, END_STREAM_RECEIVED): HALF_CLOSED_REMOTE,
    (OPEN, END_STREAM_SENT): HALF_CLOSED_LOCAL,
    (HALF_CLOSED_REMOTE, END_STREAM_SENT): CLOSED,
    (HALF_CLOSED_LOCAL, END_STREAM_RECEIVED): CLOSED,
    (OPEN, RESET): CLOSED,
    (HALF_CLOSED_REMOTE, RESET): CLOSED,
    (HALF_CLOSED_LOCAL, RESET): CLOSED,
    (CLOSED, RESET): CLOSED,
}


@pytest.mark.parametrize("event", StreamEvent)
@pytest.mark.parametrize("state", StreamState)
def test_a_stream_moves_as_rfc_9113_says_and_not_otherwise(state, event):
    stream = FakeStream()
    stream.state = state
    if (state, event) in LEGAL:
        stream.advance(event)
        assert stream.state is LEGAL[state, event]
    else:
        with pytest.raises(IllegalTransition, match="stream 1 is"):
            stream.advance(event)
        assert stream.state is state


@pytest.mark.parametrize(
    ("state", "client", "server"),
    [(IDLE, False, False), (OPEN, True, True), (HALF_CLOSED_REMOTE, False, True),
     (HALF_CLOSED_LOCAL, True, False), (CLOSED, False, False)],
)  # fmt: skip
def test_a_state_says_who_may_still_send(state, client, server):
    assert (state.client_sends, state.server_sends) == (client, server)


def test_a_new_stream_is_open_and_complete_once():
    stream = FakeStream()
    assert stream.state is OPEN
    stream.end_received()
    assert stream.complete
    with pytest.raises(IllegalTransition):
        stream.end_received()


def taken(stream, limit=1 << 30):
    parts = []
    size, released = stream.take_frames(limit, parts)
    return size, parse_frames(b"".join(parts)), released


def test_content_is_cut_to_the_window_and_the_largest_frame():
    connection = FakeConnection(send_window=25, sender=FakeSender(max_frame_size=10))
    stream = FakeStream(7, connection)
    stream.queue_content([b"a" * 4, b"b" * 30], None, b"")
    size, sent, _ = taken(stream)
    assert size == 25
    assert [(kind, number, len(payload)) for kind, _, number, payload in sent] == [
        (0, 7, 10),
        (0, 7, 10),
        (0, 7, 5),
    ]
    assert b"".join(payload for *_, payload in sent) == b"aaaa" + b"b" * 21
    assert stream.send_window == 0
    assert taken(stream)[0] == 0
    stream.send_window = 100
    assert taken(stream)[0] == 9
    assert not stream.has_queued


def test_no_more_leaves_than_the_connection_allows():
    stream = FakeStream()
    stream.queue_content([b"x" * 100], None)
    assert taken(stream, 30)[0] == 30
    assert stream.send_window == frames.DEFAULT_WINDOW - 30


def test_a_head_leaves_with_no_window_at_all():
    stream = FakeStream(1, FakeConnection(send_window=0))
    stream.queue_head(frames.pack_frame(frames.HEADERS, 4, 1, b"h"))
    stream.queue_content([b"x"], None, b"")
    assert taken(stream)[:2] == (0, [(frames.HEADERS, 4, 1, b"h")])


def test_memory_is_released_after_its_content_and_the_end_comes_last():
    stream = FakeStream(1, FakeConnection(send_window=10))
    stream.end_received()
    released = []
    stream.queue_content([b"x" * 15], lambda: released.append("first"), b"")
    stream.queue_content(
        [b"y" * 3], lambda: released.append("second"), frames.pack_frame(frames.HEADERS, 5, 1, b"t")
    )
    assert stream.end_queued
    assert taken(stream)[2] == []
    stream.send_window = 5
    _, sent, due = taken(stream)
    for each in due:
        each()
    assert released == ["first"]
    assert stream.state is HALF_CLOSED_REMOTE
    stream.send_window = 5
    _, sent, due = taken(stream)
    assert [frame[0] for frame in sent] == [frames.DATA, frames.HEADERS]
    assert len(due) == 1
    assert stream.state is CLOSED
    assert not stream.has_queued


def test_a_queue_that_is_discarded_releases_its_memory_and_sends_nothing():
    stream = FakeStream()
    stream.queue_head(b"head")
    stream.queue_content([b"x"], lambda: None, b"tail")
    assert len(stream.discard_queue()) == 1
    assert not stream.has_queued
    assert taken(stream) == (0, [], [])


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_whatever_the_windows_are_the_content_is_the_same(parts, windows):
    stream = FakeStream(1, FakeConnection(send_window=0, sender=FakeSender(max_frame_size=16)))
    stream.queue_content(parts, None)
    content = b""
    for more in [*windows, 1000]:
        stream.send_window += more
        size, sent, _ = taken(stream)
        assert all(len(payload) <= 16 for *_, payload in sent)
        assert sum(len(payload) for *_, payload in sent) == size
        content += b"".join(payload for *_, payload in sent)
    assert content == b"".join(parts)
