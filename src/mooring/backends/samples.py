"""Requests as the arrays a tensor model is called with: read, checked, grouped, joined and split. Pure rules."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mooring.codecs.bodies import Instances, decode_body, decode_inputs, decode_instances, split_aside
from mooring.codecs.open_inference import decode_v2_body
from mooring.codecs.packed import unpack_tensor
from mooring.codecs.signature import Signature
from mooring.core.errors import InvalidInput, InvalidOutput
from mooring.core.options import STACK, BatchMode
from mooring.core.requests import INSTANCES, TENSORS, InferenceRequest, Step
from mooring.core.tensors import BY_POSITION, Array, RequestValue, TensorSpec, restore_names

Arrays = dict[str, Array]
Parameters = dict[str, RequestValue]


@dataclass(slots=True)
class Sample:
    """Arrays of one request that go through the model together.

    ``rows`` is their first dimension where they may be joined with others along it, 0 where the model must get them as
    they are. ``batch_added``: the first dimension was added here, so the answer loses it again, but for the outputs in
    ``unbatched_outputs``, whose first dimension is no batch. ``target`` is what an explanation shall be of, as it was
    sent. ``step`` is only set for models that keep state by slots.
    """

    request: int
    arrays: Arrays
    rows: int = 0
    batch_added: bool = False
    parameters: Parameters = field(default_factory=dict)
    target: Any = None
    unbatched_outputs: Container[str] = ()
    step: Step | None = None

    def batch_key(self) -> tuple[Any, ...]:
        """Equal for samples that may share a batch."""
        # The type of a parameter too: True, 1 and 1.0 are equal, and a model may tell them apart.
        return (
            tuple(sorted((name, array.dtype, array.shape[1:]) for name, array in self.arrays.items())),
            tuple(
                sorted(
                    (name, type(value).__name__, _hashable_value(value))
                    for name, value in self.parameters.items()
                )
            ),
        )


def _hashable_value(value: RequestValue) -> Any:
    return repr(value) if isinstance(value, list | dict) else value


@dataclass(frozen=True, slots=True)
class Reader:
    """Makes samples of requests, for one model: arrays that have the model's names, types and shapes.

    How this works: tensors of v2 make one sample, checked as they are. A TorchServe body is decoded by its content type
    to inputs, or to instances. Instances are rows: those of one shape make one sample, others one each. A sample whose
    first dimension is a batch says how many ``rows`` it has, and may be joined with others along it.

    ``can_batch`` False: the model gets one request, or one row, at a time. So it is with ``runs_alone``, too, although its
    inputs have a batch dimension: whether a row's answer depends on the rows beside it is not known
    (docs/decisions/0034-when-requests-are-joined.md). ``unbatched_outputs`` are the outputs whose first dimension is
    known to be no batch. ``constants`` are inputs without a batch dimension that a request may leave out; one that
    sends them shares no call. With ``one_row`` inputs have a batch dimension, in which there is one row alone. With
    ``equal_rows`` the configuration says that all inputs have as many rows; ``model`` is its name for the error text.
    """

    signature: Signature
    batch: BatchMode
    limit: int
    can_batch: bool = True
    runs_alone: bool = False
    unbatched_outputs: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()
    one_row: bool = False
    equal_rows: bool = False
    model: str = ""

    def read_samples(self, index: int, request: InferenceRequest) -> tuple[list[Sample], bool]:
        """Return the samples of a request, and whether they are KServe v1 instances. Raises ``InvalidInput``."""
        target: Any = None
        if request.form is TENSORS:
            decode_v2_body(request)
            samples, is_rows = [self._make_sample(self._read_tensors(request))], False
            if self.signature.aside and request.parameters:
                target = request.parameters.get(self.signature.aside)
        elif request.form is INSTANCES:
            samples, is_rows = self._read_rows(decode_instances(request)), True
        else:
            body = decode_body(request.inputs, self.signature)
            is_rows = body.instances is not None
            samples = (
                [self._make_sample(body.inputs)]
                if body.instances is None
                else self._read_rows(body.instances)
            )
            target = body.aside
        for sample in samples:
            sample.request = index
            sample.unbatched_outputs = self.unbatched_outputs
            if sample.target is None:
                sample.target = target
            if request.parameters:
                sample.parameters = request.parameters
        return samples, is_rows

    def _read_tensors(self, request: InferenceRequest) -> Arrays:
        arrays: Arrays = {}
        for tensor in request.inputs:
            if tensor.name == BY_POSITION:
                restore_names(request.inputs, list(self.signature.specs))
            if tensor.name in arrays:
                raise InvalidInput(f"input '{tensor.name}' is sent twice")
            datatype = self.signature.datatype_of(tensor.name)
            if datatype and tensor.datatype != datatype:
                raise InvalidInput(f"input '{tensor.name}' is {tensor.datatype}; the model takes {datatype}")
            if tensor.packed:
                unpack_tensor(tensor)
            arrays[tensor.name] = tensor.array()
        return arrays

    def _make_sample(self, arrays: Arrays) -> Sample:
        """Make one sample of one request's tensors."""
        self._check_names(arrays)
        sample = Sample(0, arrays)
        if self.batch is STACK and self.can_batch:
            self._check_arrays(arrays)
            return self._make_row(self._add_batch_dimension(arrays), batch_added=True)
        if self._lacks_batch_dimension(arrays):
            sample = Sample(0, self._add_batch_dimension(arrays), batch_added=True)
        self._check_arrays(sample.arrays)
        if self.one_row:
            self._check_one_row(sample.arrays)
        if self.equal_rows:
            self._check_equal_rows(sample.arrays)
        if self.can_batch and self.limit > 1 and not self._must_run_alone(arrays):
            sample.rows = self._common_rows(sample.arrays)
        return sample

    def _check_one_row(self, arrays: Arrays) -> None:
        for name, array in arrays.items():
            if array.ndim and array.shape[0] > 1 and name not in self.constants:
                raise InvalidInput(
                    f"inference request batch-size must be <= 1, and is {array.shape[0]}; send one row in a request"
                )

    def _check_equal_rows(self, arrays: Arrays) -> None:
        rows: int | None = None
        for name, array in arrays.items():
            if name in self.constants or not array.ndim:
                continue
            if rows is None:
                rows = array.shape[0]
            elif array.shape[0] != rows:
                raise InvalidInput(
                    f"input '{name}' batch size does not match other inputs for '{self.model}': it has "
                    f"{array.shape[0]} rows, and they have {rows}"
                )

    def _must_run_alone(self, arrays: Arrays) -> bool:
        """Whether these arrays may share no call with others."""
        return self.runs_alone or not self.constants.isdisjoint(arrays)

    def _add_batch_dimension(self, arrays: Arrays) -> Arrays:
        """Return the arrays with a batch dimension of 1; those that have none in the model are left as they are."""
        return {name: array if name in self.constants else array[None] for name, array in arrays.items()}

    def _lacks_batch_dimension(self, arrays: Arrays) -> bool:
        """Whether every input lacks exactly its first dimension, which is open or 1."""
        if not self.signature.specs:
            return False
        batched = [name for name in arrays if name not in self.constants]
        return bool(batched) and all(
            spec is not None and spec.shape[:1] in ([-1], [1]) and arrays[name].ndim == len(spec.shape) - 1
            for name in batched
            for spec in [self.signature.specs.get(name)]
        )

    def _common_rows(self, arrays: Arrays) -> int:
        """Return the first dimension; 0 where the inputs have none in common, or the model fixes it."""
        for name, spec in self.signature.specs.items():
            if spec.shape[:1] != [-1] and name not in self.constants:
                return 0
        sizes = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
        return sizes.pop() if len(sizes) == 1 else 0

    def _read_rows(self, instances: Instances) -> list[Sample]:
        """Return the samples of instances. Each instance is a row; rows of one shape make one sample."""
        signature = self.signature
        if self.can_batch and len(instances) and signature.lone and not isinstance(instances[0], dict):
            try:
                arrays = decode_inputs(
                    instances if isinstance(instances, np.ndarray) else list(instances), signature
                )
            except InvalidInput:
                pass  # perhaps they only differ in shape; if not, the faulty one is named below
            else:
                self._check_rows(arrays)
                if not self.runs_alone:
                    return [Sample(0, arrays, len(instances))]
                rows = range(len(instances))
                return [
                    self._make_row({name: array[row : row + 1] for name, array in arrays.items()})
                    for row in rows
                ]
        samples = []
        for position, instance in enumerate(instances):
            row, target = split_aside(instance, signature)
            try:
                samples.append(self._read_row(decode_inputs(row, signature)))
                samples[-1].target = target
            except InvalidInput as error:
                raise InvalidInput(f"instance {position}: {error.message}") from None
        return samples

    def _read_row(self, arrays: Arrays) -> Sample:
        if not self.can_batch or not arrays:  # without inputs there is nothing to be joined along
            return self._make_sample(arrays)
        self._check_names(arrays)
        rows = self._add_batch_dimension(arrays)
        self._check_rows(rows)
        return self._make_row(rows)

    def _make_row(self, arrays: Arrays, *, batch_added: bool = False) -> Sample:
        """Return a sample of one row, which may be joined with others unless it must run alone."""
        if self._must_run_alone(arrays):
            return Sample(0, arrays, 0, batch_added=True)
        return Sample(0, arrays, 1, batch_added=batch_added)

    def _check_names(self, arrays: Arrays) -> None:
        if not arrays and not self.signature.nothing:
            raise InvalidInput('the request has no inputs: it needs "inputs", a list of at least one tensor')
        for name in arrays:
            self.signature.datatype_of(name)
        missing = [
            name for name, spec in self.signature.specs.items() if name not in arrays and not spec.optional
        ]
        if missing:
            raise InvalidInput(f"input '{missing[0]}' is missing; the model takes {self.signature.listed()}")

    def _check_arrays(self, arrays: Arrays) -> None:
        for name, array in arrays.items():
            spec = self.signature.specs.get(name)
            if spec is not None:
                check_array(spec, array, spec.shape)

    def _check_rows(self, rows: Arrays) -> None:
        for name, array in rows.items():
            spec = self.signature.specs.get(name)
            if spec is not None and name in self.constants:
                check_array(spec, array, spec.shape)
            elif spec is not None:
                shape = spec.shape if self.batch is STACK else spec.shape[1:]
                check_array(spec, array, [-1, *shape])


def check_array(spec: TensorSpec, array: Array, shape: list[int]) -> None:
    """Raise ``InvalidInput`` unless the array has the shape, where -1 is any size."""
    fits = array.ndim == len(shape) and all(
        want in (-1, size) for want, size in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise InvalidInput(f"input '{spec.name}' has shape {list(array.shape)}; the model takes {shape}")


def group_samples(samples: Sequence[Sample], limit: int) -> Iterator[list[Sample]]:
    """Yield samples that share a call: of equal names, dtypes, non-batch shape and parameters, and ``limit`` rows at most.

    A sample that cannot be joined, or has more rows than that by itself, comes alone.
    """
    if len(samples) == 1:
        yield [samples[0]]
        return
    open_groups: dict[tuple[Any, ...], list[Sample]] = {}
    row_counts: dict[tuple[Any, ...], int] = {}
    for sample in samples:
        if not sample.rows:
            yield [sample]
            continue
        batch_key = sample.batch_key()
        if batch_key in open_groups and row_counts[batch_key] + sample.rows > limit:
            yield open_groups.pop(batch_key)
        if batch_key not in open_groups:
            open_groups[batch_key], row_counts[batch_key] = [], 0
        open_groups[batch_key].append(sample)
        row_counts[batch_key] += sample.rows
    yield from open_groups.values()


def join_samples(samples: Sequence[Sample]) -> Arrays:
    """Concatenate the samples' arrays along the batch dimension: the inputs of one call."""
    if len(samples) == 1:
        return samples[0].arrays
    return {name: np.concatenate([sample.arrays[name] for sample in samples]) for name in samples[0].arrays}


def split_outputs(outputs: Arrays, samples: Sequence[Sample]) -> list[Arrays]:
    """Split the outputs of a call by sample. Raises ``InvalidOutput`` for an output without the batch dimension."""
    rows = samples[0].rows if len(samples) == 1 else sum(sample.rows for sample in samples)
    if not rows:
        return [outputs]
    for name, array in outputs.items():
        if not array.ndim or array.shape[0] != rows:
            raise InvalidOutput(
                f"output '{name}' has shape {list(array.shape)} for a batch of {rows} rows; "
                f"its first dimension must be {rows}, or set max_batch_size to 1"
            )
    if len(samples) == 1:
        return [outputs]
    parts, start = [], 0
    for sample in samples:
        end = start + sample.rows
        parts.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return parts
