"""JSON and arrays: nothing is lost on the way, and nothing wrong comes through."""

import base64
import contextlib
import json

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mooring.codecs import tensor_json
from mooring.codecs.tensor_json import LARGE_DOCUMENT, decode_json, encode_each_row, encode_json, to_array
from mooring.core.errors import InvalidInput
from mooring.core.tensors import NUMPY_TYPES, datatype_of

NUMERIC = sorted(set(NUMPY_TYPES) - {"BF16"})
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def read(text, datatype=""):
    return to_array(decode_json(text), "x", datatype)


def padded(text: bytes) -> bytes:
    """The same document, large enough for the quick way."""
    return text + b" " * LARGE_DOCUMENT


@given(st.data(), st.sampled_from(NUMERIC), SHAPES)
@settings(max_examples=150)
def test_what_is_written_reads_back_equal(data, datatype, shape):
    array = data.draw(hnp.arrays(NUMPY_TYPES[datatype], shape))
    for text in (encode_json(array), padded(encode_json(array))):
        found = read(text, datatype)
        assert found.dtype == array.dtype
        # An empty list says nothing of the dimensions inside it.
        assert found.shape == array.shape or not array.size
        np.testing.assert_array_equal(found.ravel(), array.ravel())


@given(
    hnp.arrays(
        np.float64, hnp.array_shapes(max_dims=3), elements=st.floats(allow_nan=False, allow_infinity=False)
    )
)
def test_both_ways_of_reading_agree(array):
    text = json.dumps(array.tolist()).encode()
    np.testing.assert_array_equal(read(text), read(padded(text)))


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=12,
)


def outcome(text, datatype):
    try:
        found = read(text, datatype)
    except InvalidInput as error:
        return type(error)
    return found.dtype, found.shape, found.tolist()


@given(VALUES, st.sampled_from(["", *NUMERIC, "BYTES"]))
@settings(max_examples=300)
def test_any_document_is_an_array_or_invalid_input_whatever_its_size(value, datatype):
    text = json.dumps(value).encode()
    assert repr(outcome(text, datatype)) == repr(outcome(padded(text), datatype))


@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_invalid_input(data):
    for document in (data, data + b" " * LARGE_DOCUMENT):
        with contextlib.suppress(InvalidInput):
            decode_json(document)


def test_a_large_document_arrives_as_arrays():
    array = np.arange(3 * 20 * 30, dtype=np.float32).reshape(3, 20, 30) / 7
    document = orjson.dumps({"inputs": [{"name": "x", "data": array}]}, option=orjson.OPT_SERIALIZE_NUMPY)
    found = decode_json(memoryview(document))["inputs"][0]["data"]
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(to_array(found, "x", "FP32"), array)


@pytest.mark.parametrize(
    "text",
    [
        b"[[1, 2], [3]]",
        b"[[1, 2], [3], [4, 5, 6]]",
        b"[[1], 2]",
        b"[1, [2]]",
        b"[[1, 2], [[3], 4]]",
        b"[[], [1]]",
        b"[[1, 2], [[], [3, 4]]]",
    ],
)
@pytest.mark.parametrize("size", [bytes, padded])
def test_ragged_lists_are_refused(text, size):
    with pytest.raises(InvalidInput, match="ragged"):
        read(size(text))


@pytest.mark.parametrize("rows", [1, 20, 62, 63, 64, 65, 66, 300])
def test_one_number_in_a_list_of_its_own_is_found_among_any_number_of_lists(rows):
    good = [[float(at) for at in range(30)] for _ in range(rows)]
    text = json.dumps(good).encode()
    np.testing.assert_array_equal(read(padded(text)), json.loads(text))
    for hidden in (b"[29.0]]", b"29.0, []]"):
        with pytest.raises(InvalidInput):
            read(padded(text.replace(b"29.0]", hidden, 1)))


@pytest.mark.parametrize("size", [bytes, padded])
@pytest.mark.parametrize(
    ("text", "datatype", "says"),
    [
        (b"[300]", "INT8", "300"),
        (b"[-1]", "UINT64", "-1"),
        (b"[1.5]", "INT32", "1.5"),
        (b"[9007199254740993.0]", "INT64", "which INT64 cannot hold"),
        (b"[18446744073709551616]", "UINT64", "which UINT64 cannot hold"),
        (b"[NaN]", "INT32", "nan"),
        (b"[1e39]", "FP32", "too large for FP32"),
        (b"[70000]", "FP16", "too large for FP16"),
        (b"[true]", "INT32", "booleans"),
        (b"[2]", "BOOL", "numbers"),
        (b'["1"]', "FP32", "strings"),
        (b"[1]", "BYTES", "numbers"),
        (b"[1, true]", "", "booleans and numbers"),
        (b"[1, null]", "INT32", "holds null at [1]"),
        (b"[[1, 2], [3, null]]", "UINT8", "holds null at [1, 1]"),
        (b"[true, null]", "BOOL", "holds null at [1]"),
        (b"[true, null]", "FP32", "holds null at [1]"),
        (b'["a", null]', "BYTES", "holds null at [1]"),
        (b'["a", null]', "", "holds null at [1]"),
        (b'[null, "NaN"]', "INT32", "holds null at [0]"),
        (b'[1, "NaN"]', "INT32", "numbers and strings"),
        (b'[1, "nan"]', "FP32", "numbers and strings"),
        (b'["inf"]', "FP32", "strings"),
        (b'[true, "NaN"]', "FP32", "booleans and strings"),
        (b'[1, "2"]', "", "numbers and strings"),
        (b"[{}]", "", "objects"),
    ],
)
def test_values_that_do_not_fit_are_named(text, datatype, says, size):
    with pytest.raises(InvalidInput, match="input 'x'") as refusal:
        read(size(text), datatype)
    assert says in refusal.value.message


@pytest.mark.parametrize("size", [bytes, padded])
def test_integers_above_2_to_the_53_are_exact(size):
    assert read(size(b"[9007199254740993, -9007199254740993]"), "INT64").tolist() == [2**53 + 1, -(2**53) - 1]
    assert read(size(b"[18446744073709551615, 1]"), "UINT64").tolist() == [2**64 - 1, 1]
    assert read(size(b"[18446744073709551615]")).dtype == np.uint64
    assert read(size(b"[123456789012345678901234567890]"), "FP64").tolist() == [1.2345678901234568e29]


@pytest.mark.parametrize("size", [bytes, padded])
def test_nan_and_infinity_are_bare_tokens_both_ways(size):
    found = read(size(b"[NaN, Infinity, -Infinity, 1.0]"), "FP32")
    assert np.isnan(found[0])
    assert encode_json(found) == b"[NaN,Infinity,-Infinity,1.0]"
    assert encode_json(np.array(np.nan)) == b"NaN"


@pytest.mark.parametrize("size", [bytes, padded])
@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
@pytest.mark.parametrize(
    ("text", "values"),
    [
        (b"[1, null, 2.5]", [1, np.nan, 2.5]),
        (b"[null, null]", [np.nan, np.nan]),
        (b"[[1, null], [null, 2]]", [[1, np.nan], [np.nan, 2]]),
        (b"null", np.nan),
        (b'["NaN", 1, "Infinity", "-Infinity", null]', [np.nan, 1, np.inf, -np.inf, np.nan]),
        (b'["NaN"]', [np.nan]),
        (b"[NaN, null]", [np.nan, np.nan]),
    ],
)
def test_missing_values_and_infinities_have_words_in_a_float_tensor(text, values, datatype, size):
    np.testing.assert_array_equal(read(size(text), datatype), values)


@pytest.mark.parametrize("size", [bytes, padded])
def test_where_no_datatype_is_wanted_they_are_numbers_only_beside_numbers(size):
    np.testing.assert_array_equal(read(size(b'[1, null, "Infinity"]')), [1.0, np.nan, np.inf])
    np.testing.assert_array_equal(read(size(b"[null]")), [np.nan])
    assert read(size(b'["NaN", "Infinity"]')).tolist() == [b"NaN", b"Infinity"]


@given(hnp.arrays(st.sampled_from([np.float16, np.float32, np.float64]), SHAPES))
def test_null_is_written_where_json_has_no_number_and_reads_back_as_nan(array):
    text = encode_json(array, null=True)
    json.loads(text, parse_constant=pytest.fail)
    finite = np.where(np.isfinite(array), array, np.nan)
    np.testing.assert_array_equal(read(text, datatype_of(array)).ravel(), finite.ravel())


def test_the_integer_one_may_be_written_as_a_float():
    assert read(b"[1.0, 2]", "INT32").tolist() == [1, 2]
    assert read(b"[0, 1]", "BOOL").tolist() == [False, True]


@pytest.mark.parametrize("depth", [33, 900, 100_000])
def test_nesting_as_deep_as_anyone_likes_is_refused(depth):
    for inner in (b"", b"1", b"NaN"):
        with pytest.raises(InvalidInput):
            read(b"[" * depth + inner + b"]" * depth)


def test_a_lone_surrogate_is_refused_beside_nan_too():
    with pytest.raises(InvalidInput):
        decode_json(b'[NaN, "\\ud800"]')


def test_a_document_that_is_still_held_does_not_block_the_parser():
    held = tensor_json._parser.parse(padded(b"[1]"))
    assert read(padded(b"[2]")).tolist() == [2]
    assert held[0] == 1


def test_an_object_of_many_keys_is_read_in_good_time():
    document = orjson.dumps({str(key): [1] for key in range(50_000)})
    assert len(decode_json(document)) == 50_000


def test_of_equal_keys_the_last_counts_whatever_the_size():
    document = b'{"a": [1], "a": [2.5]}'
    assert decode_json(document) == decode_json(padded(document)) == {"a": [2.5]}


def test_bytes_are_text_or_else_base64():
    array = np.array([b"z\xc3\xbcrich", b"\xff\x00"], object)
    assert json.loads(encode_json(array)) == [
        {"b64": base64.b64encode("zürich".encode()).decode()},
        {"b64": "/wA="},
    ]
    assert json.loads(encode_json(array[:1])) == ["zürich"]
    assert json.loads(encode_json(array.reshape(2, 1))) == [[each] for each in json.loads(encode_json(array))]
    assert json.loads(encode_json(np.array(b"\xff", object))) == {"b64": "/w=="}
    assert read(b'["a\\u0000"]', "BYTES").tolist() == [b"a\0"]


def test_the_rows_of_one_output_are_all_base64_or_none_is():
    array = np.array([[b"a"], [b"\xff"]], object)
    assert encode_each_row(array, 2) == [b'[{"b64":"YQ=="}]', b'[{"b64":"/w=="}]']
    assert encode_each_row(array, 1) == [b'[{"b64":"YQ=="}]']
    assert encode_each_row(array[:1], 1) == [b'["a"]']
    assert encode_each_row(np.float32([[1, np.nan]]), 1, null=True) == [b"[1.0,null]"]


def test_arrays_of_any_order_are_written_in_row_major_order():
    assert encode_json(np.asfortranarray([[1, 2], [3, 4]])) == b"[[1,2],[3,4]]"
    assert encode_json(np.arange(3, dtype=">i4")) == b"[0,1,2]"
    assert datatype_of(read(b"[1]", "FP16")) == "FP16"


@pytest.mark.parametrize("padding", [0, LARGE_DOCUMENT])
def test_a_key_may_hold_a_nul(padding):
    document = b'{"a": 1, "a\\u0000b": [2, 3]}' + b" " * padding
    assert decode_json(document) == {"a": 1, "a\0b": [2, 3]}


@pytest.mark.parametrize("code", "?bBhHiIlLqQefd")
@pytest.mark.parametrize("value", [0, 1, 0.1, 2**62 + 1, float("nan"), float("-inf")])
def test_a_number_by_itself_is_written_as_in_a_list(code, value):
    with np.errstate(all="ignore"):
        for dtype in (np.dtype(code), np.dtype(code).newbyteorder(">")):
            array = np.array([value]).astype(dtype)
            assert encode_json(array.reshape(())) == encode_json(array)[1:-1]
