"""What the code of a model imports from mooring: how it is batched, and the request that it is given."""

import subprocess
import sys
import time

import pytest

import mooring
from mooring.core.model_code import batch_of


def test_a_function_says_how_many_requests_it_takes_at_once():
    @mooring.batch(max_size=32, max_delay=0.01)
    def infer(texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    assert batch_of(infer) == (32, 0.01)
    assert batch_of(len) is None
    assert infer(["a", "bc"]) == [1, 2]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"max_size": 0}, "at least 1"),
        ({"max_size": True}, "whole number"),
        ({"max_size": 8, "max_delay": -1}, "in seconds"),
        ({"max_size": 8, "max_delay": "10ms"}, "in seconds"),
    ],
)
def test_a_size_or_a_delay_that_cannot_be_is_refused_where_it_is_written(asked, says):
    with pytest.raises(ValueError, match=says):
        mooring.batch(**asked)


def test_a_class_is_told_where_the_decorator_belongs():
    with pytest.raises(TypeError, match="on the method infer of class 'Model'"):
        mooring.batch(max_size=8)(type("Model", (), {}))


def test_headers_are_found_in_any_case_and_a_repeated_one_has_all_values():
    request = mooring.Request(headers=[(b"X-User", b"ann\xe9"), (b"Accept", b"a"), (b"accept", b"b")])
    assert request.headers["x-USER"] == "anné"
    assert request.headers.get("ACCEPT") == "a, b"
    assert "Cookie" not in request.headers
    assert sorted(request.headers) == ["accept", "x-user"]
    assert request.content_type == ""


def test_a_request_says_how_long_its_client_waits_and_whether_it_has_gone():
    request = mooring.Request("7", deadline=time.monotonic() + 9, cancelled=lambda: True)
    assert 8 < request.remaining <= 9
    assert request.cancelled()
    assert mooring.Request().remaining is None
    assert mooring.Request(deadline=1.0).remaining == 0.0


def test_importing_them_imports_no_numpy():
    code = "import mooring, sys; mooring.Model, mooring.batch, mooring.Request; print(sorted({'numpy', 'msgspec'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
