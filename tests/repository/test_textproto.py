"""The text format of protobuf, as model configurations use it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.repository.textproto import parse_textproto


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("# only a comment", {}),
        ('name: "m"', {"name": ["m"]}),
        ("name: 'it''s'", {"name": ["its"]}),
        (r'name: "a\"b\\c\n"', {"name": ['a"b\\c\n']}),
        ('a: "x"\n "y"', {"a": ["xy"]}),
        (
            "a: 1 b: -2, c: 0x10; d: 1.5 e: 2e3 f: .5f",
            {"a": [1], "b": [-2], "c": [16], "d": [1.5], "e": [2e3], "f": [0.5]},
        ),
        ("a: true b: false c: FP32", {"a": [True], "b": [False], "c": ["FP32"]}),
        ("a: 1 a: 2", {"a": [1, 2]}),
        ("a: [1, 2, 3]", {"a": [1, 2, 3]}),
        ("a: []", {"a": []}),
        ("a { b: 1 }", {"a": [{"b": [1]}]}),
        ("a: { b: 1 }", {"a": [{"b": [1]}]}),
        ("a < b: 1 >", {"a": [{"b": [1]}]}),
        ("a [ { b: 1 }, { b: 2 } ]", {"a": [{"b": [1]}, {"b": [2]}]}),
        ("a { b { c { } } }", {"a": [{"b": [{"c": [{}]}]}]}),
    ],
)
def test_what_is_written_is_what_is_read(text, fields):
    assert parse_textproto(text) == fields


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('\n\nname "m"', "line 3: expected ':'"),
        ("a {", "expected '}'"),
        ("a { b: 1 >", "expected the name"),
        ("}", "expected the name"),
        ("a: }", "expected a value"),
        ("a:", "expected a value"),
        ("a: [1 2]", "expected ',' or ']'"),
        ("a: [1,", "expected a value"),
        ('a: "open', "unexpected"),
        (r'a: "\q"', "unknown escape"),
        (r'a: "\400"', "unknown escape"),
        (r'a: "\377"', "a string is not UTF-8"),
        ("a: $", "unexpected '\\$'"),
        ("5: 1", "expected the name"),
        ("a {" * 100, "too deep"),
    ],
)
def test_what_cannot_be_read_is_placed(text, match):
    with pytest.raises(ValueError, match=match):
        parse_textproto(text)


@given(st.text(alphabet="ab{}[]<>:,;\"'\\ \n#1.5-x", max_size=40))
def test_any_text_is_fields_or_a_fault(text):
    try:
        assert isinstance(parse_textproto(text), dict)
    except ValueError as error:
        assert str(error).startswith("line ")  # noqa: PT017 - either outcome is right


def test_what_is_not_ascii_may_be_written_as_bytes():
    assert parse_textproto(r"""a: "\303\251 \x41\0" '\303' "\251" b: "é\?\a" """) == {
        "a": ["é A\0é"],
        "b": ["é?\a"],
    }
