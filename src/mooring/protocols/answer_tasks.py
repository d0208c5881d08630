"""Answers that a coroutine works out, such as that to the load of a model."""

import asyncio
from collections.abc import Callable, Coroutine

from mooring.core.errors import MooringError
from mooring.observability.logs import get_logger
from mooring.protocols.responses import Responses
from mooring.web.http1 import Exchange

log = get_logger(__name__)


class AnswerTasks:
    """Runs the coroutines that answer exchanges. They go on when the client disconnects: a load is not left half done."""

    def __init__(self, responses: Responses) -> None:
        self._responses = responses
        self._running: set[asyncio.Task[None]] = set()  # the loop itself holds tasks only weakly

    def start(
        self, exchange: Exchange, work: Coroutine[None, None, None], refuse: Callable[[MooringError], None]
    ) -> None:
        """Start ``work``, which answers the exchange. ``refuse`` answers its ``MooringError``; others become a 500."""
        task = asyncio.get_running_loop().create_task(self._run(exchange, work, refuse))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(
        self, exchange: Exchange, work: Coroutine[None, None, None], refuse: Callable[[MooringError], None]
    ) -> None:
        try:
            await work
        except MooringError as error:
            refuse(error)
        except Exception as error:  # the protocol edge, as in ``Application``
            log.exception("request failed", method=exchange.method, target=exchange.target.decode("latin-1"))
            self._responses.send_fault(exchange, error)
