"""Short lists of numbers: the same bytes and the same JSON as the general way, or none."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.codecs.short_lists import pack_numbers
from mooring.codecs.tensor_json import encode_json, to_array
from mooring.codecs.v2_json import (
    JSON_ONLY,
    MAX_SHORT_OUTPUT,
    decode_request,
    encode_response,
    encode_short_answer,
)
from mooring.core.errors import InvalidInput
from mooring.core.requests import InferenceResponse
from mooring.core.tensors import NUMPY_TYPES, Tensor

NUMERIC = sorted(set(NUMPY_TYPES) - {"BF16"})
ELEMENTS = st.one_of(
    st.integers(-5, 300),
    st.integers(-(2**64), 2**64),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(),
    st.none(),
)


@given(
    st.sampled_from(NUMERIC),
    st.one_of(st.lists(ELEMENTS, min_size=1, max_size=4), st.lists(st.floats(-9, 9), min_size=1)),
)
def test_what_is_packed_is_what_an_array_would_hold(datatype, values):
    found = pack_numbers(values, datatype)
    if found is not None:
        assert found == to_array(values, "x", datatype).tobytes()


@pytest.mark.parametrize("datatype", NUMERIC)
def test_what_is_plainly_of_its_type_is_packed(datatype):
    one = True if datatype == "BOOL" else 1
    assert pack_numbers([one], datatype) == np.ones(1, NUMPY_TYPES[datatype]).tobytes()
    assert pack_numbers([one, one], datatype) == np.ones(2, NUMPY_TYPES[datatype]).tobytes()


@pytest.mark.parametrize(
    ("values", "datatype"),
    [
        ([1.0], "INT32"),
        ([True], "FP32"),
        ([256], "UINT8"),
        ([-1, 1], "UINT64"),
        ([1e39], "FP32"),
        (["1"], "BYTES"),
    ],
)
def test_all_else_is_left_to_the_general_way(values, datatype):
    assert pack_numbers(values, datatype) is None


@given(st.sampled_from(NUMERIC), st.integers(0, 20), st.binary(min_size=200, max_size=200))
def test_the_text_is_what_an_array_would_be_written_as(datatype, count, noise):
    raw = noise[: count * NUMPY_TYPES[datatype].itemsize]
    if datatype == "BOOL":
        raw = bytes(byte & 1 for byte in raw)
    array = np.frombuffer(raw, NUMPY_TYPES[datatype])
    tensors = [Tensor("x", datatype, [count], raw), Tensor("y", datatype, [count, 1], raw)]
    found = encode_short_answer(InferenceResponse(tensors, version="1"), "m", "")
    if found is None:
        assert not np.isfinite(array).all()
    else:
        said = b'{"name":"%b","datatype":"%b","shape":%b,"data":%b}'
        outputs = [
            said % (name, datatype.encode(), shape, encode_json(array))
            for name, shape in ((b"x", b"[%d]" % count), (b"y", b"[%d,1]" % count))
        ]
        assert found == b'{"model_name":"m","model_version":"1","outputs":[%b]}' % b",".join(outputs)


@given(
    st.lists(st.floats(width=32), min_size=1, max_size=MAX_SHORT_OUTPUT // 2),
    st.text(),
    st.sampled_from(["", "7", 'a"b']),
)
def test_an_answer_says_what_its_tensors_hold(values, name, given_id):
    array = np.float32(values)
    response = InferenceResponse(
        [Tensor.of(name.encode(errors="replace").decode(), array)], model="m", version="1", id=given_id
    )
    ((document,), size) = encode_response(response, JSON_ONLY)
    assert size == 0
    assert (b'"id"' in document.partition(b'"model_name"')[0]) is bool(given_id)
    found = decode_request(document.replace(b'"outputs":[', b'"inputs":[', 1))
    assert found.id == given_id
    assert np.array_equal(found.inputs[0].array(), array, equal_nan=True)
    assert all(math.isfinite(value) for value in values) or b"N" in document or b"I" in document


@pytest.mark.parametrize(
    ("shape", "data", "reason"),
    [
        ("[true]", "[1.0]", "non-negative integers"),
        ("[2]", "[1.0]", "has 1 elements"),
        ("[-1, -1]", "[1.0]", "do not tell the size"),
        (str([1] * 33), "[1.0]", "non-negative integers"),
        ("[1]", '["1"]', "strings"),
        ("[1]", "[1e39]", "too large"),
    ],
)
def test_what_is_wrong_with_a_short_list_is_still_said(shape, data, reason):
    body = f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": {shape}, "data": {data}}}]}}'
    with pytest.raises(InvalidInput, match=reason):
        decode_request(body.encode())
