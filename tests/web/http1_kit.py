"""What a reader, a queue or a connection of HTTP/1.1 needs around it, without sockets and with the test's own clock."""

import itertools

from fake_transport import FakeContext, FakeTransport

from mooring.web.connection import Connection
from mooring.web.exchange import Exchange, HeadCache

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"


def post(body, *lines, target=b"/b"):
    head = b"".join(line + b"\r\n" for line in (b"Host: a", b"Content-Length: %d" % len(body), *lines))
    return b"POST %s HTTP/1.1\r\n%s\r\n" % (target, head) + body


def chunked(*chunks, trailer=b""):
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return (
        b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + pieces
        + b"0\r\n"
        + trailer
        + b"\r\n"
    )


class FakeHttpContext(FakeContext):
    """A listener without sockets. Its app keeps the requests in ``seen``; who wants them answered does so."""

    def __init__(self, *, app=None, admission_check=None, secure=False, root=b"", **options):
        super().__init__(**options)
        self.seen = []
        self.app = app or self.seen.append
        self.admission_check = admission_check
        self.secure = secure
        self.root = root
        self.valid_hosts = set()
        self.known_heads = {}
        self.calls = None

    def render_error(self, status, kind, message, target, origin):
        return f"{status} {kind} {message}".encode(), b""


class FakeQueue:
    """A queue that keeps what the reader gives it, and answers nothing."""

    peer = "127.0.0.1"

    def __init__(self):
        self.submitted = []
        self.refused = []
        self.answers = []
        self.continues = 0

    def submit(self, exchange):
        self.submitted.append(exchange)

    def submit_known(self, exchange, cache):
        assert isinstance(cache, HeadCache)
        self.submitted.append(exchange)

    def submit_last(self, exchange):
        self.refused.append(exchange)

    def send_continue(self):
        self.continues += 1

    def cancel_continue(self):
        self.continues = 0

    def write_whole(self, exchange, answer):
        self.answers.append(answer)


class FakeOwner:
    """The connection of a queue."""

    def __init__(self):
        self.answered = self.last = 0

    def on_answered(self):
        self.answered += 1

    def on_last_answer(self):
        self.last += 1


def exchange(transport, target=b"/", *, keep_alive=True, method="GET"):
    return Exchange(method, target, [], {}, keep_alive, transport)


def connected(context=None, *, slow=False, eof=True):
    """A connection with its context and its transport."""
    context = context or FakeHttpContext()
    connection, transport = Connection(context), FakeTransport(slow=slow, eof=eof)
    transport.protocol = connection
    connection.connection_made(transport)
    return connection, context, transport


def feed(receiver, data, cuts=()):
    """Deliver bytes as a transport does: no more at a time than the buffer holds, cut at these places as well."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        rest = data[start:end]
        while rest:
            view = receiver.get_buffer(-1)
            size = min(len(view), len(rest))
            view[:size], rest = rest[:size], rest[size:]
            receiver.buffer_updated(size)


class ReaderEnd:
    """A reader as a transport sees it: it is fed as its connection would feed it."""

    def __init__(self, reader):
        self.reader = reader

    def get_buffer(self, _hint):
        return self.reader.buffer

    def buffer_updated(self, size):
        if self.reader.state == 0:
            self.reader.parse(size)
        elif self.reader.state == 1:
            self.reader.fill(size)


def status_of(answer):
    return int(answer.split(b" ", 2)[1])
