"""The edges of HTTP/2, frame by frame, at a real server."""

import asyncio
import struct

import h2.config
import h2.connection
import h2.events
import pytest
from http2_kit import HEAD, PREFACE, packed, served, setting, until

from mooring.web.http2 import frames
from mooring.web.http2.errors import ErrorCode
from mooring.web.http2.frames import pack_frame as frame
from mooring.web.listener import Limits

pytestmark = pytest.mark.sockets

S, H, D = frames.SETTINGS, frames.HEADERS, frames.DATA
WINDOW, PING, RST, PRIORITY = frames.WINDOW_UPDATE, frames.PING, frames.RST_STREAM, frames.PRIORITY
CONTINUATION, ES, EH = frames.CONTINUATION, frames.END_STREAM, frames.END_HEADERS
PADDED = frames.PADDED

BREAKS = {
    "data on stream 0": (frame(D, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data on a stream that was not begun": (frame(D, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data on a stream of the server": (frame(D, 0, 2, b"x"), ErrorCode.PROTOCOL_ERROR),
    "a head on stream 0": (frame(H, EH, 0, b"\x83"), ErrorCode.PROTOCOL_ERROR),
    "a head on an even stream": (frame(H, EH, 2, b"\x83"), ErrorCode.PROTOCOL_ERROR),
    "a connection window that grows by nothing": (frame(WINDOW, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "a connection window that overflows": (
        frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a window of a stream that was not begun": (frame(WINDOW, 0, 1, b"\0\0\0\1"), ErrorCode.PROTOCOL_ERROR),
    "a window of three bytes": (frame(WINDOW, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "half a setting": (frame(S, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "an acknowledgement that sets something": (frame(S, 1, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "settings of a stream": (frame(S, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "a first window that is too large": (frame(S, 0, 0, setting(4, 1 << 31)), ErrorCode.FLOW_CONTROL_ERROR),
    "frames that are too small": (frame(S, 0, 0, setting(5, 16_383)), ErrorCode.PROTOCOL_ERROR),
    "frames that are too large": (frame(S, 0, 0, setting(5, 1 << 24)), ErrorCode.PROTOCOL_ERROR),
    "push that is neither on nor off": (frame(S, 0, 0, setting(2, 2)), ErrorCode.PROTOCOL_ERROR),
    "a ping of seven bytes": (frame(PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "a ping of a stream": (frame(PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "the end of a stream that was not begun": (frame(RST, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "an end of three bytes": (frame(RST, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "a priority of four bytes": (frame(PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "a priority of no stream": (frame(PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "a push by a client": (frame(frames.PUSH_PROMISE, EH, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "a goodbye of a stream": (frame(frames.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "the rest of no header block": (frame(CONTINUATION, EH, 1, b"\x83"), ErrorCode.PROTOCOL_ERROR),
    "a header block that is interrupted": (frame(H, 0, 1, b"\x83") + frame(PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a header block that another stream goes on with": (
        frame(H, 0, 1, b"\x83") + frame(CONTINUATION, EH, 3, b"\x83"), ErrorCode.PROTOCOL_ERROR,
    ),
    "a header block all of padding and more": (frame(H, EH | PADDED, 1, b"\x05abc"), ErrorCode.PROTOCOL_ERROR),
    "padding without its length": (frame(H, EH | PADDED, 1), ErrorCode.PROTOCOL_ERROR),
    "a priority that is cut off": (frame(H, EH | 0x20, 1, b"\0\0"), ErrorCode.FRAME_SIZE_ERROR),
    "entry 0 of the table": (frame(H, EH, 1, b"\x80"), ErrorCode.COMPRESSION_ERROR),
    "an entry that there is not": (frame(H, EH, 1, b"\xff\x7f"), ErrorCode.COMPRESSION_ERROR),
    "a number without end": (frame(H, EH, 1, b"\xff" + b"\xff" * 9), ErrorCode.COMPRESSION_ERROR),
    "a string that is cut off": (frame(H, EH, 1, b"\x40\x05ab"), ErrorCode.COMPRESSION_ERROR),
    "a string that is wrongly padded": (frame(H, EH, 1, b"\x40\x81\x00\x00"), ErrorCode.COMPRESSION_ERROR),
    "a table larger than allowed": (frame(H, EH, 1, b"\x3f\xff\x7f"), ErrorCode.COMPRESSION_ERROR),
    "a head that is too large for a frame": (frame(H, EH, 1, bytes(70_000)), ErrorCode.FRAME_SIZE_ERROR),
    "content that is too large for a frame": (
        frames.HEAD.pack((1 << 20) + 1 << 8 | D, 0, 1), ErrorCode.FRAME_SIZE_ERROR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(BREAKS))
async def test_a_client_that_breaks_the_rules_is_told_and_left(what):
    data, code = BREAKS[what]
    async with served() as each:
        wire = await each.wire()
        wire.send(data)
        assert await wire.gone() == code


@pytest.mark.parametrize("beginning", [frame(PING, 0, 0, bytes(8)), frame(S, 1, 0)])
async def test_the_first_frame_must_be_settings(beginning):
    async with served() as each:
        wire = await each.wire(begin=False)
        wire.send(PREFACE, beginning)
        assert await wire.gone() == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "beginning", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01", b"PRI * HTTP/3"]
)
async def test_who_does_not_speak_http2_is_told_so(beginning):
    async with served() as each:
        wire = await each.wire(begin=False)
        wire.send(beginning)
        said = await asyncio.wait_for(wire.reader.read(), 5)
        assert b"HTTP/1.1 505 " in said
        assert said.endswith(b"speaks HTTP/2 alone\n")


async def test_a_preface_may_come_byte_by_byte():
    async with served() as each:
        wire = await each.wire(begin=False)
        for byte in PREFACE + frame(S, 0, 0):
            wire.send(bytes([byte]))
            await asyncio.sleep(0)
        assert await wire.alive()


BAD_HEADS = {
    "no path": {":path": None},
    "an empty path": {":path": ""},
    "no method": {":method": None},
    "no scheme": {":scheme": None},
    "an unknown pseudo-header": {":status": "200"},
    "a header of HTTP/1": {"connection": "close"},
    "a transfer coding": {"transfer-encoding": "chunked"},
    "a te that is none": {"te": "gzip"},
    "capital letters": {"X-Name": "1"},
    "a line break": {"x-name": "a\r\nb"},
    "a zero": {"x-name": "a\0b"},
    "a name with a space": {"x name": "1"},
}


@pytest.mark.parametrize("what", sorted(BAD_HEADS))
async def test_a_head_that_is_none_ends_its_stream_and_no_other(what):
    async with served() as each:
        wire = await each.wire()
        head = dict(HEAD) | BAD_HEADS[what]
        ordered = sorted(head.items(), key=lambda item: not item[0].startswith(":"))
        block = wire.encoder.encode([item for item in ordered if item[1] is not None])
        wire.send(frame(H, EH, 1, block))
        wire.data(1, packed(b"never read"), end=True)
        assert await wire.answer(1) == ErrorCode.PROTOCOL_ERROR
        wire.call(3, b"hello")
        assert (await wire.answer(3))[1] == packed(b"hello")


@pytest.mark.parametrize(
    "fields",
    [[("x", "1"), *HEAD], [*HEAD[:3], HEAD[2], *HEAD[3:]], [*HEAD[:5], (":authority", "y"), HEAD[5]]],
    ids=["out of place", "twice", "after others"],
)
async def test_pseudo_headers_come_first_and_once(fields):
    async with served() as each:
        wire = await each.wire()
        wire.send(frame(H, EH | ES, 1, wire.encoder.encode(fields)))
        assert await wire.answer(1) == ErrorCode.PROTOCOL_ERROR
        assert await wire.alive()


async def test_padding_priorities_continuations_and_unknown_frames_are_understood():
    async with served() as each:
        wire = await each.wire()
        block = wire.block()
        wire.send(
            frame(0xFA, 0xFF, 1, b"an extension"),
            frame(PRIORITY, 0, 1, bytes(5)),
            frame(H, PADDED | 0x20, 1, b"\x03" + bytes(5) + block[:7] + bytes(3)),
            frame(CONTINUATION, 0, 1, block[7:9]),
            frame(CONTINUATION, EH, 1, block[9:]),
            frame(D, PADDED, 1, b"\x02" + packed(b"hello")[:4] + bytes(2)),
            frame(D, PADDED, 1, b"\x00"),
            frame(D, PADDED | ES, 1, b"\xff" + packed(b"hello")[4:] + bytes(255)),
        )
        assert (await wire.answer(1))[1] == packed(b"hello")


async def test_the_same_bytes_mean_the_same_however_they_are_cut():
    async with served() as each:
        for cut in (1, 2, 3, 7, 50, 1000):
            wire = await each.wire(settings=setting(4, 1 << 20))
            wire.send(frame(WINDOW, 0, 0, (1 << 20).to_bytes(4, "big")))
            block, content = wire.block(), packed(bytes(range(256)) * 400)
            sent = frame(H, EH, 1, block) + b"".join(
                frame(D, PADDED, 1, b"\x09" + content[at : at + 5000] + bytes(9))
                for at in range(0, len(content), 5000)
            )
            sent += frame(D, ES, 1)
            for at in range(0, len(sent), cut * 50):
                wire.send(sent[at : at + cut])
                await asyncio.sleep(0)
                wire.send(sent[at + cut : at + cut * 50])
                await asyncio.sleep(0)
            assert (await wire.answer(1))[1] == content
            wire.writer.close()


async def test_trailers_end_a_request_and_must_be_trailers():
    async with served() as each:
        wire = await each.wire()
        wire.call(1, b"hello", end=False)
        wire.send(frame(H, EH | ES, 1, wire.encoder.encode([("x-sum", "1")])))
        assert (await wire.answer(1))[1] == packed(b"hello")
        wire.call(3, b"hello", end=False)
        wire.send(frame(H, EH, 3, wire.encoder.encode([("x-sum", "1")])))
        assert await wire.answer(3) == ErrorCode.PROTOCOL_ERROR
        wire.call(5, b"hello", end=False)
        wire.send(frame(H, EH | ES, 5, wire.encoder.encode([(":path", "/")])))
        assert await wire.answer(5) == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("late", [frame(D, 0, 1, b"x"), frame(H, EH | ES, 1, b"\x83")])
async def test_a_stream_that_its_client_has_ended_takes_no_more(late):
    async with served() as each:
        for path in ("/t.T/Echo", "/t.T/Hold"):  # answered, and not
            wire = await each.wire()
            wire.call(1, b"hello", path)
            if path.endswith("Echo"):
                await wire.answer(1)
            wire.send(late)
            assert await wire.gone() == ErrorCode.STREAM_CLOSED


async def test_what_was_on_its_way_when_the_server_ended_a_stream_is_let_pass():
    async with served(max_message_bytes=10) as each:
        wire = await each.wire()
        wire.call(1, bytes(11), end=False)
        fields, _ = await wire.answer(1)
        assert fields["grpc-status"] == "8"
        assert (await wire.until("RstStream", 1)).error_code == ErrorCode.NO_ERROR
        wire.data(1, b"more")
        wire.data(1, b"and more", end=True)
        wire.send(frame(RST, 0, 1, ErrorCode.CANCEL.to_bytes(4, "big")))
        assert await wire.alive()


async def test_windows_of_streams_are_held_to_their_limits():
    async with served() as each:
        wire = await each.wire()
        wire.call(1, b"hello", "/t.T/Hold")
        wire.send(frame(WINDOW, 0, 1, bytes(4)))
        assert await wire.answer(1) == ErrorCode.PROTOCOL_ERROR
        wire.call(3, b"hello", "/t.T/Hold")
        wire.send(frame(WINDOW, 0, 3, b"\x7f\xff\xff\xff"))
        assert await wire.answer(3) == ErrorCode.FLOW_CONTROL_ERROR
        wire.send(frame(WINDOW, 0, 3, b"\0\0\0\1"))  # it crossed the end
        assert await wire.alive()
        await until(lambda: each.methods.cancelled == 2)
        wire.call(5, b"hello", "/t.T/Hold")
        wire.send(frame(WINDOW, 0, 5, b"\x7f\xff\x00\x00"), frame(S, 0, 0, setting(4, 1 << 20)))
        assert await wire.gone() == ErrorCode.FLOW_CONTROL_ERROR


async def test_a_client_that_sends_more_than_the_stream_may_is_stopped():
    async with served(stream_window=1000) as each:
        wire = await each.wire()
        wire.call(1, None, "/t.T/Chat")
        wire.data(1, bytes(1001))
        assert await wire.answer(1) == ErrorCode.FLOW_CONTROL_ERROR
        assert await wire.alive()


async def test_a_client_that_sends_more_than_the_connection_may_is_left():
    async with served(connection_window=70_000, stream_window=1 << 20) as each:
        wire = await each.wire()
        await wire.until("WindowUpdate", 0)
        wire.call(1, None, "/t.T/Chat")
        wire.data(1, bytes(100_000))
        assert await wire.gone() == ErrorCode.FLOW_CONTROL_ERROR


async def test_an_answer_waits_for_the_clients_windows():
    async with served() as each:
        wire = await each.wire(settings=setting(4, 0))
        wire.call(1, bytes(range(200)))
        await wire.until("Headers", 1)
        assert await wire.alive()
        assert not [each for each in wire.seen[1] if type(each).__name__ == "DataFrame"]
        wire.send(frame(WINDOW, 0, 1, b"\0\0\0\x0a"))
        assert len((await wire.until("Data", 1)).data) == 10
        wire.send(frame(S, 0, 0, setting(4, 100)))
        assert len((await wire.until("Data", 1)).data) == 100
        wire.send(frame(S, 0, 0, setting(4, 0)))  # the window is below zero now
        wire.send(frame(WINDOW, 0, 1, b"\0\0\0\x64"))
        assert await wire.alive()
        wire.send(frame(WINDOW, 0, 1, b"\0\0\1\0"))
        assert (await wire.answer(1))[0]["grpc-status"] == "0"


async def test_the_connections_window_is_shared_and_small_answers_do_not_starve():
    async with served() as each:
        wire = await each.wire(settings=setting(4, 1 << 20))
        wire.call(1, bytes(100_000))
        got = 0
        while got < 65_535:
            got += len((await wire.until("Data", 1)).data)
        wire.call(3, b"small")
        await wire.until("Headers", 3)
        assert await wire.alive()
        wire.send(frame(WINDOW, 0, 0, (1 << 20).to_bytes(4, "big")))
        assert (await wire.answer(3))[1] == packed(b"small")


async def test_frames_are_no_larger_than_the_client_takes_them():
    async with served() as each:
        wire = await each.wire(settings=setting(4, 1 << 20) + setting(5, 20_000))
        wire.send(frame(WINDOW, 0, 0, (1 << 20).to_bytes(4, "big")))
        wire.call(1, bytes(100_000))
        await wire.answer(1)
        sizes = [len(each.data) for each in wire.seen[1] if type(each).__name__ == "DataFrame"]
        assert sizes == [20_000] * 5 + [5]


async def test_more_streams_than_allowed_are_refused_and_the_others_go_on():
    async with served(max_streams=2) as each:
        wire = await each.wire()
        for number in (1, 3, 5):
            wire.call(number, b"x", "/t.T/Hold")
        assert await wire.answer(5) == ErrorCode.REFUSED_STREAM
        await until(lambda: len(each.methods.held) == 2)
        each.methods.held[0][0].respond([b"done"])
        assert (await wire.answer(1))[1] == packed(b"done")
        wire.call(7, b"x")
        assert (await wire.answer(7))[1] == packed(b"x")


FLOODS = {
    "settings": lambda _: frame(S, 0, 0),
    "pings": lambda _: frame(PING, 0, 0, bytes(8)),
    "priorities": lambda _: frame(PRIORITY, 0, 1, bytes(5)),
    "unknown frames": lambda _: frame(0xEE, 0, 0),
    "frames without content": lambda i: frame(H, EH, 1, BLOCK) if not i else frame(D, 0, 1),
    "frames all of padding": lambda i: frame(H, EH, 1, BLOCK) if not i else frame(D, PADDED, 1, b"\1\0"),
    "continuations without content": lambda i: frame(H, 0, 1) if not i else frame(CONTINUATION, 0, 1),
    "a head without end": lambda i: frame(H, 0, 1, bytes(9000)) if not i else frame(CONTINUATION, 0, 1, bytes(9000)),
    "streams that are reset": lambda i: frame(H, EH, 2 * i + 1, BLOCK) + frame(RST, 0, 2 * i + 1, bytes(4)),
    "windows that grow by nothing": lambda i: frame(H, EH, 2 * i + 1, BLOCK) + frame(WINDOW, 0, 2 * i + 1, bytes(4)),
    "windows that grow too large": lambda i: frame(H, EH, 2 * i + 1, BLOCK) + frame(WINDOW, 0, 2 * i + 1, b"\x7f" + b"\xff" * 3),
    "messages with a flag that is none": lambda i: frame(H, EH, 2 * i + 1, BLOCK) + frame(D, 0, 2 * i + 1, b"\7" + bytes(4)),
    "trailers that do not end": lambda i: frame(H, EH, 2 * i + 1, BLOCK) + frame(H, EH, 2 * i + 1, BLOCK),
    "heads that are none": lambda i: frame(H, EH, 2 * i + 1, b"\x83"),
}  # fmt: skip
BLOCK = b"\x83\x86\x44\x09/t.T/Chat\x5f\x10application/grpc"


@pytest.mark.parametrize("what", sorted(FLOODS))
async def test_a_client_that_only_makes_work_is_left(what):
    async with served(frame_budget=500) as each:
        wire = await each.wire()
        data = b"".join(FLOODS[what](i) for i in range(1500))
        wire.send(data)
        assert await wire.gone() == ErrorCode.ENHANCE_YOUR_CALM
        await until(lambda: not each.server._connections)


def resets(first, count):
    """So many calls that are made and cancelled at once, and the number after theirs."""
    numbers = range(first, first + 2 * count, 2)
    sent = [frame(H, EH, number, BLOCK) + frame(RST, 0, number, bytes(4)) for number in numbers]
    return b"".join(sent), first + 2 * count


async def test_who_cancels_too_many_calls_gets_no_new_ones_and_those_that_run_are_answered():
    async with served(frame_budget=500) as each:
        wire = await each.wire()
        for number in (1, 3):
            wire.call(number, b"x", "/t.T/Hold")
        await until(lambda: len(each.methods.held) == 2)
        cancelled, number = resets(5, 130)
        wire.send(cancelled)
        goodbye = await wire.until("GoAway")
        assert goodbye.error_code == ErrorCode.ENHANCE_YOUR_CALM
        assert 3 < goodbye.last_stream_id < number
        wire.call(number, b"new")
        assert await wire.answer(number) == ErrorCode.REFUSED_STREAM
        each.methods.held[0][0].respond([b"one"])
        assert (await wire.answer(1))[1] == packed(b"one")
        assert not each.methods.cancelled
        each.methods.held[1][0].respond([b"two"])
        assert (await wire.answer(3))[1] == packed(b"two")
        assert await wire.frame() is None
        await until(lambda: not each.server._connections)


async def test_who_goes_on_all_the_same_is_left():
    async with served(frame_budget=500) as each:
        wire = await each.wire()
        wire.call(1, b"x", "/t.T/Hold")
        await until(lambda: each.methods.held)
        wire.send(resets(3, 1500)[0])
        assert await wire.gone() == ErrorCode.ENHANCE_YOUR_CALM
        await until(lambda: each.methods.cancelled == 1 and not each.server._connections)


async def test_a_head_that_grows_when_it_is_read_is_its_streams_fault_alone():
    async with served() as each:
        wire = await each.wire()
        bomb = b"\x83\x86\x44\x01/" + b"\x40\x01x" + b"\x7f\xb1\x1e" + b"y" * 4016 + b"\xbe" * 12_000
        wire.send(frame(H, EH | ES, 1, bomb))
        assert await wire.answer(1) == ErrorCode.ENHANCE_YOUR_CALM
        # The table is still the client's.
        wire.send(frame(H, EH | ES, 3, b"\xbe"))
        assert await wire.answer(3) == ErrorCode.PROTOCOL_ERROR
        wire.call(5, b"hello")
        assert (await wire.answer(5))[1] == packed(b"hello")


async def test_a_client_that_goes_away_takes_its_calls_and_their_memory_with_it():
    async with served() as each:
        wire = await each.wire()
        wire.call(1, b"x", "/t.T/Hold")
        wire.send(frame(H, EH, 3, wire.block()))
        wire.data(3, packed(bytes(500_000))[:300_000])
        await until(lambda: each.methods.held and each.allocator.live)
        wire.writer.transport.abort()
        await until(lambda: each.methods.cancelled == 1 and not each.allocator.live)


async def test_memory_of_a_message_that_is_reset_in_its_middle_is_not_written_any_more():
    async with served() as each:
        wire = await each.wire()
        wire.send(frame(H, EH, 1, wire.block()))
        content = packed(bytes(300_000))
        wire.send(frames.HEAD.pack(len(content) << 8 | D, 0, 1) + content[:100_000])
        await until(lambda: each.allocator.live)
        (call,) = next(iter(each.server._connections))._multiplexer.streams.by_id.values()
        call.connection.reset(call, ErrorCode.CANCEL)
        assert not each.allocator.live
        wire.send(content[100_000:])
        assert await wire.alive()


async def test_a_retiring_connection_takes_what_was_on_its_way_and_then_no_more():
    async with served() as each:
        wire = await each.wire()
        wire.call(1, b"x", "/t.T/Hold")
        await until(lambda: each.methods.held)
        draining = asyncio.ensure_future(each.server.drain(20))
        notice = await wire.until("GoAway")
        assert (notice.last_stream_id, notice.error_code) == (0x7FFF_FFFF, ErrorCode.NO_ERROR)
        wire.call(3, b"late")
        assert (await wire.answer(3))[1] == packed(b"late")
        ping = next(each for each in wire.seen[0] if type(each).__name__ == "PingFrame")
        wire.send(frame(PING, 1, 0, ping.opaque_data))
        assert (await wire.until("GoAway")).last_stream_id == 3
        wire.call(5, b"too late")
        assert await wire.answer(5) == ErrorCode.REFUSED_STREAM
        each.methods.held[0][0].respond([b"done"])
        assert (await wire.answer(1))[1] == packed(b"done")
        assert await wire.gone() is None
        await draining


async def test_an_old_connection_takes_no_new_streams_and_ends_after_its_grace():
    async with served(max_age=0.05, max_age_grace=0.1) as each:
        each.server._interval = 0.02
        wire = await each.wire()
        wire.call(1, b"x", "/t.T/Hold")
        assert (await wire.until("GoAway")).last_stream_id == 0x7FFF_FFFF
        assert await wire.gone() == ErrorCode.NO_ERROR
        await until(lambda: each.methods.cancelled)


async def test_a_client_that_says_nothing_is_asked_whether_it_is_there():
    async with served(keepalive=0.05, keepalive_timeout=0.05) as each:
        each.server._interval = 0.02
        wire = await each.wire()
        ping = await wire.until("Ping")
        wire.send(frame(PING, 1, 0, ping.opaque_data))
        assert await wire.until("Ping")
        assert await wire.gone() is None


async def test_who_does_not_begin_or_stops_inside_a_head_is_left():
    async with served() as each:
        each.server.limits = Limits(header_timeout=0.05)
        each.server._interval = 0.02
        for begin in (False, True):
            wire = await each.wire(begin=begin)
            wire.send(frame(H, 0, 1, b"\x83") if begin else PREFACE[:5])
            assert await wire.gone() in {ErrorCode.NO_ERROR, None}


async def test_an_independent_client_sends_and_gets_large_messages():
    content = packed(bytes(range(256)) * 12_000)
    async with served() as each:
        reader, writer = await asyncio.open_connection("127.0.0.1", each.server.port)
        client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        client.initiate_connection()
        client.send_headers(1, HEAD)
        sent, got, over = 0, b"", False
        while not over:
            while sent < len(content) and (room := client.local_flow_control_window(1)):
                size = min(room, client.max_outbound_frame_size, len(content) - sent)
                client.send_data(1, content[sent : sent + size], end_stream=sent + size == len(content))
                sent += size
            writer.write(client.data_to_send())
            data = await asyncio.wait_for(reader.read(65_536), 10)
            for event in client.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    got += event.data
                    client.acknowledge_received_data(event.flow_controlled_length, 1)
                over = over or isinstance(event, h2.events.StreamEnded)
        writer.close()
    assert got == content


async def test_many_streams_of_an_independent_client_are_answered_each_with_its_own():
    async with served() as each:
        reader, writer = await asyncio.open_connection("127.0.0.1", each.server.port)
        client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        client.initiate_connection()
        got = {}
        for number in range(1, 200, 2):
            client.send_headers(number, HEAD)
            client.send_data(number, packed(b"%d" % number), end_stream=True)
        while len(got) < 100 or any(value is None for value in got.values()):
            writer.write(client.data_to_send())
            for event in client.receive_data(await asyncio.wait_for(reader.read(65_536), 10)):
                if isinstance(event, h2.events.DataReceived):
                    got[event.stream_id] = event.data
        writer.close()
    assert got == {number: packed(b"%d" % number) for number in range(1, 200, 2)}


async def test_a_client_that_does_not_read_is_not_written_for():
    async with served() as each:
        wire = await each.wire(settings=setting(4, frames.MAX_WINDOW))
        wire.send(frame(WINDOW, 0, 0, struct.pack(">I", frames.MAX_WINDOW - 65_535)))
        wire.call(1, b"", "/t.T/Pour")
        written = -1
        while written != each.methods.written:
            written = each.methods.written
            await asyncio.sleep(0.2)
        assert 0 < written < 300  # what the kernel takes, at 100 KB each, and not without end
        wire.writer.transport.abort()
        await until(lambda: each.methods.cancelled)
