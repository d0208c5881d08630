"""The table of a start on a terminal: what is in it, and that neither it nor the log tears the other."""

import logging
import os
import pty

import pytest
from rich.cells import cell_len
from terminal_kit import shown_lines

from mooring.cli.live_table import LiveTable, format_rows
from mooring.observability.log_output.console import Console
from mooring.observability.logs import Event
from mooring.server.start_progress import ModelProgress, Step

READY = ModelProgress("good", "1.0", Step.READY, 2.13)
LOADING = ModelProgress("slow", "1", Step.LOADING, 61.0)
FAILED = ModelProgress(
    "bad", "1", Step.FAILED, reason="needs torch, which is not installed: pip install torch"
)
QUEUED = ModelProgress("last", "", Step.QUEUED)


def test_failed_and_loading_models_are_first_and_a_reason_is_below_its_model():
    assert format_rows([READY, QUEUED, LOADING, FAILED], 70, 24) == [
        "  bad 1     failed",
        "      needs torch, which is not installed: pip install torch",
        "  slow 1    loading  61.0 s",
        "  good 1.0  ready    2.1 s",
        "  last      queued",
    ]


def test_many_models_are_counted():
    models = [LOADING, *(ModelProgress(f"m{number}", "1", Step.QUEUED) for number in range(199))]
    rows = format_rows([*models, READY], 80, 50)
    assert len(rows) == 12
    assert rows[0].startswith("  slow 1")
    assert rows[-1] == "  and 190 more queued"
    assert len(format_rows(models, 80, 8)) == 4


@pytest.mark.parametrize("width", [1, 10, 20, 33])
def test_no_line_is_as_wide_as_the_terminal(width):
    wide = ModelProgress("模型" * 30, "1", Step.LOADING, 1.0)
    assert all(cell_len(row) < max(width, 2) for row in format_rows([wide, FAILED], width, 24))


def test_what_would_steer_the_terminal_is_not_shown():
    odd = ModelProgress("a\x1b[2J", "1", Step.FAILED, reason="b\x1b[2J\nc")
    assert "\x1b" not in "".join(format_rows([odd], 80, 24))


def test_all_of_a_reason_stays_at_the_end():
    failed = ModelProgress("bad", "1", Step.FAILED, reason="word " * 60)
    assert len(format_rows([failed], 40, 24)) == 4
    assert len(format_rows([failed], 40, 24, last=True)) > 8


class Terminal:
    """A pseudo terminal that nobody reads but ``shown``."""

    def __init__(self):
        self.ours, theirs = pty.openpty()
        os.set_blocking(self.ours, False)
        self.stream = os.fdopen(theirs, "w")

    def shown(self):
        data = b""
        try:
            while piece := os.read(self.ours, 65536):
                data += piece
        except BlockingIOError:
            pass
        return shown_lines(data)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    yield terminal
    terminal.stream.close()
    os.close(terminal.ours)


@pytest.fixture
def log(terminal):
    """The handler of the log, on the same terminal, and a function that logs an event there."""
    console = Console(terminal.stream)
    console.setFormatter(logging.Formatter("%(message)s"))

    def write(event, detail="", **facts):
        console.handle(
            logging.LogRecord("mooring", logging.INFO, "", 0, Event(event, facts, detail), None, None)
        )

    yield console, write
    console.close()


def test_a_frame_replaces_the_one_before(terminal):
    table = LiveTable(terminal.stream, None)
    table.draw([QUEUED, LOADING])
    table.draw([READY])
    table.finish([READY])
    assert terminal.shown() == ["  good 1.0  ready    2.1 s", ""]


def test_lines_of_the_log_stand_above_the_table_and_say_nothing_twice(terminal, log):
    console, write = log
    table = LiveTable(terminal.stream, console)
    table.draw([LOADING])
    write("listening", port=1)
    write("model ready", model="good")
    write("worker failed", model="bad", reason="no weights")
    write("worker failed", "Traceback\nValueError", model="odd", reason="no weights")
    table.draw([LOADING, READY])
    table.finish([FAILED, READY])
    write("model ready", model="good")
    assert terminal.shown() == [
        "listening port=1",
        "worker failed model=odd",
        "Traceback",
        "ValueError",
        "  bad 1     failed",
        "      needs torch, which is not installed: pip install torch",
        "  good 1.0  ready    2.1 s",
        "model ready model=good",
        "",
    ]


def test_colors_are_left_out_where_the_user_wants_none(terminal, monkeypatch):
    LiveTable(terminal.stream, None).finish([READY])
    assert b"\x1b[32m" not in os.read(terminal.ours, 1000)
    monkeypatch.delenv("NO_COLOR")
    LiveTable(terminal.stream, None).finish([READY])
    assert b"\x1b[32mready\x1b[0m" in os.read(terminal.ours, 1000)


def test_a_terminal_that_takes_nothing_holds_nobody_up(terminal, log):
    console, _ = log
    table = LiveTable(terminal.stream, console)
    for number in range(5000):  # nobody reads
        table.draw([ModelProgress("m", str(number), Step.LOADING, float(number))])
    table.finish([READY])
