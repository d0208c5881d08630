"""The messages between the first process and a frontend process, over a pair of unix sockets.

The first process keeps registry, workers and administration; a frontend has connections, queues and a channel to every
worker. A frontend forwards what it cannot answer by itself: requests as ``Forward``, and their answers come back as
they would from a worker.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from mooring.core.buffers import Buffer
from mooring.core.errors import ErrorRecord
from mooring.core.memory import MemoryUse
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import ModelMetadata, ModelState
from mooring.core.timing import RequestTiming
from mooring.engine.admission import QueueLoad
from mooring.frontends.balancing import Load
from mooring.ipc.message_link import MessageLink
from mooring.ipc.messages import NO_MEMORY
from mooring.observability.metrics import CountsDelta
from mooring.observability.recent import ErrorEntry, LogLine
from mooring.observability.records import Record
from mooring.repository.spec import ModelSpec
from mooring.tokens import Access, Token

# Seconds between two looks at how busy a process is.
LOAD_EVERY = 0.1
# What a socket is that is sent over a channel: a connection of HTTP/1.1, or from LISTENER on a listening
# socket of the listener with that number.
CONNECTION, LISTENER = 0, 1
# The numbers of the listeners.
HTTP, GRPC = 0, 1


class ServeVersion(msgspec.Struct, array_like=True, tag="serve"):
    """A version whose workers the frontend may use; ``number`` is what it is called from now on."""

    number: int
    spec: ModelSpec


class AttachWorker(msgspec.Struct, array_like=True, tag="join"):
    """A worker of a version. Its channel and its progress come as descriptors, before this message."""

    number: int
    worker: str
    channels: int


class DetachWorker(msgspec.Struct, array_like=True, tag="leave"):
    """Send nothing more to a worker, and answer ``OrderDone`` when it has answered all."""

    number: int
    worker: str
    order: int


class WorkerDied(msgspec.Struct, array_like=True, tag="bury"):
    """A worker died, and why."""

    number: int
    worker: str
    error: ErrorRecord
    retry: bool


class RetireVersion(msgspec.Struct, array_like=True, tag="retire"):
    """A version is no longer served: forward its requests, and answer ``OrderDone`` when those that wait here are answered."""

    number: int
    order: int


class RegistryView(msgspec.Struct, array_like=True, tag="view"):
    """States and metadata of every version, whichever process serves it, and whether the server is ready and healthy."""

    states: list[ModelState]
    metadata: list[ModelMetadata]
    ready: bool
    healthy: bool


class Drain(msgspec.Struct, array_like=True, tag="drain"):
    """Stop accepting, answer what was accepted within ``limit`` seconds, and end."""

    limit: float


class SetShare(msgspec.Struct, array_like=True, tag="set_share"):
    """The number of processes that take connections: each has its part of every bound on a queue."""

    count: int


class MigrateConnections(msgspec.Struct, array_like=True, tag="give"):
    """Send this share of the connections over the channel, with ``mark``: the number of the process they are for."""

    share: float
    mark: int


class SetAccepting(msgspec.Struct, array_like=True, tag="set_accepting"):
    """Accept connections from the sockets of these listeners, and of no others."""

    listeners: list[int]


class SetTokens(msgspec.Struct, array_like=True, tag="tokens"):
    """The tokens that hold from now on: one was renewed, or its file has another one."""

    tokens: dict[Access, Token]


class Ping(msgspec.Struct, array_like=True, tag="ping"):
    """Answer ``Pong``: the first process wants to know whether the frontend still answers."""


class Pong(msgspec.Struct, array_like=True, tag="pong"):
    """The frontend answers."""


class Forward(msgspec.Struct, array_like=True, tag="asked"):
    """A request that the frontend forwards."""

    key: int
    request: InferenceRequest


class CancelForwarded(msgspec.Struct, array_like=True, tag="withdrawn"):
    """The client of a forwarded request or call is gone."""

    key: int


class ForwardedOutcome(msgspec.Struct, array_like=True, tag="answered"):
    """An answer to a request that was forwarded, or with ``final`` False a piece of it; ``timing`` where it asks for that."""

    key: int
    outcome: InferenceResponse | ErrorRecord
    timing: RequestTiming | None = None


class ForwardCall(msgspec.Struct, array_like=True, tag="call"):
    """A gRPC call with one message that the frontend forwards. ``deadline`` is on the monotonic clock; ``timed``: its client asks for
    timings.
    """

    key: int
    path: str
    metadata: list[tuple[bytes, bytes]]
    message: bytes
    deadline: float | None
    timed: bool = False


class ForwardedMessage(msgspec.Struct, array_like=True, tag="call_message"):
    """One message of the answer to a call that was forwarded."""

    key: int
    message: bytes


class ForwardedStatus(msgspec.Struct, array_like=True, tag="call_status"):
    """The end of the answer to a call that was forwarded, with gRPC's number of the status."""

    key: int
    status: int
    text: str
    timing: RequestTiming | None = None


class OrderDone(msgspec.Struct, array_like=True, tag="done"):
    """The frontend has done what an order asked."""

    order: int


class Listening(msgspec.Struct, array_like=True, tag="listening"):
    """The frontend takes connections."""


class KillWorker(msgspec.Struct, array_like=True, tag="end"):
    """Kill a worker that does not answer in time."""

    number: int
    worker: str


class CountsReport(msgspec.Struct, array_like=True, tag="counted"):
    """What the frontend counted since its last report, the requests that wait and run there now, by version, and the memory
    that bodies take. ``lag`` has the counts and the sum of a histogram of the event loop's.
    """

    counted: CountsDelta
    loads: dict[int, QueueLoad]
    memory: MemoryUse
    lag: tuple[list[int], float]
    served: list[tuple[int, str, int]]  # requests by version and worker


class LoadReport(msgspec.Struct, array_like=True, tag="loaded"):
    """How much the frontend has to do now."""

    load: Load


class MetricRecords(msgspec.Struct, array_like=True, tag="recorded"):
    """Metrics that a model's own code recorded."""

    model: str
    records: list[Record]


class LogRecords(msgspec.Struct, array_like=True, tag="logged"):
    """What the frontend has logged since its last report, and the errors among it."""

    records: list[tuple[LogLine, ErrorEntry | None]]


ToFrontend = (
    ServeVersion
    | AttachWorker
    | DetachWorker
    | WorkerDied
    | RetireVersion
    | RegistryView
    | Drain
    | ForwardedOutcome
    | ForwardedMessage
    | ForwardedStatus
    | SetShare
    | MigrateConnections
    | SetAccepting
    | SetTokens
    | Ping
)
ToSupervisor = (
    Forward
    | ForwardCall
    | CancelForwarded
    | OrderDone
    | Listening
    | KillWorker
    | CountsReport
    | MetricRecords
    | LogRecords
    | LoadReport
    | Pong
)


Received = TypeVar("Received")


class Link(MessageLink[Received]):
    """One end of the connection. A request or an answer whose payloads there is no memory for is answered so."""

    def decode(self, frame: memoryview, attached: Sequence[Buffer | None]) -> Received | None:
        message: Any = super().decode(frame, attached)
        if attached and None in attached:
            if isinstance(message, Forward):
                self.send(ForwardedOutcome(message.key, NO_MEMORY))
                return None
            message.outcome = NO_MEMORY
        decoded: Received = message  # one of ``kinds``
        return decoded
