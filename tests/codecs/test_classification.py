"""The classification extension: which of an output's numbers are its classes."""

import numpy as np
import pytest

from mooring.codecs.classification import classify
from mooring.core.errors import InvalidInput

SCORES = np.float32([[1, 2, 3], [6, 5, 4]])


def test_with_a_batch_every_row_has_classes_of_its_own():
    found = classify(SCORES, 2, {}, "y", batched=True)
    assert found.tolist() == [[b"3.000000:2", b"2.000000:1"], [b"6.000000:0", b"5.000000:1"]]


def test_without_one_the_largest_of_all_elements_are_meant():
    found = classify(SCORES, 3, {"3": "d"}, "y", batched=False)
    assert found.tolist() == [b"6.000000:3:d", b"5.000000:4", b"4.000000:5"]


def test_of_equal_numbers_the_first_comes_first_and_no_more_than_there_are():
    assert classify(np.int64([7, 7]), 5, {}, "y", batched=False).tolist() == [b"7.000000:0", b"7.000000:1"]


@pytest.mark.parametrize("count", [0, -1, True, "2"])
def test_a_number_of_classes_that_there_cannot_be_is_refused(count):
    with pytest.raises(InvalidInput, match="whole number from 1"):
        classify(SCORES, count, {}, "y", batched=True)
