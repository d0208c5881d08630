"""Tests of the models of serve.py, without a server: pytest examples/from_python"""

import pytest
from serve import Distance, greet

import mooring
from mooring.testing import Client


def test_names_are_greeted():
    with Client(greet) as client:
        assert client.predict({"name": "Ada", "times": 2}) == ["Hello, Ada", "Hello, Ada"]


def test_numbers_are_no_names():
    with Client(greet) as client, pytest.raises(mooring.InvalidInput, match="name must be a string"):
        client.predict({"name": 3})


def test_the_center_has_no_distance():
    with Client(Distance) as client:
        assert client.predict({"points": [[1.0, 1.0], [1.0, 3.0]]}) == {"distance": [0.0, 2.0]}


def test_points_of_three_dimensions_do_not_fit():
    with Client(Distance) as client, pytest.raises(mooring.ModelFailed, match="could not be broadcast"):
        client.predict({"points": [[1.0, 1.0, 1.0]]})
