"""The fast path through a tensor model, for batches of requests that are alike.

Most requests are alike: numbers under the same names, in the same types and shapes, with nothing asked but the answer or
some of its outputs as they are. What they mean to the model is worked out once, by the general way (samples.py), and
kept. Then a batch is one copy from bytes to arrays, a call, and one copy back; large arrays of a lone request are not
copied at all. Everything else takes the general way, and so does what is wrong: no request is refused here.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from mooring.backends.samples import Arrays, Parameters, Reader
from mooring.core.buffers import Buffer, Payload, view_of
from mooring.core.errors import InvalidInput
from mooring.core.requests import (
    INFER,
    SERVER,
    TENSORS,
    WORKER,
    InferenceRequest,
    InferenceResponse,
    Operation,
)
from mooring.core.tensors import NUMPY_TYPES, Array, Tensor

# Bytes of an output of one request up to which copying it is the cheapest there is, and nobody wants it as JSON.
_MAX_COPIED_BYTES = 4096
_MAX_LAYOUTS = 1024
_BINARY = {"binary_data": True}

BatchKey = tuple[object, ...]
"""What requests must have in common: the outputs asked for, and name, datatype and sizes of every input. Neither can be
taken for another."""

_NAMES = {dtype: name for name, dtype in NUMPY_TYPES.items() if name != "BF16"}


class BatchLayout(msgspec.Struct, frozen=True):
    """How requests of one kind become the arrays of a call: name, type, shape and bytes of every input.

    ``rows`` and ``lifted`` are the sample's. ``outputs`` are the names of those asked for, None where all are,
    ``binary`` those which are not wanted as JSON however large they are, None where none is, and ``whole`` those
    without a batch dimension. With ``typed`` large outputs go into the contents fields of gRPC.
    """

    inputs: list[tuple[str, np.dtype[Any], tuple[int, ...], int]]
    rows: int
    lifted: bool
    outputs: list[str] | None
    binary: frozenset[str] | None
    whole: frozenset[str]
    typed: bool


class Model(Protocol):
    """What is called."""

    reader: Reader

    def admit(self, name: str, rows: int) -> None:
        """Raises ``InvalidInput`` for more rows than a request may have."""

    def expect(self, request: InferenceRequest) -> None:
        """Raises ``InvalidInput`` for an output that there is not."""

    def call(self, operation: Operation, arrays: Arrays, parameters: Parameters) -> Any:
        """Call the model's code."""

    def settle(self, operation: Operation, returned: Any) -> Arrays:
        """The arrays of what it returned."""


class Batch(msgspec.Struct):
    """Requests that are alike, and what the model is called with for all of them."""

    requests: Sequence[InferenceRequest]
    layout: BatchLayout
    arrays: Arrays

    def answers(self, outputs: Arrays) -> list[InferenceResponse] | None:
        """The outputs as everyone's answers; None where the general way must make them or refuse to."""
        count, layout = len(self.requests), self.layout
        rows = count * layout.rows or count * layout.lifted
        responses = [InferenceResponse([]) for _ in range(count)]
        for name in outputs if layout.outputs is None else layout.outputs:
            if name not in outputs:
                return None
            array = outputs[name]
            datatype, shape = _NAMES.get(array.dtype), list(array.shape)
            if datatype is None or (rows and (shape[:1] != [rows] or name in layout.whole)):
                return None
            if array.nbytes > _MAX_COPIED_BYTES * count:
                if layout.typed or (layout.binary is not None and name not in layout.binary):
                    return None
                self._lend(name, array, responses)
                continue
            if layout.lifted:
                del shape[0]
            elif count > 1:
                shape[0] = layout.rows
            raw = array.tobytes()
            size = len(raw) // count
            for index, response in enumerate(responses):
                part = raw if count == 1 else raw[index * size : (index + 1) * size]
                response.outputs.append(Tensor(name, datatype, shape, part))
        return responses

    def _lend(self, name: str, array: Array, responses: list[InferenceResponse]) -> None:
        """Everyone's part of a large output, where it lies."""
        each = self.layout.rows
        for index, response in enumerate(responses):
            if self.layout.lifted:
                part = array[index, ...]
            else:
                part = array if len(responses) == 1 else array[index * each : (index + 1) * each]
            response.outputs.append(Tensor.of(name, part))


class UniformBatches:
    """Recognizes batches of requests that are alike, for one model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._layouts: dict[BatchKey, BatchLayout | None] = {}

    def batch(self, requests: Sequence[InferenceRequest]) -> Batch | None:
        """The arrays to call the model with for these; None where they must take the general way."""
        first = requests[0]
        kind = batch_key(first)
        if kind is None:
            return None
        layout = self._layouts[kind] if kind in self._layouts else self._add_layout(kind, first)
        if layout is None:
            return None
        count = len(requests)
        if count > 1 and not (
            0 < count * layout.rows <= self._model.reader.limit
            and all(batch_key(request) == kind for request in requests)
        ):
            return None
        arrays: Arrays = {}
        for index, (name, dtype, shape, size) in enumerate(layout.inputs):
            parts = [request.inputs[index].data for request in requests]
            for part in parts:
                if len(part) != size:
                    return None
            if count == 1 and type(parts[0]) is Buffer:
                arrays[name] = np.ndarray(shape, dtype, parts[0].view)
                continue
            whole = shape if count == 1 else (count * layout.rows, *shape[1:])
            # A model may write to these arrays: they are no request's memory.
            if size > _MAX_COPIED_BYTES:
                # With memory of its own, or a model would have to copy it once more.
                arrays[name] = joined = np.empty(whole, dtype)
                _copy_parts(joined, parts)
            else:
                arrays[name] = np.ndarray(whole, dtype, bytearray().join(map(view_of, parts)))
        return Batch(requests, layout, arrays)

    def _add_layout(self, kind: BatchKey, request: InferenceRequest) -> BatchLayout | None:
        """Keep what the general way makes of such a request. Where that finds a fault nothing is kept: it will say so again."""
        model = self._model
        try:
            (sample,), _ = model.reader.read(0, request)
            model.expect(request)
            model.admit(request.model, sample.rows)
        except InvalidInput:
            return None
        inputs = [
            (name, array.dtype, array.shape, array.nbytes)
            for name, array in sample.arrays.items()
            if array.nbytes and array.dtype in _NAMES
        ]
        fits = len(inputs) == len(request.inputs) and sample.rows <= model.reader.limit
        asked = request.outputs
        names = None if asked is None else [output.name for output in asked]
        binary = frozenset(output.name for output in asked or () if output.parameters)
        layout = (
            BatchLayout(
                inputs,
                sample.rows,
                sample.lifted,
                names,
                binary if request.json_writer is SERVER else None,
                model.reader.whole,
                bool(request.layout),
            )
            if fits
            else None
        )
        if len(self._layouts) < _MAX_LAYOUTS:
            self._layouts[kind] = layout
        return layout


def _copy_parts(joined: Array, parts: Sequence[Payload]) -> None:
    raw, at = joined.reshape(-1).view(np.uint8).data, 0
    for part in parts:
        end = at + len(part)
        raw[at:end] = view_of(part)
        at = end


def batch_key(request: InferenceRequest) -> BatchKey | None:
    """None for a request that asks for more than its outputs as they are, or whose inputs are no numbers."""
    if request.form is not TENSORS or request.operation is not INFER or request.parameters or request.path:
        return None
    if request.body is not None or request.json_writer is WORKER:
        return None
    kind: BatchKey = (request.json_writer, request.layout)
    if request.outputs is not None:
        for output in request.outputs:
            if output.parameters and output.parameters != _BINARY:
                return None
            kind = (*kind, (output.name, bool(output.parameters)))
    for tensor in request.inputs:
        if (type(tensor.data) is not bytes and type(tensor.data) is not Buffer) or tensor.parameters:
            return None
        if tensor.datatype == "BF16" or tensor.packed:
            return None
        kind = (*kind, tensor.name, tensor.datatype, *tensor.shape)
    return kind
