"""The names of a classifier's classes (``index_to_name.json``)."""

import itertools
import json
from pathlib import Path
from typing import Any


def load_label_mapping(mapping_file_path: str) -> dict[str, Any] | None:
    """Class index (as text) to name; None where there is no such file.

    A class may carry several names, of which the last counts, and object detectors may list theirs in order
    under ``object_type_names``. Raises ``ValueError`` for a file that is not a JSON object.
    """
    path = Path(mapping_file_path)
    if not path.is_file():
        return None
    mapping = json.loads(path.read_text())
    if not isinstance(mapping, dict):
        raise ValueError(  # noqa: TRY004 - the file is wrong, not a type of ours
            f"{path.name} is not a JSON object of class index to name"
        )
    names = mapping.get("object_type_names")
    if isinstance(names, list):
        return {str(index): name for index, name in enumerate(names)}
    return {str(key): value[-1] if isinstance(value, list) else value for key, value in mapping.items()}


def map_class_to_label(
    probs: list[list[Any]], mapping: dict[str, Any] | None = None, lbl_classes: list[list[int]] | None = None
) -> list[dict[str, Any]]:
    """Name to value for each row of ``probs``; without a mapping a class is named by its index.

    ``lbl_classes`` says which classes the values of a row belong to; by default they are all of them, in order.
    Raises ``KeyError`` for a class the mapping does not know.
    """
    rows = itertools.repeat(range(len(probs[0]) if probs else 0)) if lbl_classes is None else lbl_classes
    return [
        {
            str(number) if mapping is None else mapping[str(number)]: value
            for number, value in zip(numbers, values, strict=False)
        }
        for numbers, values in zip(rows, probs, strict=False)
    ]
