"""Arguments of a client that can mean nothing are refused when it is made, by name."""

import math

import pytest

import mooring
from mooring.client.options import read_headers, read_seconds


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "grpc://127.0.0.1:1"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": 0}, "timeout must be a number of seconds above 0, not 0"),
        ({"timeout": None}, "timeout must be .* not None"),
        ({"timeout": math.nan}, "timeout must be .* not nan"),
        ({"connect_timeout": "3"}, "connect_timeout must be .* not '3'"),
        ({"retries": -1}, "retries must be a whole number from 0 on, not -1"),
        ({"retries": 1.5}, "retries must be a whole number"),
        ({"max_connections": 0}, "max_connections must be a whole number from 1 on, not 0"),
        ({"headers": {"a b": "c"}}, "'a b' is no name of a header"),
        ({"headers": {"x": "b\r\ny: z"}}, "the value of 'x' must be a string of ASCII without line breaks"),
        ({"headers": {"x": 1}}, "the value of 'x' must be a string"),
        ({"token": "secret\u00fc"}, "^token holds what no header can"),
    ],
)
def test_what_can_mean_nothing_is_refused_at_once(url, options, said):
    with pytest.raises(mooring.InvalidInput, match=said) as refused:
        mooring.Client(url, **options)
    assert "secret" not in str(refused.value)


def test_a_url_is_a_string():
    with pytest.raises(mooring.InvalidInput, match="a string, not NoneType"):
        mooring.Client(None)


def test_a_call_is_refused_such_a_time_too():
    with mooring.Client("http://127.0.0.1:1") as client, pytest.raises(mooring.InvalidInput, match="not -1"):
        client.infer("m", {"x": 1}, timeout=-1)


def test_for_ever_is_a_year():
    assert read_seconds("timeout", math.inf) == read_seconds("timeout", 1e300) == 365 * 86400


def test_a_token_goes_with_the_headers():
    assert read_headers({"x-a": "b"}, "t") == {"x-a": "b", "authorization": "Bearer t"}
