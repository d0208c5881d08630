"""One client's connection: its transport, what takes too long, and how it ends.

    OPEN ──▶ HALF_CLOSED     the client sends no more, and still gets its answers
     └─────▶ LINGERING       we send no more, and drop what the client still sends
     all ──▶ LOST            the transport is gone, or another protocol's

There is no task here. The server's sweep calls ``check_timeouts`` about once a second; everything else happens in the
callbacks of the transport, of the reader and of the queue.
"""

import asyncio
import enum
import socket
from collections.abc import Callable
from typing import cast

from mooring.observability.logs import get_logger
from mooring.web import http1_format
from mooring.web.exchange import ResponseState
from mooring.web.heads import Refusal
from mooring.web.http_context import HttpContext
from mooring.web.listener import ClientConnection, ListenerContext, register
from mooring.web.observed_queue import ObservedQueue
from mooring.web.request_reader import DISCARDING, RequestReader
from mooring.web.response_queue import ResponseQueue

log = get_logger(__name__)

# A client that was refused may still be sending. Closing at once would make the kernel throw away the answer with what
# it sends; so it is read and dropped, for this many seconds of silence and in all.
LINGER_SILENCE, LINGER = 2.0, 30.0
# Seconds after which a client that sends no more is asked whether it is still there, and then its kernel's answer read.
# Not at once: most answers are ready by then, and nobody need be asked.
PROBE = 0.1
# Seconds that TLS has to tell an idle client that the server stops.
RETIRE = 0.1


class ConnectionState(enum.IntEnum):
    """Which of the two directions are still in use."""

    OPEN = 0
    HALF_CLOSED = 1
    LINGERING = 2
    LOST = 3


TRANSITIONS: dict[ConnectionState, frozenset[ConnectionState]] = {
    ConnectionState.OPEN: frozenset(
        {ConnectionState.HALF_CLOSED, ConnectionState.LINGERING, ConnectionState.LOST}
    ),
    ConnectionState.HALF_CLOSED: frozenset({ConnectionState.LOST}),
    ConnectionState.LINGERING: frozenset({ConnectionState.LOST}),
    ConnectionState.LOST: frozenset(),
}


class Connection(ClientConnection):
    """One client of an HTTP/1.1 listener.

    How this works. Bytes go from the transport to the ``RequestReader``, which puts requests into the
    ``ResponseQueue``, which calls the app and writes the answers in their order. What is left for the connection is
    what concerns both: whether to read on (``_regulate``), what takes too long, and how to part with the client without
    losing an answer. All connections of a server receive into the same memory, one at a time, so an idle one is small.
    """

    __slots__ = (
        "_context", "_lingering_since", "_probed", "_queue", "_reader", "_since", "_state", "_traffic", "_transport",
        "_unsent",
    )  # fmt: skip

    def __init__(self, context: HttpContext) -> None:
        self._context = context
        self._traffic = context.traffic
        calls = context.calls
        self._queue = ResponseQueue(context, self) if calls is None else ObservedQueue(context, self, calls)
        self._reader = RequestReader(context, self._queue)
        self._transport: asyncio.Transport
        self._state = ConnectionState.OPEN
        self._since = context.now
        self._lingering_since = 0.0
        self._probed = False
        self._unsent = 0

    @property
    def since(self) -> float:
        """When something last happened, on the clock of the context; time-outs count from here."""
        return max(self._since, self._reader.since, self._queue.since)

    # Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class
        self._queue.open(self._transport, register(self._context, self, self._transport))

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._reader.buffer

    def buffer_updated(self, nbytes: int) -> None:
        reader, queue = self._reader, self._queue
        self._traffic.received += nbytes
        if reader.state:
            if reader.state is DISCARDING:
                self._since = self._context.now
                return
            reader.fill(nbytes)
            if reader.state:
                return  # more of the same body: nothing has changed for the answers before it
        else:
            reader.parse(nbytes)
        if reader.incoming is not None or queue.choked or not queue.reading or queue.unseen:
            self._regulate()

    def eof_received(self) -> bool:
        """Answers still go out to a client that only closed its sending side; a request cut in two is dropped."""
        if self._state is ConnectionState.LINGERING:
            return False
        self._enter(ConnectionState.HALF_CLOSED)
        last = self._queue.last
        if last is None or self._context.secure:
            self._reader.drop_incoming()
            return False
        self._reader.discard()
        last.keep_alive = False
        self._probe_in_time(2)
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        self._enter(ConnectionState.LOST)
        self._context.remove(self)
        self._reader.close()
        self._queue.close()

    def pause_writing(self) -> None:
        self._queue.pause_writing()

    def resume_writing(self) -> None:
        self._queue.resume_writing()
        self._regulate()

    # Queue

    def on_answered(self) -> None:
        self._regulate()

    def on_last_answer(self) -> None:
        """Part with the client. ``current`` stays in the queue, so that no other request is answered."""
        unread = self._reader.unread
        self._reader.discard()
        unread |= self._queue.abandon_later()
        secure = self._context.secure
        half_closed = self._state is ConnectionState.HALF_CLOSED
        if not unread or half_closed or not (secure or self._transport.can_write_eof()):
            self._transport.close()
            return
        if not secure:  # TLS cannot say that it is the end and listen on: the answer itself says it
            self._transport.write_eof()
        self._enter(ConnectionState.LINGERING)
        self._lingering_since = self._since = self._context.now
        self._queue.set_reading(True)

    def switch_protocol(
        self, answer: bytes, successor: Callable[[ListenerContext], ClientConnection]
    ) -> bool:
        if not self._reader.wants_upgrade():
            return False
        member = successor(self._context)
        self._reader.hand_over(member)
        self._transport.write(answer)
        self._traffic.sent += len(answer)
        self._queue.detach()
        self._enter(ConnectionState.LOST)
        self._transport.set_protocol(member)
        member.connection_made(self._transport)
        self._context.add(member)
        self._context.remove(self)
        return True

    def _regulate(self) -> None:
        """Stop reading while a client does not read its answers or sends faster than it is answered.

        A large body is only received when all before it is answered, so a connection holds two of them at most.
        """
        queue = self._queue
        large = queue.current is not None and self._reader.receiving_large
        queue.set_reading(not (queue.choked or large or queue.unseen))

    # Listener

    def close(self) -> None:
        self._transport.abort()

    def drain(self) -> None:
        last = self._reader.incoming or self._queue.last
        if last is not None:
            last.keep_alive = False
        elif not self._reader.receiving and self._state is not ConnectionState.LINGERING:
            self._transport.close()
            if self._context.secure:
                # A client that leaves the connection idle does not read the farewell either, nor answer it.
                asyncio.get_running_loop().call_later(RETIRE, self._transport.abort)

    def check_timeouts(self, now: float) -> None:
        limits, reader, queue = self._context.limits, self._reader, self._queue
        unsent = self._transport.get_write_buffer_size()
        silence = now - self.since
        if unsent:
            if unsent != self._unsent:
                self._since = now
            elif silence > limits.write_timeout:
                self._transport.abort()
        elif self._state is ConnectionState.LINGERING:
            self._check_lingering(now, silence)
        elif self._state is ConnectionState.HALF_CLOSED:
            self._probe()
        elif reader.state is DISCARDING or not queue.reading or queue.holds_continue:
            self._since = now
            reader.reset_pace()
        elif reader.receiving:
            fault = reader.overdue(now, silence)
            if fault:
                reader.refuse(Refusal(408, "timeout", fault))
        elif queue.current is None and silence > limits.idle_timeout:
            self._transport.close()
        self._unsent = unsent

    def _check_lingering(self, now: float, silence: float) -> None:
        if silence > LINGER_SILENCE or now - self._lingering_since > LINGER:
            over = self._transport.is_closing() or not self._context.secure
            (self._transport.abort if over else self._transport.close)()

    # A client that sends no more

    def _probe_in_time(self, times: int) -> None:
        """Probe so often, and from then on with every sweep."""
        asyncio.get_running_loop().call_later(PROBE, self._probe_now, times)

    def _probe_now(self, times: int) -> None:
        if self._state is not ConnectionState.LOST:
            self._probe()
            if times > 1:
                self._probe_in_time(times - 1)

    def _probe(self) -> None:
        """Find out whether a client that sends no more is still there.

        The end of its sending looks the same whether it waits for the answer or is gone. Only something sent tells:
        the kernel of a client that is gone answers with a reset. An interim response may be sent at any time and any
        number of times before the final one (RFC 9110, 15.2), but not to a client of HTTP/1.0.
        """
        current = self._queue.current
        if current is None or current.state is not ResponseState.PENDING or current.version == "1.0":
            return
        if not self._probed:
            self._probed = True
            self._transport.write(http1_format.CONTINUE)
            self._traffic.sent += len(http1_format.CONTINUE)
        elif self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()

    def _enter(self, state: ConnectionState) -> None:
        assert state in TRANSITIONS[self._state], (self._state, state)
        self._state = state
