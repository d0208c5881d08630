"""An event loop whose time is virtual: when nothing is left to do, it is as late as the next timer says, at once."""

import asyncio
import functools
import selectors
import types

_LONGEST_WAIT = 0.05  # seconds that a thread may need to wake the loop


class _Selector(selectors.DefaultSelector):
    loop = None

    def select(self, timeout=None):
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            return super().select(_LONGEST_WAIT)
        self.loop.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """``time`` begins at a round number, and passes only in timers. What is in ``closers`` is called at the end."""

    def __init__(self):
        self.now = 1000.0
        self.closers = []
        selector = _Selector()
        super().__init__(selector)
        selector.loop = self

    def time(self):
        return self.now


def virtual_time(test):
    """Run an asynchronous test in a ``VirtualLoop``."""

    @functools.wraps(test)
    def run(*args, **fixtures):
        async def run_and_close():
            try:
                await test(*args, **fixtures)
            finally:
                for close in asyncio.get_running_loop().closers:
                    close()

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(run_and_close())

    return run


def set_clock(monkeypatch, *modules):
    """Have these modules read the time of the running loop in place of the machine's."""

    def now():
        return asyncio.get_running_loop().time()

    for module in modules:
        monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=now, time=now))


async def turns(count=8):
    """Let the loop hear and do what is there; no time passes."""
    for _ in range(count):
        await asyncio.sleep(0)
