"""Calls of a decoupled model's code on the process's main thread, while another thread receives its requests.

Triton calls the code there as well: libraries set signal handlers, and keep a current device for each thread.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from mooring.backends.overlapping import Answer, Overlapping

_Call = tuple[Callable[..., Any], tuple[Any, ...], "Future[Any]"]


class DecoupledModel(Overlapping):
    """A model whose calls do not wait for their responses. An ``asynchronous`` one has an event loop on the main thread."""

    def __init__(self, answer: Answer, *, asynchronous: bool) -> None:
        super().__init__(answer)
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._own_loop = asyncio.new_event_loop() if asynchronous else None
        self._serving = False

    def serve(self, serve_forever: Callable[[], None]) -> None:
        """Receive requests on another thread, and run the model's code on this one until that has ended."""
        self._serving = True
        receiving = threading.Thread(target=self._receive, args=(serve_forever,), name="requests")
        receiving.start()
        if self._own_loop is not None:
            self._own_loop.run_forever()
        while (call := self._calls.get()) is not None:
            function, arguments, result = call
            try:
                result.set_result(function(*arguments))
            except BaseException as error:  # whoever waits for the call gets it
                result.set_exception(error)
        receiving.join()

    def _receive(self, serve_forever: Callable[[], None]) -> None:
        try:
            serve_forever()
        finally:
            self._calls.put(None)
            if self._own_loop is not None:
                self._own_loop.call_soon_threadsafe(self._own_loop.stop)

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of the model on the main thread, and await the coroutine that an asynchronous one returns.

        It goes on where its caller is cancelled: the model asks whether its requests are, and ends as it likes.
        """
        if not self._serving:  # a warm-up, on the main thread
            returned = function(*arguments)
            return await returned if self._own_loop is not None else returned
        if self._own_loop is not None:
            running = asyncio.run_coroutine_threadsafe(function(*arguments), self._own_loop)
        else:
            running = Future()
            self._calls.put((function, arguments, running))
        return await asyncio.shield(asyncio.wrap_future(running))

    def close(self) -> None:
        """Close both event loops, which have ended."""
        self.loop.close()
        if self._own_loop is not None:
            self._own_loop.close()
