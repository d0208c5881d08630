"""One event, one line; nothing from outside can pass for a line of ours."""

import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logging_kit import logging_restored

from mooring.config.settings import Config
from mooring.observability.log_output.setup import setup_logging
from mooring.observability.logs import Throttle, format_fact, get_logger

HEAD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (INFO |WARN |ERROR|DEBUG) ")
log = get_logger("mooring.tests")


@pytest.fixture(autouse=True)
def _as_before():
    with logging_restored():
        yield


def test_a_line_is_time_level_event_and_facts(capsys):
    setup_logging(Config(log_level="info"))
    log.info("model ready", model="digits", version="1.0", seconds=3.2)
    line = capsys.readouterr().err
    assert HEAD.match(line)
    assert line.endswith(" INFO  model ready model=digits version=1.0 seconds=3.2\n")


def test_no_text_of_a_model_s_makes_a_line_longer_than_can_be_read(capsys):
    setup_logging(Config(log_level="info"))
    log.error("prediction failed", reason="r" * 10_000_000, detail="d" * 10_000_000)
    out = capsys.readouterr().err
    assert len(out) < 200_000
    assert "characters left out" in out


def test_a_throttle_counts_bytes_as_well_as_lines():
    throttle = Throttle(100, max_bytes=1000)
    assert [throttle.allow_line(5.0, 400) for _ in range(4)] == [True, True, False, False]
    assert throttle.allow_line(5.5, 100), "what has room still passes"
    assert (throttle.left_out, throttle.bytes_left_out) == (2, 800)
    assert (throttle.take_left_out(), throttle.take_left_out()) == ({"left_out": 2}, {})
    assert throttle.allow_line(6.0, 1000)


def test_a_fact_cannot_forge_a_line(capsys):
    setup_logging(Config(log_level="info"))
    log.info("asked", model='x y="\n2026-11-21 10:00:00.000 ERROR forged\x1b[31m')
    out = capsys.readouterr().err
    assert out.count("\n") == 1
    assert "\x1b" not in out


def test_detail_and_tracebacks_follow_indented(capsys):
    setup_logging(Config(log_level="info"))
    log.error("worker died", detail="Traceback\n2026 ERROR forged\r\x1b[2J")
    try:
        raise ValueError("line\n2026 ERROR forged")
    except ValueError as error:
        kept = error
        log.exception("request failed", model="m")
    log.error("again", exc_info=kept)
    first = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("    ")]
    assert len(first) == 3
    assert all(HEAD.match(line) for line in first)


def test_a_level_that_is_off_formats_nothing(capsys):
    class Costly:
        def __str__(self):
            raise AssertionError

    setup_logging(Config(log_level="info"))
    log.debug("batch left", rows=Costly())
    setup_logging(Config(log_level="error"))
    log.warning("slow", rows=Costly())
    assert capsys.readouterr().err == ""


def test_setting_up_twice_writes_lines_once(capsys):
    setup_logging(Config(log_level="info"))
    setup_logging(Config(log_level="info"))
    log.info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_other_libraries_are_heard_from_warnings_up_in_the_same_form(capsys):
    setup_logging(Config(log_level="debug"))
    logging.getLogger("elsewhere").info("chatter")
    logging.getLogger("elsewhere").warning("two\nlines")
    assert capsys.readouterr().err.endswith(" WARN  two\n    lines\n")


@given(st.text())
def test_a_value_is_one_printable_word_or_quoted(value):
    text = format_fact(value)
    assert text.isprintable()
    assert text.startswith('"') or (text == value and " " not in text)
