"""The messages between server and worker, in msgpack; ``framing`` cuts them on the socket.

A payload in a slot of the arena travels as the slot's handle. A large payload elsewhere travels beside the message, any
other in it.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from mooring.core.buffers import LARGE, Buffer, Slot
from mooring.core.errors import ErrorRecord
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import Joining, LoadContext, ModelMetadata
from mooring.core.timing import CallSpan
from mooring.ipc.framing import HEADER, PAYLOADS
from mooring.observability.records import Record
from mooring.repository.spec import ModelSpec

_SLOT_CODE = 1
_ANSWER_SLOT_CODE = 2
_ATTACHED_CODE = 3


class Load(msgspec.Struct, array_like=True, tag="load"):
    """First message to a worker: the model to load."""

    spec: ModelSpec
    context: LoadContext


class Trial(msgspec.Struct, array_like=True, tag="trial"):
    """To the process of a trial, which answers with a ``Joining``: the model, and the folder of results (empty: none)."""

    load: Load
    folder: str


class CompleteConfig(msgspec.Struct, array_like=True, tag="complete"):
    """To the process of a completion: a model whose code completes its configuration."""

    load: Load


class Batch(msgspec.Struct, array_like=True, tag="batch", gc=False):
    """Requests for the model. ``answer_slots`` has a slot for the large answer of each request, or None."""

    keys: list[int]
    requests: list[InferenceRequest]
    answer_slots: list[Slot | None] | None = None


class EnableJoining(msgspec.Struct, array_like=True, tag="enable_joining"):
    """From now on requests may share calls of the model (``Backend.join_requests``)."""


class Cancel(msgspec.Struct, array_like=True, tag="cancel"):
    """These requests were cancelled."""

    keys: list[int]


class Loaded(msgspec.Struct, array_like=True, tag="loaded"):
    """The model can infer. ``capacity`` is how many requests it takes while others run; 0: one message at a time."""

    metadata: ModelMetadata
    capacity: int = 0
    joining: Joining | None = None


class JoiningMissed(msgspec.Struct, array_like=True, tag="missed"):
    """Requests came that could have shared a call, but it is not known yet whether they may.

    Sent once, it asks for a trial.
    """


class LoadFailed(msgspec.Struct, array_like=True, tag="failed"):
    """The model cannot be loaded; the worker ends after this. ``lasting``: the same files will fail again."""

    error: ErrorRecord
    lasting: bool = False


class GroupStarted(msgspec.Struct, array_like=True, tag="group"):
    """The worker has started the processes of its parallel group."""

    pids: list[int]


class Results(msgspec.Struct, array_like=True, tag="results", gc=False):
    """Answers, in any order. ``batches`` has the rows, seconds and requests of every call of the model among them.

    A worker with a capacity answers requests of many messages in one of these, and sends pieces here, too.
    ``records`` are metrics of the model's own code, which need no message of their own this way. ``spans`` has by key when
    the model was called for the requests that ask for timings.
    """

    keys: list[int]
    outcomes: list[InferenceResponse | ErrorRecord]
    batches: list[tuple[int, float, int]]
    records: list[Record] | None = None
    spans: dict[int, CallSpan] | None = None


class Piece(msgspec.Struct, array_like=True, tag="piece"):
    """Part of a streamed answer. ``span`` says how far the model's call has come, where the request asks for timings."""

    key: int
    response: InferenceResponse
    span: CallSpan | None = None


class Unstarted(msgspec.Struct, array_like=True, tag="unstarted"):
    """Requests of a batch that were not started, because a call before them is slow: other workers may take them."""

    keys: list[int]


class MetricRecords(msgspec.Struct, array_like=True, tag="metrics"):
    """Metrics of the model's own code, sent at once where there are too many to wait for the next answers."""

    records: list[Record]


class InAnswerSlot:
    """A payload that is in the first ``size`` bytes of its request's answer slot.

    No msgspec.Struct: msgspec would encode it as a map instead of calling the encoder's hook.
    """

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


ToWorker = Load | Batch | Cancel | EnableJoining | Trial | CompleteConfig
ToServer = Loaded | LoadFailed | GroupStarted | Results | Piece | Unstarted | MetricRecords | JoiningMissed


class MessageEncoder:
    """Encodes messages to frames in one reused buffer: send a frame before the next one is encoded, or ``detach`` it.

    ``lends`` is True for the server alone: only its slots are mapped by the workers. Payloads that others have in a slot
    travel in the message, because the slot is freed as soon as its request is answered.
    """

    def __init__(self, *, lends: bool = False) -> None:
        # Whether the last frame refers to memory that has to be released after sending. Most do not.
        self.lent = False
        self.attached: list[memoryview] = []
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._encode_lent if lends else self._encode_own)
        self._frame = bytearray(65_536)

    def frame(self, message: Any) -> bytearray:
        """Encode a message with its length before it. Raises ``OverflowError`` for one above 2 GB."""
        self.lent = False
        if self.attached:
            self.attached = []
        frame = self._frame
        self._encoder.encode_into(message, frame, HEADER)
        size = len(frame) - HEADER
        if size >= PAYLOADS:
            self.detach()
            raise OverflowError(f"a message of {size} bytes is too large")
        frame[:HEADER] = size.to_bytes(HEADER, "little")
        return frame

    def detach(self) -> None:
        """Leave the last frame to its holder, and use a new buffer from now on."""
        self._frame = bytearray()

    def _encode_lent(self, value: Any) -> Any:
        self.lent = True
        if isinstance(value, Buffer) and value.slot is not None:
            return msgspec.msgpack.Ext(_SLOT_CODE, msgspec.msgpack.encode(value.slot))
        return self._encode_own(value)

    def _encode_own(self, value: Any) -> Any:
        if isinstance(value, Buffer):
            view = value.view
            if value.slot is not None or view.nbytes <= LARGE:
                return view
            self.attached.append(view)
            return msgspec.msgpack.Ext(_ATTACHED_CODE, (len(self.attached) - 1).to_bytes(4, "little"))
        if isinstance(value, InAnswerSlot):
            return msgspec.msgpack.Ext(_ANSWER_SLOT_CODE, value.size.to_bytes(8, "little"))
        raise TypeError(f"{type(value).__name__} cannot be sent to another process")


class AttachingEncoder(MessageEncoder):
    """Leaves every large payload beside the message, wherever it lies: for a receiver that shares no memory with this machine."""

    def _encode_own(self, value: Any) -> Any:
        if isinstance(value, Buffer) and value.view.nbytes <= LARGE:
            return value.view
        if isinstance(value, Buffer):
            self.attached.append(value.view)
            return msgspec.msgpack.Ext(_ATTACHED_CODE, (len(self.attached) - 1).to_bytes(4, "little"))
        return super()._encode_own(value)


class MessageDecoder:
    """Decodes frames to messages of these kinds. A payload for which the receiver had no memory is None."""

    def __init__(self, kinds: Any) -> None:
        self._attached: Sequence[Buffer | None] = ()
        self._decoder = msgspec.msgpack.Decoder(kinds, ext_hook=self._decode_special)

    def decode(self, frame: memoryview, attached: Sequence[Buffer | None] = ()) -> Any:
        """Decode one message; ``attached`` are the payloads that came after it."""
        if not attached:
            return self._decoder.decode(frame)
        self._attached = attached
        try:
            return self._decoder.decode(frame)
        finally:
            self._attached = ()

    def _decode_special(self, code: int, data: memoryview) -> Any:
        if code == _SLOT_CODE:
            return msgspec.msgpack.decode(data, type=Slot)
        if code == _ANSWER_SLOT_CODE:
            return InAnswerSlot(int.from_bytes(data, "little"))
        if code == _ATTACHED_CODE:
            return self._attached[int.from_bytes(data, "little")]
        raise ValueError(f"message with an unknown extension {code}")


class Codec(MessageEncoder):
    """Encodes and decodes the messages between server and worker."""

    def __init__(self, *, lends: bool = True) -> None:
        super().__init__(lends=lends)
        # One decoder for each direction: a side refuses messages that it must not receive.
        self.to_worker = MessageDecoder(ToWorker).decode
        self.to_server = MessageDecoder(ToServer).decode


def has_lost_payload(message: InferenceRequest | InferenceResponse) -> bool:
    """Whether the receiver had no memory for one of the payloads."""
    if isinstance(message, InferenceResponse):
        payloads = [tensor.data for tensor in message.outputs]
    else:
        payloads = [tensor.data for tensor in message.inputs]
        if message.body is not None:
            payloads.append(message.body.data)
    return any(data is None or (type(data) is list and None in data) for data in payloads)


NO_MEMORY = ErrorRecord("OutOfResources", "there is no memory for the payloads of this request or its answer")
