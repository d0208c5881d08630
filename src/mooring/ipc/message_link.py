"""One end of a connection over which two processes of a server send each other messages. Runs in the processes at both ends."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from mooring.core.buffers import Buffer
from mooring.ipc.framing import Frames, FrameWriter, heap_buffer
from mooring.ipc.messages import MessageDecoder, MessageEncoder
from mooring.observability.logs import get_logger

log = get_logger(__name__)

Received = TypeVar("Received")


class MessageLink(Generic[Received]):
    """``receive`` gets every message, of one of ``kinds``; ``on_lost`` is called once when the other end is gone.

    Nothing waits: what the socket does not take at once is kept and sent later. Large payloads are received into memory
    that ``allocate`` gives.
    """

    def __init__(
        self,
        sock: socket.socket,
        kinds: object,
        receive: Callable[[Received], None],
        on_lost: Callable[[], None],
        allocate: Callable[[int], Buffer] = heap_buffer,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._receive = receive
        self._on_lost = on_lost
        self._frames = Frames(allocate=allocate)
        self._writer = FrameWriter(sock, MessageEncoder())
        self._decoder = MessageDecoder(kinds)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._receive_messages)

    @property
    def is_open(self) -> bool:
        """Whether the other end is there, as far as is known."""
        return self._sock.fileno() >= 0

    def send(self, message: Any) -> None:
        """Send it; after the other end is gone this does nothing. Raises as ``FrameWriter.send``."""
        if self.is_open:
            self._writer.send(message)

    def close(self) -> None:
        """Close the socket; what was not sent is lost."""
        if self.is_open:
            self._loop.remove_reader(self._sock)
            self._writer.close()
            self._sock.close()

    def decode(self, frame: memoryview, attached: Sequence[Buffer | None]) -> Received | None:
        """Decode a message; None for one that is dropped. A payload that there was no memory for is None in ``attached``."""
        message: Received = self._decoder.decode(frame, attached)
        return message

    def _receive_messages(self) -> None:
        try:
            count = self._frames.receive(self._sock)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self.close()
            self._on_lost()
            return
        try:
            frames = self._frames
            for message in [self.decode(frame, frames.attached) for frame in frames]:
                if message is not None:
                    self._receive(message)
        except Exception:  # the supervisor: whoever waits at the other end must not wait for ever
            log.exception("link not understood, ending it")
            if self.is_open:
                self.close()
                self._on_lost()
