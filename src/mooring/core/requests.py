"""One request and one response, whichever protocol they come from and whichever model they go to."""

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mooring.core.buffers import Buffer
from mooring.core.tensors import Output, Parameter, RequestValue, Tensor, TensorSpec, release, share_payload
from mooring.core.timing import RequestTiming


class Operation(enum.IntEnum):
    """What is asked of the model."""

    INFER = 0
    EXPLAIN = 1
    DESCRIBE = 2  # the handler's own metadata (TorchServe's customized=true)


class Form(enum.IntEnum):
    """How a request carries its data, and so how its answer must look.

    BODY        what a TorchServe client sends: one BYTES tensor of shape [1] per form field, named as the field
                ("body" for a plain body), its content type in the tensor's parameters. The answer is one BYTES
                tensor of shape [1] with the bytes of the response body.
    INSTANCES   what a KServe v1 client sends: one BYTES tensor "instances" of shape [n], every element the JSON of
                one instance; the answer is one BYTES tensor of shape [n], every element the JSON of one prediction.
    TENSORS     the Open Inference Protocol: tensors as the model declares them, both ways.

    A request of the latter two may have an ``UndecodedBody`` in place of its inputs.
    """

    BODY = 0
    INSTANCES = 1
    TENSORS = 2


class JsonWriter(enum.IntEnum):
    """Who writes the JSON text of those outputs of a v2 request that its client does not want in binary.

    NOBODY  no output is to be JSON: the client speaks gRPC, or wants all of them in binary
    SERVER  the server's event loop; the worker only those which would take the loop too long
    WORKER  the worker writes all: it has read the body, so that nobody else knows which of them are to be JSON
    CODEC   the codec processes, for the server: the worker gives plain tensors

    Where a requested output has the parameter ``binary_data``, the worker does as that says.
    """

    NOBODY = 0
    SERVER = 1
    WORKER = 2
    CODEC = 3


# For what happens with every request: in Python 3.11 a member costs 0.1 us and 900 instructions each time that it is
# looked up in its class, and a request met ten of them.
INFER, EXPLAIN, DESCRIBE = Operation.INFER, Operation.EXPLAIN, Operation.DESCRIBE
NOBODY, SERVER, WORKER, CODEC = JsonWriter.NOBODY, JsonWriter.SERVER, JsonWriter.WORKER, JsonWriter.CODEC
BODY, INSTANCES, TENSORS = Form.BODY, Form.INSTANCES, Form.TENSORS


class BodyKind(enum.IntEnum):
    """What an undecoded body is.

    V1        instances of KServe v1
    V2        an infer request of the Open Inference Protocol: its id, outputs and parameters are in it, too
    GENERATE  an object of the generate extension, or an infer request
    """

    V1 = 0
    V2 = 1
    GENERATE = 2


class UndecodedBody(msgspec.Struct, array_like=True, gc=False):
    """A body of JSON, whole, that a worker decodes: it would cost the server's event loop milliseconds.

    ``data`` is one payload. ``json_size`` is how many bytes of a V2 body are JSON, where binary tensors follow them; None
    where all are. ``no_regions``: the process that answers a V2 body cannot write to shared memory, so that outputs which
    are to go there are ``ElsewhereOnly``. ``declared`` are the inputs that the model of a GENERATE body declares.
    ``lenient``: a V2 body may be as AMD's clients send it.
    """

    kind: BodyKind
    data: Any  # Payload; msgspec has no union of a custom type with others
    json_size: int | None = None
    no_regions: bool = False
    declared: list[TensorSpec] | None = None
    lenient: bool = False

    def shares(self, count: int) -> "list[UndecodedBody]":
        """The same body for so many readers, each of whom releases its own; takes this one over."""
        return [msgspec.structs.replace(self, data=data) for data in share_payload(self.data, count)]

    def release(self) -> None:
        """Give back the memory: nobody will read the body any more."""
        if isinstance(self.data, Buffer):
            self.data.release()


class RequestedOutput(msgspec.Struct, array_like=True, frozen=True):
    """An output that the caller asked for by name."""

    name: str
    parameters: Mapping[str, Parameter] | None = None


class Step(msgspec.Struct, array_like=True, frozen=True):
    """A request as one step of a sequence: the sequence's id, and whether it is its first or its last step.

    ``slot`` is the number of the sequence among those of its worker. With Triton's direct strategy it is the row that every
    step of the sequence has in a call.
    """

    id: str | int
    start: bool = False
    end: bool = False
    slot: int = 0


class _RequestBasis(msgspec.Struct, array_like=True, gc=False):
    """What may be given without a keyword where a request is built."""

    model: str
    version: str
    id: str
    inputs: list[Tensor]


class InferenceRequest(_RequestBasis, array_like=True, gc=False, kw_only=True):
    """Everything the engine, the worker and the model know of a request.

    While it has an undecoded ``body``, ``inputs`` is empty, and what else that body says is not known yet.
    ``version`` empty means the default version. ``deadline`` is in seconds on the monotonic clock, so that it
    survives a change of the wall clock and can be compared in any process of this machine. ``headers`` are the
    client's own, in its spelling and order; only the handler backend reads them. ``path`` is what followed the
    model's version in the URL. ``priority`` 1 is served first, then 2 and so on; 0 comes after all of them. In the JSON text
    of outputs, null stands in the place of NaN and Infinity where ``null_for_nan`` is set. ``sequence`` is set by the scheduler of a model that
    has sequences; before, the headers or the parameters say it. ``layout``, a ``Layout`` of codecs/protobuf_tensors.py,
    says how a gRPC client wants its outputs: the worker packs large ones so. ``timing`` is there where the client asks where the
    time goes.
    """

    form: Form = Form.TENSORS
    operation: Operation = Operation.INFER
    parameters: dict[str, RequestValue] | None = None
    outputs: list[RequestedOutput] | None = None
    deadline: float | None = None
    headers: Sequence[tuple[bytes, bytes]] | None = None
    path: str = ""
    priority: int = 0
    json_writer: JsonWriter = JsonWriter.NOBODY
    sequence: Step | None = None
    null_for_nan: bool = False
    layout: int = 0
    body: UndecodedBody | None = None
    timing: RequestTiming | None = None

    @property
    def rows(self) -> int:
        """How many rows of a batch this request fills, as far as can be told without the model."""
        if self.form is BODY or not self.inputs:
            return 1
        shape = self.inputs[0].shape
        return shape[0] if shape else 1

    def expired(self, now: float) -> bool:
        """Whether the caller has stopped waiting."""
        return self.deadline is not None and now >= self.deadline

    def release(self) -> None:
        """Give back the memory of the inputs or of the body: nobody will read them any more."""
        release(self.inputs)
        if self.body is not None:
            self.body.release()


class ResponseHead(msgspec.Struct, array_like=True, gc=False):
    """What a TorchServe handler set on the HTTP response. ``status`` 0 means it set none.

    ``with_id`` says that a v2 answer carries an id even where its request had none: TorchServe's kservev2 envelope
    answers so.
    """

    status: int = 0
    reason: str = ""
    content_type: str = ""
    headers: list[tuple[str, str]] = []
    with_id: bool = False


class InferenceResponse(msgspec.Struct, array_like=True, gc=False, tag="response"):
    """An answer, or with ``final`` False one piece of a streamed answer.

    A final one without outputs says that the pieces before it were all, or where there were none that the model gives
    no response to this request.
    """

    outputs: list[Output]
    parameters: dict[str, Parameter] | None = None
    head: ResponseHead | None = None
    final: bool = True
    model: str = ""
    version: str = ""
    id: str = ""

    @property
    def tensors(self) -> list[Tensor]:
        """The outputs, where none can be JSON text: in forms other than v2's over REST, and before they are encoded."""
        return self.outputs  # type: ignore[return-value]  # not by cast, which is a call for every answer
