"""A call of another node is held for a moment, and takes back what is sent there meanwhile."""

import asyncio

import pytest
from virtual_time import virtual_time

from mooring.cluster.ray.held_calls import MOST_RETURNED, HeldCalls
from mooring.cluster.ray.streams import IncomingStreams, OutgoingStreams


async def holding(calls, node):
    call = asyncio.ensure_future(calls.hold(node, 7))
    await asyncio.sleep(0)
    return call


@virtual_time
async def test_a_held_call_returns_with_what_is_sent():
    calls = HeldCalls()
    call = await holding(calls, "b")
    assert calls.is_held("b", 7, [b"answer"])
    calls.give_back("b", 7, 0, [b"answer"])
    assert await call == (7, 0, [b"answer"])
    assert not calls.is_held("b", 7, [b"next"])


@virtual_time
async def test_a_call_is_held_for_a_moment_only():
    calls = HeldCalls()
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await calls.hold("b", 7) is None
    assert 0 < loop.time() - began <= 0.3
    assert not calls.is_held("b", 7, [b"late"])


@virtual_time
async def test_one_call_of_a_node_is_held_and_those_of_others_beside_it():
    calls = HeldCalls()
    first, other = await holding(calls, "b"), await holding(calls, "c")
    second = await holding(calls, "b")
    assert await first is None
    calls.give_back("b", 7, 0, [b"b"])
    calls.give_back("c", 7, 0, [b"c"])
    assert await second == (7, 0, [b"b"])
    assert await other == (7, 0, [b"c"])


@virtual_time
async def test_what_ray_would_put_into_its_object_store_does_not_go_back_with_a_call():
    calls = HeldCalls()
    call = await holding(calls, "b")
    assert not calls.is_held("b", 7, [bytes(MOST_RETURNED), b"1"])
    assert await call is None


@virtual_time
async def test_messages_of_a_stream_that_the_other_node_does_not_take_go_as_a_call():
    calls = HeldCalls()
    call = await holding(calls, "b")
    assert not calls.is_held("b", 8, [b"of a newer stream"])
    assert await call is None


async def test_a_stream_is_taken_from_its_beginning_until_it_breaks_off():
    incoming, outgoing = IncomingStreams(lambda node, payloads: None), OutgoingStreams()
    assert incoming.accepted("b") == 0
    stream, number = outgoing.next("a")
    await incoming.take("b", stream, number, [b"1"])
    assert incoming.accepted("b") == stream
    incoming.break_off("b")
    assert incoming.accepted("b") == 0


async def test_after_a_call_that_failed_nothing_more_of_its_node_is_taken_until_that_begins_anew():
    came = []
    incoming, outgoing = IncomingStreams(lambda node, payloads: came.extend(payloads)), OutgoingStreams()
    await incoming.take("b", *outgoing.next("a"), [b"1"])
    stream, _lost = outgoing.next("a")
    waiting = asyncio.ensure_future(incoming.take("b", *outgoing.next("a"), [b"3"]))
    await asyncio.sleep(0)
    incoming.break_off("b")
    with pytest.raises(ConnectionError):
        await waiting
    with pytest.raises(ConnectionError):
        await incoming.take("b", *outgoing.next("a"), [b"4"])
    outgoing.break_off("a", stream)
    await incoming.take("b", *outgoing.next("a"), [b"5"])
    assert came == [b"1", b"5"]
