"""What a codec process does: it reads large JSON bodies and writes large JSON outputs while a model's workers are busy.

It holds no model and runs no code but ours. What it is asked and what it answers are requests and responses as those of
a worker: a body comes back as its tensors, behind one with all else that it says (``Said``), and a request with
``json_outputs`` holds the outputs of a model, which come back as JSON text.
"""

from collections.abc import Sequence

import msgspec

from mooring.backends.backend import Backend, LoadContext
from mooring.backends.open_inference import open_body
from mooring.codecs.packed import pack
from mooring.codecs.v2_json import json_text
from mooring.core.errors import InvalidInput
from mooring.core.requests import InferenceRequest, InferenceResponse, RequestedOutput
from mooring.core.service import ModelMetadata, Outcome, Reply
from mooring.core.tensors import RequestValue, Tensor
from mooring.repository.spec import ModelSpec


class Said(msgspec.Struct, array_like=True):
    """What a body says beside its tensors, as ``open_body`` leaves it in a request."""

    id: str
    outputs: list[RequestedOutput] | None
    parameters: dict[str, RequestValue] | None
    json_outputs: bool
    path: str


class CodecBackend(Backend):
    """The codecs as a model, so that their processes are kept, fed and replaced as workers are."""

    def load(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """There is nothing to load."""
        return ModelMetadata(spec.name, [spec.version], spec.backend, [], [])

    def infer(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        """Each by itself."""
        return [written(request) if request.json_outputs else opened(request) for request in requests]


def opened(request: InferenceRequest) -> Outcome:
    """The tensors of a body, and before them what else it says; or what is wrong with it."""
    try:
        open_body(request)
    except InvalidInput as error:
        return error
    pack(request.inputs)
    said = Said(request.id, request.outputs, request.parameters, request.json_outputs, request.path)
    return InferenceResponse([Tensor("said", "BYTES", [1], [msgspec.msgpack.encode(said)]), *request.inputs])


def written(request: InferenceRequest) -> InferenceResponse:
    """The tensors with their JSON text in place of their elements."""
    return InferenceResponse([as_text(tensor, null=request.null_for_nan) for tensor in request.inputs])


def as_text(tensor: Tensor, *, null: bool) -> Tensor:
    """A tensor of the same name with its JSON text. With ``null`` that stands for NaN and Infinity."""
    text = json_text(tensor, null=null)  # which may add to the parameters
    return Tensor(tensor.name, tensor.datatype, tensor.shape, text, tensor.parameters, json=True)


def take_up(request: InferenceRequest, answer: InferenceResponse) -> None:
    """Put what ``opened`` found into the request that had the body; the body's memory is the caller's to release."""
    said = msgspec.msgpack.decode(bytes(answer.outputs[0].data[0]), type=Said)
    request.id, request.outputs, request.parameters = said.id, said.outputs, said.parameters
    request.json_outputs, request.path, request.inputs = said.json_outputs, said.path, answer.outputs[1:]
