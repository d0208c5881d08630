"""Messages between nodes stay in order, although Ray may start the calls that carry them in any order."""

import asyncio
import itertools

import pytest

from mooring.cluster.ray.streams import IncomingStreams, OutgoingStreams


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_calls_are_passed_on_in_the_order_in_which_they_were_numbered(order):
    came = []
    streams = IncomingStreams(lambda node, payloads: came.extend(payloads))
    calls = [asyncio.ensure_future(streams.take("a", 1, number, [b"%d" % number])) for number in order]
    await asyncio.gather(*calls)
    assert came == [b"0", b"1", b"2"]


async def test_a_payload_that_must_be_fetched_holds_up_what_came_after_it():
    came = []
    streams = IncomingStreams(lambda node, payloads: came.extend(payloads))
    reference = asyncio.get_running_loop().create_future()
    first = asyncio.ensure_future(streams.take("a", 1, 0, [reference]))
    second = asyncio.ensure_future(streams.take("a", 1, 1, [b"small"]))
    await streams.take("b", 1, 0, [b"of another node"])
    assert came == [b"of another node"]
    reference.set_result([b"large"])
    await asyncio.gather(first, second)
    assert came == [b"of another node", b"large", b"small"]


async def test_what_is_late_of_a_stream_that_broke_off_is_refused():
    came = []
    streams = IncomingStreams(lambda node, payloads: came.extend(payloads))
    outgoing = OutgoingStreams()
    old = outgoing.next("b")
    lost, late = outgoing.next("b"), outgoing.next("b")
    await streams.take("a", *old, [b"1"])
    waiting = asyncio.ensure_future(streams.take("a", *late, [b"late"]))
    await asyncio.sleep(0)
    outgoing.break_off("b", old[0])
    new = outgoing.next("b")
    assert new[0] > old[0]
    assert new[1] == 0
    outgoing.break_off("b", old[0])  # what was late has failed, too
    assert outgoing.next("b") == (new[0], 1)
    await streams.take("a", *new, [b"2"])
    with pytest.raises(ConnectionError):
        await waiting
    with pytest.raises(ConnectionError):
        await streams.take("a", *lost, [b"late"])
    assert came == [b"1", b"2"]


async def test_an_actor_that_was_started_again_refuses_a_stream_whose_beginning_went_to_the_one_before():
    came = []
    streams = IncomingStreams(lambda node, payloads: came.extend(payloads))
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(streams.take("a", 1, 7, [b"middle"]), 5)
    await streams.take("a", 2, 0, [b"new"])
    assert came == [b"new"]
