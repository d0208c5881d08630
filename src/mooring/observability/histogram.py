"""Histograms as Prometheus has them."""

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from prometheus_client import Metric


class Histogram:
    """Counts of values between bounds, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Add a value. One equal to a bound counts as below it, as Prometheus' ``le`` says."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def observe_all(self, values: Sequence[float]) -> float:
        """Add each of these values once; return their sum."""
        numbers = np.array(array("d", values))  # faster than numpy's own reading of a list
        places = np.searchsorted(self.bounds, numbers)
        for place, times in enumerate(np.bincount(places, minlength=len(self.counts)).tolist()):
            self.counts[place] += times
        total = float(numbers.sum())
        self.total += total
        return total


def add_histogram(family: Metric, labels: dict[str, str], histogram: Histogram) -> None:
    """Add the histogram's samples to a family of that type."""
    below = 0
    for bound, count in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
        below += count
        family.add_sample(f"{family.name}_bucket", {**labels, "le": format_number(bound)}, below)
    family.add_sample(f"{family.name}_count", labels, below)
    family.add_sample(f"{family.name}_sum", labels, histogram.total)


def format_number(value: float) -> str:
    """Return a number in Prometheus' text format."""
    return "+Inf" if value == math.inf else repr(float(value))
