"""Asynchronous handlers: ``async def handle``, called for any number of batches at once on one event loop."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from mooring.backends.handler.context import Context, PieceSender
from mooring.core.requests import InferenceRequest


class _Batch:
    """The part of a context that belongs to one call of the handler."""

    def __init__(self) -> None:
        self.request_ids: dict[int, str] = {}
        self._requests: Sequence[InferenceRequest] = ()
        self._sender: PieceSender | None = None
        self._processors: list[Any] | None = None


# Of the task that asks. Threads have it that asyncio.to_thread starts; others see no request.
_batch: ContextVar[_Batch] = ContextVar("batch")


def _of_batch(name: str) -> Any:
    def get_value(_context: Context) -> Any:
        return getattr(_batch.get(_NONE), name)

    def set_value(_context: Context, value: Any) -> None:
        setattr(_batch.get(_NONE), name, value)

    return property(get_value, set_value)


class ConcurrentContext(Context):
    """The one context of a handler whose calls overlap. What belongs to a call is only seen by that call's task."""

    request_ids = _of_batch("request_ids")
    _requests = _of_batch("_requests")
    _sender = _of_batch("_sender")
    _processors = _of_batch("_processors")

    def begin_batch(
        self, requests: Sequence[InferenceRequest], ids: dict[int, str], sender: PieceSender | None = None
    ) -> None:
        _batch.set(_Batch())
        super().begin_batch(requests, ids, sender)


_NONE = _Batch()


def run_initialize(
    loop: asyncio.AbstractEventLoop, initialize_handler: Callable[[Context], Any], context: Context
) -> None:
    """Call ``initialize`` on the running loop, since libraries may start tasks in it, and wait for its result."""

    async def initialize() -> None:
        returned = initialize_handler(context)
        if inspect.isawaitable(returned):
            await returned
        elif hasattr(returned, "__anext__"):  # a handler that yields is initialized by its first step
            await anext(returned, None)
            await returned.aclose()

    loop.run_until_complete(initialize())
