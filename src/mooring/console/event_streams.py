"""The streams of events that open pages read: state once a second, lines of the log and errors as they come.

A stream has no queue of its own. State is a whole document each time, and lines and errors are in rings of bounded length that
everybody reads from where he is. So a page that reads slowly, or not at all, misses some, and holds nothing up.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from mooring.console.answers import encode, make_head, send_error
from mooring.console.headers import FOR_DATA
from mooring.observability.logs import get_logger
from mooring.observability.recent import RecentRecords, as_documents
from mooring.protocols.access import Check
from mooring.protocols.responses import Responses
from mooring.web.http1 import Exchange, header_lines

log = get_logger(__name__)

# Seconds between two readings of the state while anybody watches.
INTERVAL = 1.0
# Readings between two comments, which keep proxies from taking a stream for dead.
_COMMENT_EVERY = 15
# Seconds that lines and errors are gathered before they are sent, and how many of them at most.
_GATHERING = 0.2
_MOST_LINES = 100
_MOST_ERRORS = 20
# Streams at a time, each of which costs a descriptor and its part of every second.
MAX_STREAMS = 100

_HEAD = header_lines([("content-type", "text/event-stream")]) + FOR_DATA


class Watcher:
    """One stream. ``line`` and ``error`` are the numbers of the last ones that it was sent, or that were there before it."""

    __slots__ = ("authorization", "error", "exchange", "line")

    def __init__(self, exchange: Exchange, line: int, error: int) -> None:
        self.exchange = exchange
        self.authorization = exchange.header(b"authorization")
        self.line = line
        self.error = error


class EventStreams:
    """Sends events to all watchers; one reading of the state serves them all, and without a watcher there is none.

    ``read_state`` takes a reading and returns the state as JSON, ``last_state`` that of the last reading where it is young
    enough. ``hide`` takes secrets out of text that was logged. ``check`` is that of the
    token with which a stream was asked for: one whose token holds no more ends. Streams end at once when ``end`` is called.
    """

    def __init__(
        self,
        responses: Responses,
        recent: RecentRecords,
        read_state: Callable[[], Awaitable[bytes]],
        last_state: Callable[[], bytes],
        hide: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    ) -> None:
        self.check: Check | None = None
        self._responses = responses
        self._recent = recent
        self._read_state = read_state
        self._last_state = last_state
        self._hide = hide
        self._watchers: list[Watcher] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[None] | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._noted = False  # that something was logged, and nobody was sent it yet
        self._ticks = 0
        self._ended = False

    @property
    def count(self) -> int:
        """How many streams there are."""
        return len(self._watchers)

    def open(self, exchange: Exchange) -> None:
        """Answer with a stream that ends when the client leaves or the server stops."""
        if self._ended or len(self._watchers) >= MAX_STREAMS:
            why = (
                "the server is stopping"
                if self._ended
                else f"{MAX_STREAMS} pages are open already: close some"
            )
            send_error(self._responses, exchange, 503, why)
            return
        watcher = Watcher(exchange, self._recent.last_line, self._recent.last_error)
        exchange.on_abandoned = lambda: self._remove(watcher)
        self._responses.counter.count(200)
        exchange.start(200, make_head(self._responses, exchange, _HEAD))
        exchange.send(_event(b"state", self._last_state()))
        self._watchers.append(watcher)
        if len(self._watchers) == 1:
            loop = asyncio.get_running_loop()
            self._ticker = loop.call_later(INTERVAL, self._tick)
            self._recent.on_change = lambda: self._note_change(loop)

    def end(self) -> None:
        """End all streams, and refuse new ones: the server stops, and waits for nobody who watches it."""
        self._ended = True
        for watcher in self._watchers[:]:
            self._remove(watcher)
            watcher.exchange.keep_alive = False
            watcher.exchange.finish()

    def _remove(self, watcher: Watcher) -> None:
        if watcher in self._watchers:
            self._watchers.remove(watcher)
        if not self._watchers:
            self._recent.on_change = None
            for timer in (self._ticker, self._flush):
                if timer is not None:
                    timer.cancel()
            self._ticker = self._flush = None
            self._noted = False

    def _tick(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(INTERVAL, self._tick)
        self._ticks += 1
        self._end_refused()
        if self._watchers and self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._send_state())
            self._reading.add_done_callback(self._end_reading)
        self._send_records()  # to those who could not take them before

    def _end_reading(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("state not read for the console", exc_info=error)

    async def _send_state(self) -> None:
        event = _event(b"state", await self._read_state())
        if self._ticks % _COMMENT_EVERY == 0:
            event += b": still here\n\n"
        for watcher in self._watchers[:]:
            if watcher.exchange.writable:
                watcher.exchange.send(event)

    def _end_refused(self) -> None:
        """End the streams whose token has expired or was replaced."""
        check = self.check
        if check is None:
            return
        for watcher in self._watchers[:]:
            if check(watcher.authorization) is not None:
                self._remove(watcher)
                watcher.exchange.finish()

    def _note_change(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send what was logged soon. Called from the thread that logs, with the lock of the log."""
        if not self._noted:
            self._noted = True
            loop.call_soon_threadsafe(self._flush_soon)

    def _flush_soon(self) -> None:
        if not self._watchers:
            self._noted = False  # the thread that noted this had not seen that the last one left
        elif self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(_GATHERING, self._flush_now)

    def _flush_now(self) -> None:
        self._flush = None
        self._noted = False
        self._send_records()

    def _send_records(self) -> None:
        encoded: dict[tuple[int, int], tuple[bytes, int, int]] = {}  # most watchers know the same
        for watcher in self._watchers[:]:
            if not watcher.exchange.writable:
                continue
            known = watcher.line, watcher.error
            if known not in encoded:
                encoded[known] = self._encode_after(*known)
            events, watcher.line, watcher.error = encoded[known]
            if events:
                watcher.exchange.send(events)

    def _encode_after(self, line: int, error: int) -> tuple[bytes, int, int]:
        """Return the events of what was logged after this line and this error, and the numbers of the last ones of them.

        Their own numbers, not the highest there is by then: other threads log meanwhile.
        """
        lines = self._recent.lines_after(line, _MOST_LINES)
        errors = self._recent.errors_after(error, _MOST_ERRORS)
        events = [_event(b"log", encode({"lines": self._hide(as_documents(lines))}))] if lines else []
        events += [_event(b"error", encode(each)) for each in self._hide(as_documents(errors))]
        return b"".join(events), lines[-1].id if lines else line, errors[-1].number if errors else error


def _event(name: bytes, data: bytes) -> bytes:
    """Return an event. JSON has no line ends, so its data is one line."""
    return b"event: %s\ndata: %s\n\n" % (name, data)
