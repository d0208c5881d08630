"""Large JSON bodies of one version that wait: a codec process decodes them before a worker is free for them.

Meanwhile a request keeps its place in the queue. The JSON outputs of such a request are written by the codec processes,
too (json_outputs.py). Whatever goes wrong with a codec process, the request goes on as it would have without: its worker
decodes the body.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from mooring.codecs.decoded_body import apply_decoded
from mooring.codecs.nonfinite import writes_null
from mooring.core.buffers import LARGE, Buffer, view_of
from mooring.core.errors import ErrorRecord, InvalidInput, MooringError
from mooring.core.requests import BodyKind, InferenceRequest, InferenceResponse
from mooring.core.service import Outcome, Ticket
from mooring.core.tensors import Tensor, release
from mooring.engine.json_outputs import CodecProcesses, JsonOutputs, take_over_json
from mooring.engine.queued_request import OFFLOADED, WAITING, QueuedRequest
from mooring.repository.spec import ModelSpec

# Bytes of JSON. Below, the way to another process costs more than it saves: 0.25 ms of the server instead of 0.1 ms.
_OFFLOAD_MIN = 262_144
# Above, a body stays with its worker: no other request should wait behind it for seconds in a codec process.
_OFFLOAD_MAX = 64 << 20


class Queue(Protocol):
    """The queue whose requests are offloaded."""

    def offload(self, queued: QueuedRequest) -> None:
        """Give a waiting request to no worker until it is put back; it still counts as waiting."""

    def put_back(self, queued: QueuedRequest) -> None:
        """Let it wait for a worker again, at its old place."""

    def fail_offloaded(self, queued: QueuedRequest, error: MooringError) -> None:
        """End an offloaded request whose body cannot be decoded."""


class JsonOffload:
    """Has the bodies of one queue decoded by codec processes while all its workers are busy, the oldest first.

    ``pending`` holds the requests whose bodies are worth it, and some that a worker has taken meanwhile.
    """

    def __init__(
        self, codecs: CodecProcesses, queue: Queue, spec: ModelSpec, allocate: Callable[[int], Buffer | None]
    ) -> None:
        self._codecs = codecs
        self._queue = queue
        self._spec = spec
        self._allocate = allocate
        self._in_flight: dict[QueuedRequest, Ticket] = {}
        # Bound once, so that it is always the same object: the codec processes call it once, however often it asked.
        self._again = self.start_pending
        self.pending: deque[QueuedRequest] = deque()

    @property
    def in_flight(self) -> list[QueuedRequest]:
        """The requests whose bodies are being decoded."""
        return list(self._in_flight)

    def oldest_arrival(self) -> float:
        """When the first of these requests came; infinity where there is none."""
        return min((queued.arrived for queued in self._in_flight), default=math.inf)

    def start_pending(self) -> None:
        """Have pending bodies decoded while there is a process for them. Call it when all workers are busy."""
        pending = self.pending
        while pending:
            queued = pending[0]
            if queued.state is not WAITING or not worth_offloading(queued.request):
                pending.popleft()
            elif not self._codecs.has_idle(self._again):
                return
            else:
                pending.popleft()
                self._start_decoding(queued)

    def cancel_decoding(self, queued: QueuedRequest) -> None:
        """Stop the decoding for a request that nobody waits for any more."""
        self._in_flight.pop(queued).cancel()

    def _start_decoding(self, queued: QueuedRequest) -> None:
        request = queued.request
        job = decode_job(request)
        self._queue.offload(queued)
        ticket = self._codecs.submit(job, lambda outcome: self._on_decoded(queued, outcome))
        if queued.state is OFFLOADED:
            self._in_flight[queued] = ticket

    def _on_decoded(self, queued: QueuedRequest, outcome: Outcome) -> None:
        self._in_flight.pop(queued, None)
        request, spec = queued.request, self._spec
        if isinstance(outcome, InvalidInput):
            error = ErrorRecord.of(outcome).error(model=spec.name, version=spec.version)
            self._queue.fail_offloaded(queued, error)
            return
        # A deadline is the queue's own to see. Of any other error the worker will know more.
        if isinstance(outcome, InferenceResponse):
            if move_to_arena(outcome.tensors, self._allocate):
                replace_body(request, outcome)
                queued.rows = max(request.rows, 1)
                selection = take_over_json(request)
                if selection is not None:
                    null = writes_null(spec.handler.json_nan, asked=request.null_for_nan)
                    queued.output_encoder = JsonOutputs(self._codecs, selection, null=null)
            else:
                release(outcome.outputs)
        self._queue.put_back(queued)


def worth_offloading(request: InferenceRequest) -> bool:
    """Whether a request has a body that is worth decoding in another process."""
    body = request.body
    return (
        body is not None and body.kind is not BodyKind.V1 and _OFFLOAD_MIN <= len(body.data) <= _OFFLOAD_MAX
    )


def decode_job(request: InferenceRequest) -> InferenceRequest:
    """The job for a codec process that decodes the body of a request; the request keeps a share of the body."""
    assert request.body is not None
    request.body, lent = request.body.shares(2)
    return InferenceRequest("", "", request.id, [], deadline=request.deadline, body=lent)


def replace_body(request: InferenceRequest, decoded: InferenceResponse) -> None:
    """Put what a codec process has decoded into its request, and give back the body's memory."""
    body = request.body
    assert body is not None
    apply_decoded(request, decoded)
    body.release()
    release([decoded.outputs[0]])


def move_to_arena(tensors: list[Tensor], allocate: Callable[[int], Buffer | None]) -> bool:
    """Move large data that came over a socket into the arena; False when there is no room for all of it.

    Data without room stays as it is. A model that writes to its inputs may do so with what its worker has decoded, and
    must not see a difference.
    """
    for tensor in tensors:
        data = tensor.data
        inline = isinstance(data, bytes) or (isinstance(data, Buffer) and data.slot is None)
        if inline and len(data) > LARGE:
            slot = allocate(len(data))
            if slot is None:
                return False
            slot.view[:] = view_of(data)
            tensor.data = slot
    return True
