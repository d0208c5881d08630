"""Tests of the models of serve.py, without a server: pytest examples/from_python"""

import pytest
from serve import Distance, scale

import mooring
from mooring.testing import Client


def test_numbers_are_scaled():
    with Client(scale) as client:
        assert client.predict({"x": [1, 2]}) == {"scaled": [2, 4]}


def test_the_center_has_no_distance():
    with Client(Distance) as client:
        assert client.predict({"points": [[1.0, 1.0], [1.0, 3.0]]}) == {"distance": [0.0, 2.0]}


def test_points_of_three_dimensions_do_not_fit():
    with Client(Distance) as client, pytest.raises(mooring.ModelFailed, match="could not be broadcast"):
        client.predict({"points": [[1.0, 1.0, 1.0]]})
