"""The slots of sequences in a worker: the rows of a call with Triton's direct strategy, and the keys of implicit state."""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mooring.backends.answers import cast_output
from mooring.backends.samples import Arrays, Sample, split_outputs
from mooring.backends.sequence_controls import NOT_READY
from mooring.codecs.raw import raw_size, split_texts
from mooring.core.errors import InvalidInput, InvalidOutput, ModelLoadFailed, Unsupported
from mooring.core.options import ImplicitState
from mooring.core.requests import EXPLAIN, InferenceRequest, Step
from mooring.core.tensors import Array, Tensor, datatype_of
from mooring.repository.spec import ModelSpec

_NO_REQUEST = -1


class SequenceSlots:
    """Lays the steps of a call out by the slots of their sequences, and keeps the implicit state of each slot.

    How this works: the server gives every step a slot of its worker, which no other sequence has until the step's own is
    over. So the state of a slot is that of its sequence, and a step that starts one gets the initial state.
    ``prepare_samples`` adds the state to the inputs of a step, before steps of equal shapes are joined. With the direct
    strategy ``lay_out`` puts an empty row where a slot below the last one has no step in this call. ``split_outputs`` drops
    these rows, keeps what the model gave as state, and leaves out what is no declared output; ``keep_outputs`` does it for
    a model that answers every step by itself.
    """

    def __init__(self, spec: ModelSpec, outputs: Collection[str]) -> None:
        sequence = spec.sequence
        self._model = spec.name
        self._states = sequence.states
        self._initial = {each.input: _initial_state(each) for each in self._states}
        self._kept: dict[int, Arrays] = {}
        self._lays_out = sequence.direct and spec.batching.max_batch_size > 1
        self._has_batch = spec.batching.batch_dimension is True
        self._hidden = [each.output for each in self._states if each.output not in outputs]

    def prepare_samples(self, samples: Sequence[Sample], request: InferenceRequest) -> None:
        """Give a step its slot and the state of its sequence.

        Raises ``InvalidInput`` where it has several rows, ``Unsupported`` where it asks for an explanation.
        """
        if request.operation is EXPLAIN:
            raise Unsupported(f"model '{self._model}' keeps state by slots, and gives no explanations")
        sample = samples[0]
        if len(samples) > 1 or sample.rows > 1 or (self._lays_out and sample.rows != 1):
            raise InvalidInput(
                f"inference request to model '{self._model}' must specify batch-size 1 due to requirements of "
                "sequence batcher"
            )
        step = sample.step = request.sequence or Step("", start=True, end=True)
        kept = self._initial if step.start else self._kept.get(step.slot, self._initial)
        has_batch = self._is_batch(sample)
        for name, array in kept.items():
            sample.arrays[name] = array[None] if has_batch else array

    def lay_out(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Return the rows of a call of these steps, with an empty one for every slot between them."""
        if not self._lays_out:
            return samples
        by_slot = {_slot_of(sample): sample for sample in samples}
        first = samples[0]
        arrays = {name: _empty_like(array) for name, array in first.arrays.items()}
        empty = replace(first, request=_NO_REQUEST, arrays=arrays, step=NOT_READY)
        return [by_slot.get(slot, empty) for slot in range(max(by_slot) + 1)]

    def split_outputs(self, outputs: Arrays, samples: Sequence[Sample]) -> list[Arrays]:
        """Split the outputs of a call by step as ``samples.split_outputs``, and keep the states among them.

        Raises ``InvalidOutput``; no state has changed then.
        """
        outputs = self._with_states(outputs)
        if self._lays_out:
            rows = 1 + max(map(_slot_of, samples))
            split_outputs(outputs, [Sample(_NO_REQUEST, {}, rows)])  # raises for an output of other rows
            parts = [
                {name: array[slot : slot + 1] for name, array in outputs.items()}
                for slot in map(_slot_of, samples)
            ]
        else:
            parts = split_outputs(outputs, samples)
        for sample, part in zip(samples, parts, strict=True):
            self._keep_state(sample, part)
        return parts

    def keep_outputs(self, sample: Sample, outputs: Arrays) -> Arrays:
        """Keep the states among the outputs of one step, and return what its client may see. Raises ``InvalidOutput``."""
        outputs = self._with_states(outputs)
        split_outputs(outputs, [sample])  # raises for an output of other rows
        self._keep_state(sample, outputs)
        return outputs

    def _with_states(self, outputs: Arrays) -> Arrays:
        return {**outputs, **{each.output: _output_state(each, outputs) for each in self._states}}

    def _keep_state(self, sample: Sample, outputs: Arrays) -> None:
        """Keep the state of a step, and take out of its outputs what no client may see."""
        assert sample.step is not None
        if sample.step.end:
            self._kept.pop(sample.step.slot, None)
        else:
            has_batch = self._is_batch(sample)
            self._kept[sample.step.slot] = {
                # A copy, since the model may go on to use its own. A view of it, because a function copies views before
                # it may change them.
                each.input: (outputs[each.output][0, ...] if has_batch else outputs[each.output]).copy()[...]
                for each in self._states
            }
        for name in self._hidden:
            outputs.pop(name, None)

    def _is_batch(self, sample: Sample) -> bool:
        return sample.rows > 0 or sample.batch_added or self._has_batch


def _slot_of(sample: Sample) -> int:
    assert sample.step is not None
    return sample.step.slot


def _empty_like(array: Array) -> Array:
    """Return the inputs of a row without a request: zeros, or empty texts."""
    return np.full(array.shape, b"", object) if array.dtype == object else np.zeros_like(array)


def _output_state(state: ImplicitState, outputs: Arrays) -> Array:
    array = outputs.get(state.output)
    if array is None:
        raise InvalidOutput(
            f"output '{state.output}' is missing, which the configuration declares as the state of a sequence"
        )
    return array if datatype_of(array) == state.datatype else cast_output(array, state.output, state.datatype)


def _initial_state(state: ImplicitState) -> Array:
    """Return what the first step of a sequence gets. Raises ``ModelLoadFailed`` where its file does not have it."""
    shape, text = list(state.initial_shape), state.datatype == "BYTES"
    size = math.prod(shape) if text else raw_size(state.datatype, shape)
    elements: Sequence[Any] = [b""] * size if text else bytes(size)
    if state.initial:
        data = Path(state.initial).read_bytes()
        try:
            elements = split_texts(memoryview(data), state.input) if text else data
        except InvalidInput as error:
            raise ModelLoadFailed(f"initial_state: {state.initial}: {error.message}") from None
    if len(elements) < size:
        unit = "elements" if text else "bytes"
        raise ModelLoadFailed(
            f"initial_state setting expects {size} {unit}, but the data provided from {state.initial} only has "
            f"{len(elements)} {unit}"
        )
    return Tensor(state.input, state.datatype, shape, elements[:size]).array()
