"""Bodies and KServe v1 instances for an ensemble: tensors out of them, and answers out of its outputs.

This runs in codec processes, by the same rules as in the worker of a single model.
"""

from mooring.backends.answers import build_response
from mooring.backends.samples import Reader, Sample, split_outputs
from mooring.codecs.ensemble_forms import (
    READ,
    FormHead,
    FormSample,
    FormSignature,
    read_head,
    read_signature,
    write_head,
)
from mooring.codecs.packed import pack_outputs, pack_predictions, unpack_tensors
from mooring.codecs.raw import make_tensor
from mooring.codecs.signature import Signature
from mooring.core.errors import InvalidInput, InvalidOutput, MooringError
from mooring.core.options import CONCAT
from mooring.core.requests import INSTANCES, InferenceRequest, InferenceResponse
from mooring.core.service import Outcome
from mooring.core.tensors import Tensor

# Samples of a request. Each is a run of its own in the server, some 40 us of its event loop.
_MAX_SAMPLES = 4096


def convert_form(request: InferenceRequest) -> Outcome:
    """Make tensors of the body of an ensemble's request, or the answer of its outputs, as the request says."""
    signature = read_signature(request)
    try:
        return _read_body(request, signature) if request.path == READ else _write_answer(request, signature)
    except MooringError as error:
        return error


def _read_body(request: InferenceRequest, signature: FormSignature) -> InferenceResponse:
    limit = signature.limit
    reader = Reader(Signature.of(signature.inputs), CONCAT, max(limit, 1), can_batch=limit > 0)
    request.parameters = None
    samples, is_rows = reader.read_samples(0, request)
    head = FormHead(is_rows, [])
    datatypes = {each.name: each.datatype for each in signature.inputs}
    tensors: list[Tensor] = []
    for sample in samples:
        rows = sample.rows
        for start in range(0, rows, limit) if is_rows and limit and rows > limit else (None,):
            arrays = {
                name: array if start is None else array[start : start + limit]
                for name, array in sample.arrays.items()
            }
            made = [make_tensor(name, array, datatypes[name]) for name, array in arrays.items()]
            head.samples.append(
                FormSample(
                    [len(made)],
                    rows if start is None else len(next(iter(arrays.values()))),
                    sample.batch_added,
                )
            )
            tensors += made
            if len(head.samples) > _MAX_SAMPLES:
                raise InvalidInput(
                    f"the instances do not go through the ensemble in {_MAX_SAMPLES} batches; send fewer in a request"
                )
    pack_outputs(tensors)
    return InferenceResponse([write_head(head), *tensors])


def _write_answer(request: InferenceRequest, signature: FormSignature) -> InferenceResponse:
    head = read_head(request.inputs)
    tensors = iter(request.inputs[1:])
    results = []
    for each in head.samples:
        sets = [[next(tensors) for _ in range(count)] for count in each.counts]
        for tensor_set in sets:
            unpack_tensors(tensor_set)
        arrays = [{tensor.name: tensor.array() for tensor in tensor_set} for tensor_set in sets]
        sample = Sample(0, {}, each.rows, each.batch_added)
        if head.is_rows:
            for outputs in arrays:
                split_outputs(outputs, [sample])  # which raises where a row has no output of its own
        results.append((sample, arrays))
    response = build_response(
        request,
        results,
        rows=head.is_rows,
        labels_of=lambda output: signature.labels.get(output, {}),
        declared={each.name: each for each in signature.outputs},
        aliases={},
        null=signature.null,
    )
    size = sum(len(element) for tensor in response.tensors for element in tensor.data)
    if size > signature.most:
        text = f"the model's answer has {size} bytes and max_response_size is {signature.most}"
        raise InvalidOutput(text, code=500)
    if request.form is INSTANCES:
        pack_predictions(response.tensors)
    return response
