"""Calls as gRPC over HTTP/2 has them, at a real server: by hand, with grpcio's clients and with curl."""

import asyncio
import gzip
import shutil
import subprocess
import zlib
from contextlib import asynccontextmanager

import grpc
import psutil
import pytest
from http2_kit import packed, served, setting, until
from tls_kit import Authority

from mooring.config.settings import Address, Config
from mooring.core.buffers import HeapAllocator
from mooring.core.memory import RESERVE, BodyMemory
from mooring.protocols.grpc_server import GrpcServer
from mooring.web.certificates import certificates_of
from mooring.web.grpc.headers import decode_binary_header, percent_encode
from mooring.web.http2 import frames
from mooring.web.http2.errors import ErrorCode
from mooring.web.http2.frames import pack_frame as frame
from mooring.web.listener import Limits

pytestmark = pytest.mark.sockets

LARGEST = 300


def status(answer):
    """Of an answer that is nothing but its end."""
    fields, content = answer
    assert content == b""
    return fields["grpc-status"], fields.get("grpc-message", "")


@pytest.fixture
async def each():
    async with served() as each:
        yield each


@pytest.fixture
async def wire(each):
    return await each.wire()


async def test_an_answer_is_headers_a_message_and_a_status(wire):
    wire.call(1, b"hello")
    assert await wire.answer(1) == (
        {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}, packed(b"hello"),
    )  # fmt: skip


async def test_an_empty_message_is_one(wire):
    wire.call(1, b"")
    assert (await wire.answer(1))[1] == packed(b"")


async def test_what_is_not_offered_is_refused_before_it_is_sent(wire):
    wire.call(1, None, "/t.T/Sing")
    assert status(await wire.answer(1)) == ("12", "method '/t.T/Sing' is not offered here")


async def test_a_refusal_is_percent_encoded_and_nothing_but_an_end(wire):
    wire.call(1, b"", "/t.T/Refuse")
    assert status(await wire.answer(1)) == ("5", "50 %25 of %C3%9C%0A")


async def test_a_fault_of_ours_says_no_more_than_its_kind(wire):
    wire.call(1, b"", "/t.T/Fail")
    code, text = status(await wire.answer(1))
    assert (code, text) == ("13", "ZeroDivisionError: internal server error, see the server's log")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("application/grpc", "200"),
        ("application/grpc+proto", "200"),
        ("Application/gRPC; charset=utf-8", "200"),
        ("application/grpc+json", "415"),
        ("application/grpc-web", "415"),
        ("application/json", "415"),
        (None, "415"),
    ],
)
async def test_only_grpc_is_served(wire, sent, expected):
    wire.call(1, b"hello", content_type=sent)
    assert (await wire.answer(1))[0][":status"] == expected


async def test_a_call_is_a_post(wire):
    wire.call(1, None, **{":method": "GET"})
    assert (await wire.answer(1))[0][":status"] == "405"


async def test_who_does_not_say_te_trailers_is_served_too(wire):
    wire.call(1, b"hello", te=None)
    assert (await wire.answer(1))[1] == packed(b"hello")


@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", None)]
)
async def test_messages_may_come_compressed(each, wire, coding, pack):
    content = bytes(1_000)
    sent = packed(pack(content), 1) if pack else packed(content)
    wire.call(1, None, grpc_encoding=coding)
    wire.data(1, sent, end=True)
    assert (await wire.answer(1))[1] == packed(content)
    wire.call(3, content, grpc_encoding=coding)  # each message says for itself whether it is
    assert (await wire.answer(3))[1] == packed(content)


async def test_large_messages_may_come_compressed(each):
    wire = await each.wire(settings=setting(4, 1 << 20))
    wire.send(frame(frames.WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big")))
    content = bytes(range(256)) * 1_000
    wire.call(1, None, grpc_encoding="gzip")
    sent = packed(gzip.compress(content, 0), 1)  # stored: as large as before
    wire.data(1, sent, end=True)
    assert (await wire.answer(1))[1] == packed(content)


async def test_messages_of_a_stream_may_come_compressed_and_keep_their_order(wire):
    wire.send(frame(frames.WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big")))
    large, small = b"".join(number.to_bytes(4, "big") for number in range(3_000)), b"small"
    wire.call(1, None, "/t.T/Chat", grpc_encoding="gzip")
    wire.data(1, packed(gzip.compress(large), 1) + packed(gzip.compress(small), 1) + packed(large), end=True)
    assert (await wire.answer(1))[1] == packed(large) + packed(small) + packed(large)
    wire.call(3, None, "/t.T/Chat", grpc_encoding="gzip")
    wire.data(3, packed(b"no gzip", 1), end=True)
    assert (await wire.answer(3))[0]["grpc-status"] == "3"


async def test_a_client_that_goes_away_while_its_message_is_inflated_is_not_answered(each, wire):
    wire.call(1, None, "/t.T/Hold", grpc_encoding="gzip")
    wire.data(1, packed(gzip.compress(bytes(20_000_000)), 1), end=True)
    wire.send(frame(frames.RST_STREAM, 0, 1, ErrorCode.CANCEL.to_bytes(4, "big")))
    assert await wire.alive()
    wire.call(3, b"x", "/t.T/Hold")
    await until(lambda: each.methods.held)
    assert [message for _, message in each.methods.held] == [b"x"]


async def test_an_encoding_that_is_not_known_is_refused_with_those_that_are(wire):
    wire.call(1, b"hello", grpc_encoding="br")
    fields, _ = await wire.answer(1)
    assert (fields["grpc-status"], fields["grpc-accept-encoding"]) == ("12", "identity,deflate,gzip")
    assert "br" in fields["grpc-message"]


@pytest.mark.parametrize(
    ("content", "head", "code"),
    [
        (packed(b"x", 1), {}, "13"),
        (packed(b"x", 2), {}, "13"),
        (packed(b"no gzip", 1), {"grpc_encoding": "gzip"}, "3"),
        (packed(b"one") + packed(b"two"), {}, "3"),
        (packed(b"cut off")[:-1], {}, "3"),
        (packed(b"cut off")[:3], {}, "3"),
        (packed(bytes(100_000))[:80_000], {}, "3"),
        (b"", {}, "3"),
        (packed(bytes(LARGEST + 1)), {}, "8"),
        # Without a time: a test must have the same name in every process.
        (packed(gzip.compress(bytes(LARGEST + 1), mtime=0), 1), {"grpc_encoding": "gzip"}, "8"),
        (packed(b"x"), {"grpc_timeout": "5"}, "3"),
        (packed(b"x"), {"grpc_timeout": "123456789S"}, "3"),
        (packed(b"x"), {"grpc_timeout": "5x"}, "3"),
    ],
)
async def test_what_is_no_call_has_the_status_that_says_so(content, head, code):
    async with served(max_message_bytes=LARGEST if code == "8" else 0) as each:
        wire = await each.wire()
        wire.call(1, None, **head)
        wire.data(1, content, end=True)
        assert status(await wire.answer(1))[0] == code
        assert await wire.alive()


async def test_an_answer_larger_than_the_limit_is_refused_too():
    async with served(max_message_bytes=LARGEST) as each:
        wire = await each.wire()
        wire.call(1, b"x", "/t.T/Hold")
        await until(lambda: each.methods.held)
        released = []
        each.methods.held[0][0].respond([bytes(LARGEST + 1)], lambda: released.append(1))
        assert status(await wire.answer(1))[0] == "8"
        assert released
        wire.call(3, b"", "/t.T/Pour")
        assert (await wire.answer(3))[0]["grpc-status"] == "8"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1H", 3600), ("2M", 120), ("3S", 3), ("400m", 0.4), ("5u", 5e-6), ("99999999n", 0.1)],
)
async def test_a_time_limit_has_a_unit(each, wire, text, seconds):
    wire.call(1, b"x", "/t.T/Hold", grpc_timeout=text)
    await until(lambda: each.methods.held)
    call, _ = each.methods.held[0]
    assert seconds - 1 < call.deadline - asyncio.get_running_loop().time() <= seconds


async def test_a_call_past_its_deadline_is_over_and_its_method_told(each, wire):
    each.server._interval = 0.02
    await wire.alive()
    wire.call(1, b"x", "/t.T/Hold", grpc_timeout="10m")
    assert status(await wire.answer(1)) == ("4", "the deadline is over")
    assert each.methods.cancelled == 1
    each.methods.held[0][0].respond([b"late"])
    assert await wire.alive()
    assert len(wire.seen[1]) == 1


async def test_an_answer_that_is_not_taken_before_the_deadline_is_dropped(each):
    each.server._interval = 0.02
    wire = await each.wire(settings=setting(4, 10))
    wire.call(1, bytes(10_000), grpc_timeout="50m")
    assert await wire.answer(1) == ErrorCode.CANCEL
    wire.call(3, b"", "/t.T/Pour", grpc_timeout="50m")
    await wire.until("Data", 3)
    wire.send(frame(frames.WINDOW_UPDATE, 0, 3, (90_000).to_bytes(4, "big")))
    await until(lambda: each.methods.cancelled)
    assert await wire.alive()


async def test_a_message_that_does_not_come_is_not_waited_for():
    async with served() as each:
        each.server.limits = Limits(body_timeout=0.05)
        each.server._interval = 0.02
        wire = await each.wire()
        wire.call(1, None)
        wire.data(1, packed(bytes(100_000))[:70_000])
        assert status(await wire.answer(1))[0] == "4"
        assert not each.allocator.live


async def test_an_answer_that_is_not_taken_is_dropped():
    async with served() as each:
        each.server.limits = Limits(write_timeout=0.05)
        each.server._interval = 0.02
        wire = await each.wire(settings=setting(4, 10))
        wire.call(1, bytes(10_000))
        assert await wire.answer(1) == ErrorCode.CANCEL
        assert await wire.alive()


@pytest.mark.parametrize(
    ("sent", "found"), [("AAEC/w==", b"\0\1\2\xff"), ("AAEC/w", b"\0\1\2\xff"), ("?", b"none")]
)
async def test_binary_metadata_is_bytes_padded_or_not(wire, sent, found):
    wire.call(1, b"", "/t.T/Tell", x_bin=sent, x_text="a b")
    assert (await wire.answer(1))[1] == packed(found + b"|a b")


def test_texts_and_bytes_of_headers():
    assert percent_encode("a~b\x7f€") == b"a~b%7F%E2%82%AC"
    assert decode_binary_header(b"YQ") == b"a"
    assert decode_binary_header(b"Y") is None


async def test_a_cancelled_call_tells_its_method_and_drops_the_answer(each, wire):
    wire.call(1, b"x", "/t.T/Hold")
    await until(lambda: each.methods.held)
    wire.send(frame(frames.RST_STREAM, 0, 1, ErrorCode.CANCEL.to_bytes(4, "big")))
    await until(lambda: each.methods.cancelled)
    released = []
    each.methods.held[0][0].respond([b"late"], lambda: released.append(1))
    assert released
    each.methods.held[0][0].end(0)
    assert await wire.alive()
    assert not wire.seen[1]


async def test_a_cancelled_answer_gives_its_memory_back_before_it_is_all_sent(each):
    wire = await each.wire(settings=setting(4, 1000))
    wire.call(1, None)
    wire.data(1, packed(bytes(100_000)), end=True)
    await wire.until("Data", 1)
    assert each.allocator.live
    wire.send(frame(frames.RST_STREAM, 0, 1, ErrorCode.CANCEL.to_bytes(4, "big")))
    await until(lambda: not each.allocator.live)
    assert await wire.alive()


async def test_a_stream_is_read_no_faster_than_its_method_does():
    async with served(stream_window=10_000) as each:
        wire = await each.wire(settings=setting(4, 0))  # its first answer already waits
        wire.call(1, None, "/t.T/Chat")
        for _ in range(10):
            wire.data(1, packed(bytes(995)))
        await until(lambda: each.methods.read)
        assert await wire.alive()
        assert each.methods.read == [995]
        assert not [one for one in wire.seen[1] if type(one).__name__ == "WindowUpdateFrame"]
        wire.send(frame(frames.WINDOW_UPDATE, 0, 1, (1 << 20).to_bytes(4, "big")))
        await wire.until("WindowUpdate", 1)
        await until(lambda: len(each.methods.read) == 10)


async def test_a_message_larger_than_the_window_of_a_stream_comes_through():
    async with served(stream_window=10_000) as each:
        for path in ("/t.T/Chat", "/t.T/Echo"):
            wire = await each.wire(settings=setting(4, 1 << 20))
            wire.send(frame(frames.WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big")))
            content = packed(bytes(range(250)) * 400)
            wire.call(1, None, path)
            wire.data(1, content[:10_000])
            more = (await wire.until("WindowUpdate", 1)).window_increment
            assert more >= len(content) - 10_000
            wire.data(1, content[10_000:], end=True)
            assert (await wire.answer(1))[1] == content


async def test_a_message_that_is_announced_and_not_sent_costs_no_memory():
    async with served() as each:
        each.server.allocator = HeapAllocator()
        wire = await each.wire()
        before = psutil.Process().memory_info().rss
        for number in (1, 3, 5):
            wire.call(number, None)
            wire.data(number, b"\0" + (1 << 30).to_bytes(4, "big"))
        assert await wire.alive()
        assert psutil.Process().memory_info().rss - before < 50_000_000


async def test_messages_that_come_together_or_in_pieces_are_the_same(wire):
    content = b"".join(packed(bytes([size % 256]) * size) for size in (0, 1, 5, 300, 66_000, 2))
    wire.send(frame(frames.WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big")))
    for number, cut in ((1, 70_000), (3, 4), (5, 999)):
        wire.send(frame(frames.SETTINGS, 0, 0, setting(4, 1 << 20)))
        wire.call(number, None, "/t.T/Chat")
        for at in range(0, len(content), cut):
            if cut > 4 or at < 400 or at > len(content) - 400:
                wire.data(number, content[at : at + cut])
            elif at == 400:
                wire.data(number, content[400 : len(content) - len(content) % 4 - 396])
        wire.send(frame(frames.DATA, frames.END_STREAM, number))
        assert (await wire.answer(number))[1] == content


# grpcio's clients


@pytest.fixture
async def channel(each):
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{each.server.port}", options) as channel:
        yield channel


async def test_grpcio_with_hundreds_of_calls_at_once(channel):
    echo = channel.unary_unary("/t.T/Echo")
    sizes = [size * 331 % 90_000 for size in range(300)]
    answers = await asyncio.gather(*(echo(bytes(size), timeout=20) for size in sizes))
    assert [len(answer) for answer in answers] == sizes


async def test_grpcio_with_large_messages_both_ways_and_small_ones_between(channel):
    echo = channel.unary_unary("/t.T/Echo")
    content = [bytes([number]) * 8_000_000 for number in range(4)]
    large = [asyncio.ensure_future(echo(each, timeout=30)) for each in content]
    small = [await echo(b"%d" % number, timeout=30) for number in range(50)]
    assert small == [b"%d" % number for number in range(50)]
    assert await asyncio.gather(*large) == content


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_grpcio_compressing(channel, algorithm):
    content = bytes(100_000)
    assert await channel.unary_unary("/t.T/Echo")(content, compression=algorithm, timeout=10) == content


async def test_grpcio_streaming_both_ways(channel):
    call = channel.stream_stream("/t.T/Chat")(timeout=20)
    for size in (0, 1, 70_000, 3_000_000):
        await call.write(bytes(size))
        assert len(await call.read()) == size
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_grpcio_reading_slowly_holds_the_method_back(each, channel):
    call = channel.unary_stream("/t.T/Pour")(b"", timeout=60)
    assert len(await call.read()) == 100_000
    written = -1
    while written != each.methods.written:
        written = each.methods.written
        await asyncio.sleep(0.2)
    for _ in range(written + 50):
        assert len(await call.read()) == 100_000
    call.cancel()
    await until(lambda: each.methods.cancelled)


async def test_grpcio_with_a_deadline(each, channel):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/t.T/Hold")(b"", timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: each.methods.cancelled)


async def test_grpcio_with_metadata(channel):
    metadata = [("x-bin", b"\0\xff"), ("x-text", "hello")]
    assert await channel.unary_unary("/t.T/Tell")(b"", metadata=metadata, timeout=5) == b"\0\xff|hello"


async def test_grpcio_with_more_metadata_than_is_taken(channel):
    tell = channel.unary_unary("/t.T/Tell")
    with pytest.raises(grpc.aio.AioRpcError):
        await tell(b"", metadata=[("x-text", "a" * 70_000)], timeout=5)
    assert await tell(b"", metadata=[("x-text", "b")], timeout=5) == b"none|b"


async def test_grpcio_keeping_alive(each):
    options = [
        ("grpc.keepalive_time_ms", 50), ("grpc.keepalive_timeout_ms", 2_000), ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    ]  # fmt: skip
    async with grpc.aio.insecure_channel(f"127.0.0.1:{each.server.port}", options) as channel:
        call = asyncio.ensure_future(channel.unary_unary("/t.T/Hold")(b"", timeout=10))
        await asyncio.sleep(0.3)
        each.methods.held[0][0].respond([b"done"])
        assert await call == b"done"


async def test_the_synchronous_grpcio(each):
    def ask():
        with grpc.insecure_channel(f"127.0.0.1:{each.server.port}") as channel:
            return [channel.unary_unary("/t.T/Echo")(b"%d" % number, timeout=10) for number in range(20)]

    assert await asyncio.to_thread(ask) == [b"%d" % number for number in range(20)]


async def test_grpcio_over_tls_with_large_messages_and_a_slow_reader(tmp_path):
    authority = Authority(tmp_path / "ca")
    pair = authority.issue()
    config = Config(
        grpc_address=Address("127.0.0.1", 7070, secure=True),
        certificate_file=pair.cert,
        private_key_file=pair.key,
    )
    async with served(certificates=certificates_of(config)) as each:
        address = f"localhost:{each.server.port}"
        trusting = grpc.ssl_channel_credentials(authority.ca.read_bytes())
        options = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.secure_channel(address, trusting, options) as channel:
            content = bytes(range(256)) * 20_000
            echo = channel.unary_unary("/t.T/Echo")
            assert await asyncio.gather(*(echo(content, timeout=30) for _ in range(4))) == [content] * 4
            call = channel.unary_stream("/t.T/Pour")(b"", timeout=60)
            for _ in range(100):
                assert len(await call.read()) == 100_000
            call.cancel()
            await until(lambda: each.methods.cancelled)
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/t.T/Echo")(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_speaks_to_it(each):
    address = f"http://127.0.0.1:{each.server.port}/t.T/Echo"

    def curl(*arguments):
        command = ["curl", "-sS", "-i", "--max-time", "5", *arguments, address]
        return subprocess.run(command, input=packed(b"hello"), capture_output=True, check=False).stdout

    ours = ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers"]
    said = await asyncio.to_thread(curl, *ours, "--data-binary", "@-")
    assert said.startswith(b"HTTP/2 200")
    assert packed(b"hello") in said
    assert b"grpc-status: 0" in said
    assert (await asyncio.to_thread(curl, "--http2-prior-knowledge")).startswith(b"HTTP/2 405")
    assert b"HTTP/2 alone" in await asyncio.to_thread(curl, "--http1.1")


LIMIT = 2_000_000


@asynccontextmanager
async def limited(limit=LIMIT, **options):
    """A server whose messages have so much memory together, and the account of it."""
    account = BodyMemory(limit)
    async with served(**options) as each:
        each.server.allocator = HeapAllocator(account)
        yield each, account
    assert not account.used


async def sent_in_part(each, size, part):
    """A connection with a message on its way, of which a part has come."""
    wire = await each.wire(settings=setting(4, 1 << 22))
    wire.send(frame(frames.WINDOW_UPDATE, 0, 0, (1 << 22).to_bytes(4, "big")))
    wire.call(1, None)
    wire.data(1, b"\0" + size.to_bytes(4, "big"))
    for start in range(0, part, 500_000):
        wire.data(1, bytes(min(500_000, part - start)))
    return wire


async def test_messages_that_are_announced_lock_nobody_out():
    async with limited() as (each, account):
        wires = [await sent_in_part(each, LIMIT - 100, 10) for _ in range(5)]
        await until(lambda: account.used)
        wire = await sent_in_part(each, 900_000, 900_000)
        wire.data(1, b"", end=True)
        assert len((await wire.answer(1))[1]) == 900_005
        for each_wire in wires:
            each_wire.writer.close()


async def test_a_large_message_counts_until_it_is_answered():
    async with limited() as (each, account):
        wire = await sent_in_part(each, 1_900_000, 1_800_000)
        await until(lambda: account.used >= 1_800_000)
        other = await sent_in_part(each, 1_500_000, 10)
        code, text = status(await other.answer(1))
        assert code == "8"
        assert text.startswith("memory for request bodies has no room: 18")
        wire.data(1, bytes(100_000), end=True)
        assert len((await wire.answer(1))[1]) == 1_900_005
        await until(lambda: not account.used)


async def test_of_messages_that_grow_together_one_is_refused_and_the_other_comes_through():
    async with limited() as (each, account):
        first, second = [await sent_in_part(each, 1_500_000, 10) for _ in range(2)]
        await until(lambda: account.used >= 2 * RESERVE)
        for each_wire in first, second:
            each_wire.data(1, bytes(899_990))
        await until(lambda: account.used >= 1_800_000)
        second.data(1, bytes(300_000))
        assert status(await second.answer(1))[0] == "8"
        first.data(1, bytes(600_000), end=True)
        assert len((await first.answer(1))[1]) == 1_500_005


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_message_counts_as_it_is_inflated(coding):
    compress = gzip.compress if coding == "gzip" else zlib.compress
    async with limited() as (each, account):
        wire = await each.wire(settings=setting(4, 1 << 22))
        wire.send(frame(frames.WINDOW_UPDATE, 0, 0, (1 << 22).to_bytes(4, "big")))
        for number, size, code in ((1, 900_000, "0"), (3, 2_100_000, "8"), (5, 64, "0")):
            wire.call(number, None, grpc_encoding=coding)
            wire.data(number, packed(compress(bytes(size)), flag=1), end=True)
            fields, content = await wire.answer(number)
            assert fields["grpc-status"] == code
            assert len(content) == (size + 5 if code == "0" else 0)
            await until(lambda: not account.used)


async def test_a_compressed_message_counts_while_it_comes():
    async with limited() as (each, account):
        wire = await each.wire()
        wire.call(1, None, grpc_encoding="gzip")
        wire.data(1, packed(bytes(1_000_000), flag=1)[:600_000])
        await until(lambda: account.used == 599_995)


async def test_messages_of_a_stream_that_nobody_has_read_count():
    async with limited(stream_window=1 << 20) as (each, account):
        wire = await each.wire(settings=setting(4, 0))  # its first answer waits, and nothing more is read
        wire.call(1, None, "/t.T/Chat")
        for _ in range(10):
            wire.data(1, packed(bytes(9_000)))
        await until(lambda: account.used == 81_000)
        for number in (0, 1):
            wire.send(frame(frames.WINDOW_UPDATE, 0, number, (1 << 20).to_bytes(4, "big")))
        await until(lambda: len(each.methods.read) == 10 and not account.used)


async def test_a_message_that_trickles_is_given_up():
    async with limited() as (each, _account):
        each.server.limits = Limits(body_window=0.2, min_body_rate=1000)
        each.server._interval = 0.02
        wire = await sent_in_part(each, 100_000, 10)
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(wire.answer(1))
            while not answer.done():
                wire.data(1, b"x")
                await asyncio.sleep(0.02)
        assert status(answer.result()) == (
            "4", "Request body came too slowly: less than 1000 bytes a second (min_body_rate) for 0 seconds.",
        )  # fmt: skip


async def test_what_is_received_may_have_a_limit_of_its_own():
    async with served() as each:
        server = GrpcServer([], max_request_bytes=100)
        each.server.max_request_bytes, each.server.max_request_key = (
            server.max_request_bytes,
            server.max_request_key,
        )
        wire = await each.wire()
        wire.call(1, bytes(101))
        assert status(await wire.answer(1)) == (
            "8", "the message has 101 bytes, and 100 are allowed (grpc_max_request_size)",
        )  # fmt: skip
    both = GrpcServer([], max_message_bytes=50, max_request_bytes=100)
    assert (both.max_request_bytes, both.max_request_key) == (50, "grpc_max_message_size")
    both = GrpcServer([], max_message_bytes=200, max_request_bytes=100)
    assert (both.max_request_bytes, both.max_message_bytes) == (100, 200)


async def test_a_message_of_more_than_2_gb_opens_no_window_that_there_cannot_be():
    async with served() as each:
        each.server.allocator = HeapAllocator()
        wire = await each.wire()
        wire.call(1, None)
        wire.data(1, b"\0" + (0xFFF0_0000).to_bytes(4, "big"))
        allowed = (1 << 20) - 5 + (await wire.until("WindowUpdate", 1)).window_increment
        assert allowed == frames.MAX_WINDOW
        for _ in range(60):
            wire.data(1, bytes(16_384))
        assert (await wire.until("WindowUpdate", 1)).window_increment <= 60 * 16_384
        assert await wire.alive()
