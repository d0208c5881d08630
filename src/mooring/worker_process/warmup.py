"""Warm-up: requests that a worker gives its model before it is ready, since the first calls of many libraries take seconds.

The requests have the forms that requests of clients have when they reach the backend.
"""

import math
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from msgspec import structs

from mooring.backends.backend import Backend, Concurrent
from mooring.codecs.raw import join_texts, raw_size, round_to_bfloat16, split_texts
from mooring.core.errors import ModelLoadFailed, MooringError
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, Step
from mooring.core.service import MetricValue, ModelMetadata, Outcome, Reply
from mooring.core.tensors import NUMPY_TYPES, Parameter, Tensor
from mooring.repository.spec import ModelSpec, Warmup, WarmupInput
from mooring.worker_process.outcomes import failure_of

_SEED = 0  # the same at every start: a failure can be seen again
_MOST_RANDOM = 100  # random numbers may be used as indices or counts, so they are small


def run_warmup(backend: Backend, spec: ModelSpec, metadata: ModelMetadata) -> None:
    """Run every warm-up request. Raises ``ModelLoadFailed``, which names the request that failed."""
    for warmup in spec.warmup:
        for _ in range(warmup.count):
            try:
                outcomes = _infer_once(backend, _build_requests(spec, warmup, metadata))
            except Exception as error:  # user code may raise anything
                outcomes = [failure_of(error)]
            for outcome in outcomes:
                if isinstance(outcome, MooringError):
                    raise ModelLoadFailed(
                        f"warm-up request '{warmup.name}' failed: {outcome.message}",
                        detail=outcome.detail or traceback.format_exc(),
                    )


def _infer_once(backend: Backend, requests: Sequence[InferenceRequest]) -> Sequence[Outcome]:
    model, reply = backend.overlap, _NullReply()
    if model is None:
        return backend.infer(requests, reply)
    if isinstance(model, Concurrent):
        return model.loop.run_until_complete(model.infer(requests, reply))
    (outcome,) = model.run_step(requests, 0, reply)
    while isinstance(outcome, InferenceResponse) and not outcome.final:
        (outcome,) = model.run_step(requests, 1, reply)
    return [outcome]


def _build_requests(spec: ModelSpec, warmup: Warmup, metadata: ModelMetadata) -> list[InferenceRequest]:
    """Build a warm-up request: where a step of a sequence has one row, as many steps as it has rows."""
    request = _build_request(spec, warmup, metadata)
    rows = request.rows if request.form is Form.TENSORS else 1
    if not spec.sequence.enabled or not spec.batching.batch_dimension or rows < 2:
        return [request]
    return [
        structs.replace(
            request,
            id=f"{request.id}-{row}",
            inputs=[_cut_row(tensor, row) for tensor in request.inputs],
            sequence=Step(f"{request.id}-{row}", start=True, end=True, slot=row),
        )
        for row in range(rows)
    ]


def _cut_row(tensor: Tensor, row: int) -> Tensor:
    size = len(tensor.data) // tensor.shape[0]
    data = tensor.data[row * size : (row + 1) * size]
    return Tensor(tensor.name, tensor.datatype, [1, *tensor.shape[1:]], data)


def _build_request(spec: ModelSpec, warmup: Warmup, metadata: ModelMetadata) -> InferenceRequest:
    form = Form.TENSORS
    if warmup.body:
        form = Form.BODY
        parameters: dict[str, Parameter] | None = None
        if warmup.content_type:
            parameters = {"content_type": warmup.content_type}
        inputs = [Tensor("body", "BYTES", [1], [Path(warmup.body).read_bytes()], parameters)]
    else:
        inputs = [_build_tensor(each) for each in warmup.inputs or _declared_inputs(spec, warmup, metadata)]
    # A sequence of its own, which leaves no state behind.
    step = None if not spec.sequence.enabled else Step(f"warmup-{warmup.name}", start=True, end=True)
    return InferenceRequest(
        spec.name, spec.version, f"warmup-{warmup.name}", inputs, form=form, headers=[], sequence=step
    )


def _declared_inputs(spec: ModelSpec, warmup: Warmup, metadata: ModelMetadata) -> Iterator[WarmupInput]:
    declared = [each for each in spec.inputs or metadata.inputs if not each.optional]
    if not declared or not all(each.datatype for each in declared):
        raise ModelLoadFailed("the model declares no inputs: give the request a body or inputs")
    for each in declared:
        shape = [1 if size < 0 else size for size in each.shape]
        if shape and each.shape[0] < 0:
            shape[0] = warmup.rows
        yield WarmupInput(each.name, each.datatype, shape, warmup.data)


def _build_tensor(spec: WarmupInput) -> Tensor:
    data = Path(spec.data).read_bytes() if spec.data not in ("zero", "random") else _make_elements(spec)
    elements = split_texts(memoryview(data), spec.name) if spec.datatype == "BYTES" else data
    count = math.prod(spec.shape)
    expected, actual = (
        (count, len(elements))
        if spec.datatype == "BYTES"
        else (raw_size(spec.datatype, spec.shape), len(data))
    )
    if actual != expected:
        raise ModelLoadFailed(
            f"input '{spec.name}' needs {expected} elements or bytes, and {spec.data} has {actual}"
        )
    return Tensor(spec.name, spec.datatype, spec.shape, elements)


def _make_elements(spec: WarmupInput) -> bytes:
    """Return raw elements: floats from 0 to 1, integers below 100, or short texts of digits; all zero unless random."""
    count = math.prod(spec.shape)
    numbers = np.random.default_rng(_SEED).random(count) if spec.data == "random" else np.zeros(count)
    if spec.datatype == "BYTES":
        return join_texts([b"%d" % (number * _MOST_RANDOM) if number else b"" for number in numbers])
    if spec.datatype == "BF16":
        return round_to_bfloat16(numbers).tobytes()
    kind = np.dtype(NUMPY_TYPES[spec.datatype])
    if kind.kind == "b":
        return (numbers >= 0.5).tobytes()
    return (numbers if kind.kind == "f" else numbers * _MOST_RANDOM).astype(kind).tobytes()


class _NullReply(Reply):
    """The ``Reply`` of a warm-up request, which discards everything."""

    def emit(self, row: int, piece: InferenceResponse) -> None:
        """Discard the piece."""

    def cancelled(self, row: int) -> bool:
        return False

    def record_metric(self, metric: MetricValue) -> None:
        """Discard the metric."""
