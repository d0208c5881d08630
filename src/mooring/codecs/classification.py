"""The classification extension: the likeliest classes of an output in place of its numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mooring.core.errors import InvalidInput
from mooring.core.tensors import Array, Parameter


def classify(array: Array, count: Parameter, labels: Mapping[str, Any], name: str, *, batched: bool) -> Array:
    """``value:index`` or ``value:index:label`` of the ``count`` largest numbers, largest first, as BYTES.

    With ``batched`` the first dimension is the batch, and every row has its own; else the largest of all elements are
    meant, as in Triton. Raises ``InvalidInput``.
    """
    if type(count) is not int or count < 1:
        raise InvalidInput(
            f"parameter 'classification' of output '{name}' must be a whole number from 1, not {count!r}"
        )
    if array.dtype.kind not in "iuf":
        raise InvalidInput(f"output '{name}' holds no numbers to be classified by")
    rows = array.reshape(array.shape[0], -1) if batched else array.reshape(1, -1)
    # Stable, on what is turned round: of equal numbers the first class comes first.
    best = rows.shape[1] - 1 - np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :count]
    texts = np.empty(best.shape, object)
    for row, classes in enumerate(best):
        texts[row] = [_entry(rows[row, each], int(each), labels) for each in classes]
    return texts if batched else texts[0]


def _entry(value: Any, index: int, labels: Mapping[str, Any]) -> bytes:
    label = labels.get(str(index), "")
    # index_to_name.json has ["n01440764", "tench"] or a name alone.
    text = label[-1] if isinstance(label, list) and label else label
    return f"{float(value):f}:{index}{f':{text}' if text else ''}".encode()
