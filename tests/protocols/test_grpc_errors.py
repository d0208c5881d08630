"""How errors end gRPC calls."""

import pytest

from mooring.core.errors import ModelNotFound, OutOfResources, QueueFull
from mooring.protocols.dialect import V2
from mooring.protocols.grpc_errors import (
    end_with_error,
    internal_error_text,
    shorten_text,
    status_error,
    to_status_error,
)
from mooring.web.grpc.headers import percent_encode
from mooring.web.grpc.status import Status, StatusError


class FakeCall:
    def __init__(self):
        self.ended = []

    def end(self, status, text="", *, retry_after=0):
        self.ended.append((status, text))
        self.retry_after = retry_after


def ended(error):
    call = FakeCall()
    end_with_error(call, "t.T", "M", error, V2)
    ((status, text),) = call.ended
    return status, text


def test_an_error_of_ours_has_the_status_that_v2_gives_it():
    error = to_status_error(ModelNotFound("mnist"))
    assert error.status is Status.NOT_FOUND
    assert "mnist" in str(error)
    assert ended(ModelNotFound("mnist")) == (error.status, str(error))


def test_a_client_is_told_when_to_come_again_where_the_model_did_not_run():
    full, call = QueueFull("later"), FakeCall()
    full.retry_after = 2.5
    end_with_error(call, "t.T", "M", full, V2)
    assert call.retry_after == 3
    end_with_error(call, "t.T", "M", OutOfResources("no memory"), V2)
    assert call.retry_after == 0


def test_a_status_goes_as_it_is():
    assert ended(StatusError(Status.ABORTED, "why")) == (Status.ABORTED, "why")
    assert status_error("UNAVAILABLE", "later").status is Status.UNAVAILABLE


def test_memory_that_is_not_there_is_named_as_such():
    assert ended(MemoryError()) == ended(OutOfResources("there is no memory for this request"))


def test_a_fault_of_ours_says_no_more_than_its_kind(caplog):
    assert ended(ZeroDivisionError("a secret")) == (
        Status.INTERNAL, "ZeroDivisionError: internal server error, see the server's log",
    )  # fmt: skip
    assert internal_error_text(KeyError("a secret")).startswith("KeyError: ")


@pytest.mark.parametrize("text", ["x" * 4096, "short"])
def test_a_text_that_fits_a_header_is_kept(text):
    assert shorten_text(text) == text


@pytest.mark.parametrize("letter", ["x", "Ü", "\n", "\U0001f600"])
def test_a_text_is_cut_to_what_a_header_takes(letter):
    short = shorten_text(letter * 10_000)
    assert len(percent_encode(short)) <= 4096
    assert short.startswith(letter * 100)
    assert short.endswith("…")
