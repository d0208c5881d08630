"""Streams and what is around them, without a connection: each part of HTTP/2 can be tested alone."""

from fake_transport import FakeContext

from mooring.web.http2 import frames
from mooring.web.http2.streams import END_STREAM_SENT, Stream


class FakeSender:
    """Notes what a stream sends. ``open`` is whether everything may leave at once."""

    def __init__(self, max_frame_size=frames.DEFAULT_FRAME_SIZE):
        self.max_frame_size = max_frame_size
        self.sent = []
        self.queued = []
        self.open = True

    def can_send(self, stream, size):
        return self.open

    def send_end(self, stream, size, data):
        self.sent.append((size, data))
        stream.advance(END_STREAM_SENT)

    def send_queued(self, stream):
        self.queued.append(stream)


class FakeConnection:
    """What a stream needs of its connection."""

    peer = "127.0.0.1"

    def __init__(self, *, send_window=frames.DEFAULT_WINDOW, receive_window=1 << 20, sender=None):
        self.sender = sender or FakeSender()
        self.windows = send_window, receive_window
        self.granted = []
        self.detached = []
        self.resets = []
        self.charged = 0

    def initial_windows(self):
        return self.windows

    def grant_window(self, stream, increment):
        stream.receive_window += increment
        self.granted.append(increment)

    def detach_buffer(self, stream):
        self.detached.append(stream)

    def reset(self, stream, code):
        self.resets.append(code)

    def charge_reset(self):
        self.charged += 1


class FakeStream(Stream):
    """Keeps what comes. ``own`` is memory of its own that content is received into."""

    __slots__ = ("complete", "content", "own", "resets", "timeouts", "written")

    def __init__(self, number=1, connection=None, own=None):
        super().__init__(connection or FakeConnection(), number, 0.0)
        self.content = b""
        self.own = own
        self.written = 0
        self.complete = False
        self.resets = 0
        self.timeouts = []

    def receive_content(self, data, start, end):
        self.content += data[start:end]

    @property
    def receive_buffer(self):
        return None if self.own is None else memoryview(self.own)[self.written :]

    def buffer_filled(self, size):
        self.content += self.own[self.written : self.written + size]
        self.written += size

    def request_complete(self):
        self.complete = True

    def reset_received(self):
        self.resets += 1

    def check_timeouts(self, now):
        self.timeouts.append(now)


class FakeHttp2Context(FakeContext):
    """Starts a ``FakeStream`` for every head but that with a path of /bad."""

    def __init__(self, **options):
        super().__init__(**options)
        self.started = []

    def parse_head(self, fields):
        return fields

    def trailers_error(self, head):
        return "a pseudo-header" if any(name.startswith(b":") for name, _ in head) else ""

    def start_stream(self, connection, number, head):
        if (b":path", b"/bad") in head:
            return None
        stream = FakeStream(number, connection)
        self.started.append(stream)
        return stream


def parse_frames(data):
    """The frames of some bytes: type, flags, stream, payload."""
    found = []
    while data:
        length, flags, number = frames.HEAD.unpack_from(data)
        size = length >> 8
        found.append((length & 0xFF, flags, number, bytes(data[9 : 9 + size])))
        data = data[9 + size :]
    return found
