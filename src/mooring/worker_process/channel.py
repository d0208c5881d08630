"""The worker's end of a channel: it receives messages of the server and sends answers."""

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from mooring.core.buffers import LARGE, Buffer, Slot, view_of
from mooring.core.errors import ErrorRecord, InvalidOutput, MooringError
from mooring.core.requests import Form, InferenceRequest, InferenceResponse
from mooring.core.service import MetricValue, Outcome
from mooring.core.tensors import Output, Tensor
from mooring.core.timing import CallSpan
from mooring.ipc.arena import MappedArena
from mooring.ipc.framing import Frames, send_whole
from mooring.ipc.messages import (
    NO_MEMORY,
    Batch,
    Codec,
    InAnswerSlot,
    MetricRecords,
    Results,
    ToServer,
    ToWorker,
    has_lost_payload,
)
from mooring.observability.records import Recorder


class Channel:
    """The worker's end of one channel.

    Blocks. ``send`` may be called from any thread, ``receive`` from one at a time.
    """

    def __init__(self, sock: socket.socket, arena: MappedArena, number: int = 0) -> None:
        sock.setblocking(True)
        self.sock = sock
        self.number = number
        self._arena = arena
        self._codec = Codec(lends=False)
        self._frames = Frames()
        self._sending = threading.Lock()

    def send(self, message: ToServer) -> None:
        """Send a message and return once the kernel has taken all of it.

        Where the other end is gone nothing is raised: ``receive`` returns None then. Results for which there is no
        memory are replaced by ``OutOfResources`` for each of their requests, those that no message can hold by
        ``InvalidOutput``.
        """
        with self._sending, suppress(BrokenPipeError, ConnectionResetError):
            try:
                send_whole(self.sock, self._codec, message)
            except (MemoryError, OverflowError):
                if not isinstance(message, Results):
                    raise
                failed = Results(
                    message.keys, [NO_MEMORY] * len(message.keys), message.batches, spans=message.spans
                )
                send_whole(self.sock, self._codec, failed)
            except (TypeError, UnicodeEncodeError):
                if not isinstance(message, Results):
                    raise
                outcomes = [self._check_outcome(outcome) for outcome in message.outcomes]
                send_whole(
                    self.sock,
                    self._codec,
                    Results(message.keys, outcomes, message.batches, spans=message.spans),
                )

    def _check_outcome(self, outcome: InferenceResponse | ErrorRecord) -> InferenceResponse | ErrorRecord:
        """Return an outcome that can be encoded: this one, or the error that says why it cannot."""
        try:
            self._codec.frame(Results([0], [outcome], []))
        except (TypeError, UnicodeEncodeError) as error:
            return ErrorRecord.of(InvalidOutput(f"the model's answer cannot be sent: {error}"))
        return outcome

    def receive(self) -> list[ToWorker] | None:
        """Wait for one read and return the messages that are complete; None when the server is gone.

        Requests whose payloads found no memory are answered here and are not among them.
        """
        try:
            if not self._frames.receive(self.sock):
                return None
        except ConnectionResetError:
            return None
        messages: list[ToWorker] = []
        frames = self._frames
        for frame in frames:
            attached = frames.attached
            message = self._codec.to_worker(frame, attached)
            if attached and None in attached:
                self._refuse_lost_requests(message)
            messages.append(message)
        return messages

    def _refuse_lost_requests(self, batch: Batch) -> None:
        """Answer the requests whose payloads found no memory, and leave the others in the batch."""
        for index in reversed(range(len(batch.keys))):
            if has_lost_payload(batch.requests[index]):
                key = batch.keys.pop(index)
                del batch.requests[index]
                if batch.answer_slots:
                    del batch.answer_slots[index]
                self.send(Results([key], [NO_MEMORY], []))

    def map_slots(self, requests: Sequence[InferenceRequest]) -> None:
        """Replace the slot handles in the requests by buffers that view the shared memory."""
        for request in requests:
            body = request.body
            if body is not None and type(body.data) is Slot:
                body.data = Buffer(self._arena.view(body.data), body.data)
            for tensor in request.inputs:
                # By type: whether something is a struct is a slow question where it is not (1,000 instructions).
                data = tensor.data
                if type(data) is Slot:
                    tensor.data = Buffer(self._arena.view(data), data)
                elif type(data) is list:
                    for index, element in enumerate(data):
                        if type(element) is Slot:
                            data[index] = Buffer(self._arena.view(element), element)

    def prepare_outcome(self, outcome: Outcome, answer_slot: Slot | None) -> InferenceResponse | ErrorRecord:
        """Return the outcome as it is sent: an error as a record, an answer with one large payload in its answer slot."""
        if isinstance(outcome, MooringError):
            return ErrorRecord.of(outcome)
        if answer_slot is not None:
            self._fill_slot(outcome.outputs, answer_slot)
        return outcome

    def _fill_slot(self, outputs: list[Output], answer_slot: Slot) -> None:
        for tensor in outputs:
            payloads = tensor.data if isinstance(tensor.data, list) else [tensor.data]
            for index, payload in enumerate(payloads):
                if LARGE < len(payload) <= answer_slot.size:
                    self._arena.view(answer_slot)[: len(payload)] = view_of(payload)
                    payloads[index] = InAnswerSlot(len(payload))
                    if not isinstance(tensor.data, list):
                        tensor.data = payloads[0]
                    return


class ResponseBuffer:
    """Collects answers for one channel of a worker whose requests overlap, and sends all that are ready in one message.

    The pieces of a KServe v1 instance are kept until the last one, because its prediction is sent whole. Not
    thread-safe.
    """

    def __init__(self, channel: Channel, recorder: Recorder) -> None:
        self.channel = channel
        self._recorder = recorder
        self._answer_slots: dict[int, Slot] = {}
        self._pieces: dict[int, list[InferenceResponse]] = {}
        self._keys: list[int] = []
        self._outcomes: list[InferenceResponse | ErrorRecord] = []
        self._batches: list[tuple[int, float, int]] = []
        self._spans: dict[int, CallSpan] | None = None

    def add_batch(self, batch: Batch) -> None:
        """Prepare a batch for the model: map its slots, and keep its answer slots until its requests are answered."""
        self.channel.map_slots(batch.requests)
        for index, (key, request) in enumerate(zip(batch.keys, batch.requests, strict=True)):
            answer_slot = batch.answer_slots[index] if batch.answer_slots else None
            if answer_slot is not None:
                self._answer_slots[key] = answer_slot
            if request.form is Form.INSTANCES and request.rows == 1:
                self._pieces[key] = []

    def add_outcome(self, key: int, outcome: Outcome) -> None:
        """Add the answer to a request, or a piece of it."""
        pieces = self._pieces.get(key)
        if isinstance(outcome, InferenceResponse) and not outcome.final:
            if pieces is None:
                self._keys.append(key)
                self._outcomes.append(outcome)
            else:
                pieces.append(outcome)
            return
        if pieces is not None:
            del self._pieces[key]
            if pieces and isinstance(outcome, InferenceResponse):
                outcome = join_pieces([*pieces, outcome])
        self._keys.append(key)
        self._outcomes.append(self.channel.prepare_outcome(outcome, self._answer_slots.pop(key, None)))

    def add_span(self, key: int, span: CallSpan | None) -> None:
        """Add when the model was called for a request that asks for timings."""
        if span is not None:
            self._spans = self._spans or {}
            self._spans[key] = span

    def record_call(self, rows: int, seconds: float, requests: int) -> None:
        """Count a call of the model with so many rows, of so many requests."""
        self._batches.append((rows, seconds, requests))

    def record_metric(self, metric: MetricValue) -> None:
        """Record a value of a metric of the model's own code."""
        if self._recorder.record_value(metric):
            records = self._recorder.take_records()
            if records:  # another thread may have taken them
                self.channel.send(MetricRecords(records))

    def flush(self) -> None:
        """Send what was collected, if anything."""
        if not self._keys and not self._batches:
            return
        keys, outcomes, batches, spans = self._keys, self._outcomes, self._batches, self._spans
        self._keys, self._outcomes, self._batches, self._spans = [], [], [], None
        self.channel.send(Results(keys, outcomes, batches, self._recorder.take_records(), spans))


def join_pieces(pieces: Sequence[InferenceResponse]) -> InferenceResponse:
    """Join the pieces of a KServe v1 instance to one prediction: the joined text where all are strings, else a list."""
    elements = [bytes(element) for piece in pieces if piece.outputs for element in piece.outputs[0].data]
    if all(element.startswith(b'"') for element in elements):
        prediction = msgspec.json.encode(
            "".join(msgspec.json.decode(element, type=str) for element in elements)
        )
    else:
        prediction = b"[" + b",".join(elements) + b"]"
    return InferenceResponse([Tensor("predictions", "BYTES", [1], [prediction])], head=pieces[0].head)
