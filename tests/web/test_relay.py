"""The relay to another server: whole answers come whole, answers in pieces piece by piece, and nobody is waited for in vain."""

import asyncio

import pytest

from mooring.web.exchange import ANSWERED, Exchange
from mooring.web.relay import Relay


class Client:
    """A client's end of an exchange: takes what is written until it is told not to."""

    peer = ""

    def __init__(self, method="GET"):
        self.written = b""
        self.slow = self.aborted = False
        self.exchange = Exchange(method, b"/x", [(b"Host", b"a")], {b"host": b"a"}, True, self)

    def write(self, _exchange, pieces, *, last):
        self.written += b"".join(map(bytes, pieces))

    def write_whole(self, _exchange, answer):
        self.written += answer

    def can_write(self, _exchange):
        return not self.slow

    def abort(self, _exchange):
        self.aborted = True

    async def wait_for(self, text):
        async with asyncio.timeout(5):
            while text not in self.written:
                await asyncio.sleep(0.001)

    async def wait_for_end(self):
        async with asyncio.timeout(5):
            while self.exchange.state < ANSWERED:
                await asyncio.sleep(0.001)


@pytest.fixture
async def upstream(tmp_path):
    """A server on a unix socket that answers as it is told, by chunks of ``send``; it ends with None."""
    path = str(tmp_path / "socket")
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
    asked = []
    left = asyncio.Event()
    writers = []

    async def serve(reader, writer):
        writers.append(writer)
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        try:
            while (piece := await pieces.get()) is not None:
                writer.write(piece)
                await writer.drain()
            writer.close()
        except (ConnectionError, asyncio.CancelledError):
            left.set()
        if not await reader.read(1):
            left.set()

    server = await asyncio.start_unix_server(serve, path)
    failed = []
    relay = Relay(path, lambda exchange, error: (failed.append(error), exchange.abort()))
    yield relay, pieces, asked, failed, left
    relay.close()
    server.close()
    for writer in writers:
        writer.transport.abort()
    pieces.put_nowait(None)
    await asyncio.sleep(0.02)  # for the transports to go


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nX-Own: a\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_an_answer_in_pieces_goes_on_as_it_comes(upstream):
    relay, pieces, _, failed, _ = upstream
    client = Client()
    relay(client.exchange)
    pieces.put_nowait(HEAD + b"3\r\none\r\n")
    await client.wait_for(b"3\r\none\r\n")
    assert client.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"X-Own: a\r\n" in client.written
    assert client.written.count(b"transfer-encoding: chunked") == 1
    pieces.put_nowait(b"3\r\ntwo\r\n")
    await client.wait_for(b"3\r\ntwo\r\n")
    pieces.put_nowait(b"0\r\n\r\n")
    await client.wait_for_end()
    assert client.written.endswith(b"0\r\n\r\n")
    assert failed == []


async def test_an_answer_of_known_length_comes_whole(upstream):
    relay, pieces, _, _, _ = upstream
    client = Client()
    relay(client.exchange)
    pieces.put_nowait(b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nno")
    await asyncio.sleep(0.02)
    assert client.written == b""
    pieces.put_nowait(b"pe")
    await client.wait_for_end()
    assert client.written.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert client.written.endswith(b"\r\n\r\nnope")


async def test_a_client_that_takes_nothing_is_waited_for_and_no_more_is_read(upstream):
    relay, pieces, _, _, _ = upstream
    client = Client()
    relay(client.exchange)
    pieces.put_nowait(HEAD + b"3\r\none\r\n")
    await client.wait_for(b"one")
    client.slow = True
    pieces.put_nowait(b"3\r\ntwo\r\n")  # was read before it was known
    await client.wait_for(b"two")
    pieces.put_nowait(b"5\r\nthree\r\n")
    await asyncio.sleep(0.02)
    assert b"three" not in client.written
    client.slow = False
    client.exchange.on_writable()
    await client.wait_for(b"three")


async def test_a_client_that_leaves_ends_the_request_to_the_other_server(upstream):
    relay, pieces, _, failed, left = upstream
    client = Client()
    relay(client.exchange)
    pieces.put_nowait(HEAD + b"3\r\none\r\n")
    await client.wait_for(b"one")
    client.exchange.abandon()
    pieces.put_nowait(None)
    async with asyncio.timeout(5):
        await left.wait()
    assert failed == []


async def test_an_answer_that_breaks_off_is_broken_off(upstream):
    relay, pieces, _, failed, _ = upstream
    client = Client()
    relay(client.exchange)
    pieces.put_nowait(HEAD + b"3\r\none\r\n")
    await client.wait_for(b"one")
    pieces.put_nowait(None)
    await client.wait_for_end()
    assert client.aborted
    assert len(failed) == 1


async def test_who_asks_for_the_head_of_an_answer_in_pieces_gets_it_and_no_more(upstream):
    relay, pieces, asked, failed, left = upstream
    client = Client("HEAD")
    relay(client.exchange)
    pieces.put_nowait(HEAD)
    await client.wait_for_end()
    assert asked[0].startswith(b"GET /x HTTP/1.1\r\n")
    assert b"content-type: text/event-stream" in client.written
    assert client.written.endswith(b"\r\n\r\n")
    pieces.put_nowait(None)
    async with asyncio.timeout(5):
        await left.wait()
    assert failed == []
