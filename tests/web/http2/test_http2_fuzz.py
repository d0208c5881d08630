"""Whatever a client sends: it is answered, told what is wrong, or left; the server goes on and keeps nothing.

On the loop that servers run on.
"""

import asyncio
import logging

import pytest
import uvloop
from http2_kit import PREFACE, packed, served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mooring.web.http2 import frames

pytestmark = pytest.mark.sockets

BLOCK = b"\x83\x86\x44\x09/t.T/Echo\x5f\x10application/grpc"
CHAT = BLOCK.replace(b"Echo", b"Chat")
KINDS = st.integers(0, 10) | st.sampled_from([0, 1, 8, 9])
PAYLOADS = st.binary(max_size=40) | st.sampled_from(
    [
        BLOCK,
        CHAT,
        packed(b"hello"),
        packed(b"hello")[:3],
        packed(bytes(70_000))[:80],
        bytes(4),
        bytes(8),
        b"\0\0\1\0",
    ]
)
FRAMES = st.builds(
    frames.pack_frame,
    KINDS,
    st.sampled_from([0, 1, 4, 5, 8, 13, 0x20, 0x25]) | st.integers(0, 255),
    st.sampled_from([0, 1, 1, 3, 5, 2, 7]),
    PAYLOADS,
)
CALLS = st.sampled_from([1, 3, 5]).flatmap(
    lambda number: st.just(
        frames.pack_frame(1, 4, number, BLOCK) + frames.pack_frame(0, 1, number, packed(b"hello"))
    )
)
SENT = st.lists(FRAMES | CALLS | st.binary(max_size=20), max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=SENT, cut=st.integers(1, 60))
def test_no_bytes_break_the_server(sent, cut, caplog):
    caplog.set_level(logging.ERROR)

    async def attack():
        async with served() as each:
            wire = await each.wire()
            data = b"".join(sent)
            for at in range(0, len(data), cut):
                wire.send(data[at : at + cut])
                await asyncio.sleep(0)
            other = await each.wire(begin=False)
            other.send(PREFACE, frames.pack_frame(frames.SETTINGS, 0, 0))
            other.call(1, b"still there")
            assert (await other.answer(1))[1] == packed(b"still there")

    uvloop.run(attack())
    assert not caplog.records


@pytest.mark.parametrize("size", [1, 9, 100_000])
def test_zeros_are_no_http2(size):
    async def attack():
        async with served() as each:
            wire = await each.wire(begin=False)
            wire.send(bytes(size))
            assert b" 505 " in await asyncio.wait_for(wire.reader.read(200), 5)

    uvloop.run(attack())
