"""log4j's patterns: what their conversions write."""

import logging
import re
import time

import pytest

from mooring.observability.log_output.patterns import DateFormat, PatternLayout, UnknownPattern
from mooring.observability.logs import Event


@pytest.fixture(autouse=True)
def _utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def record(
    message: object = "hello", level: int = logging.INFO, name: str = "org.pytorch.serve"
) -> logging.LogRecord:
    made = logging.LogRecord(name, level, "/a/b.py", 7, message, None, None, "run")
    made.created = 1_700_000_000.123456
    return made


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("%d{ISO8601} [%-5p] %t %c - %m%n", "2023-11-14T22:13:20,123 [INFO ] main org.pytorch.serve - hello"),
        ("%d - %msg%n", "2023-11-14 22:13:20,123 - hello"),
        ("%date{yyyy/MM/dd HH:mm:ss.SSSXXX} %level", "2023/11/14 22:13:20.123Z INFO"),
        ("%d{dd MMM yyyy 'at' h:mm a}{UTC}", "14 Nov 2023 at 10:13 PM"),
        ("%d{UNIX_MILLIS}%d{UNIX}", "17000000001231700000000"),
        ("%6.3p|%-6p|%.3c|%.-3c", "   NFO|INFO  |rve|org"),
        ("%c{1} %c{2} %c{1.} %logger", "serve pytorch.serve o.p.serve org.pytorch.serve"),
        ("%X{model}|%X{none}|%X", "m||{model=m, request_id=a,b}"),
        ("%F:%L %M %%", "b.py:7 run %"),
        ("%highlight{%p %m}{INFO=blue} %style{x}{red}", "INFO hello x"),
        ('%enc{%m "q"}{JSON}', 'hello \\"q\\"'),
        ("%mtext %messages", "hellotext hellos"),
        ("plain", "plain"),
    ],
)  # fmt: skip
def test_conversions(pattern, line):
    layout = PatternLayout(pattern)
    made = record(Event("hello", {"model": "m", "request_id": ["a", "b"]}, line="hello"))
    assert layout.format(made) == line
    assert layout.unknown == []


@pytest.mark.parametrize(("level", "name"), [(30, "WARN"), (50, "FATAL"), (40, "ERROR"), (10, "DEBUG")])
def test_levels_have_log4js_names(level, name):
    assert PatternLayout("%p").format(record(level=level)) == name


@pytest.mark.parametrize(
    "pattern", ["%replace{%m}{a}{b}", "%notEmpty{%X{a}}", "%d{QQQ}", "%c{x.y}", "%enc{%m}{XML}"]
)
def test_what_is_not_known_is_kept_as_text_and_named(pattern):
    layout = PatternLayout(f"{pattern} %m")
    assert layout.format(record()).endswith(" hello")
    assert len(layout.unknown) == 1


def test_a_traceback_follows_its_line_unless_the_pattern_leaves_it_out():
    said = Event("failed", {}, "Traceback\nKeyError: 'x'")
    assert PatternLayout("%m").format(record(said)) == "failed\n    Traceback\n    KeyError: 'x'"
    assert PatternLayout("%m%ex{none}").format(record(said)) == "failed"
    assert PatternLayout("%m: %ex").format(record(said)) == "failed: Traceback\n    KeyError: 'x'"


def test_no_text_of_a_models_can_pass_for_a_line():
    forged = Event("model says", {}, text="a\n2023-11-14T22:13:20,123 [ERROR] forged\x1b[2J")
    first, second = PatternLayout("%m").format(record(forged)).split("\n")
    assert first == "a"
    assert second.startswith("    ")
    assert "\x1b" not in second


def test_dates_are_cached_by_the_second_and_right():
    date = DateFormat("ss,SSS")
    assert [date.format(moment) for moment in (1.5, 1.25, 2.0, 1.0)] == [
        "01,500",
        "01,250",
        "02,000",
        "01,000",
    ]


def test_a_zone_that_is_not_known_is_refused():
    with pytest.raises(UnknownPattern, match=re.escape("Moon/Crater")):
        DateFormat("HH", "Moon/Crater")


def test_a_zone_counts_with_its_summer_time():
    date = DateFormat("yyyy-MM-dd HH:mm XXX", "Europe/Berlin")
    assert [date.format(moment) for moment in (1_700_000_000, 1_720_000_000)] == [
        "2023-11-14 23:13 +01:00",
        "2024-07-03 11:46 +02:00",
    ]
