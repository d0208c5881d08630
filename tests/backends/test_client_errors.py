"""Exceptions that are the client's mistake because the model says so."""

import pytest

from mooring.backends.client_errors import find_client_error, read_client_errors
from mooring.core.errors import InvalidInput, ModelLoadFailed

LISTED = frozenset({"ValueError", "LookupError"})


class TooLong(ValueError):
    """Of the model's own."""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such customer"), "no such customer"),
        (TooLong("12 words"), "12 words"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError(), "ValueError: "),
    ],
)
def test_a_listed_class_and_those_derived_from_it_are_the_clients_mistake(error, text):
    found = find_client_error(error, LISTED)
    assert type(found) is InvalidInput
    assert found.message == text


@pytest.mark.parametrize(("error", "names"), [(TypeError("x"), LISTED), (ValueError("x"), frozenset())])
def test_any_other_exception_is_not(error, names):
    assert find_client_error(error, names) is None


class ByClass:
    client_errors = (ValueError, "KeyError")


class ByOne:
    client_errors = ValueError


@pytest.mark.parametrize(
    ("model", "names"), [(ByClass, {"ValueError", "KeyError"}), (ByOne, {"ValueError"}), (print, set())]
)
def test_a_model_lists_them_in_an_attribute(model, names):
    assert read_client_errors(model) == names


def test_what_is_no_exception_class_is_refused_when_the_model_is_loaded():
    class Odd:
        client_errors = (int,)

    with pytest.raises(ModelLoadFailed, match="client_errors must list exception classes or their names"):
        read_client_errors(Odd)
