"""TorchServe's metrics API: what Prometheus scrapes."""

import asyncio
from collections.abc import Collection
from urllib.parse import parse_qs

from mooring.codecs.compression import choose_coding, deflate
from mooring.core.buffers import LARGE
from mooring.observability.metrics import CONTENT_TYPE, Metrics
from mooring.protocols.answer_tasks import AnswerTasks
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.responses import Responses
from mooring.protocols.torchserve import operations as calls
from mooring.tokens import Access
from mooring.web.http1 import Exchange, ResponseState, header_lines
from mooring.web.routing import Match


class TorchServeMetrics:
    """The endpoints of the metrics port."""

    def __init__(self, metrics: Metrics, responses: Responses) -> None:
        self._metrics = metrics
        self._responses = responses
        self._answer_tasks = AnswerTasks(responses)
        self._writing = asyncio.Lock()

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints, for every method and every path below, as TorchServe has them."""
        return [
            Endpoint("/metrics", self.scrape_metrics, Access.METRICS, calls.METRICS),
            Endpoint("/metrics/{rest*}", self.scrape_metrics, Access.METRICS),
        ]

    def scrape_metrics(self, exchange: Exchange, match: Match) -> None:
        """Answer with all metrics, or those that ``name[]`` names; compressed if the client accepts a coding."""
        names = parse_qs(match.query.decode("latin-1")).get("name[]")
        coding = choose_coding(exchange.fields.get(b"accept-encoding", b"").decode("latin-1"))
        self._answer_tasks.start(
            exchange,
            self._answer(exchange, set(names) if names else None, coding),
            lambda error: self._responses.send_fault(exchange, error),
        )

    async def _answer(self, exchange: Exchange, names: Collection[str] | None, coding: str) -> None:
        # One page at a time: it is some megabytes, and takes turns of the event loop.
        async with self._writing:
            if exchange.state is ResponseState.ABANDONED:
                return
            text = await self._metrics.render_in_turns(names)
            if not coding:
                self._responses.send_body(exchange, text, CONTENT_TYPE)
                return
            head = self._responses.build_head(self._responses.read_request_id(exchange), CONTENT_TYPE)
            head += header_lines([("Content-Encoding", coding), ("Vary", "Accept-Encoding")])
            large = len(text) > LARGE
            body = await asyncio.to_thread(deflate, [text], coding) if large else deflate([text], coding)
            self._responses.counter.count(200)
            exchange.respond(200, body, head)
