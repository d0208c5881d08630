"""A worker's end of its channels: receiving what the server says, and sending answers."""

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from mooring.core.buffers import LARGE, Buffer, Slot, view_of
from mooring.core.errors import ErrorRecord, MooringError
from mooring.core.requests import Form, InferenceRequest, InferenceResponse
from mooring.core.service import Outcome
from mooring.core.tensors import Output, Tensor
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
    """The worker's end of one of its channels. Blocking; sending is safe from two threads."""

    def __init__(self, sock: socket.socket, arena: MappedArena, number: int = 0) -> None:
        sock.setblocking(True)
        self.sock = sock
        self.number = number
        self._arena = arena
        self._codec = Codec(lends=False)
        self._frames = Frames()
        self._sending = threading.Lock()

    def send(self, message: ToServer) -> None:
        """Return once the kernel has taken all of it, or the other end is gone: ``receive`` says so then."""
        with self._sending, suppress(BrokenPipeError, ConnectionResetError):
            try:
                send_whole(self.sock, self._codec, message)
            except (MemoryError, OverflowError):
                if not isinstance(message, Results):
                    raise
                failed = Results(message.keys, [NO_MEMORY] * len(message.keys), message.batches)
                send_whole(self.sock, self._codec, failed)

    def receive(self) -> list[ToWorker] | None:
        """What has come, waiting for at least one read; None when the server is gone."""
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
        """Answer the requests that there was no memory for, and keep the others of their message."""
        for index in reversed(range(len(batch.keys))):
            if has_lost_payload(batch.requests[index]):
                key = batch.keys.pop(index)
                del batch.requests[index]
                if batch.answer_slots:
                    del batch.answer_slots[index]
                self.send(Results([key], [NO_MEMORY], []))

    def map_slots(self, requests: Sequence[InferenceRequest]) -> None:
        """Turn the slots in the requests into views of the arena."""
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
        """Make an outcome ready to send: errors as records, one large payload in the granted slot if it fits."""
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
    """What is to be sent on one channel by a worker whose requests overlap: all that is ready in one message.

    What only makes sense whole (an instance of KServe v1) is kept until its last piece is there. Not for two threads.
    """

    def __init__(self, channel: Channel, recorder: Recorder) -> None:
        self.channel = channel
        self._recorder = recorder
        self._answer_slots: dict[int, Slot] = {}
        self._pieces: dict[int, list[InferenceResponse]] = {}
        self._keys: list[int] = []
        self._outcomes: list[InferenceResponse | ErrorRecord] = []
        self._batches: list[tuple[int, float]] = []

    def add_batch(self, batch: Batch) -> None:
        """These are about to be worked on: map what they have in the arena."""
        self.channel.map_slots(batch.requests)
        for index, (key, request) in enumerate(zip(batch.keys, batch.requests, strict=True)):
            answer_slot = batch.answer_slots[index] if batch.answer_slots else None
            if answer_slot is not None:
                self._answer_slots[key] = answer_slot
            if request.form is Form.INSTANCES and request.rows == 1:
                self._pieces[key] = []

    def add_outcome(self, key: int, outcome: Outcome) -> None:
        """The answer to a request, or a piece of it."""
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

    def record_call(self, rows: int, seconds: float) -> None:
        """The model was called for so many rows."""
        self._batches.append((rows, seconds))

    def record(self, name: str, value: float, unit: str, kind: str, dimensions: dict[str, str]) -> None:
        """A metric of the model's own; see ``Reply.metric``."""
        if self._recorder.record(name, value, unit, kind, dimensions):
            records = self._recorder.take()
            if records:  # another thread may have taken them
                self.channel.send(MetricRecords(records))

    def send(self) -> None:
        """Send what there is."""
        if not self._keys and not self._batches:
            return
        keys, outcomes, batches = self._keys, self._outcomes, self._batches
        self._keys, self._outcomes, self._batches = [], [], []
        self.channel.send(Results(keys, outcomes, batches, self._recorder.take()))


def join_pieces(pieces: Sequence[InferenceResponse]) -> InferenceResponse:
    """The one prediction that the pieces of an instance's answer make: their text, else the list of them."""
    elements = [bytes(element) for piece in pieces if piece.outputs for element in piece.outputs[0].data]
    if all(element.startswith(b'"') for element in elements):
        prediction = msgspec.json.encode(
            "".join(msgspec.json.decode(element, type=str) for element in elements)
        )
    else:
        prediction = b"[" + b",".join(elements) + b"]"
    return InferenceResponse([Tensor("predictions", "BYTES", [1], [prediction])], head=pieces[0].head)
