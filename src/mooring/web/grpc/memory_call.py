"""Calls that come without a connection: with one message, from another process that a client asked."""

from collections.abc import Callable, Sequence

from mooring.core.buffers import Payload
from mooring.core.timing import RequestTiming
from mooring.web.grpc.headers import CallHead
from mooring.web.grpc.status import Status
from mooring.web.http2.hpack import Field
from mooring.web.http2.streams import Part


class MemoryCall:
    """A call with one message, of a method that is unary or streaming; a ``UnaryRpc`` and a ``StreamingRpc``.

    ``receive`` gets every message of the answer, ``end_received`` the status, once. After ``cancel`` neither is called.
    """

    def __init__(
        self,
        head: CallHead,
        message: bytes,
        deadline: float | None,
        receive: Callable[[bytes], None],
        end_received: Callable[[Status, str], None],
        timing: RequestTiming | None = None,
    ) -> None:
        self.deadline = deadline
        self.timing = timing
        self.on_cancelled: Callable[[], object] | None = None
        self.ended = False
        self._head = head
        self._message: bytes | None = message
        self._receive = receive
        self._end_received = end_received

    @property
    def metadata(self) -> Sequence[Field]:
        return self._head.metadata

    @property
    def custom_metadata(self) -> tuple[Field, ...]:
        return self._head.custom_metadata

    @property
    def request_id(self) -> str:
        return self._head.request_id.decode()

    @property
    def path(self) -> str:
        return self._head.path.decode("latin-1")

    @property
    def message(self) -> bytes:
        return self._message or b""

    def header(self, name: bytes) -> bytes | None:
        return self._head.header(name)

    def take_message(self) -> Payload:
        message, self._message = self.message, None
        return message

    def respond(self, parts: Sequence[Part], released: Callable[[], None] | None = None) -> None:
        if not self.ended:
            self._receive(b"".join(parts))
            self.end(Status.OK)
        if released is not None:
            released()

    async def read_message(self) -> Payload | None:
        message, self._message = self._message, None
        return message

    async def write_message(self, message: bytes) -> None:
        if not self.ended:
            self._receive(message)

    def end(self, status: Status, text: str = "", *, retry_after: int = 0) -> None:
        if not self.ended:
            self.ended = True
            self._end_received(status, text)

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if not self.ended:
            self.ended = True
            if self.on_cancelled is not None:
                self.on_cancelled()
