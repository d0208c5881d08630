"""Compressed request bodies, inflated once and in one place: no endpoint ever sees compressed bytes as its body."""

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
# Whatever may be sent as it is, a few bytes must not become more than this: larger bodies are sent uncompressed.
_MOST_INFLATED = 67_108_864
# Compressed bytes that are inflated at once, on the loop; what becomes of them there is at most LARGE.
_AT_ONCE = 16_384

_UNKNOWN_CODING = Refusal(
    415,
    "UnsupportedMediaTypeException",
    f"the body's Content-Encoding is unknown; send one of {ACCEPTED}, or none",
    head=header_lines([("Accept-Encoding", ACCEPTED)]),
)


Failed = Callable[[Exchange, Match, MooringError], None]


class Inflater:
    """Gives handlers the body that a client compressed, and a head that says nothing of the compression.

    ``limits`` say how large a body may be for a target; they hold for what it is inflated to, which is never more than
    64 MB. A body that may become large is inflated in a thread, and its memory comes from ``allocator``.
    """

    def __init__(
        self, responses: Responses, allocator: Allocator | None = None, limits: Limits | None = None
    ) -> None:
        self._responses = responses
        self._allocator = allocator or HeapAllocator()
        self._limits = limits or Limits()
        self._answer_tasks = AnswerTasks(responses)

    def open(self, exchange: Exchange, match: Match, failed: Failed) -> None:
        """Have the match's handler answer a request with a Content-Encoding. ``failed`` answers what is no such data.

        Raises ``InvalidInput`` where a small body is none.
        """
        coding = exchange.fields[ENCODING].decode("latin-1").strip().lower().removeprefix("x-")
        if coding == "identity" or not len(exchange.body):
            match.handler(exchange, match)
            return
        if coding not in CODINGS:
            self._responses.send_refusal(exchange, _UNKNOWN_CODING)
            return
        limit = min(body_limit(self._limits, exchange.target), _MOST_INFLATED)
        if self._inflate_at_once(exchange, coding, limit):
            match.handler(exchange, match)
            return

        async def work() -> None:
            body = await self._inflate_in_thread(exchange.take_body(), coding, limit)
            if exchange.state is ResponseState.ABANDONED:
                _release(body)
            else:
                _replace_body(exchange, body)
                match.handler(exchange, match)

        self._answer_tasks.start(exchange, work(), lambda error: failed(exchange, match, error))

    def _inflate_at_once(self, exchange: Exchange, coding: str, limit: int) -> bool:
        """Inflate what is small before and after; False for the rest. Raises ``InvalidInput``."""
        if len(exchange.body) > _AT_ONCE:
            return False
        try:
            data = inflate(view_of(exchange.body), coding, min(LARGE, limit))
        except InputTooLarge:
            if limit <= LARGE:
                raise
            return False  # too large for the loop, and perhaps not for the server
        _release(exchange.take_body())
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
            _release(body)
            claim.release()
        return buffer


def _replace_body(exchange: Exchange, body: Payload) -> None:
    """Let the exchange be as if the client had sent this body as it is."""
    length = b"%d" % len(body)
    # New ones: those of a head that is known are shared with other requests.
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


def _release(body: Payload) -> None:
    if isinstance(body, Buffer):
        body.release()
