"""What the methods of a gRPC service know of a call, wherever it came from."""

from collections.abc import Callable, Sequence
from typing import Protocol

from mooring.core.buffers import Payload
from mooring.core.timing import RequestTiming
from mooring.web.grpc.status import Status
from mooring.web.http2.hpack import Field
from mooring.web.http2.streams import Part


class Rpc(Protocol):
    """One call. ``deadline`` is on the monotonic clock, in seconds.

    ``on_cancelled`` is called once if nobody waits for the answer any more; whatever is answered after that is dropped.
    """

    deadline: float | None
    on_cancelled: Callable[[], object] | None

    @property
    def timing(self) -> RequestTiming | None:
        """The timing of the call, where its client asks where the time goes. Who takes it has it sent."""

    @property
    def metadata(self) -> Sequence[Field]:
        """Every header but HTTP's own, as sent; names in lower case."""

    @property
    def custom_metadata(self) -> tuple[Field, ...]:
        """The metadata that is the caller's own, for the model; shared with calls of the same head."""

    @property
    def request_id(self) -> str:
        """The caller's own id of this request, from its header x-request-id; empty without one."""

    @property
    def path(self) -> str:
        """The method's name: ``/package.Service/Method``."""

    def header(self, name: bytes) -> bytes | None:
        """The last value of a name, in lower case; of one that ends in ``-bin`` the bytes that it stands for."""

    def end(self, status: Status, text: str = "", *, retry_after: int = 0) -> None:
        """End the call, after everything that was written. A second end does nothing.

        ``retry_after`` are the seconds after which the client may try again; 0 tells it none.
        """


class UnaryRpc(Rpc, Protocol):
    """A call with one message and one answer."""

    @property
    def message(self) -> bytes:
        """The message, left where it is."""

    def take_message(self) -> Payload:
        """Take the message; the caller's to release."""

    def respond(self, parts: Sequence[Part], released: Callable[[], None] | None = None) -> None:
        """Send the answer, and end the call. ``released`` is called when nobody reads the parts any more."""


class StreamingRpc(Rpc, Protocol):
    """A call with any number of messages either way."""

    async def read_message(self) -> Payload | None:
        """Wait for the next message and take it, the caller's to release; None after the client's last."""

    async def write_message(self, message: bytes) -> None:
        """Send one message of several, and wait until there is room for another."""
