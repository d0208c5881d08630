"""Control inputs of sequence models: they say of every row which sequence it belongs to, and the server fills them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mooring.core.errors import InvalidInput
from mooring.core.options import Control, ControlKind
from mooring.core.requests import InferenceRequest, Step
from mooring.core.tensors import NUMPY_TYPES, Array

_ALONE = Step("", start=True, end=True)  # a request of no sequence
NOT_READY = Step("")
"""Stands for a row of a call without a request, whose sequence has no step in it."""


def fill_controls(
    controls: Sequence[Control], steps: Sequence[Step | None], *, batched: bool
) -> dict[str, Array]:
    """Return the control inputs of a call.

    ``steps`` are those of its rows; ``batched``: its inputs have a batch dimension.
    """
    rows = [step or _ALONE for step in steps]
    return {
        each.name: _control_values(each, rows).reshape(-1, 1)
        if batched and not each.flat
        else _control_values(each, rows)
        for each in controls
    }


def check_sequence_id(controls: Sequence[Control], request: InferenceRequest) -> None:
    """Raise ``InvalidInput`` for a sequence id that the model's datatype for ids cannot hold."""
    step = request.sequence
    for each in controls:
        if step is not None and each.kind is ControlKind.ID and each.datatype != "BYTES":
            try:
                _parse_id(step.id, each.datatype)
            except (OverflowError, ValueError):
                raise InvalidInput(
                    f"sequence_id {step.id!r}: the model takes a whole number, a {each.datatype}"
                ) from None


def _control_values(control: Control, rows: Sequence[Step]) -> Array:
    if control.kind is not ControlKind.ID:
        values: list[Any] = [control.values[_flag_value(control.kind, step)] for step in rows]
        return np.array(values, NUMPY_TYPES[control.datatype])
    if control.datatype == "BYTES":
        ids = np.empty(len(rows), object)
        ids[:] = [str(step.id).encode() for step in rows]
        return ids
    return np.concatenate([_parse_id(step.id or 0, control.datatype) for step in rows])


def _parse_id(name: str | int, datatype: str) -> Array:
    return np.array([int(name)], NUMPY_TYPES[datatype])


def _flag_value(kind: ControlKind, step: Step) -> bool:
    if kind is ControlKind.START:
        return step.start
    return step.end if kind is ControlKind.END else step is not NOT_READY
