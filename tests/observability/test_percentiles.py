"""Percentiles of histograms: between the bounds, never outside of what was seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.observability.percentiles import find_percentiles, subtract_counts

BOUNDS = (0.001, 0.01, 0.1, 1.0)


def test_nothing_has_no_percentile():
    assert find_percentiles(BOUNDS, [0] * 5, [0.5]) is None


@pytest.mark.parametrize(
    ("counts", "share", "value"),
    [
        ([4, 0, 0, 0, 0], 0.5, 0.0005),
        ([0, 0, 10, 0, 0], 0.5, 0.055),
        ([0, 0, 10, 0, 0], 1.0, 0.1),
        ([50, 0, 0, 50, 0], 0.99, 0.1 + 0.9 * 49 / 50),
        ([0, 0, 0, 0, 7], 0.99, 1.0),  # above the last bound nothing is known but that
    ],
)
def test_values_count_as_spread_evenly_between_two_bounds(counts, share, value):
    assert find_percentiles(BOUNDS, counts, [share]) == pytest.approx([value])


@given(st.lists(st.integers(0, 1000), min_size=5, max_size=5), st.floats(0.01, 1.0))
def test_a_percentile_lies_in_the_bucket_that_has_it(counts, share):
    percentiles = find_percentiles(BOUNDS, counts, [share])
    if percentiles is None:
        assert not sum(counts)
        return
    (found,) = percentiles
    assert 0.0 <= found <= BOUNDS[-1]
    below = sum(count for count, bound in zip(counts, BOUNDS, strict=False) if bound < found)
    assert below <= share * sum(counts) + 1e-6


@given(st.lists(st.integers(0, 100), min_size=5, max_size=5))
def test_higher_shares_have_higher_percentiles(counts):
    if sum(counts):
        found = find_percentiles(BOUNDS, counts, (0.5, 0.95, 0.99))
        assert found == sorted(found)


def test_a_difference_is_what_came_between():
    assert subtract_counts([3, 4, 5], [1, 4, 2]) == [2, 0, 3]
