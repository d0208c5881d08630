"""Whose turn it is to send, and when memory that was lent is given back."""

import pytest
from fake_http2 import FakeConnection, FakeHttp2Context, FakeStream, parse_frames
from fake_transport import FakeTransport

from mooring.web.http2 import frames
from mooring.web.http2.flow_control import FlowControl
from mooring.web.http2.sender import Sender
from mooring.web.http2.streams import CLOSED, HALF_CLOSED_LOCAL

TRAILERS = frames.pack_frame(frames.HEADERS, 5, 1, b"t")


class Sending:
    """A sender over a fake transport, which pauses and resumes it as asyncio does."""

    def __init__(self, *, slow=False, window=1 << 30):
        self.transport = FakeTransport(slow=slow)
        self.transport.protocol = self
        self.flow = FlowControl(1 << 26, 1 << 20)
        self.flow.send_window = window
        self.context = FakeHttp2Context()
        self.ended = []
        self.sender = Sender(self.transport, self.flow, self.context, on_end_sent=self.ended.append)
        self.pause_writing, self.resume_writing = self.sender.pause, self.sender.resume

    def stream(self, number=1, window=1 << 30):
        return Drained(number, FakeConnection(send_window=window, sender=self.sender))

    def sent(self):
        return [
            (number, len(payload))
            for kind, _, number, payload in parse_frames(self.transport.take())
            if kind == frames.DATA
        ]


class Drained(FakeStream):
    __slots__ = ("drained",)

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.drained = 0

    def queue_drained(self):
        self.drained += 1


def test_a_small_answer_leaves_at_once_and_ends_its_stream():
    sending = Sending(window=100)
    stream = sending.stream()
    assert sending.sender.can_send(stream, 60)
    sending.sender.send_end(stream, 60, b"frames")
    assert sending.transport.take() == b"frames"
    assert sending.flow.send_window == 40
    assert stream.state is HALF_CLOSED_LOCAL
    assert sending.ended == [stream]


@pytest.mark.parametrize(
    "reason",
    ["window of the stream", "window of the connection", "frame", "paused", "queued", "another's turn"],
)
def test_an_answer_does_not_leave_at_once_where_something_is_before_it(reason):
    sending = Sending(window=1000)
    stream, other = sending.stream(1, window=1000), sending.stream(3)
    assert sending.sender.can_send(stream, 1000)
    if reason == "window of the stream":
        stream.send_window = 999
    elif reason == "window of the connection":
        sending.flow.send_window = 999
    elif reason == "frame":
        sending.sender.max_frame_size = 999
    elif reason == "paused":
        sending.sender.pause()
    elif reason == "queued":
        stream.queue_content([b"x"], None)
    else:
        sending.sender.enqueue(other)
    assert not sending.sender.can_send(stream, 1000)


def test_what_the_connections_window_leaves_over_waits_and_the_rest_follows():
    sending = Sending(window=10)
    stream = sending.stream()
    stream.end_received()
    stream.queue_content([b"x" * 25], None, TRAILERS)
    sending.sender.send_queued(stream)
    assert sending.sent() == [(1, 10)]
    assert sending.flow.send_window == 0
    assert sending.ended == []
    sending.flow.send_window = 100
    sending.sender.flush()
    assert sending.sent() == [(1, 15)]
    assert sending.ended == [stream]
    assert stream.state is CLOSED
    assert stream.drained == 1


def test_streams_take_turns_a_burst_each():
    sending = Sending()
    sending.sender.max_frame_size = 1 << 20
    sending.sender.pause()
    for number in (1, 3):
        stream = sending.stream(number)
        stream.queue_content([bytes(1 << 21)], None)
        sending.sender.send_queued(stream)
    sending.sender.resume()
    assert [number for number, _ in sending.sent()] == [1, 3, 1, 3]


def test_a_stream_without_window_keeps_nobody_from_sending():
    sending = Sending()
    stuck, other = sending.stream(1, window=0), sending.stream(3)
    for stream in (stuck, other):
        stream.queue_content([b"x"], None)
        sending.sender.send_queued(stream)
    assert sending.sent() == [(3, 1)]


def test_sending_stops_while_the_transport_has_enough():
    sending = Sending(slow=True)
    sending.sender.max_frame_size = 1 << 20
    stream = sending.stream()
    stream.queue_content([bytes(3 << 20)], None)
    sending.sender.send_queued(stream)
    assert sending.sender.paused
    assert len(sending.transport.unsent) < 2 << 20
    for _ in range(3):
        sending.transport.drain()
    assert sum(size for _, size in sending.sent()) == 3 << 20
    assert stream.drained == 1


def test_lent_memory_is_given_back_when_it_has_left_and_not_before():
    sending = Sending(slow=True)
    released = []
    stream = sending.stream()
    stream.queue_content([b"lent"], lambda: released.append(True))
    sending.sender.send_queued(stream)
    assert not released
    sending.transport.drain()
    assert released == [True]
    assert sending.transport.high > 0  # as before


def test_lent_memory_that_leaves_at_once_is_given_back_at_once():
    sending = Sending()
    released = []
    stream = sending.stream()
    stream.queue_content([b"lent"], lambda: released.append(True))
    sending.sender.send_queued(stream)
    assert released == [True]
    assert sending.transport.high > 0


def test_a_stream_that_is_dropped_sends_nothing_more_and_gives_its_memory_back():
    sending = Sending(window=2)
    released = []
    stream = sending.stream()
    stream.queue_content([b"lent"], lambda: released.append(True), TRAILERS)
    sending.sender.send_queued(stream)
    assert sending.sent() == [(1, 2)]
    sending.sender.drop(stream)
    sending.flow.send_window = 100
    sending.sender.flush()
    assert sending.sent() == []
    assert released == [True]


def test_memory_of_a_connection_that_is_over_is_given_back_at_its_end():
    sending = Sending(slow=True)
    released = []
    stream = sending.stream()
    stream.queue_content([b"lent"], lambda: released.append(True))
    sending.sender.abandon(stream)
    assert not released
    sending.sender.release_lent()
    assert released == [True]


def test_what_is_sent_counts_as_progress():
    sending = Sending()
    stream = sending.stream()
    sending.context.now = 4000.0
    stream.queue_content([b"x"], None)
    sending.sender.send_queued(stream)
    assert stream.last_progress == 4000.0


def test_a_callback_that_fails_concerns_no_other(caplog):
    sending = Sending()
    released = []
    for number, callback in ((1, lambda: 1 / 0), (3, lambda: released.append(True))):
        stream = sending.stream(number)
        stream.queue_content([b"x"], callback)
        sending.sender.send_queued(stream)
    assert released == [True]
