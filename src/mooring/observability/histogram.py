"""Histograms as Prometheus has them."""

import operator
from array import array
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np


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

    def take(self) -> tuple[list[int], float]:
        """Return and reset counts and sum, for ``add``."""
        taken = self.counts, self.total
        self.counts, self.total = [0] * len(self.counts), 0.0
        return taken

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add those of another histogram with the same bounds."""
        self.counts[:] = map(operator.add, self.counts, counts)
        self.total += total
