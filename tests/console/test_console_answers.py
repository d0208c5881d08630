"""Documents as JSON: whatever a model says is in them, a browser can read them."""

import json

import pytest

from mooring.console.answers import encode


def strict(text):
    """What a browser's JSON.parse reads: it knows no NaN."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", ["half a pair: \ud800", 2**70, {"maximum": -(2**64)}])
def test_what_orjson_refuses_is_written_as_well(value):
    assert strict(encode({"reason": value, "mean": float("nan")})) == {"reason": value, "mean": None}


def test_numbers_that_json_has_not_are_null():
    assert strict(encode([float("nan"), float("inf"), 1.5])) == [None, None, 1.5]
