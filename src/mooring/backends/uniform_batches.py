"""The fast path through a tensor model, for batches of requests of one layout.

Most requests are numbers under the same names, in the same types and shapes, and ask for nothing but the outputs, or
some of them. Their meaning for the model is worked out once by the general way (samples.py) and kept as a
``BatchLayout``. Then a batch is one copy from bytes to arrays, a call, and one copy back; large arrays of a lone
request are not copied at all. All other requests take the general way, and so do wrong ones: no request is ever refused
here.
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
from mooring.core.tensors import DATATYPE_BY_NUMPY_TYPE, Array, Tensor

# Bytes of an output of one request up to which copying it is the cheapest there is, and nobody wants it as JSON.
_MAX_COPIED_BYTES = 4096
_MAX_LAYOUTS = 1024
_BINARY = {"binary_data": True}

BatchKey = tuple[object, ...]
"""What requests must have in common: the outputs asked for, and name, datatype and sizes of every input. Neither can be
taken for another."""


class BatchLayout(msgspec.Struct, frozen=True):
    """How requests of one key become the arrays of a call: name, type, shape and bytes of every input.

    ``rows`` and ``batch_added`` are the sample's. ``outputs`` are the names of the requested outputs, None for all.
    ``binary`` are those that are never written as JSON, however large; None where no output is. ``unbatched_outputs``
    have no batch dimension. With ``typed`` large outputs go into the contents fields of gRPC.
    """

    inputs: list[tuple[str, np.dtype[Any], tuple[int, ...], int]]
    rows: int
    batch_added: bool
    outputs: list[str] | None
    binary: frozenset[str] | None
    unbatched_outputs: frozenset[str]
    typed: bool


class TensorModel(Protocol):
    """The model that is called; ``TensorBackend`` is one."""

    reader: Reader

    def check_row_count(self, name: str, rows: int) -> None:
        """Raise ``InvalidInput`` for more rows than a request may have."""

    def check_requested_outputs(self, request: InferenceRequest) -> None:
        """Raise ``InvalidInput`` for a requested output that the model does not declare."""

    def call_model(self, operation: Operation, arrays: Arrays, parameters: Parameters) -> Any:
        """Call the model's code."""

    def to_output_arrays(self, operation: Operation, returned: Any) -> Arrays:
        """Return the arrays by name in what the model returned."""


class UniformBatch(msgspec.Struct):
    """Requests of one layout, and the arrays with which the model is called for all of them."""

    requests: Sequence[InferenceRequest]
    layout: BatchLayout
    arrays: Arrays

    @property
    def rows(self) -> int:
        """The rows of the call; a request without a batch dimension is one."""
        return len(self.requests) * max(self.layout.rows, 1)

    def to_responses(self, outputs: Arrays) -> list[InferenceResponse] | None:
        """Return the response to each request; None where the general way must build or refuse them."""
        count, layout = len(self.requests), self.layout
        rows = count * layout.rows or count * layout.batch_added
        responses = [InferenceResponse([]) for _ in range(count)]
        for name in outputs if layout.outputs is None else layout.outputs:
            if name not in outputs:
                return None
            array = outputs[name]
            datatype, shape = DATATYPE_BY_NUMPY_TYPE.get(array.dtype), list(array.shape)
            if datatype is None or (rows and (shape[:1] != [rows] or name in layout.unbatched_outputs)):
                return None
            if array.nbytes > _MAX_COPIED_BYTES * count:
                if layout.typed or (layout.binary is not None and name not in layout.binary):
                    return None
                self._add_large_output(name, array, responses)
                continue
            if layout.batch_added:
                del shape[0]
            elif count > 1:
                shape[0] = layout.rows
            raw = array.tobytes()
            size = len(raw) // count
            for index, response in enumerate(responses):
                part = raw if count == 1 else raw[index * size : (index + 1) * size]
                response.outputs.append(Tensor(name, datatype, shape, part))
        return responses

    def _add_large_output(self, name: str, array: Array, responses: list[InferenceResponse]) -> None:
        """Add each request's part of a large output, as a view."""
        each = self.layout.rows
        for index, response in enumerate(responses):
            if self.layout.batch_added:
                part = array[index, ...]
            else:
                part = array if len(responses) == 1 else array[index * each : (index + 1) * each]
            response.outputs.append(Tensor.of(name, part))


class UniformBatches:
    """Recognizes batches of requests of one layout, for one model.

    How this works: ``batch_key`` makes a key of what such requests have in common. For a new key the general way reads one
    request, and the types and shapes of its arrays are kept as the layout of the key, or None where that cannot be. The
    requests of a batch with one key are then copied into arrays of that layout, one after the other.
    """

    def __init__(self, model: TensorModel) -> None:
        self._model = model
        self._layouts: dict[BatchKey, BatchLayout | None] = {}

    def build_batch(self, requests: Sequence[InferenceRequest]) -> UniformBatch | None:
        """Return the batch of these requests; None where they must take the general way."""
        first = requests[0]
        key = batch_key(first)
        if key is None:
            return None
        layout = self._layouts[key] if key in self._layouts else self._add_layout(key, first)
        if layout is None:
            return None
        count = len(requests)
        if count > 1 and not (
            0 < count * layout.rows <= self._model.reader.limit
            and all(batch_key(request) == key for request in requests)
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
                arrays[name] = joined_array = np.empty(whole, dtype)
                _copy_parts(joined_array, parts)
            else:
                arrays[name] = np.ndarray(whole, dtype, bytearray().join(map(view_of, parts)))
        return UniformBatch(requests, layout, arrays)

    def _add_layout(self, key: BatchKey, request: InferenceRequest) -> BatchLayout | None:
        """Work out the layout of such a request by the general way, and keep it; None where it must take the general way.

        An invalid request is not kept, so that its error is made anew each time.
        """
        model = self._model
        try:
            (sample,), _ = model.reader.read_samples(0, request)
            model.check_requested_outputs(request)
            model.check_row_count(request.model, sample.rows)
        except InvalidInput:
            return None
        inputs = [
            (name, array.dtype, array.shape, array.nbytes)
            for name, array in sample.arrays.items()
            if array.nbytes and array.dtype in DATATYPE_BY_NUMPY_TYPE
        ]
        is_uniform = len(inputs) == len(request.inputs) and sample.rows <= model.reader.limit
        requested = request.outputs
        names = None if requested is None else [output.name for output in requested]
        binary = frozenset(output.name for output in requested or () if output.parameters)
        layout = (
            BatchLayout(
                inputs,
                sample.rows,
                sample.batch_added,
                names,
                binary if request.json_writer is SERVER else None,
                model.reader.unbatched_outputs,
                bool(request.layout),
            )
            if is_uniform
            else None
        )
        if len(self._layouts) < _MAX_LAYOUTS:
            self._layouts[key] = layout
        return layout


def _copy_parts(joined_array: Array, parts: Sequence[Payload]) -> None:
    raw, at = joined_array.reshape(-1).view(np.uint8).data, 0
    for part in parts:
        end = at + len(part)
        raw[at:end] = view_of(part)
        at = end


def batch_key(request: InferenceRequest) -> BatchKey | None:
    """Return what requests of one layout have in common; None for a request that must take the general way."""
    if request.form is not TENSORS or request.operation is not INFER or request.parameters or request.path:
        return None
    if request.body is not None or request.json_writer is WORKER:
        return None
    key: BatchKey = (request.json_writer, request.layout)
    if request.outputs is not None:
        for output in request.outputs:
            if output.parameters and output.parameters != _BINARY:
                return None
            key = (*key, (output.name, bool(output.parameters)))
    for tensor in request.inputs:
        if (type(tensor.data) is not bytes and type(tensor.data) is not Buffer) or tensor.parameters:
            return None
        if tensor.datatype == "BF16" or tensor.packed:
            return None
        key = (*key, tensor.name, tensor.datatype, *tensor.shape)
    return key
