"""TorchServe's Predictions read by hand: as the library reads them, or refused as it refuses them."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from mooring.codecs.predictions import decode_prediction
from mooring.codecs.proto.torchserve_inference_pb2 import PredictionsRequest
from mooring.core.buffers import Buffer, Slot
from mooring.core.errors import InvalidInput

WHOLE = PredictionsRequest(
    model_name="mnist",
    model_version="1.0",
    input={"data": b"abc" * 9, "body": b"", "": b"x"},
    sequence_id="s",
).SerializeToString(deterministic=True)


def by_library(message):
    try:
        found = PredictionsRequest.FromString(message)
    except DecodeError:
        return None
    return found.model_name, found.model_version, dict(found.input)


def by_hand(message):
    try:
        found = decode_prediction(message)
    except InvalidInput:
        return None
    return found.model_name, found.model_version, {name: bytes(data) for name, data in found.inputs.items()}


def check_alike(message):
    """Refused, or read as the library reads it: but that it passes over inputs with fields that it does not know."""
    found, expected = by_hand(message), by_library(message)
    if found is not None:
        assert found[:2] == expected[:2]
        assert expected[2].items() <= found[2].items()


def test_a_message_is_read_whole():
    assert (
        by_hand(WHOLE) == by_library(WHOLE) == ("mnist", "1.0", {"data": b"abc" * 9, "body": b"", "": b"x"})
    )


@given(st.binary(max_size=120))
def test_any_bytes_are_read_or_refused_and_nothing_else(message):
    by_hand(message)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_as_the_library_reads_it_or_refused(place, byte):
    message = WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :]
    check_alike(message)


@given(st.integers(0, len(WHOLE)), st.binary(max_size=8))
def test_a_message_that_was_cut_or_prolonged_is_read_alike(end, behind):
    message = WHOLE[:end] + behind
    check_alike(message)


@given(st.binary(max_size=60) | st.integers(0, len(WHOLE)).map(lambda end: WHOLE[:end]))
def test_the_memory_of_a_message_that_is_refused_is_given_back(message):
    released = []
    whole = Buffer(memoryview(bytearray(message)), Slot(0, 0, len(message)), released.append)
    try:
        asked = decode_prediction(whole)
    except InvalidInput:
        assert len(released) == 1
        return
    for each in asked.inputs.values():
        if not isinstance(each, bytes):
            each.release()
    assert len(released) == 1


def test_a_message_of_more_inputs_than_a_form_has_fields_is_refused():
    message = PredictionsRequest(model_name="m", input={str(each): b"" for each in range(1001)})
    with pytest.raises(InvalidInput, match="more than 1000 inputs"):
        decode_prediction(message.SerializeToString())
