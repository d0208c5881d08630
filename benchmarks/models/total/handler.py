"""Adds up a raw FP32 image: a large body in, a small answer out."""

from typing import Any

import numpy as np


def handle(data: list[dict[str, Any]] | None, _context: Any) -> list[dict[str, float]] | None:
    if data is None:
        return None
    return [{"total": float(np.frombuffer(row["body"], np.float32).sum())} for row in data]
