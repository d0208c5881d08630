"""Counting values by size, as Prometheus' histograms do."""

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from prometheus_client import Metric


class Histogram:
    """How many values fell up to each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """A value equal to a bound counts under it, as Prometheus' ``le`` says."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def observe_all(self, values: Sequence[float]) -> float:
        """Each of these once; their sum."""
        numbers = np.array(array("d", values))  # read faster than by numpy alone
        places = np.searchsorted(self.bounds, numbers)
        for place, times in enumerate(np.bincount(places, minlength=len(self.counts)).tolist()):
            self.counts[place] += times
        total = float(numbers.sum())
        self.total += total
        return total


def add_histogram(family: Metric, labels: dict[str, str], histogram: Histogram) -> None:
    """The histogram's samples, into a family of that type."""
    below = 0
    for bound, count in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
        below += count
        family.add_sample(f"{family.name}_bucket", {**labels, "le": number(bound)}, below)
    family.add_sample(f"{family.name}_count", labels, below)
    family.add_sample(f"{family.name}_sum", labels, histogram.total)


def number(value: float) -> str:
    """As Prometheus' text format has it."""
    return "+Inf" if value == math.inf else repr(float(value))
