"""The answers to one client's requests, of a server that logs each request."""

import time
from collections.abc import Callable

from mooring.core.buffers import Payload
from mooring.observability.call_log import CallLog
from mooring.observability.calls import CLIENT_GONE, CURRENT, ObservedCall
from mooring.web.exchange import Exchange, HeadCache
from mooring.web.http_context import HttpContext
from mooring.web.listener import ClientConnection, ListenerContext
from mooring.web.response_queue import QueueOwner, ResponseQueue

# Bytes of an answer's head among which its id is looked for, if anybody wants to know.
_HEAD = 256
_PROTOCOLS = {"1.1": "HTTP/1.1", "1.0": "HTTP/1.0"}


class ObservedQueue(ResponseQueue):
    """A ``ResponseQueue`` that begins a call for each request and ends it with the answer.

    How this works. Each exchange gets an ``ObservedExchange`` in the place of this queue, which hears of the answer. While
    the app has the exchange, it is the current call, for whoever submits requests to models. What is not answered when the
    connection ends has a client that is gone.
    """

    __slots__ = ("_calls", "open_calls")

    def __init__(self, context: HttpContext, owner: QueueOwner, calls: CallLog) -> None:
        super().__init__(context, owner)
        self._calls = calls
        self.open_calls: dict[Exchange, ObservedExchange] = {}

    def submit_known(self, exchange: Exchange, cache: HeadCache) -> None:
        if cache.handler is None or self.current is not None or self.choked:
            self.submit(exchange)
            return
        token = CURRENT.set(self._begin(exchange))
        try:
            super().submit_known(exchange, cache)
        finally:
            CURRENT.reset(token)

    def submit(self, exchange: Exchange) -> None:
        self._begin(exchange)
        super().submit(exchange)

    def submit_last(self, exchange: Exchange) -> None:
        self._begin(exchange)
        super().submit_last(exchange)

    def close(self) -> None:
        unanswered = list(self.open_calls.values())
        self.open_calls.clear()
        super().close()
        for call in unanswered:
            call.status = call.status or CLIENT_GONE
            call.broken_off = True
            call.end()

    def _begin(self, exchange: Exchange) -> "ObservedExchange":
        peer = self.peer
        call = ObservedExchange(
            peer, exchange.method, exchange.target, _PROTOCOLS.get(exchange.version, "HTTP/1.1"), time.monotonic(),
            self._calls.write, self, peer,
        )  # fmt: skip
        self.open_calls[exchange] = exchange.transport = call
        return call

    def _call(self, exchange: Exchange) -> None:
        token = CURRENT.set(self.open_calls.get(exchange))
        try:
            super()._call(exchange)
        finally:
            CURRENT.reset(token)


class ObservedExchange(ObservedCall, eq=False):
    """One request of the ``queue`` as a call, and its ``ResponseTransport``: it notes the status and the end of the answer."""

    queue: ObservedQueue
    peer: str

    def write(self, exchange: Exchange, pieces: list[Payload], *, last: bool) -> None:
        if not self.status and pieces:
            self._note_status(bytes(pieces[0]))  # a head is bytes, never a lent buffer
        self.queue.write(exchange, pieces, last=last)
        if last:
            self._end_with(exchange)

    def write_whole(self, exchange: Exchange, answer: bytes) -> None:
        self._note_status(answer)
        self.queue.write_whole(exchange, answer)
        self._end_with(exchange)

    def can_write(self, exchange: Exchange) -> bool:
        return self.queue.can_write(exchange)

    def abort(self, exchange: Exchange) -> None:
        self.broken_off = True
        self.status = self.status or 500
        self.queue.abort(exchange)
        self._end_with(exchange)

    def switch_protocol(
        self, exchange: Exchange, answer: bytes, successor: Callable[[ListenerContext], ClientConnection]
    ) -> bool:
        if not self.queue.switch_protocol(exchange, answer, successor):
            return False
        self._note_status(answer)
        del self.queue.open_calls[exchange]  # the other protocol ends the call
        return True

    def _note_status(self, answer: bytes) -> None:
        self.status = int(answer[9:12])
        self.head = answer[:_HEAD]

    def _end_with(self, exchange: Exchange) -> None:
        if self.queue.open_calls.pop(exchange, None) is not None:
            self.end()
