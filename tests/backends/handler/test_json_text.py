"""What orjson writes and reads here is what Python's json would have."""

import enum
import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mooring.backends.handler import json_text
from mooring.core.buffers import Buffer

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.integers(), inner)
    ),
    max_leaves=20,
)


@given(values)
@example(1e16)
@example([1e-5, 0.00012, 123456789012345680.0, 1e22, -1e-7, 10.00001])
@example({"1e5": "0.00001", 'a"1e-5': 1e-5, "\\": 2e-6})
@example("\x7f\u2028\U0001f600é")
@example({"null": [None, math.nan]})
@example(2**64)
def test_an_answer_has_the_bytes_of_json_dumps_with_indent_two(value):
    assert json_text.dump_indented(value) == json.dumps(value, indent=2).encode()


@given(st.lists(st.floats()))
def test_every_float_is_written_as_python_writes_it(numbers):
    assert json_text.dump_indented(numbers) == json.dumps(numbers, indent=2).encode()


@given(values)
def test_compact_json_reads_back_as_what_json_would_have_kept(value):
    expected = json.loads(json.dumps(value))
    found = json.loads(json_text.dump_compact(value))
    assert json.dumps(found) == json.dumps(expected)


@given(values)
@example(-0.0)
@example([12345678901234567890, -9999999999999999999, 10**30])
def test_a_body_reads_as_json_loads_reads_it(value):
    text = json.dumps(value)
    assert repr(json_text.load_json(text.encode())) == repr(json.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        b"-0",
        b'"\\ud800"',
        b"\xef\xbb\xbf[1]",
        "[1]".encode("utf-16"),
        b"NaN",
        b"1e400",
        b"[-Infinity]",
        b"-0.0",
    ],
)
def test_what_orjson_refuses_or_reads_otherwise_is_read_by_json(text):
    assert repr(json_text.load_json(text)) == repr(json.loads(text))


@given(st.binary())
def test_bytes_are_json_exactly_when_json_says_so(text):
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            json_text.load_json(text)
    else:
        assert repr(json_text.load_json(text)) == repr(expected)


def test_a_borrowed_buffer_is_read_like_bytes():
    assert json_text.load_json(Buffer(memoryview(b'{"a": [1]}'))) == {"a": [1]}


def test_nesting_without_end_is_no_json_rather_than_a_crash():
    with pytest.raises(ValueError):
        json_text.load_json(b"[" * 100_000)


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", [{"a": {1}}], {(1, 2): 3}])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(TypeError):
        json_text.dump_indented(value)


def test_a_list_that_holds_itself_is_refused():
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError):
        json_text.dump_indented(endless)


class Color(enum.Enum):
    RED = "red"


def test_an_enum_is_its_value_whatever_stands_beside_it():
    assert json.loads(json_text.dump_indented([Color.RED])) == ["red"]
    assert json.loads(json_text.dump_indented([Color.RED, None])) == ["red", None]
