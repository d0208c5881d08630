"""What makes a configuration an ensemble: rules of its own steps, and of the models that they name. Pure rules.

An ensemble's tensors are its inputs, its outputs, and whatever its steps call their inputs and outputs. Each is written
once, and by then it is known: there is no cycle. Shapes have the batch dimension in front where there is one.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from mooring.core.paths import leads_out
from mooring.core.tensors import TensorSpec
from mooring.repository.declaration import Declaration, EnsembleStepTable
from mooring.repository.spec import ModelSpec


class StepModel(msgspec.Struct, frozen=True):
    """A model as a step of an ensemble meets it.

    ``max_batch_size`` is 0 where the model has no batch dimension, and None where it takes any number of rows. A model
    that declares no inputs, or no outputs, has none here.
    """

    name: str
    max_batch_size: int | None
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    decoupled: bool = False
    stateful: bool = False

    @classmethod
    def of(cls, spec: ModelSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> "StepModel":
        """The model of a spec, with the inputs and outputs that its configuration, or its own file, declares."""
        return cls(
            spec.name,
            _max_batch_size(spec, inputs),
            inputs,
            outputs,
            spec.decoupled,
            spec.sequence.enabled,
        )

    @property
    def batched(self) -> bool:
        """Whether it has a batch dimension."""
        return self.max_batch_size != 0


def _max_batch_size(spec: ModelSpec, inputs: Sequence[TensorSpec]) -> int | None:
    batching = spec.batching
    batched = batching.batch_dimension
    if batched is None:
        needed = [each for each in inputs if not each.optional]
        batched = bool(needed) and all(each.shape[:1] == [-1] for each in needed)
        if batched and (batching.size_by_default or batching.max_batch_size == 1):
            return None
    return batching.max_batch_size if batched else 0


def find_step_fault(declared: Declaration) -> str:
    """Say what is wrong with the steps of an ensemble, whatever their models are; empty where nothing is."""
    platform = declared.backend or declared.platform
    if declared.ensemble is None:
        return "an ensemble needs ensemble_scheduling with a step" if platform == "ensemble" else ""
    steps = declared.ensemble.steps
    if platform != "ensemble":
        return f"ensemble_scheduling is for a model of the platform 'ensemble', and this one is '{platform}'"
    if not steps:
        return "an ensemble needs a step"
    for index, step in enumerate(steps):
        for key, value in (("model", step.model), ("inputs", step.inputs), ("outputs", step.outputs)):
            if not value:
                name = {"model": "model_name", "inputs": "input_map", "outputs": "output_map"}[key]
                return f"step {index} of the ensemble has no {name}"
        if "/" in step.model or leads_out(step.model):
            return f"step {index} of the ensemble names {step.model!r}, which cannot be the name of a model"
    return next(_tensor_faults(declared, steps), "")


def _tensor_faults(declared: Declaration, steps: Sequence[EnsembleStepTable]) -> Iterator[str]:
    inputs = {each.name for each in declared.inputs}
    outputs = {each.name for each in declared.outputs}
    if not inputs or not outputs:
        yield f"an ensemble declares its inputs and outputs; this one has no {'output' if inputs else 'input'}"
    written = set(inputs)
    for index, step in enumerate(steps):
        for tensor in step.outputs.values():
            if tensor in inputs:
                yield f"step {index} ('{step.model}') writes '{tensor}', which is an input of the ensemble"
            if tensor in written:
                yield f"step {index} ('{step.model}') writes '{tensor}', which is written already; each tensor is written once"
            written.add(tensor)
    read = {tensor for step in steps for tensor in step.inputs.values()}
    for index, step in enumerate(steps):
        for name, tensor in step.inputs.items():
            if tensor not in written:
                yield (
                    f"step {index} ('{step.model}') reads '{tensor}' as input '{name}', which no step writes and "
                    "which is not an input of the ensemble"
                )
    for tensor in sorted(outputs - written):
        yield f"output '{tensor}' of the ensemble is written by no step"
    for tensor in sorted(inputs - read):
        yield f"input '{tensor}' of the ensemble is read by no step"
    for tensor in sorted(written - inputs - outputs - read):
        yield f"tensor '{tensor}' is read by no step, and is not an output of the ensemble"
    stuck = _find_cycle(steps, inputs)
    if stuck:
        yield f"the steps of {', '.join(stuck)} wait for each other: their tensors go in a circle"


def _find_cycle(steps: Sequence[EnsembleStepTable], inputs: set[str]) -> list[str]:
    """The models of the steps that can never run; empty where all can."""
    known, left = set(inputs), list(steps)
    while left:
        ready = [step for step in left if known.issuperset(step.inputs.values())]
        if not ready:
            return [f"'{step.model}'" for step in left]
        known.update(tensor for step in ready for tensor in step.outputs.values())
        left = [step for step in left if step not in ready]
    return []


def find_model_fault(ensemble: ModelSpec, models: Sequence[StepModel]) -> str:
    """Say what does not fit between an ensemble and the models of its steps, in order; empty where all does."""
    return next(_model_faults(ensemble, models), "")


def _model_faults(ensemble: ModelSpec, models: Sequence[StepModel]) -> Iterator[str]:
    assert ensemble.ensemble is not None
    own = StepModel.of(ensemble, ensemble.inputs, ensemble.outputs)
    known: dict[str, tuple[TensorSpec, StepModel]] = {
        each.name: (TensorSpec(each.name, each.datatype, each.model_shape), own)
        for each in (*ensemble.inputs, *ensemble.outputs)
    }
    for step, model in zip(ensemble.ensemble.steps, models, strict=True):
        where = f"step '{model.name}'"
        if model.stateful:
            yield (
                f"{where}: the model keeps state from request to request, and an ensemble has no sequences; ask it by "
                "itself"
            )
        limit, most = model.max_batch_size, own.max_batch_size
        if limit and most and limit < most:
            yield (
                f"{where}: the ensemble allows a max_batch_size of {most}, and model '{model.name}' only {limit}"
            )
        for kind, mapped, specs in (
            ("input", step.inputs, model.inputs),
            ("output", step.outputs, model.outputs),
        ):
            yield from _map_faults(where, kind, mapped, {each.name: each for each in specs}, model, known)
        for each in model.inputs:
            if not each.optional and each.name not in step.inputs:
                yield f"{where}: input '{each.name}' of the model is mapped to no tensor"
    yield from _stream_faults(ensemble, models)


def _map_faults(
    where: str,
    kind: str,
    mapped: Mapping[str, str],
    specs: Mapping[str, TensorSpec],
    model: StepModel,
    known: dict[str, tuple[TensorSpec, StepModel]],
) -> Iterator[str]:
    for name, tensor in mapped.items() if specs else ():
        spec = specs.get(name)
        if spec is None:
            yield (
                f"{where}: tensor '{tensor}' is mapped to {kind} '{name}', which the model does not have; it has "
                f"{', '.join(map(repr, specs))}"
            )
            continue
        before, owner = known.setdefault(tensor, (spec, model))
        if before.datatype and spec.datatype and before.datatype != spec.datatype:
            yield (
                f"{where}: tensor '{tensor}' is {before.datatype} in model '{owner.name}', and {spec.datatype} as "
                f"{kind} '{name}'"
            )
        if not _shapes_agree(before, owner, spec, model):
            yield (
                f"{where}: tensor '{tensor}' has the shape {before.shape} in model '{owner.name}', and {spec.shape} as "
                f"{kind} '{name}'"
            )


def _shapes_agree(before: TensorSpec, owner: StepModel, spec: TensorSpec, model: StepModel) -> bool:
    """Whether shapes are the same with their batch dimensions, or without; -1 agrees with any size."""
    if before.unknown_rank or spec.unknown_rank or not (before.datatype and spec.datatype):
        return True
    return shape_fits(before.shape, spec.shape) or shape_fits(
        dims_of(before.shape, owner.batched), dims_of(spec.shape, model.batched)
    )


def shape_fits(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes are equal, where -1 in either is any size.

    >>> shape_fits([-1, 3], [4, 3]), shape_fits([3], [1, 3])
    (True, False)
    """
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def dims_of(shape: Sequence[int], batched: bool) -> list[int]:
    """A shape without its batch dimension."""
    return [*shape[1:]] if batched else [*shape]


def _stream_faults(ensemble: ModelSpec, models: Sequence[StepModel]) -> Iterator[str]:
    """A step that takes tensors of two streams, or of a stream and of none, would not know which belong together."""
    assert ensemble.ensemble is not None
    left = list(zip(ensemble.ensemble.steps, models, strict=True))
    origins: dict[str, int] = {each.name: 0 for each in ensemble.inputs}
    streams = 0
    while left:
        ready = [each for each in left if origins.keys() >= set(each[0].inputs.values())]
        if not ready:
            return
        for step, model in ready:
            found = {origins[tensor] for tensor in step.inputs.values()}
            if len(found) > 1:
                yield f"step '{model.name}' takes tensors of different decoupled models, or of one and of none"
            streams += model.decoupled
            origin = streams if model.decoupled else max(found, default=0)
            origins |= dict.fromkeys(step.outputs.values(), origin)
        left = [each for each in left if each not in ready]
    if len({origins[each.name] for each in ensemble.outputs}) > 1:
        yield "its outputs are of different decoupled models, or of one and of none"
