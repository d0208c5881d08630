"""A socket after its handshake: what a real client sees, and what one that breaks RFC 6455 does."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from web_client import eventually
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from wsproto.connection import Connection as Framing
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from mooring.observability.traffic import Traffic
from mooring.web.listener import Limits
from mooring.web.websocket import HandshakeRefused, WebSocket, upgrade

pytestmark = pytest.mark.sockets

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    "GET /socket HTTP/1.1\r\nhost: here\r\nupgrade: websocket\r\nconnection: keep-alive, Upgrade\r\n"
    f"sec-websocket-key: {KEY}\r\nsec-websocket-version: 13\r\n\r\n"
)


class Parrot:
    """Says what it hears, and remembers how it ended."""

    def __init__(self, socket):
        self.socket = socket
        self.drained = self.ended = False

    def on_message(self, message):
        if message == b"bye":
            self.socket.end(1003, "as you like")
        elif message == b"hold":
            self.socket.hold(True)
        else:
            self.socket.send(message)

    def drain(self):
        self.drained = True
        self.socket.end(1001)

    def on_closed(self):
        assert not self.ended
        self.ended = True


def parrots(made):
    def app(exchange):
        def speak(socket):
            made.append(Parrot(socket))
            return made[-1]

        try:
            upgrade(exchange, speak)
        except HandshakeRefused as refused:
            exchange.respond(refused.status, refused.message.encode(), refused.head)

    return app


@pytest.fixture
def made():
    return []


@pytest.fixture
def parrot(serve, made):
    return serve(parrots(made), max_body_bytes=100_000)


def client_of(served):
    return connect(f"ws://127.0.0.1:{served.server.port}/socket", open_timeout=5, close_timeout=5)


def frame(opcode, payload, *, final=True, masked=True, reserved=0):
    size = len(payload)
    first = (0x80 if final else 0) | reserved | opcode
    mark = 0x80 if masked else 0
    head = bytes([first, mark | size]) if size < 126 else struct.pack("!BBH", first, mark | 126, size)
    if not masked:
        return head + payload
    mask = b"\x01\x02\x03\x04"
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def opened(served):
    client = served.connect().send(HANDSHAKE.encode())
    head = client.read_until(b"\r\n\r\n").lower()
    assert head.startswith(b"http/1.1 101 ")
    # RFC 6455, 1.3 gives this answer to this key.
    assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n" in head
    return client


def closed_with(client):
    """The code and the reason of the close frame that comes next, before the connection's end."""
    first, size = client.read_exactly(2)
    assert first == 0x88
    payload = client.read_exactly(size)
    assert client.read_all() == b""
    return struct.unpack("!H", payload[:2])[0], payload[2:].decode()


def test_a_real_client_is_answered_in_text_and_in_binary(parrot, made):
    with client_of(parrot) as client:
        client.send("grüße")
        assert client.recv(5) == "grüße"
        client.send(b"\xff\xfe")
        assert client.recv(5) == b"\xff\xfe"
    assert made[0].ended


def test_a_message_in_fragments_is_one_message(parrot):
    with client_of(parrot) as client:
        client.send(iter(["one ", "and ", "two"]))
        assert client.recv(5) == "one and two"


def test_a_large_message_comes_back_whole(parrot):
    with client_of(parrot) as client:
        client.send("x" * 99_999)
        assert client.recv(5) == "x" * 99_999


def test_a_message_above_the_limit_closes_with_1009(parrot):
    with client_of(parrot) as client:
        client.send("x" * 100_001)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(5)
    assert closed.value.rcvd.code == 1009


def test_endless_fragments_are_a_large_message_too(parrot):
    client = opened(parrot)
    client.send(frame(1, b"y" * 60_000, final=False) + frame(0, b"y" * 60_000, final=False))
    assert client.read_exactly(4)[2:] == struct.pack("!H", 1009)


def test_a_ping_is_answered_with_its_own_payload(parrot):
    client = opened(parrot).send(frame(9, b"are you there"))
    assert client.read_exactly(15) == b"\x8a\x0dare you there"


def test_the_server_closes_with_its_code_and_reason(parrot, made):
    with client_of(parrot) as client:
        client.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(5)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1003, "as you like")
    assert made[0].ended


def test_a_close_is_answered_and_ends_the_connection(parrot):
    client = opened(parrot).send(frame(8, struct.pack("!H", 1000)))
    assert closed_with(client) == (1000, "")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(1, b"bare", masked=False), 1002),
        (frame(1, b"\xff"), 1007),
        (frame(1, b"\xc3", final=False) + frame(0, b"\x28"), 1007),
        (frame(0, b"of what?"), 1002),
        (frame(1, b"a", final=False) + frame(1, b"b"), 1002),
        (frame(3, b""), 1002),
        (frame(1, b"", reserved=0x40), 1002),
        (frame(9, b"p", final=False), 1002),
        (frame(9, b"p" * 126), 1002),
        (frame(8, b"\x03"), 1002),
        (frame(8, struct.pack("!H", 1005)), 1002),
    ],
)
def test_what_breaks_the_protocol_closes_the_connection(parrot, sent, code):
    assert closed_with(opened(parrot).send(sent))[0] == code


def test_frames_that_come_with_the_handshake_are_heard(parrot):
    client = parrot.connect().send(HANDSHAKE.encode() + frame(1, b"early"))
    client.read_until(b"\r\n\r\n")
    assert client.read_exactly(7) == b"\x81\x05early"


def test_frames_that_come_byte_by_byte_are_heard(parrot):
    client = opened(parrot)
    for byte in frame(1, b"slow"):
        client.send(bytes([byte]))
    assert client.read_exactly(6) == b"\x81\x04slow"


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("upgrade: websocket\r\n", "", 426),
        ("upgrade: websocket", "upgrade: h2c", 426),
        ("connection: keep-alive, Upgrade\r\n", "", 426),
        ("version: 13", "version: 8", 426),
        (KEY, "short", 400),
        (KEY, "dGhlIHNhbXBsZSBub25jZQ==x", 400),
        (f"sec-websocket-key: {KEY}\r\n", "", 400),
        ("GET", "POST", 400),
        ("HTTP/1.1", "HTTP/1.0", 400),
    ],
)
def test_a_handshake_that_is_none_is_an_ordinary_request(parrot, old, new, status):
    answer = parrot.connect().ask(HANDSHAKE.replace(old, new).encode())
    assert answer.status == status
    if status == 426:
        assert answer.headers["upgrade"] == "websocket"


def test_a_handshake_before_its_turn_is_refused(serve, made):
    waiting = []
    shake = parrots(made)
    served = serve(
        lambda exchange: waiting.append(exchange) if exchange.target == b"/slow" else shake(exchange)
    )
    client = served.connect().send(b"GET /slow HTTP/1.1\r\nhost: here\r\n\r\n" + HANDSHAKE.encode())
    client.send(b"GET /slow HTTP/1.1\r\nhost: here\r\n\r\n")
    while len(waiting) < 2:
        pass
    for exchange in waiting:
        served.soon(exchange.respond, 200, b"ok")
    assert [client.response().status for _ in range(3)] == [200, 400, 200]
    assert made == []


def test_a_client_that_vanishes_ends_the_conversation(parrot, made):
    opened(parrot).close()
    eventually(lambda: made[0].ended)
    assert parrot.connections == 0


def test_drain_lets_the_conversation_say_its_last_word(parrot, made):
    with client_of(parrot) as client:
        parrot.run(parrot.server.drain(5))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(5)
    assert closed.value.rcvd.code == 1001
    assert made[0].drained
    assert made[0].ended


def test_what_comes_while_held_waits_and_then_comes_in_order(parrot, made):
    client = opened(parrot).send(frame(1, b"hold") + frame(1, b"one") + frame(1, b"two"))
    client.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.read_exactly(1)
    client.sock.settimeout(10)
    client.send(frame(1, b"three"))
    parrot.soon(made[0].socket.hold, False)
    assert client.read_exactly(17) == b"\x81\x03one\x81\x03two\x81\x05three"


def test_a_silent_client_is_asked_and_then_given_up(serve, made):
    served = serve(parrots(made), idle_timeout=0.1)
    client = opened(served)
    assert client.read_exactly(2) == b"\x89\x00"
    assert client.ended()


def test_a_client_that_does_not_read_is_not_read_from_and_then_given_up(serve, made):
    served = serve(parrots(made), write_timeout=0.3, max_body_bytes=10_000_000)
    client = served.connect(receive=4096).send(HANDSHAKE.encode())
    client.sock.settimeout(5)
    with pytest.raises(OSError):  # noqa: PT012 - which of the sends fails is the kernel's business
        for _ in range(2000):
            client.send(frame(2, b"z" * 65_000))
    assert made[0].ended


class _Room:
    """A listener for a socket without a loop."""

    def __init__(self):
        self.limits, self.receive_buffer, self.now = (
            Limits(max_body_bytes=1000),
            memoryview(bytearray(1)),
            1.0,
        )

        self.traffic = Traffic()

    def add(self, member): ...

    def remove(self, member): ...


class _Wire:
    """A transport that keeps what is written."""

    def __init__(self):
        self.sent, self.closing = b"", False

    def set_write_buffer_limits(self, high, low): ...

    def write(self, data):
        self.sent += data

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    abort = close

    def get_write_buffer_size(self):
        return 0

    pause_reading = resume_reading = lambda self: None


def test_a_client_that_answers_pings_stays(made):
    room, wire = _Room(), _Wire()
    socket = WebSocket(room, lambda each: made.append(Parrot(each)) or made[-1])
    socket.connection_made(wire)
    silence = room.limits.idle_timeout + 1
    for _ in range(4):  # the clock is the test's: a client that is late on a busy machine is late in both
        room.now += silence
        socket.check_timeouts(room.now)
        assert wire.sent == b"\x89\x00"
        wire.sent = b""
        socket.feed(frame(10, b""))
    socket.feed(frame(1, b"still here"))
    assert wire.sent == b"\x81\x0astill here"
    assert not wire.closing
    room.now += 2 * silence
    socket.check_timeouts(room.now)
    assert wire.closing


def spoken(data, cuts=()):
    """What a socket hears and what it writes when ``data`` comes in pieces."""
    heard, wire = [], _Wire()

    class Listener(Parrot):
        def on_message(self, message):
            heard.append(message)

    socket = WebSocket(_Room(), Listener)
    socket.connection_made(wire)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        if not wire.closing:
            socket.feed(data[start:end])
    return heard, wire


messages = st.one_of(st.text(max_size=300), st.binary(max_size=300))


@given(st.lists(messages, max_size=5), st.lists(st.integers(0, 3000), max_size=8))
def test_messages_are_the_same_however_their_bytes_are_cut(sent, cuts):
    client = Framing(ConnectionType.CLIENT)
    data = b"".join(
        client.send(TextMessage(data=each) if isinstance(each, str) else BytesMessage(data=each))
        for each in sent
    )
    heard, wire = spoken(data, cuts)
    assert heard == [each.encode() if isinstance(each, str) else each for each in sent]
    assert wire.sent == b""


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=4))
def test_whatever_comes_is_heard_or_closes_and_never_raises(data, cuts):
    _, wire = spoken(data, cuts)
    if wire.closing:
        client = Framing(ConnectionType.CLIENT)
        client.receive_data(wire.sent)
        assert isinstance([*client.events()][-1], CloseConnection)
