"""The bodies of v2 requests and answers: JSON or not, empty or not, and answers compressed or not.

What may be large is compressed in a thread: zlib needs milliseconds where the event loop has none.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from mooring.codecs.compression import choose_coding, deflate
from mooring.codecs.generate import decode_object
from mooring.core.buffers import LARGE, Buffer, Payload, view_of
from mooring.core.errors import MooringError
from mooring.protocols.answer_tasks import AnswerTasks
from mooring.protocols.responses import Responses
from mooring.protocols.status import Target, kserve_v2
from mooring.web.http1 import Exchange, header_lines

# Bytes; below this compression makes an answer no smaller.
_MIN_COMPRESSED_SIZE = 256

UseBody = Callable[[Payload], None]
Refuse = Callable[[MooringError], None]


class Bodies:
    """Reads and writes bodies for the endpoints of one listener."""

    def __init__(self, responses: Responses) -> None:
        self._responses = responses
        self._answer_tasks = AnswerTasks(responses)

    def take(self, exchange: Exchange, use: UseBody, refuse: Refuse) -> None:
        """Hand the body over, to be released. What ``use`` raises goes to ``refuse``."""
        try:
            use(exchange.take_body())
        except MooringError as error:
            refuse(error)

    def take_object(self, exchange: Exchange, use: Callable[[dict[str, Any]], None], target: Target) -> None:
        """Parse a JSON object and hand it over; an empty body is an empty object."""

        def read(body: Payload) -> None:
            try:
                document = decode_object(body)
            finally:
                if isinstance(body, Buffer):
                    body.release()
            use(document)

        self.take(exchange, read, self.refuser(exchange, target))

    def refuser(self, exchange: Exchange, target: Target) -> Refuse:
        """Return a function that answers an error as v2 does."""
        return lambda error: self._responses.send_refusal(exchange, kserve_v2(error, target))

    def respond(
        self, exchange: Exchange, status: int, pieces: Sequence[Payload], head: bytes, *, reason: str = ""
    ) -> None:
        """Answer with a body in pieces, compressed where the client asks for it."""
        accept = exchange.fields.get(b"accept-encoding")
        coding = choose_coding(accept.decode("latin-1")) if accept is not None else ""
        size = sum(map(len, pieces)) if coding else 0
        if size < _MIN_COMPRESSED_SIZE:
            exchange.respond_in_pieces(status, list(pieces), head, reason=reason)
            return
        head += header_lines([("Content-Encoding", coding), ("Vary", "Accept-Encoding")])
        if size <= LARGE:
            body = deflate(map(view_of, pieces), coding)
            _release_pieces(pieces)
            exchange.respond(status, body, head, reason=reason)
            return

        async def work() -> None:
            try:
                body = await asyncio.to_thread(lambda: deflate(map(view_of, pieces), coding))
            finally:
                _release_pieces(pieces)
            exchange.respond(status, body, head, reason=reason)

        self._answer_tasks.start(exchange, work(), self.refuser(exchange, Target()))


def _release_pieces(pieces: Sequence[Payload]) -> None:
    for piece in pieces:
        if isinstance(piece, Buffer):
            piece.release()
