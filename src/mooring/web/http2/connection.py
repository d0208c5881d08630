"""One client's HTTP/2 connection (RFC 9113): its transport, its time-outs, and how it ends.

There is no task and no timer here. The listener's sweep calls ``check_timeouts`` about once a second; everything else
happens in the callbacks of the transport and of the streams.
"""

import asyncio
import functools
import math
import random
from typing import cast

from mooring.observability.logs import get_logger
from mooring.web.http2 import frames
from mooring.web.http2.context import Http2Context
from mooring.web.http2.errors import ErrorCode, Http2Error, NotHttp2
from mooring.web.http2.frame_reader import FrameReader, ReaderState
from mooring.web.http2.multiplexer import StreamMultiplexer
from mooring.web.http2.sender import Sender, run_callback
from mooring.web.listener import ClientConnection, register

log = get_logger(__name__)

# Payloads of our PINGs: whether the client is there, and whether it has seen the GOAWAY before this one.
_KEEPALIVE_PING, _GOAWAY_PING = b"mooring?", b"mooring!"
_NOT_HTTP2 = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-length: 30\r\nconnection: close\r\n\r\n"
    b"this port speaks HTTP/2 alone\n"
)
# Seconds that a client has to see a GOAWAY, before new streams are refused.
_GOAWAY_NOTICE = 2.0
# A client that was told that its connection is over may still be sending. That is read and dropped, for this many
# seconds of silence and in all.
_LINGER_SILENCE, _LINGER = 2.0, 30.0


class Http2Connection(ClientConnection):
    """One client. All connections of a listener receive into the same memory, one at a time, so an idle one is small.

    How this works. The transport's bytes go to the ``FrameReader``, its frames to the ``StreamMultiplexer``, and what
    streams answer to the ``Sender``. The connection itself ends in one of three ways. *Closed*: the client broke a rule,
    or was silent for too long inside a head; it is told why by GOAWAY, its streams are given up, and what it still sends
    is dropped for a while, because the kernel would reset the connection otherwise, and the client never read why.
    *Drained*: GOAWAY and a PING say that no more streams are taken; once the PING is answered, or after two seconds,
    another GOAWAY says which stream was the last, and the connection is closed when the last one is answered.
    *Aborted*: the client does not read, or does not answer a PING. Times are of the listener's clock, in seconds.
    """

    __slots__ = (
        "_closed_at",
        "_context",
        "_end_at",
        "_goaway_at",
        "_last_received",
        "_last_sent",
        "_max_age_at",
        "_multiplexer",
        "_pinged_at",
        "_reader",
        "_sender",
        "_transport",
        "_unsent",
    )

    def __init__(self, context: Http2Context) -> None:
        self._context = context
        self._transport: asyncio.Transport
        self._multiplexer: StreamMultiplexer
        self._reader: FrameReader
        self._sender: Sender
        now = context.now
        self._last_received = self._last_sent = now
        self._unsent = 0  # bytes, at the last sweep
        self._pinged_at = 0.0  # 0 where no answer is due
        self._closed_at = 0.0
        self._goaway_at = 0.0  # 0 where none was sent
        # Connections that were made at once do not all end at once.
        self._max_age_at = now + context.http2.max_age * random.uniform(0.9, 1.1)  # noqa: S311
        self._end_at = math.inf

    # Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = register(self._context, self, self._transport)
        self._multiplexer = StreamMultiplexer(self._context, self._transport, self, peer)
        self._reader, self._sender = self._multiplexer.reader, self._multiplexer.sender

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._reader.receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        context = self._context
        self._last_received = context.now
        context.traffic.received += nbytes
        try:
            self._reader.bytes_received(nbytes)
        except Http2Error as error:
            self._close_with(error.code, str(error))
        except NotHttp2:
            self._sender.send_control(_NOT_HTTP2)
            self._linger()
        except Exception:
            log.exception("connection failed in the server's own code")
            self._close_with(ErrorCode.INTERNAL_ERROR, "")

    def pause_writing(self) -> None:
        self._sender.pause()

    def resume_writing(self) -> None:
        self._sender.resume()

    def eof_received(self) -> bool:
        """A client that closes its sending side can not even open a window: nothing more can reach it."""
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        self._reader.discard()
        self._context.remove(self)
        self._multiplexer.abandon_all()
        self._sender.release_lent()

    # The end

    def close(self) -> None:
        self._transport.abort()

    def drain(self) -> None:
        """Take no new streams, in two steps: those that are on their way when the client hears of it are still taken."""
        if self._reader.state is ReaderState.PREFACE:
            self._transport.close()
        elif not self._goaway_at and self._reader.state is not ReaderState.DISCARDING:
            self._goaway_at = self._context.now
            self._sender.send_control(
                frames.pack_goaway(frames.ID_MASK, ErrorCode.NO_ERROR)
                + frames.pack_frame(frames.PING, 0, 0, _GOAWAY_PING)
            )

    def _refuse_new_streams(self) -> None:
        if self._multiplexer.accepting:
            self._multiplexer.refuse_new_streams(ErrorCode.NO_ERROR)
            if not self._multiplexer.streams.by_id:
                self._transport.close()

    def last_stream_ended(self) -> None:
        """For the multiplexer: no stream is left, and no new ones are taken."""
        if self._multiplexer.flooding:  # it is still sending
            self._linger()
        else:
            self._transport.close()

    def flood_noticed(self) -> None:
        """For the multiplexer: a GOAWAY is sent for the work that the client makes."""
        self._goaway_at = self._goaway_at or self._context.now

    def ping_acknowledged(self, payload: bytes) -> None:
        """For the multiplexer: the client has answered a PING."""
        if payload == _GOAWAY_PING and self._goaway_at:
            self._refuse_new_streams()
        elif payload == _KEEPALIVE_PING:
            self._pinged_at = 0.0

    def _close_with(self, code: ErrorCode, text: str) -> None:
        """Say by GOAWAY why the connection ends, and give up its streams."""
        if self._transport.is_closing():
            self._reader.discard()
            self._closed_at = self._context.now
        else:
            self._sender.send_control(frames.pack_goaway(self._multiplexer.streams.last_id, code, text))
            self._linger()
        self._multiplexer.abandon_all()

    def _linger(self) -> None:
        """Send nothing more, and drop what comes: closing while the client sends would lose what it is told."""
        self._reader.discard()
        self._closed_at = self._context.now
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    # Time

    def check_timeouts(self, now: float) -> None:
        self._multiplexer.budget.refill()
        self._check_sending(now)
        silence = now - self._last_received
        if self._reader.state is ReaderState.DISCARDING:
            if silence > _LINGER_SILENCE or now - self._closed_at > _LINGER:
                self._transport.abort()
        elif self._reader.inside_head:
            if silence > self._context.limits.header_timeout:
                self._close_with(ErrorCode.NO_ERROR, "")
        else:
            for stream in tuple(self._multiplexer.streams.by_id.values()):
                run_callback(functools.partial(stream.check_timeouts, now))
            self._check_keepalive(now, silence)
            self._check_age(now)

    def _check_sending(self, now: float) -> None:
        """Abort where the client has read nothing of what waits for ``write_timeout``."""
        unsent = self._transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._last_sent = now
        elif now - self._last_sent > self._context.limits.write_timeout:
            self._transport.abort()
        self._unsent = unsent

    def _check_keepalive(self, now: float, silence: float) -> None:
        limits = self._context.http2
        if silence < limits.keepalive:
            self._pinged_at = 0.0
        elif not self._pinged_at:
            self._pinged_at = now
            self._sender.send_control(frames.pack_frame(frames.PING, 0, 0, _KEEPALIVE_PING))
        elif now - self._pinged_at > limits.keepalive_timeout:
            self._transport.abort()

    def _check_age(self, now: float) -> None:
        if self._goaway_at:
            if now - self._goaway_at > _GOAWAY_NOTICE:
                self._refuse_new_streams()
            if now > self._end_at:
                self._close_with(ErrorCode.NO_ERROR, "the connection has lived as long as it may")
        elif now > self._max_age_at:
            self._end_at = now + self._context.http2.max_age_grace
            self.drain()
