"""What Java makes of a .properties file, we make of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.config.properties import format_properties, parse_properties


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=b", {"a": "b"}),
        ("a = b ", {"a": "b "}),
        ("a:b", {"a": "b"}),
        ("a b", {"a": "b"}),
        ("a\t:\tb = c", {"a": "b = c"}),
        ("a", {"a": ""}),
        ("a=", {"a": ""}),
        ("=b", {"": "b"}),
        ("  # c\n! d\n\na=#x", {"a": "#x"}),
        ("a=b\\\n   c", {"a": "bc"}),
        ("a=b\\\r\n   c\rd=e", {"a": "bc", "d": "e"}),
        ("a=b\\\\\nc=d", {"a": "b\\", "c": "d"}),
        ("a=b\\\n# not a comment", {"a": "b# not a comment"}),
        ("# a comment \\\na=b", {"a": "b"}),
        ("a\\ b\\=c=d", {"a b=c": "d"}),
        (r"a=\t\n\u00e9\q", {"a": "\t\n\u00e9q"}),
        (r"path=C\:\\models", {"path": "C:\\models"}),
        ("a=1\na=2", {"a": "2"}),
        ("a=b\\", {"a": "b"}),
        ("a=x\u2028y\x0bz", {"a": "x\u2028y\x0bz"}),
    ],
)
def test_a_line_means_what_java_says_it_means(text, found):
    assert parse_properties(text) == found


def test_models_may_span_lines():
    text = 'models={\\\n  "m": {\\\n    "1.0": {"batchSize": 4}\\\n  }\\\n}\nnext=1'
    assert parse_properties(text) == {"models": '{"m": {"1.0": {"batchSize": 4}}}', "next": "1"}


def test_variables_come_from_the_environment_that_is_passed_in():
    text = "store=$$ROOT$$/m/$$ROOT$$\nother=$$NOBODY$$ $ROOT"
    assert parse_properties(text, {"ROOT": "/r"}) == {"store": "/r/m//r", "other": "$$NOBODY$$ $ROOT"}


def test_an_expanded_variable_is_not_unescaped_again():
    assert parse_properties("a=$$V$$", {"V": r"c:\temp"}) == {"a": r"c:\temp"}


@given(st.text())
def test_no_text_is_too_strange_to_read(text):
    assert isinstance(parse_properties(text), dict)


# Any character but the halves of a pair, which no text has.
ANY = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(ANY.filter(bool), ANY))
def test_what_is_written_reads_the_same(values):
    text = format_properties(values)
    assert text.isascii()
    assert parse_properties(text) == values


def test_bytes_of_another_encoding_survive():
    values = {"model_store": b"/f\xfcr".decode("utf-8", "surrogateescape")}
    assert parse_properties(format_properties(values)) == values
