"""Calls of a decoupled model's code on the process's main thread, while another thread receives its requests.

Triton calls the code there as well: libraries set signal handlers, and keep a current device for each thread.
"""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from mooring.backends.model_calls import to_model_failure
from mooring.backends.overlapping import Answer, Overlapping
from mooring.backends.triton_python.messages import InferenceRequest

Execute = Callable[[list[InferenceRequest]], Any]


class _Call(NamedTuple):
    """A call that waits for the main thread. ``rows`` is how many its requests have together."""

    execute: Execute
    requests: list[InferenceRequest]
    rows: int
    result: "Future[Any]"


class DecoupledModel(Overlapping):
    """A model whose calls do not wait for their responses. An ``asynchronous`` one has an event loop on the main thread.

    Calls that wait while the model is busy become one of at most ``most_rows`` rows; 1 keeps them apart. Those of an
    asynchronous model never wait.
    """

    joins_requests = False

    def __init__(self, answer: Answer, *, asynchronous: bool, most_rows: int) -> None:
        super().__init__(answer)
        self._most_rows = most_rows
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
        call = self._calls.get()
        while call is not None:
            calls, following = self._take_waiting(call)
            _run_together(calls)
            call = self._calls.get() if following is call else following
        receiving.join()

    def _take_waiting(self, call: _Call) -> tuple[list[_Call], _Call | None]:
        """Return a call with those that wait and fit, and the first one that does not; the call itself where all fit."""
        calls, rows = [call], call.rows
        while rows < self._most_rows:
            try:
                more = self._calls.get_nowait()
            except queue.Empty:
                break
            if more is None or rows + more.rows > self._most_rows:
                return calls, more
            calls.append(more)
            rows += more.rows
        return calls, call

    def _receive(self, serve_forever: Callable[[], None]) -> None:
        try:
            serve_forever()
        finally:
            self._calls.put(None)
            if self._own_loop is not None:
                self._own_loop.call_soon_threadsafe(self._own_loop.stop)

    async def call(self, execute: Execute, requests: list[InferenceRequest], rows: int) -> Any:
        """Call the model on the main thread, and await the coroutine that an asynchronous one returns.

        It goes on where its caller is cancelled: the model asks whether its requests are, and ends as it likes.
        """
        if not self._serving:  # a warm-up, on the main thread
            returned = execute(requests)
            return await returned if self._own_loop is not None else returned
        if self._own_loop is not None:
            running = asyncio.run_coroutine_threadsafe(_await_call(execute(requests)), self._own_loop)
        else:
            running = Future()
            self._calls.put(_Call(execute, requests, rows, running))
        return await asyncio.shield(asyncio.wrap_future(running))

    def close(self) -> None:
        """Close both event loops, which have ended."""
        self.loop.close()
        if self._own_loop is not None:
            self._own_loop.close()


async def _await_call(returned: Awaitable[Any]) -> Any:
    """Await what ``execute`` returned. ``SystemExit`` would end the event loop, so it becomes an error of the model."""
    try:
        return await returned
    except (SystemExit, KeyboardInterrupt) as error:
        raise to_model_failure(error) from error


def _run_together(calls: list[_Call]) -> None:
    try:
        returned = calls[0].execute([request for call in calls for request in call.requests])
    except BaseException as error:  # whoever waits for the calls gets it
        # SystemExit would end the event loop that waits for the result.
        failure = error if isinstance(error, Exception) else to_model_failure(error)
        for call in calls:
            call.result.set_exception(failure)
    else:
        for call in calls:
            call.result.set_result(returned)
