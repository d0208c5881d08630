"""Header lines and status lines: nothing that a model sets can start a line of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.web import http1_format
from mooring.web.http1 import header_lines


def test_header_lines_keep_spelling_and_order():
    assert header_lines([("X-b", "1"), ("a", ""), ("A", "\u00fc")]) == b"X-b: 1\r\na: \r\nA: \xfc\r\n"
    assert header_lines([]) == b""


def test_a_value_beyond_latin_1_is_utf_8():
    assert header_lines([("a", "\u4e00")]) == b"a: \xe4\xb8\x80\r\n"


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "\u00fc", "a\n"])
def test_a_name_that_is_no_token_is_refused(name):
    with pytest.raises(ValueError, match="is not the name of a header"):
        header_lines([(name, "x")])


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "a\0", "\x7f"])
def test_a_value_with_a_control_character_is_refused(value):
    with pytest.raises(ValueError, match="control character"):
        header_lines([("a", value)])


@given(status=st.integers(200, 999), reason=st.text())
def test_a_status_line_is_one_line(status, reason):
    for line in (http1_format.status_line(status, reason), http1_format.STATUS_LINES[status]):
        assert line.startswith(b"HTTP/1.1 %d " % status)
        assert line.splitlines(keepends=True)[0].rstrip(b"\r\n") + b"\r\n" == line


def test_the_phrases_of_torchserve_are_kept_in_every_python():
    assert http1_format.STATUS_LINES[413] == b"HTTP/1.1 413 Request Entity Too Large\r\n"
    assert http1_format.STATUS_LINES[507] == b"HTTP/1.1 507 Insufficient Storage\r\n"
    assert http1_format.STATUS_LINES[799] == b"HTTP/1.1 799 Unknown Status (799)\r\n"


def test_what_is_remembered_of_spellings_and_lengths_is_bounded():
    spellings = http1_format.Spellings()
    for number in range(10_000):
        assert spellings[b"X-%d" % number] == b"x-%d" % number
    assert spellings[b"Y" * 100] == b"y" * 100
    assert len(spellings) <= 4_096
    ends = http1_format.HeadEnds(b"close")
    for number in range(10_000):
        assert ends[number] == b"content-length: %d\r\nconnection: close\r\n\r\n" % number
    assert len(ends) <= 4_096
