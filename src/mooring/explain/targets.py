"""Targets: which number of an output is explained. Every form that clients send becomes one index per row. Pure rules.

With n rows and an output of shape [n, ...] a target is an index for each dimension after the first:

    [n, classes]      7, "7", or a label              for every row;  [7, "cat", ...] with n items one for each
    [n, a, b, ...]    [3, 4, ...]                     for every row;  [[3, 4, ...], ...] one for each
    [n], [n, 1]       none is needed

No target means the class that the model predicts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mooring.core.errors import InvalidInput
from mooring.core.tensors import Array

Index = tuple[int, ...]

_MAX_TARGET_TEXT = 60


def indices_of(
    target: Any, scores: Array, labels: Mapping[str, Any], *, default: Any = None, output: str = "output"
) -> list[Index]:
    """Return the index for each row of ``scores``, which has the batch in its first dimension.

    Raises ``InvalidInput``, which names the targets that the output has.
    """
    rows, shape = scores.shape[0], scores.shape[1:]
    if target is None:
        target = default
    if target is None:
        return _predicted_indices(scores, output)
    if not shape:
        if target not in (0, "0"):
            raise InvalidInput(
                f"target {_shorten_target(target)}: output '{output}' is one number, so send none"
            )
        return [()] * rows
    if len(shape) == 1:
        if not isinstance(target, list | tuple):
            return [(_parse_index(target, shape[0], labels, output),)] * rows
        each = [one[0] if isinstance(one, list | tuple) and len(one) == 1 else one for one in target]
        _check_count(each, rows)
        return [(_parse_index(one, shape[0], labels, output),) for one in each]
    if not isinstance(target, list | tuple):
        raise InvalidInput(
            f"target {_shorten_target(target)}: output '{output}' has shape {list(shape)} for a row; "
            f"send a list of {len(shape)} indices"
        )
    if not target or not isinstance(target[0], list | tuple):
        return [_parse_position(target, shape, output)] * rows
    _check_count(target, rows)
    return [_parse_position(one, shape, output) for one in target]


def _predicted_indices(scores: Array, output: str) -> list[Index]:
    shape = scores.shape[1:]
    if not shape:
        return [()] * len(scores)
    if len(shape) > 1 and np.prod(shape) != 1:
        raise InvalidInput(
            f"output '{output}' has shape {list(shape)} for a row: a target is needed, a list of {len(shape)} indices"
        )
    flat = scores.reshape(len(scores), -1)
    return [(int(best),) + (0,) * (len(shape) - 1) for best in flat.argmax(axis=1)]


def _parse_position(target: Any, shape: Sequence[int], output: str) -> Index:
    if not isinstance(target, list | tuple) or len(target) != len(shape):
        raise InvalidInput(
            f"target {_shorten_target(target)}: output '{output}' takes a list of {len(shape)} indices"
        )
    return tuple(_parse_index(one, size, {}, output) for one, size in zip(target, shape, strict=True))


def _parse_index(target: Any, size: int, labels: Mapping[str, Any], output: str) -> int:
    """Return the index of one target: text of digits is an index, other text a label. Raises ``InvalidInput``."""
    index = target
    if isinstance(target, str):
        text = target.strip()
        index = int(text) if text.isdecimal() and len(text) < 10 else _index_of_label(text, labels)
    if index is None or type(index) is not int or not 0 <= index < size:
        names = f", or one of {_first_labels(labels)}" if labels else ""
        raise InvalidInput(
            f"target {_shorten_target(target)}: output '{output}' takes 0 to {size - 1}{names}"
        )
    return index


def _index_of_label(text: str, labels: Mapping[str, Any]) -> int | None:
    for index, label in labels.items():
        # index_to_name.json has ["n01440764", "tench"] or a name alone.
        if index.isdecimal() and (text in label if isinstance(label, list) else text == label):
            return int(index)
    return None


def _first_labels(labels: Mapping[str, Any]) -> str:
    names = [repr(label[-1] if isinstance(label, list) and label else label) for label in labels.values()]
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")


def _check_count(targets: Sequence[Any], rows: int) -> None:
    if len(targets) != rows:
        raise InvalidInput(
            f"target: a list of {len(targets)} for {rows} rows; send one for each row, or one for all"
        )


def _shorten_target(target: Any) -> str:
    text = repr(target)
    return text if len(text) <= _MAX_TARGET_TEXT else f"{text[:_MAX_TARGET_TEXT]}..."
