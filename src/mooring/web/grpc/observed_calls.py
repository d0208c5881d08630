"""gRPC calls of a server that logs each call."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mooring.observability.calls import CURRENT, GRPC, ObservedCall
from mooring.web.grpc.calls import Call, StreamingCall, UnaryCall
from mooring.web.grpc.status import Status
from mooring.web.http2.hpack import Field
from mooring.web.http2.streams import Part


class ObservedCallMixin(Call):
    """A call that tells an ``ObservedCall`` how it ends. That is the current one while its method is started."""

    __slots__ = ()

    if TYPE_CHECKING:  # a slot of the subclasses: two bases with slots of their own cannot be joined

        @property
        def observed(self) -> ObservedCall: ...

        @observed.setter
        def observed(self, observed: ObservedCall) -> None: ...

    def begin(self) -> None:
        self.observed = self._context.calls.begin(self.peer, GRPC, self._head.path[1:], "HTTP/2.0")
        token = CURRENT.set(self.observed)
        try:
            super().begin()
        finally:
            CURRENT.reset(token)

    def request_complete(self) -> None:
        token = CURRENT.set(self.observed)
        try:
            super().request_complete()
        finally:
            CURRENT.reset(token)

    def reset_received(self) -> None:
        super().reset_received()
        if self.observed.on_end is not None:
            self.observed.broken_off = True
            self._end_observed(Status.CANCELLED)

    def _end_with(self, fields: list[Field]) -> None:
        super()._end_with(fields)
        found = dict(fields)
        status = found.get(b"grpc-status")
        self._end_observed(int(status) if status is not None else int(found[b":status"]))

    def end_answered(self) -> None:
        """Note that the call has its answer, unless it has ended by itself: because the answer was too large."""
        if self.observed.on_end is not None:
            self._end_observed(Status.OK)

    def _end_observed(self, status: int) -> None:
        self.observed.status = status
        self.observed.end()


class ObservedUnaryCall(ObservedCallMixin, UnaryCall):
    """A ``UnaryCall`` that is observed."""

    __slots__ = ("observed",)

    def respond(self, parts: Sequence[Part], released: Callable[[], None] | None = None) -> None:
        super().respond(parts, released)
        self.end_answered()


class ObservedStreamingCall(ObservedCallMixin, StreamingCall):
    """A ``StreamingCall`` that is observed."""

    __slots__ = ("observed",)
