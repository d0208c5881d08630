"""The lines of a start where there is no terminal."""

import sys

import pytest

from mooring.cli import start_view
from mooring.cli.start_view import StartView, StepLines
from mooring.config.settings import Config
from mooring.server.start_progress import ModelProgress, Step


def test_each_step_is_a_line_and_told_once():
    told = []
    lines = StepLines(told.append)
    lines.add([ModelProgress("a", "1", Step.QUEUED), ModelProgress("b", "2", Step.LOADING, 0.1)])
    lines.add([ModelProgress("a", "1", Step.LOADING, 0.1), ModelProgress("b", "2", Step.LOADING, 0.2)])
    assert told == ["loading b 2 ...", "loading a 1 ..."]
    told.clear()
    lines.add([ModelProgress("a", "1", Step.READY, 2.06), ModelProgress("b", "2", Step.FAILED, reason="no")])
    assert told == ["a 1 is ready after 2.1 s", "b 2 failed: no"]


def test_a_model_that_was_quick_or_is_missing_is_told_all_the_same():
    told = []
    StepLines(told.append).add(
        [ModelProgress("a", "1", Step.READY, 0.1), ModelProgress("gone", "", Step.FAILED, reason="no")]
    )
    assert told == ["loading a 1 ...", "a 1 is ready after 0.1 s", "gone failed: no"]


def test_a_start_goes_on_where_standard_output_cannot_be_written(monkeypatch, caplog):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        view = StartView("It is up.")
        view.begin(Config())
        view.show([ModelProgress("a", "1", Step.LOADING, 0.1)])
        view.finish([ModelProgress("a", "1", Step.READY, 0.1)])
    assert [record.getMessage().partition(" reason")[0] for record in caplog.records] == ["start not shown"]


@pytest.mark.parametrize("level", ["info", "error"])
def test_where_the_log_goes_to_the_same_place_its_lines_are_enough(monkeypatch, capsys, level):
    monkeypatch.setattr(start_view, "_same_file", lambda *_: True)
    monkeypatch.setattr(start_view, "console_of_log", object)
    view = StartView("It is up.")
    view.begin(Config(log_level=level))
    view.show([ModelProgress("a", "1", Step.LOADING, 0.1)])
    assert ("loading a 1 ..." in capsys.readouterr().out) == (level == "error")


def test_a_reason_that_the_end_of_the_start_gives_is_not_announced():
    told = []
    StepLines(told.append).add([ModelProgress("a", "1", Step.FAILED)])
    assert told == ["a 1 failed"]
