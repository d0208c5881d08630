"""Header lines for an answer that others make, whenever they make it."""

from collections.abc import Callable

from mooring.core.buffers import Payload
from mooring.web.exchange import Exchange, Line
from mooring.web.listener import Host, Member


def add_lines(exchange: Exchange, lines: bytes) -> None:
    """Put further ``header_lines`` into the answer, which has not begun. What is not asked to costs nothing."""
    exchange.line = _Adding(exchange.line, lines)


class _Adding:
    """A connection as the answer to one request sees it, that adds header lines behind the status line."""

    def __init__(self, line: Line, lines: bytes) -> None:
        self._line = line
        self._lines = lines
        self.peer = line.peer

    def carry(self, exchange: Exchange, pieces: list[Payload], *, last: bool) -> None:
        if self._lines and pieces:
            pieces = [self._with_lines(pieces[0]), *pieces[1:]]
        self._line.carry(exchange, pieces, last=last)

    def carry_whole(self, exchange: Exchange, answer: bytes) -> None:
        self._line.carry_whole(exchange, self._with_lines(answer))

    def carries(self, exchange: Exchange) -> bool:
        return self._line.carries(exchange)

    def cut(self, exchange: Exchange) -> None:
        self._line.cut(exchange)

    def switch(self, exchange: Exchange, answer: bytes, successor: Callable[[Host], Member]) -> bool:
        return self._line.switch(exchange, answer, successor)

    def _with_lines(self, head: Payload) -> bytes:
        first, end, rest = bytes(head).partition(b"\r\n")  # a head is bytes, never a lent buffer
        lines, self._lines = self._lines, b""
        return first + end + lines + rest
