"""The backend of codec processes: they decode large JSON bodies and encode large JSON outputs.

A codec process runs no code but ours. It takes requests and gives responses as every worker does, so that it is kept,
fed and replaced by the same code. A request with a body has it decoded; the inputs of every other one are outputs of a
model to encode (``codecs/decoded_body.py``). Bodies that are no tensors are those of ensembles (``ensemble_forms.py``).
"""

from collections.abc import Sequence

from mooring.backends.backend import Backend
from mooring.backends.ensemble_forms import convert_form
from mooring.codecs.decoded_body import encode_decoded
from mooring.codecs.v2_json import encode_json_output
from mooring.core.errors import InvalidInput
from mooring.core.requests import TENSORS, InferenceRequest, InferenceResponse
from mooring.core.service import LoadContext, ModelMetadata, Outcome, Reply
from mooring.repository.spec import ModelSpec


class CodecBackend(Backend):
    """Decodes and encodes JSON where other backends call a model."""

    def load(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Return metadata without inputs and outputs; there is nothing to load."""
        return ModelMetadata(spec.name, [spec.version], spec.backend, [], [])

    def infer(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        """Decode or encode every request by itself."""
        return [run_job(request) for request in requests]


def run_job(request: InferenceRequest) -> Outcome:
    """Do what the form and the body of the request ask for."""
    if request.form is not TENSORS:
        return convert_form(request)
    return encode_json(request) if request.body is None else decode_json(request)


def encode_json(request: InferenceRequest) -> InferenceResponse:
    """Return the tensors of the request with their JSON text as data."""
    return InferenceResponse(
        [encode_json_output(tensor, null=request.null_for_nan) for tensor in request.inputs]
    )


def decode_json(request: InferenceRequest) -> Outcome:
    """Decode the body of the request; return its tensors after a ``DecodedBody``, or the error in it."""
    try:
        return encode_decoded(request)
    except InvalidInput as error:
        return error
