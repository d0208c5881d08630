"""Check a model's configuration against the tensors that its file declares, and combine both. Pure rules.

A shape that the file leaves open (``[]``, or -1 in a place) takes what the configuration says. Everything else must be
equal, because a request that fits only one of them would fail inside the library. Where the first dimension of every
input is open it is the batch; where it is fixed there is no batching.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import structs

from mooring.backends.tensors import TensorBackend
from mooring.core.errors import ModelLoadFailed
from mooring.core.options import BatchMode
from mooring.core.service import Joining, JoiningState, LoadContext, ModelMetadata
from mooring.core.tensors import TensorSpec
from mooring.repository.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class ResolvedSignature:
    """The tensors as clients see them; with ``BatchMode.STACK`` of one sample. ``limit`` 1 and ``can_batch`` False: no batching.

    ``unbatched_outputs`` are the outputs whose first dimension is no batch according to the file. ``constants`` are
    inputs that a request may leave out, which have no batch dimension either.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    batch: BatchMode
    limit: int
    can_batch: bool
    unbatched_outputs: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()


class DeclaredBackend(TensorBackend):
    """A backend whose file declares tensors: its ``load_model`` sets ``resolved_signature``."""

    resolved_signature: ResolvedSignature

    def load(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Load the model, and allow batches only where its tensors have a batch dimension."""
        metadata = super().load(spec, context)
        resolved = self.resolved_signature
        self.reader = replace(
            self.reader,
            batch=resolved.batch,
            limit=resolved.limit,
            can_batch=resolved.can_batch,
            runs_alone=resolved.limit > 1 and spec.batching.size_by_default,
            unbatched_outputs=resolved.unbatched_outputs,
            constants=resolved.constants,
        )
        check_slots(spec, resolved)
        self.joining = self._known_joining(spec, resolved)
        return metadata

    def join_requests(self) -> None:
        """Let rows of several requests share calls from now on, and split large requests into several calls."""
        self.reader = replace(self.reader, runs_alone=False)
        self.clear_layouts()

    def _known_joining(self, spec: ModelSpec, resolved: ResolvedSignature) -> Joining:
        if self.reader.runs_alone:
            reason = "it is tried when two requests come at once"
            return Joining(JoiningState.UNTRIED, reason, stamp_of(model_file(spec)))
        if resolved.limit > 1 or not spec.batching.size_by_default:
            return Joining(
                JoiningState.DECLARED, f"the configuration says max_batch_size {spec.batching.max_batch_size}"
            )
        return Joining(
            JoiningState.NO_BATCH, "its file shows no batch dimension that all inputs and outputs have"
        )


def stamp_of(file: Path) -> str:
    """Return a text that changes when the file does: its inode, size and modification time."""
    status = file.stat()
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def model_file(spec: ModelSpec) -> Path:
    """Return the file of a model that is one file. Raises ``ModelLoadFailed`` where it does not exist."""
    location = Path(spec.location)
    file = location / spec.entry if location.is_dir() else location
    if not file.is_file():
        raise ModelLoadFailed(f"model '{spec.name}' has no file {file}")
    return file


def resolve_signature(
    spec: ModelSpec,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    file: object,
    batched: bool = True,
    unbatched_outputs: Collection[str] = (),
) -> ResolvedSignature:
    """Combine both sides. Raises ``ModelLoadFailed``, which quotes both, where the configuration contradicts the file.

    Declared outputs may be some of the model's; inputs must be all. ``batched`` False: an open first dimension is no
    batch, as whoever read the file can tell. ``unbatched_outputs``: outputs whose first dimension is none; such a model
    is only batched where the configuration says so.
    """
    inputs, outputs = _without_sequence_tensors(spec, inputs, outputs)
    constants = frozenset(each.name for each in inputs if each.optional)
    batches = [each for each in inputs if not each.optional]
    stack = spec.batching.mode is BatchMode.STACK
    if stack and not _adds_batch_dimension(spec, batches, file):
        stack = False
    resolved_inputs = _resolve_tensors(spec.inputs, inputs, "input", stack, file)
    resolved_outputs = _resolve_tensors(spec.outputs, outputs, "output", stack, file)
    missing = [each.name for each in batches if each.name not in {one.name for one in resolved_inputs}]
    if missing:
        raise ModelLoadFailed(
            f"{file} takes an input '{missing[0]}', which the configuration does not declare"
        )
    if stack:
        open_batch = batched and all(each.shape[:1] == [-1] for each in batches)
        limit = max(1, spec.batching.max_batch_size) if open_batch else 1
        return ResolvedSignature(
            resolved_inputs, resolved_outputs, BatchMode.STACK, limit, can_batch=True, constants=constants
        )
    own_rows = (
        frozenset(unbatched_outputs) & {each.name for each in resolved_outputs}
        if spec.batching.size_by_default
        else frozenset[str]()
    )
    can_batch = (
        spec.batching.max_batch_size > 1
        and batched
        and not own_rows
        and _has_open_batch(
            [each for each in resolved_inputs if each.name not in constants],
            resolved_outputs,
            strict=spec.batching.size_by_default,
        )
    )
    limit = spec.batching.max_batch_size if can_batch else 1
    return ResolvedSignature(
        resolved_inputs, resolved_outputs, BatchMode.CONCAT, limit, can_batch, own_rows, constants
    )


def _without_sequence_tensors(
    spec: ModelSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[Sequence[TensorSpec], Sequence[TensorSpec]]:
    """Return what clients see of a file: no input that the server fills, and no output that it keeps and nobody declares."""
    sequence = spec.sequence
    if not sequence.enabled:
        return inputs, outputs
    filled = {*(each.name for each in sequence.controls), *(each.input for each in sequence.states)}
    kept = set() if spec.outputs else {each.output for each in sequence.states}
    return (
        [each for each in inputs if each.name not in filled],
        [each for each in outputs if each.name not in kept],
    )


def check_slots(spec: ModelSpec, resolved: ResolvedSignature) -> None:
    """Raise ``ModelLoadFailed`` for a file whose calls cannot have a row for every sequence of the direct strategy."""
    if spec.sequence.direct and spec.batching.max_batch_size > resolved.limit:
        raise ModelLoadFailed(
            f"model '{spec.name}': the direct strategy gives each of {spec.batching.max_batch_size} sequences a row of the "
            "batch, and the file has no first dimension that is open in all inputs and outputs; set max_batch_size to 1"
        )


def check_states(
    spec: ModelSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], file: object
) -> None:
    """Raise ``ModelLoadFailed`` where the file does not have the tensors of an implicit state as they are declared."""
    for state in spec.sequence.states:
        for kind, name, tensors in (("input", state.input, inputs), ("output", state.output, outputs)):
            own = next((each for each in tensors if each.name == name), None)
            if own is None:
                names = ", ".join(f"'{each.name}'" for each in tensors)
                raise ModelLoadFailed(
                    f"the configuration declares a state with {kind} '{name}'; {file} has {names}"
                )
            if own.datatype != state.datatype:
                raise ModelLoadFailed(
                    f"the configuration declares the state of {kind} '{name}' as {state.datatype}; {file} has it as "
                    f"{own.datatype}"
                )


def _adds_batch_dimension(spec: ModelSpec, inputs: Sequence[TensorSpec], file: object) -> bool:
    """Whether samples are stacked to a batch along a new dimension.

    Raises ``ModelLoadFailed`` where the file fixes its size.
    """
    own = {each.name: each.shape for each in inputs}
    if spec.inputs and all(len(own.get(each.name, [])) == len(each.shape) for each in spec.inputs):
        return not any(own.values())
    for each in inputs:
        if each.shape and each.shape[0] not in (-1, 1):
            raise ModelLoadFailed(
                f"{file}: input '{each.name}' has shape {each.shape}, a fixed batch of {each.shape[0]}; "
                "single samples need a first dimension that is open or 1"
            )
    return True


def _has_open_batch(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, strict: bool) -> bool:
    """Whether the first dimension is open in all tensors. Not ``strict``: an output of unknown shape counts as open."""
    return (
        (bool(inputs) or not strict)
        and all(each.shape[:1] == [-1] for each in inputs)
        and all(each.shape[:1] == [-1] or (not each.shape and not strict) for each in outputs)
    )


def _resolve_tensors(
    declared: Sequence[TensorSpec], own: Sequence[TensorSpec], kind: str, stack: bool, file: object
) -> list[TensorSpec]:
    """Return the declared tensors, each checked against the file's own; the file's where none are declared."""
    if not declared:
        return [
            structs.replace(each, shape=each.shape[1:]) if stack and not each.optional else each
            for each in own
        ]
    own_by_name = {each.name: each for each in own}
    declared = [_without_batch(each, own_by_name.get(each.name)) for each in declared]
    for each in declared:
        if each.name not in own_by_name:
            names = ", ".join(f"'{name}'" for name in own_by_name)
            raise ModelLoadFailed(f"the configuration declares {kind} '{each.name}'; {file} has {names}")
        mine = own_by_name[each.name]
        batched = stack and not mine.optional
        if each.datatype != mine.datatype or not _shape_fits(each.model_shape, mine.shape, batched):
            reshaped = "" if each.reshape is None else f", reshaped to {each.reshape}"
            raise ModelLoadFailed(
                f"the configuration declares {kind} '{each.name}' as {each.datatype} {each.shape}{reshaped}; "
                f"{file} has it as {mine.datatype} {mine.shape}{', batch included' if batched else ''}"
            )
    return [
        structs.replace(each, optional=each.optional or own_by_name[each.name].optional) for each in declared
    ]


def _without_batch(declared: TensorSpec, own: TensorSpec | None) -> TensorSpec:
    """Return a declared tensor without the batch dimension that Triton adds, where the file's input is optional and has none."""
    if own is None or not own.optional or declared.shape != [-1, *own.shape]:
        return declared
    return structs.replace(declared, shape=own.shape)


def _shape_fits(declared: list[int], own: list[int], stack: bool) -> bool:
    if not own:
        return True
    inner = own[1:] if stack else own
    return len(declared) == len(inner) and all(
        size in (-1, declared_size) for declared_size, size in zip(declared, inner, strict=True)
    )
