"""Adds one to x, as a function of arrays."""

from collections.abc import Mapping
from typing import Any


def plus_one(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {"x": inputs["x"] + 1}
