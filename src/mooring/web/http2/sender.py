"""The sending half of an HTTP/2 connection: what its client takes, and whose turn it is."""

import asyncio
from collections.abc import Callable

from mooring.observability.logs import get_logger
from mooring.web.http2 import frames
from mooring.web.http2.streams import Part, Stream
from mooring.web.listener import SLOW, ClientConnection

log = get_logger(__name__)


class Sender(ClientConnection):
    """Sends what streams have, as far as the client's windows and its reading allow. The rest waits with the streams."""

    __slots__ = ("_choked", "_first_window", "_held", "_pushing", "_transport", "_window", "max_frame")

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._window = self._first_window = frames.FIRST_WINDOW
        self.max_frame = frames.FIRST_FRAME
        self._pushing: dict[Stream, None] = {}  # in the order of their turns
        self._choked = False
        self._held: list[Callable[[], None]] = []

    def _now(self) -> float:
        """The time of the last sweep."""
        raise NotImplementedError

    def _close(self, stream: Stream) -> None:
        """A stream has its answer."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        if self._held:
            self._let_go()
            self._transport.set_write_buffer_limits(high=SLOW, low=0)
        self._pump()

    def takes(self, stream: Stream, size: int) -> bool:
        return (
            size <= stream.window
            and size <= self._window
            and size <= self.max_frame
            and not self._choked
            and not self._pushing
            and not stream.waiting
        )

    def send_last(self, stream: Stream, size: int, answer: bytes) -> None:
        self._window -= size
        self._transport.write(answer)
        self._close(stream)

    def push(self, stream: Stream) -> None:
        self._pushing[stream] = None
        self._pump()

    def _pump(self) -> None:
        """Send what waits, a burst of each stream in turn, while the client takes it."""
        pushing, idle = self._pushing, 0
        while idle < len(pushing) and not self._choked:  # until it has gone round and nobody could send
            stream = next(iter(pushing))
            del pushing[stream]
            parts: list[Part] = []
            size, over = stream.cut(self._window, parts)
            self._window -= size
            if parts or over:
                self._write(parts, over)
                stream.since = self._now()
            if stream.waiting:
                if stream.window > 0:  # otherwise its own window brings it back
                    pushing[stream] = None
                    idle = 0 if parts or over else idle + 1
                continue
            if stream.closed:
                self._close(stream)
            self._guard(stream.drained)

    def _write(self, parts: list[Part], over: list[Callable[[], None]]) -> None:
        """Write memory that may belong to somebody, and call ``over`` when the transport has nothing left of it."""
        transport = self._transport
        if transport.is_closing():
            self._held += over
        elif not over:
            transport.writelines(parts)
        else:
            # high=0: either all of it leaves now, or the transport says when it has, as before to ``resume_writing``.
            transport.set_write_buffer_limits(high=0, low=0)
            transport.writelines(parts)
            self._held += over
            if not self._choked:
                self._let_go()
                if not transport.is_closing():
                    transport.set_write_buffer_limits(high=SLOW, low=0)

    def _let_go(self) -> None:
        held, self._held = self._held, []
        for over in held:
            self._guard(over)

    def _guard(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            log.exception("a request's callback failed")
