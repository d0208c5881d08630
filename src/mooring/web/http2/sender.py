"""The sending half of an HTTP/2 connection: what the client's windows and its reading allow, and whose turn it is."""

import asyncio
from collections.abc import Callable

from mooring.observability.logs import get_logger
from mooring.web.http2 import frames
from mooring.web.http2.context import Http2Context
from mooring.web.http2.flow_control import FlowControl
from mooring.web.http2.streams import (
    CLOSED,
    END_STREAM_SENT,
    HALF_CLOSED_LOCAL,
    HALF_CLOSED_REMOTE,
    Part,
    Stream,
)
from mooring.web.listener import SLOW

log = get_logger(__name__)


class Sender:
    """Sends what streams have queued. ``on_end_sent`` is called with each stream whose END_STREAM has left.

    How this works. A small answer leaves at once (``can_send``, ``send_end``). What does not fit the windows, or comes
    while the client reads slowly, stays queued with its stream; streams with a queue take turns, a burst each. Memory that
    is lent to the transport is given back when the transport has nothing left of it: its high-water mark is set to 0 for
    such a write, so that it calls ``resume`` when everything has left.
    """

    __slots__ = (
        "_context",
        "_flow",
        "_on_end_sent",
        "_releases",
        "_traffic",
        "_transport",
        "max_frame_size",
        "paused",
        "queued",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        flow: FlowControl,
        context: Http2Context,
        *,
        on_end_sent: Callable[[Stream], None],
    ) -> None:
        self._transport = transport
        self._flow = flow
        self._context = context
        self._traffic = context.traffic
        self._on_end_sent = on_end_sent
        self.max_frame_size = frames.DEFAULT_FRAME_SIZE
        self.paused = False  # the transport holds all that it should
        self.queued: dict[Stream, None] = {}  # in the order of their turns
        self._releases: list[Callable[[], None]] = []  # of memory that the transport may still read

    def pause(self) -> None:
        """Send no content until ``resume``: the client reads too slowly."""
        self.paused = True

    def resume(self) -> None:
        """Send on: everything that was written has left."""
        self.paused = False
        if self._releases:
            self.release_lent()
            self._transport.set_write_buffer_limits(high=SLOW, low=0)
        self.flush()

    def send_control(self, data: bytes) -> None:
        """Send frames that carry no content, at once."""
        self._transport.write(data)
        self._traffic.sent += len(data)

    def can_send(self, stream: Stream, size: int) -> bool:
        """Whether ``size`` bytes of content may leave now, in one frame, before anything else that waits."""
        return (
            size <= stream.send_window
            and size <= self._flow.send_window
            and size <= self.max_frame_size
            and not self.paused
            and not self.queued
            and not stream.has_queued
        )

    def send_end(self, stream: Stream, size: int, data: bytes) -> None:
        """Send frames that end the stream, with ``size`` bytes of content for which ``can_send`` was true."""
        self._flow.send_window -= size
        self._transport.write(data)
        self._traffic.sent += len(data)
        if stream.state is HALF_CLOSED_REMOTE:
            stream.state = CLOSED  # as ``advance`` does, without its call: nearly every answer ends so
        else:
            stream.advance(END_STREAM_SENT)
        self._on_end_sent(stream)

    def send_queued(self, stream: Stream) -> None:
        """Send what the stream has queued as far as the windows allow, and the rest when they do."""
        self.queued[stream] = None
        self.flush()

    def enqueue(self, stream: Stream) -> None:
        """Give the stream a turn at the next ``flush``."""
        self.queued[stream] = None

    def drop(self, stream: Stream) -> None:
        """Send nothing more of a stream that was reset, and give its memory back as soon as the transport lets it."""
        self.queued.pop(stream, None)
        if releases := stream.discard_queue():
            self._write([], releases)

    def abandon(self, stream: Stream) -> None:
        """Forget a stream of a connection that is over. Its memory is given back by ``release_lent``."""
        self.queued.pop(stream, None)
        self._releases += stream.discard_queue()

    def flush(self) -> None:
        """Send what is queued, a burst of each stream in turn, while the client takes it."""
        queued, idle = self.queued, 0
        while idle < len(queued) and not self.paused:  # until it has gone round and no stream could send
            stream = next(iter(queued))
            del queued[stream]
            parts: list[Part] = []
            size, releases = stream.take_frames(self._flow.send_window, parts)
            self._flow.send_window -= size
            if parts or releases:
                self._write(parts, releases)
                stream.last_progress = self._context.now
            if stream.has_queued:
                if stream.send_window > 0:  # otherwise its own window brings it back
                    queued[stream] = None
                    idle = 0 if parts or releases else idle + 1
                continue
            if stream.state is CLOSED or stream.state is HALF_CLOSED_LOCAL:
                self._on_end_sent(stream)
            run_callback(stream.queue_drained)

    def _write(self, parts: list[Part], releases: list[Callable[[], None]]) -> None:
        """Write memory that may be lent, and call ``releases`` when the transport has nothing left of it."""
        transport = self._transport
        if transport.is_closing():
            self._releases += releases
            return
        self._traffic.sent += sum(map(len, parts))
        if not releases:
            transport.writelines(parts)
        else:
            # high=0: either all of it leaves now, or the transport pauses and has sent it when it resumes.
            transport.set_write_buffer_limits(high=0, low=0)
            transport.writelines(parts)
            self._releases += releases
            if not self.paused:
                self.release_lent()
                if not transport.is_closing():
                    transport.set_write_buffer_limits(high=SLOW, low=0)

    def release_lent(self) -> None:
        """Give back the memory that was lent to the transport, which has nothing left of it."""
        releases, self._releases = self._releases, []
        for release in releases:
            run_callback(release)


def run_callback(callback: Callable[[], None]) -> None:
    """Call what belongs to one stream. A fault in it is logged, and concerns no other stream."""
    try:
        callback()
    except Exception:  # the protocol edge
        log.exception("a request's callback failed")
