"""Percentiles of the last seconds, from the histograms that are kept anyway: pure rules, without a clock."""

from collections.abc import Sequence


def find_percentile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Return the value below which this ``share`` of the observations lies; None where there are none.

    ``counts`` has one number more than there are ``bounds``: the last one counts what is above them all. Between two bounds
    the observations count as spread evenly, as in Prometheus' histogram_quantile; above the last one they count as equal to it.

    >>> find_percentile((1.0, 2.0), [0, 10, 0], 0.5)
    1.5
    >>> find_percentile((1.0, 2.0), [0, 0, 3], 0.5)
    2.0
    """
    wanted = share * sum(counts)
    if not wanted:
        return None
    below = 0
    lower = 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and below + count >= wanted:
            return lower + (bound - lower) * (wanted - below) / count
        below += count
        lower = bound
    return lower


def subtract_counts(now: Sequence[int], before: Sequence[int]) -> list[int]:
    """Return what was counted between two readings of one histogram."""
    return [one - other for one, other in zip(now, before, strict=True)]
