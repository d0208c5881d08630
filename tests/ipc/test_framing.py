"""Frames cost what their bytes cost: nothing is copied to wait, and a payload without memory is the only one that is lost."""

import asyncio
import math
import socket
import threading
import tracemalloc
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.buffers import LARGE, Buffer, Slot
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.tensors import Tensor
from mooring.ipc import framing
from mooring.ipc.framing import Frames, FrameWriter, pieces, send_whole
from mooring.ipc.messages import NO_MEMORY, Batch, Codec, MessageEncoder, Piece, Results
from mooring.worker_process.channel import Channel

AT_ONCE = 200_000  # bytes that a socket takes, as the system's do


class SlowSocket:
    """Takes so many bytes at a time, and notes what it was given."""

    def __init__(self) -> None:
        self.sends = self.bytes = 0
        self.owners = set()

    def send(self, data):
        return self.sendmsg([data])

    def sendmsg(self, views):
        self.sends += 1
        self.owners |= {id(memoryview(view).obj) for view in views}
        taken = min(AT_ONCE, sum(memoryview(view).nbytes for view in views))
        self.bytes += taken
        return taken


def batch(*payloads, key=1):
    requests = [InferenceRequest("m", "", "id", [Tensor("x", "UINT8", [len(p)], p)]) for p in payloads]
    return Batch(list(range(key, key + len(payloads))), requests)


def heap(size, fill=b"x"):
    return Buffer(memoryview(bytearray(fill * size)))


def writer_to(sock, encoder=None):
    """A writer, and what its loop calls when the socket takes more."""
    loop = Mock()
    writer = FrameWriter.__new__(FrameWriter)
    asyncio_loop = asyncio.new_event_loop()
    asyncio_loop.run_until_complete(_made(writer, sock, encoder or MessageEncoder()))
    asyncio_loop.close()
    writer._loop = loop
    return writer, loop


async def _made(writer, sock, encoder):
    writer.__init__(sock, encoder)


def drain(loop):
    """Call what waits for the socket until nothing does; how often that was."""
    turns = 0
    while loop.add_writer.call_count > loop.remove_writer.call_count:
        loop.add_writer.call_args.args[1]()
        turns += 1
    return turns


@pytest.mark.parametrize("megabytes", [1, 8, 64])
@pytest.mark.parametrize("beside", [True, False], ids=["beside the message", "in the message"])
def test_what_waits_for_a_slow_socket_is_sent_from_where_it_lies(megabytes, beside):
    sock = SlowSocket()
    writer, loop = writer_to(sock)
    size = megabytes << 20
    payload = heap(size) if beside else bytes(size)
    message = batch(payload)
    writer.send(message)
    tracemalloc.start()
    drain(loop)
    grown = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size < sock.bytes < size + 1000
    assert sock.sends <= math.ceil(sock.bytes / AT_ONCE) + 1
    assert len(sock.owners) <= 3  # the head, the message and the payload, and no copy of any
    assert grown < 100_000


def test_a_tiny_message_is_one_send():
    sock = SlowSocket()
    writer, loop = writer_to(sock)
    for _ in range(3):
        writer.send(batch(b"tiny"))
    assert sock.sends == 3
    loop.add_writer.assert_not_called()


def test_messages_behind_one_that_waits_keep_their_order_and_their_bytes():
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        writer, loop = writer_to(left)
        sent = [heap(500_000, b"a"), b"b" * 300_000, b"c" * 10, heap(LARGE + 1, b"d"), b"e"]
        for key, payload in enumerate(sent):
            writer.send(batch(payload, key=key))
        frames, codec, received = Frames(), Codec(), []
        while len(received) < len(sent):
            if loop.add_writer.call_count > loop.remove_writer.call_count:
                loop.add_writer.call_args.args[1]()
            frames.receive(right)
            received += [codec.to_worker(frame, frames.attached) for frame in frames]
    assert [message.keys for message in received] == [[key] for key in range(len(sent))]
    assert [bytes(message.requests[0].inputs[0].data) for message in received] == [bytes(p) for p in sent]


def test_a_message_that_cannot_be_encoded_leaves_no_half_a_frame():
    sock = SlowSocket()
    encoder = MessageEncoder()
    writer, _loop = writer_to(sock, encoder)
    frame, encoder.frame = encoder.frame, Mock(side_effect=MemoryError)
    with pytest.raises(MemoryError):
        writer.send(batch(b"x"))
    assert not sock.bytes
    encoder.frame = frame
    writer.send(batch(b"x"))
    assert sock.bytes


def test_what_the_dead_do_not_take_is_forgotten():
    sock = Mock()
    sock.send.side_effect = BrokenPipeError
    writer, loop = writer_to(sock)
    writer.send(batch(b"x"))
    sock.sendmsg.side_effect = BrokenPipeError
    writer.send(batch(heap(100_000)))
    drain(loop)
    assert not writer._unsent


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=5), st.integers(16, 70_000), st.integers(1, 9))
def test_payloads_survive_any_way_of_cutting_them(sizes, capacity, step):
    codec = Codec()
    stream = bytearray()
    for key, size in enumerate(sizes):
        frame = codec.frame(batch(heap(size, b"%d" % (key % 10)), b"beside", heap(70_000), key=10 * key))
        stream += b"".join(pieces(frame, codec.attached))
    frames, received, at = Frames(capacity), [], 0

    class Source:
        def recv_into(self, room):
            nonlocal at
            count = min(len(room), step * 10_000, len(stream) - at)
            room[:count] = stream[at : at + count]
            at += count
            return count

    while at < len(stream):
        assert frames.receive(Source())
        received += [codec.to_worker(frame, frames.attached) for frame in frames]
    assert [[len(each.inputs[0].data) for each in message.requests] for message in received] == [
        [size, 6, 70_000] for size in sizes
    ]
    assert not frames.attached


@pytest.mark.parametrize(
    "head", [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff" * 2], ids=["a message", "payloads"]
)
def test_what_is_announced_takes_no_memory_before_it_comes(head):
    there, here = socket.socketpair()
    with there, here:
        frames = Frames()
        there.sendall(head + bytes(1000))
        tracemalloc.start()
        try:
            for _ in range(4):
                there.sendall(bytes(1000))
                assert frames.receive(here)
                assert not list(frames)
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("size", [1 << 20, 30_000_001])
def test_a_large_message_is_whole_and_copied_a_few_times_at_most(size):
    there, here = socket.socketpair()
    message = b"".join(number.to_bytes(4, "little") for number in range(size // 4)) + b"end"
    frame = len(message).to_bytes(4, "little") + message
    sender = threading.Thread(target=there.sendall, args=(frame * 2,))
    copied, found = 0, []
    with there, here:
        frames = Frames()
        sender.start()
        while len(found) < 2:
            before = frames._buffer
            assert frames.receive(here)
            copied += 0 if frames._buffer is before else frames._end
            found += [bytes(each) for each in frames]
        sender.join()
    assert found == [message] * 2
    assert copied < 6 * size + (8 << 20)


def test_what_a_slot_holds_is_copied_where_the_slot_may_be_another_ones_soon():
    slot = Buffer(memoryview(bytearray(b"s" * 100_000)), Slot(0, 0, 100_000))
    encoder = MessageEncoder()
    frame = encoder.frame(batch(slot))
    assert not encoder.attached
    assert len(frame) > 100_000


def channel_pair():
    left, right = socket.socketpair()
    return left, Channel(right, Mock())


def received(channel):
    messages = []
    while not messages:
        messages = channel.receive()
    return messages


def no_heap_above(most, monkeypatch):
    whole = framing.heap

    def limited(size):
        if size > most:
            raise MemoryError
        return whole(size)

    monkeypatch.setattr(framing, "heap", limited)


def test_a_request_that_its_worker_has_no_memory_for_is_answered_so_and_its_neighbours_run(monkeypatch):
    no_heap_above(100_000, monkeypatch)
    server, channel = channel_pair()
    with server, channel.sock:
        server.settimeout(10)
        asked = batch(heap(90_000), heap(150_000), b"small")
        sending = threading.Thread(target=send_whole, args=(server, Codec(), asked))
        sending.start()
        (message,) = received(channel)
        sending.join()
        assert message.keys == [1, 3]
        assert [len(each.inputs[0].data) for each in message.requests] == [90_000, 5]
        frames, codec = Frames(), Codec()
        frames.receive(server)
        (answer,) = [codec.to_server(frame) for frame in frames]
        assert (answer.keys, answer.outcomes) == ([2], [NO_MEMORY])
        send_whole(server, Codec(), batch(b"next"))
        assert received(channel)[0].keys == [1]


def test_an_answer_that_cannot_be_encoded_is_answered_as_out_of_memory():
    server, channel = channel_pair()
    with server, channel.sock:
        server.settimeout(10)
        frame = channel._codec.frame
        channel._codec.frame = Mock(side_effect=[MemoryError, frame(Results([7], [NO_MEMORY], []))])
        channel.send(Results([7], [InferenceResponse([])], []))
        frames, codec = Frames(), Codec()
        frames.receive(server)
        assert [codec.to_server(each).outcomes for each in frames] == [[NO_MEMORY]]


def test_a_large_frame_does_not_keep_its_memory_once_it_is_sent():
    left, right = socket.socketpair()
    with left, right:
        codec = Codec(lends=False)
        right.setblocking(False)
        response = InferenceResponse([Tensor("y", "BYTES", [1], [bytes(100_000)])])
        send_whole(left, codec, Piece(1, response))
        assert len(codec._frame) > 100_000
        codec.frame(Piece(1, InferenceResponse([])))
        assert len(codec._frame) < 1000
        send_whole(Mock(), codec, Piece(1, InferenceResponse([Tensor("y", "BYTES", [1], [bytes(1 << 20)])])))
        assert not codec._frame
