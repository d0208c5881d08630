"""Streams whose next piece does not come."""

import asyncio
import threading

import pytest

from mooring.client.stalls import AsyncStallTimer, StallTimer


async def test_who_waits_for_too_long_is_cancelled_in_a_loop():
    cancelled = asyncio.Event()
    timer = AsyncStallTimer(0.02, cancelled.set)
    timer.wait()
    await asyncio.wait_for(cancelled.wait(), 5)
    assert timer.expired


def test_who_waits_for_too_long_is_cancelled_in_a_thread():
    cancelled = threading.Event()
    timer = StallTimer(0.02, cancelled.set)
    timer.wait()
    assert cancelled.wait(5)
    assert timer.expired


@pytest.mark.parametrize("kind", [AsyncStallTimer, StallTimer])
async def test_a_piece_that_comes_begins_the_time_anew_and_nobody_waits_meanwhile(kind):
    cancelled = []
    timer = kind(0.2, lambda: cancelled.append(1))
    for _ in range(3):
        timer.wait()
        await asyncio.sleep(0.1)
        timer.pause()
    await asyncio.sleep(0.3)  # whoever has the piece takes its time
    timer.wait()
    timer.pause()
    timer.end()
    assert not cancelled
    assert not timer.expired
