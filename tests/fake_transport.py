"""A transport that keeps what is written to it, and a listener's context with a clock that the test moves."""

from mooring.core.buffers import HeapAllocator
from mooring.observability.traffic import Traffic
from mooring.web.http2.context import Http2Limits
from mooring.web.listener import RECEIVE, Limits


class FakeTransport:
    """``slow`` keeps what is written as unsent, and pauses its protocol as asyncio does; ``drain`` sends all of it."""

    def __init__(self, *, slow=False, eof=True):
        self.sent = b""
        self.unsent = b""
        self.slow = slow
        self.high = 1 << 16
        self.protocol = None
        self.paused = False
        self.closing = self.aborted = self.ended = False
        self.reading = True
        self._eof = eof

    def write(self, data):
        assert not self.ended, "written after the end"
        if not self.slow:
            self.sent += bytes(data)
            return
        self.unsent += bytes(data)
        if len(self.unsent) > self.high and not self.paused:
            self.paused = True
            self.protocol.pause_writing()

    def writelines(self, parts):
        self.write(b"".join(parts))

    def drain(self):
        """Send everything, as if the client had read it."""
        self.sent, self.unsent = self.sent + self.unsent, b""
        if self.paused:
            self.paused = False
            self.protocol.resume_writing()

    def take(self):
        """What was sent since the last call."""
        sent, self.sent = self.sent, b""
        return sent

    def pause_reading(self):
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self):
        assert not self.reading, "resumed twice"
        self.reading = True

    def set_protocol(self, protocol):
        self.protocol = protocol

    def set_write_buffer_limits(self, high=None, low=None):
        self.high = high

    def get_write_buffer_size(self):
        return len(self.unsent)

    def get_extra_info(self, name):
        return ("127.0.0.1", 5000) if name == "peername" else None

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    def abort(self):
        self.closing = self.aborted = True

    def can_write_eof(self):
        return self._eof

    def write_eof(self):
        self.ended = True


class FakeContext:
    """What a listener's connections share. ``now`` is the clock, in seconds."""

    def __init__(self, *, limits=None, allocator=None, **http2):
        self.now = 1000.0
        self.draining = False
        self.limits = limits or Limits()
        self.http2 = Http2Limits(**http2)
        self.allocator = allocator or HeapAllocator()
        self.receive_buffer = memoryview(bytearray(RECEIVE))
        self.traffic = Traffic()
        self.connections = set()

    def add(self, connection):
        self.connections.add(connection)

    def remove(self, connection):
        self.connections.discard(connection)


class FakeResponseTransport:
    """What one exchange writes its answer to: keeps the bytes."""

    peer = "here"

    def __init__(self):
        self.raw = b""
        self.aborted = False

    def write(self, exchange, pieces, *, last):
        self.raw += b"".join(bytes(piece) for piece in pieces)

    def write_whole(self, exchange, answer):
        self.raw += answer

    def can_write(self, exchange):
        return True

    def abort(self, exchange):
        self.aborted = True

    def switch_protocol(self, exchange, answer, successor):
        return True
