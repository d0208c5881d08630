"""Errors as model code raises them, and as they travel between processes."""

import pytest

import mooring
from mooring.core.errors import ErrorRecord, InvalidInput, ModelRefused


def test_a_refusal_has_a_status_and_a_text():
    error = mooring.Refused(409, "the order is closed")
    assert isinstance(error, ModelRefused)
    assert (error.code, error.message, str(error)) == (409, "the order is closed", "the order is closed")


@pytest.mark.parametrize("status", [399, 600, 0, True, "409", None])
def test_a_refusal_has_a_status_of_an_error(status):
    with pytest.raises(ValueError, match=r"mooring\.Refused takes an HTTP status from 400 to 599, not "):
        mooring.Refused(status, "no")


def test_a_refusal_travels_between_processes():
    error = ErrorRecord.of(mooring.Refused(402, "pay first")).error(model="m", version="1")
    assert type(error) is ModelRefused
    assert (error.code, error.message, error.model) == (402, "pay first", "m")


def test_an_error_of_a_class_of_the_model_is_its_nearest_base_class_elsewhere():
    class UnknownColor(InvalidInput):
        """As a model's file defines it: no other process knows it."""

    record = ErrorRecord.of(UnknownColor("no such color"))
    assert record.kind == "InvalidInput"
    assert type(record.error()) is InvalidInput
