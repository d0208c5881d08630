"""The header ``Server-Timing`` of an answer whose client asks where the time went, or the trailer of a streamed one.

https://www.w3.org/TR/server-timing/
"""

from collections.abc import Callable

from mooring.core.buffers import Payload
from mooring.core.timing import RequestTiming
from mooring.web import http1_format
from mooring.web.exchange import STREAMING, Exchange, ResponseTransport
from mooring.web.listener import ClientConnection, ListenerContext

_TAKES_TRAILERS = b"trailers"
_ANNOUNCED = b"trailer: server-timing\r\n"
_CHUNKED = (http1_format.STREAM_KEPT, http1_format.STREAM_CLOSED)


def time_exchange(exchange: Exchange, origin_lines: bytes = b"") -> None:
    """Begin the timing of an exchange that is not answered yet; whoever answers it needs not know.

    ``origin_lines`` let pages of other sites see the timings.
    """
    exchange.timing = RequestTiming()
    exchange.transport = TimingTransport(exchange, origin_lines)


class TimingTransport:
    """The ``ResponseTransport`` of one exchange that puts its timing into the answer.

    A streamed answer has it in a trailer, where the client takes trailers and the answer comes in chunks. Else its head has
    what is known before the first piece. The answer to HEAD ends with its head and has no trailer (RFC 9112, 6.3).
    """

    def __init__(self, exchange: Exchange, origin_lines: bytes) -> None:
        self._transport: ResponseTransport = exchange.transport
        self._lines = origin_lines
        self._begun = self._has_trailer = False
        self.peer = self._transport.peer

    def write(self, exchange: Exchange, pieces: list[Payload], *, last: bool) -> None:
        if not self._begun and pieces:
            pieces = [self._with_lines(exchange, pieces[0]), *pieces[1:]]
        elif last and self._has_trailer and exchange.timing is not None:
            # The last piece is the chunk that ends the answer.
            pieces = [*pieces[:-1], b"0\r\nserver-timing: %b\r\n\r\n" % exchange.timing.to_text().encode()]
        self._transport.write(exchange, pieces, last=last)

    def write_whole(self, exchange: Exchange, answer: bytes) -> None:
        self._transport.write_whole(exchange, self._with_lines(exchange, answer))

    def can_write(self, exchange: Exchange) -> bool:
        return self._transport.can_write(exchange)

    def abort(self, exchange: Exchange) -> None:
        self._transport.abort(exchange)

    def switch_protocol(
        self, exchange: Exchange, answer: bytes, successor: Callable[[ListenerContext], ClientConnection]
    ) -> bool:
        return self._transport.switch_protocol(exchange, answer, successor)

    def _with_lines(self, exchange: Exchange, head: Payload) -> bytes:
        self._begun = True
        timing = exchange.timing
        streamed = exchange.state is STREAMING
        text = ""  # for an answer of another process, which has its timing
        if timing is not None:
            text = timing.to_early_text() if streamed else timing.to_text()
        lines = b"server-timing: %b\r\n" % text.encode() if text else b""
        chunked = streamed and exchange.method != "HEAD" and bytes(head).endswith(_CHUNKED)
        if timing is not None and chunked and takes_trailers(exchange):
            self._has_trailer, lines = True, _ANNOUNCED
        # At the end of the head, which is bytes and never a lent buffer: the log reads the request's id at its beginning.
        first, end, rest = bytes(head).partition(b"\r\n\r\n")
        return b"".join((first, b"\r\n", lines, self._lines, end[2:], rest))


def takes_trailers(exchange: Exchange) -> bool:
    """Whether the client takes trailers (RFC 9110, 6.5.1)."""
    fields = (each.split(b";")[0].strip().lower() for each in exchange.fields.get(b"te", b"").split(b","))
    return _TAKES_TRAILERS in fields
