"""How late the event loop is."""

import asyncio
import time

from mooring.observability.histogram import Histogram
from mooring.observability.loop_lag import LAGS, LoopLag


async def test_what_keeps_the_loop_shows_as_its_lag():
    histogram = Histogram(LAGS)
    lag = LoopLag(histogram)
    await asyncio.sleep(0.2)
    time.sleep(0.4)  # noqa: ASYNC251 - that is what is measured
    await asyncio.sleep(0.01)
    lag.stop()
    assert sum(histogram.counts) == 1
    assert histogram.total >= 0.3
    await asyncio.sleep(0.3)
    assert sum(histogram.counts) == 1
