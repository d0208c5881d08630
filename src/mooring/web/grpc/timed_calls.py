"""gRPC calls whose clients ask where the time went: the trailing metadata ``server-timing`` says it."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mooring.core.timing import HEADER, RequestTiming
from mooring.web.grpc.calls import Call, StreamingCall, UnaryCall
from mooring.web.grpc.observed_calls import ObservedCallMixin
from mooring.web.grpc.responses import ok_trailers
from mooring.web.http2.hpack import Field
from mooring.web.http2.streams import Part


class _Timed(Call):
    """A call with a timing, which its method takes where it asks a model. What no method has taken is not sent."""

    __slots__ = ()

    if TYPE_CHECKING:  # slots of the subclasses: two bases with slots of their own cannot be joined

        @property
        def own_timing(self) -> RequestTiming | None: ...

        @own_timing.setter
        def own_timing(self, timing: RequestTiming | None) -> None: ...

        @property
        def received(self) -> float: ...

        @received.setter
        def received(self, received: float) -> None: ...

    @property
    def timing(self) -> RequestTiming | None:  # type: ignore[override]
        if self.own_timing is None:
            self.own_timing = RequestTiming(self.received)
        return self.own_timing

    def begin(self) -> None:
        self.own_timing, self.received = None, time.monotonic()
        super().begin()

    def request_complete(self) -> None:
        if self.own_timing is None:  # else it is a stream, whose method has begun long ago
            self.received = time.monotonic()
        super().request_complete()

    def timing_fields(self) -> list[Field]:
        """The trailing metadata."""
        return [] if self.own_timing is None else [(HEADER, self.own_timing.to_text().encode())]

    def _end_with(self, fields: list[Field]) -> None:
        super()._end_with(fields + self.timing_fields())


class TimedUnaryCall(_Timed, UnaryCall):
    """A ``UnaryCall`` with a timing."""

    __slots__ = ("own_timing", "received")

    def respond(self, parts: Sequence[Part], released: Callable[[], None] | None = None) -> None:
        size = sum(map(len, parts))
        if self.own_timing is None or 0 < self._context.max_message_bytes < size:
            super().respond(parts, released)
        elif self.state.server_sends:
            self._respond_in_frames(parts, size, released, ok_trailers(self.id, self.timing_fields()))
        elif released is not None:
            released()


class TimedStreamingCall(_Timed, StreamingCall):
    """A ``StreamingCall`` with a timing."""

    __slots__ = ("own_timing", "received")


class ObservedTimedUnaryCall(ObservedCallMixin, TimedUnaryCall):
    """A ``TimedUnaryCall`` of a server that logs each call."""

    __slots__ = ("observed",)

    def respond(self, parts: Sequence[Part], released: Callable[[], None] | None = None) -> None:
        super().respond(parts, released)
        self.end_answered()


class ObservedTimedStreamingCall(ObservedCallMixin, TimedStreamingCall):
    """A ``TimedStreamingCall`` of a server that logs each call."""

    __slots__ = ("observed",)
