"""The thread in which the code of a decoupled model runs, beside the event loop that receives its requests."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class ModelThread:
    """Runs the model's functions one after the other; of an ``asynchronous`` model, coroutines beside each other."""

    def __init__(self, *, asynchronous: bool) -> None:
        self._executor = ThreadPoolExecutor(1, "model")
        self._loop: asyncio.AbstractEventLoop | None = None
        if asynchronous:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="model-loop", daemon=True).start()

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function there and return its result."""
        return self._executor.submit(function, *arguments).result()

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function there, and await the coroutine that an asynchronous model's returns.

        It goes on where its caller is cancelled: the model asks whether its requests are, and ends as it likes.
        """
        if self._loop is None:
            return await asyncio.shield(asyncio.wrap_future(self._executor.submit(function, *arguments)))
        coroutine = asyncio.run_coroutine_threadsafe(function(*arguments), self._loop)
        return await asyncio.shield(asyncio.wrap_future(coroutine))

    def close(self) -> None:
        """End the thread, as soon as what runs there has ended."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
