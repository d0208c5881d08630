"""A body with a known frame says what the general way reads in it, or is left to that."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.codecs.v2_json import InferBody, decode_request
from mooring.codecs.v2_json_templates import JsonTemplates
from mooring.core.errors import InvalidInput


def body(data, **more):
    entry = {"name": "x", "datatype": "FP32", "shape": [2], **more.pop("entry", {})}
    return json.dumps({"inputs": [{**entry, "data": data}], **more}).encode()


def taught(*bodies):
    known = JsonTemplates()
    for each in bodies:
        for _ in range(2):
            known.remember(each, decode_request(each))
    return known


def test_a_frame_that_came_twice_is_known():
    known = JsonTemplates()
    for _ in range(2):
        assert known.read(body([1.0, 2.0])) is None
        known.remember(body([1.0, 2.0]), decode_request(body([1.0, 2.0])))
    assert InferBody("", [known.read(body([3.5, -4]))]) == decode_request(body([3.5, -4]))


NUMBERS = st.one_of(
    st.floats(allow_nan=False), st.integers(-9, 9), st.booleans(), st.none(), st.text(max_size=2)
)
TAILS = st.sampled_from(["", "}]}", "]", '], "id": "7"', ", 1", ' "data": [1, 2]', "}]} "])


@given(st.lists(st.one_of(NUMBERS, st.lists(NUMBERS, max_size=2)), max_size=3), TAILS, st.integers(0, 90))
def test_no_body_is_read_otherwise_than_in_the_general_way(data, tail, cut):
    known = taught(body([1.0, 2.0]))
    sent = body(data)
    for each in (
        sent,
        sent[:cut] + sent[cut + 1 :],
        sent[:-3] + tail.encode() + sent[-3:],
        sent[:-3] + tail.encode(),
    ):
        found = known.read(each)
        if found is not None:
            assert InferBody("", [found]) == decode_request(each)


@pytest.mark.parametrize(
    "odd",
    [
        body([1.0, 2.0], id="7"),
        body([1.0, 2.0], outputs=[{"name": "y"}]),
        body([1.0, 2.0], parameters={"a": 1}),
        body([1.0, 2.0], entry={"parameters": {"a": 1}}),
        body([[1.0, 2.0]]),
        body([1, 2], entry={"name": "data", "shape": [2]}),
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2], "data": [1, 2]}]}',
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2], "data": [3, 4]}]}',
        b'{"inputs": [{"x": {"data": [1, 2]}, "name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}',
        b'{"inputs": 1, "inputs": [{"data": [1], "name": "y", "datatype": "FP32", "shape": [1], "data": [1]}]}',
    ],
)
def test_what_says_more_or_is_ambiguous_is_never_known(odd):
    assert taught(odd).read(odd) is None


def test_what_follows_the_numbers_may_say_more_of_them():
    last = b'{"inputs": [{"data": [1, 2], "name": "x", "datatype": "INT8", "shape": [2]}], "outputs": null}'
    known = taught(last)
    other = last.replace(b"[1, 2]", b"[3,4]")
    assert InferBody("", [known.read(other)]) == decode_request(other)
    assert known.read(last.replace(b'"x"', b'"y"')) is None
    wrong = last.replace(b"[1, 2]", b"[3, 400]")
    assert known.read(wrong) is None
    with pytest.raises(InvalidInput):
        decode_request(wrong)


def test_no_more_frames_are_kept_than_there_is_room_for():
    known = JsonTemplates()
    for number in range(600):
        each = body([1.0, 2.0], entry={"name": f"x{number}"})
        for _ in range(2):
            known.remember(each, decode_request(each))
    assert known.read(body([1.0, 2.0], entry={"name": "x0"})) is not None
    assert known.read(body([1.0, 2.0], entry={"name": "x599"})) is None
