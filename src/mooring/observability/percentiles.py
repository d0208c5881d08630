"""Percentiles of the last seconds, from the histograms that are kept anyway: pure rules, without a clock."""

import operator
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


def find_percentiles(
    bounds: Sequence[float], counts: Sequence[int], shares: Sequence[float]
) -> list[float] | None:
    """Return, for each of the ``shares``, the value below which that part of the observations lies; None where there are none.

    ``counts`` has one number more than there are ``bounds``: the last one counts what is above them all. Between two bounds
    the observations count as spread evenly, as in Prometheus' histogram_quantile; above the last one they count as equal to it.

    >>> find_percentiles((1.0, 2.0), [0, 10, 0], [0.5, 0.75])
    [1.5, 1.75]
    >>> find_percentiles((1.0, 2.0), [0, 0, 3], [0.5])
    [2.0]
    """
    below = list(accumulate(counts))
    total = below[-1]
    if not total:
        return None
    return [_find_value(bounds, counts, below, share * total) for share in shares]


def _find_value(bounds: Sequence[float], counts: Sequence[int], below: Sequence[int], wanted: float) -> float:
    """Return the value below which ``wanted`` observations lie; ``below`` are the sums of ``counts``."""
    at = bisect_left(below, wanted)
    if at >= len(bounds):
        return bounds[-1]
    lower = bounds[at - 1] if at else 0.0
    return lower + (bounds[at] - lower) * (wanted - (below[at] - counts[at])) / counts[at]


def subtract_counts(now: Sequence[int], before: Sequence[int]) -> list[int]:
    """Return what was counted between two readings of one histogram."""
    return list(map(operator.sub, now, before))
