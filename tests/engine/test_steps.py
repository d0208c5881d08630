"""What a request says of its sequence, in whichever form, and what its model and its client hear of it."""

import pytest

from mooring.core.errors import InvalidInput
from mooring.core.options import TORCHSERVE_HEADERS, SequenceHeaders
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, ResponseHead, Step
from mooring.engine.steps import add_sequence_id, mark_step, step_of

OWN = SequenceHeaders("X-Seq", "X-Seq-Start", "X-Seq-End")


def asked(*headers, form=Form.BODY, **parameters):
    found = [tuple(part.encode() for part in header.split(": ")) for header in headers]
    return InferenceRequest("m", "", "id", [], form=form, parameters=parameters or None, headers=found)


@pytest.mark.parametrize("form", [Form.BODY, Form.INSTANCES, Form.TENSORS])
def test_headers_say_it_in_any_spelling(form):
    request = asked(
        "TS_Request_Sequence_ID: s",
        "ts_request_sequence_start: True",
        "ts_request_sequence_end: 1",
        form=form,
    )
    assert step_of(request, TORCHSERVE_HEADERS) == Step("s", start=True, end=True)
    assert step_of(asked("x-SEQ: s", "x-seq-start: false", form=form), OWN) == Step("s")


def test_parameters_say_it_in_v2_and_go_before_headers():
    request = asked("ts_request_sequence_id: s", form=Form.TENSORS, sequence_id=7, sequence_start=True)
    assert step_of(request, TORCHSERVE_HEADERS) == Step(7, start=True)
    request = asked(form=Form.TENSORS, sequence_id="t", sequence_start="false", sequence_end="true")
    assert step_of(request, TORCHSERVE_HEADERS) == Step("t", end=True)


@pytest.mark.parametrize("none", [0, "", None])
def test_nought_and_nothing_are_no_sequence(none):
    request = asked(form=Form.TENSORS, **({} if none is None else {"sequence_id": none}))
    assert not step_of(request, TORCHSERVE_HEADERS).id


@pytest.mark.parametrize("wrong", [-1, 1 << 64, 1.5, True, "x" * 257, "a\nb"])
def test_what_can_be_no_id_is_refused(wrong):
    with pytest.raises(InvalidInput, match="sequence_id must be a text"):
        step_of(asked(form=Form.TENSORS, sequence_id=wrong), TORCHSERVE_HEADERS)


def test_a_flag_that_is_none_is_refused():
    with pytest.raises(InvalidInput, match="'sequence_end' of the request must be true or false, not 3"):
        step_of(asked(form=Form.TENSORS, sequence_id=1, sequence_end=3), TORCHSERVE_HEADERS)


def test_the_model_hears_what_is_so_and_not_what_was_said():
    request = asked("X-SEQ: 7", "other: x", "x-seq-start: true", "x-seq-end: false", sequence_id=1, factor=2)
    mark_step(request, Step("7", end=True), OWN)
    assert request.sequence == Step("7", end=True)
    assert request.headers == [(b"other", b"x"), (b"X-Seq", b"7"), (b"X-Seq-End", b"true")]
    assert request.parameters == {"factor": 2}
    mark_step(request, Step("7", start=True), OWN)
    assert request.headers == [(b"other", b"x"), (b"X-Seq", b"7"), (b"X-Seq-Start", b"true")]


def test_the_client_hears_the_id_where_it_looks_for_it():
    response = InferenceResponse([], {"a": 1})
    add_sequence_id(response, asked(form=Form.TENSORS), Step(7), OWN)
    assert (response.parameters, response.head) == ({"a": 1, "sequence_id": 7}, None)
    response = InferenceResponse([], head=ResponseHead(headers=[("x-seq", "the handler's own")]))
    add_sequence_id(response, asked(), Step("s"), OWN)
    assert response.head.headers == [("x-seq", "the handler's own")]
    response = InferenceResponse([])
    add_sequence_id(response, asked(), Step("s"), OWN)
    assert response.head.headers == [("X-Seq", "s")]
    # What no header can hold is only told where it fits.
    response = InferenceResponse([])
    add_sequence_id(response, asked(), Step("é"), OWN)
    assert (response.parameters, response.head.headers) == ({"sequence_id": "é"}, [])
