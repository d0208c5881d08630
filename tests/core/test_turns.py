"""Work in turns: all of it is done, in order, and others run meanwhile."""

import asyncio

from mooring.core import turns
from mooring.core.turns import take_turns


async def test_others_run_between_the_steps(monkeypatch):
    monkeypatch.setattr(turns, "TURN", -1.0)
    done = []

    def work():
        for number in range(3):
            done.append(number)
            yield

    asyncio.get_running_loop().call_soon(done.append, "other")
    await take_turns(work())
    assert done == [0, "other", 1, 2]


async def test_short_work_keeps_its_turn(monkeypatch):
    monkeypatch.setattr(turns, "TURN", 1000.0)
    done = []
    asyncio.get_running_loop().call_soon(done.append, "other")
    await take_turns(iter([None] * 5))
    assert done == []
