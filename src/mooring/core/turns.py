"""Long work on the event loop in turns, so that it keeps nobody waiting."""

import asyncio
import time
from collections.abc import Iterable

# Seconds that work keeps the event loop, but for a step that takes longer by itself.
TURN = 0.001


async def take_turns(steps: Iterable[None]) -> None:
    """Go through the steps of some work, with a turn of the event loop for everybody else after every ``TURN``."""
    began = time.perf_counter()
    for _ in steps:
        if time.perf_counter() - began > TURN:
            await asyncio.sleep(0)
            began = time.perf_counter()
