"""The lines of a start where there is no terminal."""

from mooring.cli.start_view import StepLines
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
