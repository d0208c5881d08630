"""How tensors go from step to step of an ensemble: pure rules, worked out once for each ensemble.

A tensor has a name in the ensemble. Whoever writes it calls it as its own output, and whoever reads it as its own input.
Only steps whose outputs somebody needs are asked, and only for those outputs.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from mooring.codecs.requested_outputs import LabelSource
from mooring.codecs.signature import Signature
from mooring.core.errors import InvalidInput
from mooring.core.requests import RequestedOutput
from mooring.core.tensors import Tensor
from mooring.core.timing import node_name
from mooring.engine.response_cache import CachedAnswers
from mooring.repository.ensemble_rules import StepModel, dims_of, shape_fits
from mooring.repository.spec import EnsembleStep, ModelSpec

# Of the pieces of a streamed answer so many are in the steps behind it at a time, where the ensemble does not say.
_MAX_INFLIGHT = 16


class EnsemblePlan(LabelSource):
    """The steps of an ensemble.

    ``models`` are theirs, in order, as soon as they are known to fit. ``answers`` are those that are kept, where it has a
    response cache. ``labels`` are the names of the classes of each output, by index: the ensemble's own, else those of the model that
    writes it.
    """

    def __init__(self, spec: ModelSpec) -> None:
        assert spec.ensemble is not None
        self.spec = spec
        self.steps: list[EnsembleStep] = spec.ensemble.steps
        self.titles: list[str] = []  # of the steps, for clients: the names of their models
        for step in self.steps:
            self.titles.append(node_name(step.model, self.titles))
        self.max_inflight = spec.ensemble.max_inflight or _MAX_INFLIGHT
        self.models: list[StepModel] = []
        self.answers: CachedAnswers | None = None
        self.labels: dict[str, Mapping[str, Any]] = {}
        self.outputs = {each.name: each for each in spec.outputs}
        self.inputs = {each.name: each for each in spec.inputs}
        self.own = StepModel.of(spec, spec.inputs, spec.outputs)
        # By tensor: the step that writes it, and the steps that read it, each with its name for it.
        self.writers = {
            tensor: index for index, step in enumerate(self.steps) for tensor in step.outputs.values()
        }
        self.readers: dict[str, list[tuple[int, str]]] = {}
        for index, step in enumerate(self.steps):
            for name, tensor in step.inputs.items():
                self.readers.setdefault(tensor, []).append((index, name))
        self._signature = Signature.of(spec.inputs)
        self.steps_for = functools.lru_cache(maxsize=256)(self._steps_for)

    def wanted_outputs(self, requested: Sequence[RequestedOutput] | None) -> frozenset[str]:
        """The outputs that a request is to get. Raises ``InvalidInput`` for one that there is not."""
        if not requested:
            return frozenset(self.outputs)
        for output in requested:
            if output.name not in self.outputs:
                raise InvalidInput(
                    f"unexpected inference output '{output.name}' for model '{self.spec.name}'"
                )
        return frozenset(output.name for output in requested)

    def _steps_for(self, outputs: frozenset[str]) -> frozenset[int]:
        """The steps that must be asked for these outputs."""
        needed: set[int] = set()
        tensors = [*outputs]
        while tensors:
            index = self.writers.get(tensors.pop())
            if index is not None and index not in needed:
                needed.add(index)
                tensors += self.steps[index].inputs.values()
        return frozenset(needed)

    def tensors_behind(self, step: int) -> frozenset[str]:
        """All tensors that cannot be had without this step."""
        found: set[str] = set()
        tensors = [*self.steps[step].outputs.values()]
        while tensors:
            tensor = tensors.pop()
            if tensor not in found:
                found.add(tensor)
                tensors += [
                    output
                    for index, _ in self.readers.get(tensor, ())
                    for output in self.steps[index].outputs.values()
                ]
        return frozenset(found)

    def may_stream(self, step: int, steps: frozenset[int], wanted: frozenset[str]) -> bool:
        """Whether every piece of this step can go on by itself: what is behind it needs nothing else."""
        behind = self.tensors_behind(step)
        return wanted <= behind and all(
            behind.issuperset(self.steps[index].inputs.values())
            for index in steps
            if index != step and not behind.isdisjoint(self.steps[index].outputs.values())
        )

    def outputs_needed(
        self, step: int, steps: frozenset[int], wanted: frozenset[str]
    ) -> list[RequestedOutput]:
        """Return what a step is to give, by its model's names: tensors that are wanted, or that one of ``steps`` reads."""
        return [
            RequestedOutput(name)
            for name, tensor in self.steps[step].outputs.items()
            if tensor in wanted or any(index in steps for index, _ in self.readers.get(tensor, ()))
        ]

    def check_inputs(self, tensors: Sequence[Tensor]) -> int:
        """Check the inputs of a request by their names, types and shapes; return its rows, 0 where there is no batch.

        Raises ``InvalidInput``. No element is looked at.
        """
        signature, rows, names = self._signature, 0, set[str]()
        batched = self.own.batched
        for tensor in tensors:
            name = tensor.name
            if name in names:
                raise InvalidInput(f"input '{name}' is sent twice")
            names.add(name)
            datatype = signature.datatype_of(name)
            if tensor.datatype != datatype:
                raise InvalidInput(f"input '{name}' is {tensor.datatype}; the model takes {datatype}")
            spec = self.inputs[name]
            if not shape_fits(tensor.shape, spec.shape) or -1 in tensor.shape:
                raise InvalidInput(f"input '{name}' has shape {tensor.shape}; the model takes {spec.shape}")
            if not batched:
                continue
            if len(names) > 1 and tensor.shape[0] != rows:
                raise InvalidInput(
                    f"input '{name}' batch size does not match other inputs for '{self.spec.name}': it has "
                    f"{tensor.shape[0]} rows, and they have {rows}"
                )
            rows = tensor.shape[0]
        missing = [each.name for each in self.spec.inputs if not each.optional and each.name not in names]
        if missing:
            raise InvalidInput(f"input '{missing[0]}' is missing; the model takes {signature.listed()}")
        limit = self.own.max_batch_size
        if limit and rows > limit:
            raise InvalidInput(
                f"inference request batch-size must be <= {limit} for '{self.spec.name}', and is {rows}; send fewer "
                "rows"
            )
        return rows

    def shape_for_step(self, step: int, name: str, shape: list[int], rows: int) -> list[int]:
        """The shape in which a step gets a tensor that has ``rows`` in its first dimension; 0 where that is no batch."""
        model = self.models[step]
        spec = next((each for each in model.inputs if each.name == name), None)
        return shape if spec is None else _convert_batch(shape, rows, spec.shape, batched=model.batched)

    def shape_for_client(self, name: str, shape: list[int], rows: int) -> list[int]:
        """The shape in which a client gets an output."""
        spec = self.outputs[name]
        found = _convert_batch(shape, rows, spec.model_shape, batched=self.own.batched)
        return found if spec.reshape is None else reshape_sizes(found, spec.reshape, spec.shape)

    def shape_of_input(self, name: str, shape: list[int]) -> list[int]:
        """The shape in which the steps see an input of a client."""
        spec = self.inputs[name]
        return shape if spec.reshape is None else reshape_sizes(shape, spec.shape, spec.reshape)

    def rows_of_step(self, step: int, inputs: Iterable[Tensor]) -> int:
        """How many rows a step has; 0 where its model has no batch dimension."""
        if not self.models[step].batched:
            return 0
        return next((tensor.shape[0] for tensor in inputs if tensor.shape), 0)

    def labels_of(self, output: str) -> Mapping[str, Any]:
        """The name of each class of an output, by its index."""
        return self.labels.get(output) or {}

    def has_batch(self, output: str, rank: int) -> bool:
        """Whether the first dimension of an output is the batch."""
        return self.own.batched


def _convert_batch(shape: list[int], rows: int, declared: Sequence[int], *, batched: bool) -> list[int]:
    """Put a batch dimension in front, or take it away, where writer and reader of a tensor differ, as Triton does it.

    >>> _convert_batch([3], 0, [-1, 3], batched=True), _convert_batch([1, 3], 1, [3], batched=False)
    ([1, 3], [3])
    """
    dims = dims_of(declared, batched)
    if batched and not rows and shape_fits(dims, shape):
        return [1, *shape]
    if not batched and rows == 1 and not shape_fits(dims, shape):
        return shape[1:]
    return shape


def reshape_sizes(shape: Sequence[int], before: Sequence[int], after: Sequence[int]) -> list[int]:
    """The sizes that a tensor has after a reshape; the open ones are matched in order.

    >>> reshape_sizes([5, 4], [-1, 4], [-1, 2, 2])
    [5, 2, 2]
    """
    if not shape_fits(shape, before):
        return [*shape]
    sizes = iter([size for want, size in zip(before, shape, strict=True) if want == -1])
    return [next(sizes) if want == -1 else want for want in after]


def rename_tensor(tensor: Tensor, name: str, shape: list[int]) -> Tensor:
    """The same elements under another name and in another shape; what its sender said beside them is left out."""
    return msgspec.structs.replace(tensor, name=name, shape=shape, parameters=None)
