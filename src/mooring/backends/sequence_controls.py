"""Inputs that say of every row which sequence it belongs to: the server fills them, no client sends them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mooring.core.errors import InvalidInput
from mooring.core.options import Control, ControlKind
from mooring.core.requests import InferenceRequest, Step
from mooring.core.tensors import NUMPY_TYPES, Array

_ALONE = Step("", start=True, end=True)  # a request of no sequence


def filled(controls: Sequence[Control], steps: Sequence[Step | None], *, batched: bool) -> dict[str, Array]:
    """The controls of a call, ``steps`` being those of its rows. ``batched``: its inputs have a batch dimension."""
    rows = [step or _ALONE for step in steps]
    return {
        each.name: _values(each, rows).reshape(-1, 1) if batched and not each.flat else _values(each, rows)
        for each in controls
    }


def check_id(controls: Sequence[Control], request: InferenceRequest) -> None:
    """Raises ``InvalidInput`` for a sequence whose id the model has no form for."""
    step = request.sequence
    for each in controls:
        if step is not None and each.kind is ControlKind.ID and each.datatype != "BYTES":
            try:
                _whole(step.id, each.datatype)
            except (OverflowError, ValueError):
                raise InvalidInput(
                    f"sequence_id {step.id!r}: the model takes a whole number, a {each.datatype}"
                ) from None


def _values(control: Control, rows: Sequence[Step]) -> Array:
    if control.kind is not ControlKind.ID:
        values: list[Any] = [control.values[_flag(control.kind, step)] for step in rows]
        return np.array(values, NUMPY_TYPES[control.datatype])
    if control.datatype == "BYTES":
        found = np.empty(len(rows), object)
        found[:] = [str(step.id).encode() for step in rows]
        return found
    return np.concatenate([_whole(step.id or 0, control.datatype) for step in rows])


def _whole(name: str | int, datatype: str) -> Array:
    return np.array([int(name)], NUMPY_TYPES[datatype])


def _flag(kind: ControlKind, step: Step) -> bool:
    if kind is ControlKind.START:
        return step.start
    return step.end if kind is ControlKind.END else True
