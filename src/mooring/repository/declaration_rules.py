"""Contradictions in a model's configuration: they are refused before anything is loaded."""

from collections.abc import Mapping, Sequence

from mooring.core.errors import ModelLoadFailed
from mooring.core.options import BatchMode, ControlKind
from mooring.core.tensors import DATATYPE_SPELLINGS, DATATYPES
from mooring.repository.declaration import (
    LARGEST,
    SMALLEST,
    Declaration,
    PlacementTable,
    QueuePolicyTable,
    SequencesTable,
    TensorTable,
)
from mooring.repository.ensemble_rules import find_step_fault

_INTEGERS = ("INT32", "UINT32", "INT64", "UINT64")
_FLAGS = ("BOOL", "INT32", "FP32")


def check_declaration(declared: Declaration, file: object) -> None:
    """Raise ``ModelLoadFailed`` for a configuration that contradicts itself; ``file`` begins the text."""
    for kind, tensors in (("inputs", declared.inputs), ("outputs", declared.outputs)):
        names = [tensor.name for tensor in tensors]
        if len(set(names)) < len(names):
            raise ModelLoadFailed(f"{file}: two of the {kind} have the same name")
        for tensor in tensors:
            if DATATYPE_SPELLINGS.get(tensor.datatype, tensor.datatype) not in DATATYPES:
                raise ModelLoadFailed(
                    f"{file}: {kind} '{tensor.name}' has the unknown datatype '{tensor.datatype}'; "
                    f"known are {', '.join(sorted(DATATYPES))}"
                )
            if tensor.reshape is not None:
                _check_reshape(tensor, declared, f"{file}: {kind} '{tensor.name}'")
    for control in declared.sequences.controls if declared.sequences else ():
        fits = ("BYTES", *_INTEGERS) if control.kind is ControlKind.ID else _FLAGS
        if control.datatype not in fits:
            raise ModelLoadFailed(
                f"{file}: control '{control.name}' has the datatype '{control.datatype}'; one of kind "
                f"{control.kind} is {', '.join(fits)}"
            )
        if control.name in {tensor.name for tensor in declared.inputs}:
            raise ModelLoadFailed(f"{file}: '{control.name}' is a control and an input")
        if control.datatype == "INT32" and not all(_is_int32(value) for value in control.values):
            raise ModelLoadFailed(f"{file}: control '{control.name}' has values that are not INT32")
    if declared.sequences is not None:
        _check_sequences(declared, declared.sequences, file)
    for key in ("parameters", "explain"):
        path = _find_oversized_integer(getattr(declared, key), key)
        if path:
            raise ModelLoadFailed(
                f"{file}: {path} is a whole number of more than 64 bits; write it as a text"
            )
    policy = declared.version_policy
    if policy is not None and [policy.latest is not None, policy.all, bool(policy.specific)].count(True) != 1:
        raise ModelLoadFailed(f"{file}: version_policy has one of latest = N, all = true and specific = [N]")
    _check_queue(declared, file)
    if fault := find_placement_fault(declared.placement):
        raise ModelLoadFailed(f"{file}: placement.{fault}")
    if declared.response_cache and declared.decoupled:
        raise ModelLoadFailed(
            f"{file}: response_cache is for models with one response to a request, and this one is decoupled; "
            "leave one of them out"
        )
    workers = declared.workers
    if workers.min is not None and workers.max is not None and workers.min > workers.max:
        raise ModelLoadFailed(f"{file}: workers.min is above workers.max")
    if declared.scaling.target_queue_ms and workers.max is None and declared.placement.max_replicas is None:
        raise ModelLoadFailed(
            f"{file}: [scaling] has target_queue_ms, and nothing says how many workers there may be; give [workers] a max"
        )
    if fault := find_step_fault(declared):
        raise ModelLoadFailed(f"{file}: {fault}")
    names = [stage.name for stage in declared.models]
    if len(set(names)) < len(names):
        raise ModelLoadFailed(f"{file}: two of the models of the chain have the same name")
    for stage in declared.models:
        if stage.models:
            raise ModelLoadFailed(f"{file}: model '{stage.name}' of the chain is a chain itself")
        check_declaration(stage, file)


def _check_sequences(declared: Declaration, sequences: SequencesTable, file: object) -> None:
    """Raise ``ModelLoadFailed`` for a strategy or a state that contradicts itself."""
    if sequences.strategy == "direct" and sequences.per_worker:
        raise ModelLoadFailed(
            f"{file}: with the direct strategy a worker has a sequence for each row of max_batch_size; leave per_worker out"
        )
    most = declared.max_batch_size or 1
    if sequences.preferred_batch_size and max(sequences.preferred_batch_size) > most:
        raise ModelLoadFailed(
            f"{file}: a preferred_batch_size of {max(sequences.preferred_batch_size)} is above max_batch_size, which is {most}"
        )
    filled = [each.name for each in sequences.controls] + [each.name for each in declared.inputs]
    seen: set[str] = set()
    for state in sequences.states:
        where = f"{file}: state '{state.input}'"
        if state.datatype not in DATATYPES:
            raise ModelLoadFailed(f"{where} has the unknown datatype '{state.datatype}'")
        if state.input in filled or {state.input, state.output} & seen:
            raise ModelLoadFailed(f"{where} has a tensor that is another's, too")
        seen |= {state.input, state.output}
        first = state.initial_shape
        fits = first is None or (
            len(first) == len(state.shape)
            and all(want in (-1, size) for want, size in zip(state.shape, first, strict=True))
        )
        if not fits:
            raise ModelLoadFailed(
                f"{where} has the shape {state.shape}, and its first value {first}, which does not fit it"
            )


def find_placement_fault(placement: PlacementTable) -> str:
    """Find a contradiction, as a text that begins with the key. Returns "" where there is none."""
    least, most, gpus = placement.min_replicas, placement.max_replicas, placement.num_gpus or 0
    if placement.nodes is not None and (least is not None or most is not None):
        return "nodes says how many replicas there are; min_replicas and max_replicas say it, too: leave one of them out"
    if least is not None and most is not None and least > most:
        return f"min_replicas is {least}, which is above max_replicas, {most}"
    if gpus > 1 and gpus % 1:
        return f"num_gpus is {gpus:g}; it is a whole number, or below 1 for a part of one GPU"
    return ""


def _is_int32(value: float) -> bool:
    return float(value).is_integer() and -(1 << 31) <= value < 1 << 31


def _find_oversized_integer(value: object, path: str) -> str:
    """Find a whole number that no message to a worker can hold. Returns its path, "" where there is none."""
    if isinstance(value, Mapping):
        parts = ((f"{path}.{key}", each) for key, each in value.items())
    elif isinstance(value, list):
        parts = ((f"{path}[{index}]", each) for index, each in enumerate(value))
    else:
        return path if isinstance(value, int) and not SMALLEST <= value <= LARGEST else ""
    return next((found for name, each in parts if (found := _find_oversized_integer(each, name))), "")


def _check_reshape(tensor: TensorTable, declared: Declaration, where: str) -> None:
    if declared.batching.mode is BatchMode.STACK:
        raise ModelLoadFailed(f"{where} has a reshape, which batching.mode 'stack' has not; choose 'concat'")
    if _element_counts(tensor.reshape or []) != _element_counts(tensor.shape):
        raise ModelLoadFailed(
            f"{where} has the reshape {tensor.reshape}, which does not hold as many elements as its shape {tensor.shape}"
        )


def _element_counts(shape: Sequence[int]) -> list[int]:
    """Count the elements between the open sizes: shapes with equal counts hold the same elements.

    >>> _element_counts([2, 4, -1, 6]) == _element_counts([8, -1, 1, 6])
    True
    """
    found = [1]
    for size in shape:
        if size == -1:
            found.append(1)
        else:
            found[-1] *= size
    return found


def _check_queue(declared: Declaration, file: object) -> None:
    """Raise ``ModelLoadFailed`` for a queue policy that Triton refuses as well."""
    policy = declared.queue_policy or QueuePolicyTable()
    levels, default = policy.priority_levels, policy.default_priority_level
    if (levels or default) and not 1 <= default <= levels:
        raise ModelLoadFailed(
            f"{file}: default_priority_level must be from 1 to priority_levels, which is {levels}, and is {default}"
        )
    for level in policy.by_priority:
        if not level.isdecimal() or not 1 <= int(level) <= levels:
            raise ModelLoadFailed(
                f"{file}: there is no priority '{level}' to have a policy; priority_levels is {levels}"
            )
    delays = any(
        each.timeout and each.timeout_action == "delay" for each in (policy, *policy.by_priority.values())
    )
    if policy.preserve_ordering and (levels > 1 or delays):
        raise ModelLoadFailed(
            f"{file}: preserve_ordering cannot be kept by several priority_levels, nor by the timeout_action delay"
        )
    if declared.sequences is not None and policy != QueuePolicyTable():
        raise ModelLoadFailed(
            f"{file}: a model with sequences has no queue_policy; the steps of each wait in their own order"
        )
