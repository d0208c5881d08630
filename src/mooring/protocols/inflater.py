"""Inflates compressed request bodies, so that no endpoint sees compressed bytes as its body."""

import asyncio
from collections.abc import Callable

from mooring.codecs.compression import ACCEPTED, CODINGS, inflate
from mooring.core.buffers import LARGE, Allocator, Buffer, HeapAllocator, Payload, view_of
from mooring.core.errors import InputTooLarge, MooringError
from mooring.protocols.answer_tasks import AnswerTasks
from mooring.protocols.responses import Responses
from mooring.protocols.status import Refusal
from mooring.web.http1 import Exchange, Limits, ResponseState, body_limit, header_lines
from mooring.web.routing import Match

ENCODING = b"content-encoding"
_LENGTH = b"content-length"
# Limit on inflated bodies, whatever the limit on plain ones: a few bytes must not become gigabytes.
_MAX_INFLATED = 67_108_864
# Compressed bytes that are inflated on the event loop, to LARGE bytes at most.
_MAX_INLINE = 16_384

_UNKNOWN_CODING = Refusal(
    415,
    "UnsupportedMediaTypeException",
    f"the body's Content-Encoding is unknown; send one of {ACCEPTED}, or none",
    head=header_lines([("Accept-Encoding", ACCEPTED)]),
)


OnError = Callable[[Exchange, Match, MooringError], None]


class Inflater:
    """Replaces a compressed body by the inflated one, and removes the compression from the request's headers.

    ``limits`` hold for the inflated size, which is never more than 64 MiB. A body that may become large is inflated
    in a thread, into memory of ``allocator``.
    """

    def __init__(
        self, responses: Responses, allocator: Allocator | None = None, limits: Limits | None = None
    ) -> None:
        self._responses = responses
        self._allocator = allocator or HeapAllocator()
        self._limits = limits or Limits()
        self._answer_tasks = AnswerTasks(responses)

    def inflate_body(self, exchange: Exchange, match: Match, on_error: OnError) -> None:
        """Inflate the body of a request with a Content-Encoding, then call the match's handler.

        A small body is inflated at once, and ``InvalidInput`` is raised if it is no such data. A larger one is inflated
        in a thread, and ``on_error`` answers the request if that fails.
        """
        coding = exchange.fields[ENCODING].decode("latin-1").strip().lower().removeprefix("x-")
        if coding == "identity" or not len(exchange.body):
            match.handler(exchange, match)
            return
        if coding not in CODINGS:
            self._responses.send_refusal(exchange, _UNKNOWN_CODING)
            return
        limit = min(body_limit(self._limits, exchange.target), _MAX_INFLATED)
        if self._inflate_at_once(exchange, coding, limit):
            match.handler(exchange, match)
            return

        async def inflate_and_answer() -> None:
            body = await self._inflate_in_thread(exchange.take_body(), coding, limit)
            if exchange.state is ResponseState.ABANDONED:
                _release_body(body)
            else:
                _replace_body(exchange, body)
                match.handler(exchange, match)

        self._answer_tasks.start(
            exchange, inflate_and_answer(), lambda error: on_error(exchange, match, error)
        )

    def _inflate_at_once(self, exchange: Exchange, coding: str, limit: int) -> bool:
        """Inflate what is small before and after; False for the rest. Raises ``InvalidInput``."""
        if len(exchange.body) > _MAX_INLINE:
            return False
        try:
            data = inflate(view_of(exchange.body), coding, min(LARGE, limit))
        except InputTooLarge:
            if limit <= LARGE:
                raise
            return False  # too large for the event loop; a thread tries with the real limit
        _release_body(exchange.take_body())
        _replace_body(exchange, data)
        return True

    async def _inflate_in_thread(self, body: Payload, coding: str, limit: int) -> Payload:
        claim = self._allocator.claim()
        try:
            data = await asyncio.to_thread(inflate, view_of(body), coding, limit, claim.grow)
            if len(data) <= LARGE:
                return data
            buffer = self._allocator.allocate(len(data))
            buffer.view[:] = data
        finally:
            _release_body(body)
            claim.release()
        return buffer


def _replace_body(exchange: Exchange, body: Payload) -> None:
    """Change the exchange as if the client had sent this body uncompressed."""
    length = b"%d" % len(body)
    # A new list and a new dict: those of a cached head are shared with other requests.
    exchange.headers = [
        (name, length if name.lower() == _LENGTH else value)
        for name, value in exchange.headers
        if name.lower() != ENCODING
    ]
    fields = {name: value for name, value in exchange.fields.items() if name != ENCODING}
    if _LENGTH in fields:
        fields[_LENGTH] = length
    exchange.fields = fields
    exchange.body = body


def _release_body(body: Payload) -> None:
    if isinstance(body, Buffer):
        body.release()
