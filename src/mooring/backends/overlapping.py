"""Models that wait: called for any number of batches at once, on one event loop."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from mooring.backends.backend import Concurrent
from mooring.core.requests import InferenceRequest
from mooring.core.service import Outcome, Reply

Answer = Callable[[Sequence[InferenceRequest], Reply], Coroutine[Any, Any, Sequence[Outcome]]]


class Overlapping(Concurrent):
    """A model whose calls overlap: ``answer`` is its coroutine function. The owner closes ``loop``, by default a new one."""

    def __init__(self, answer: Answer, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop or asyncio.new_event_loop()
        self._answer = answer

    async def infer(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        return await self._answer(requests, reply)
