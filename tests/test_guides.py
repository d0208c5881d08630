"""The tables of what the old servers did: each row of a guide is shown by the test that is named here."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"

SHOWN = {
    "guide-torchserve.md": {
        "`/ping` answers `{\"status\": \"Healthy\"}`": "e2e/test_torchserve_habits.py::test_ping_says_no_more_than_torchserve_where_it_is_asked_to",
    },
}  # fmt: skip


def rows_of(guide):
    """The first cells of the table under "Habits"."""
    text = (DOCS / guide).read_text().split("\n## Habits\n")[1].split("\n## ")[0]
    cells = [re.split(r"(?<!\\)\|", line)[1].strip() for line in text.splitlines() if line.startswith("|")]
    return cells[2:]


@pytest.mark.parametrize("guide", SHOWN)
def test_each_habit_is_shown_by_a_test(guide):
    assert sorted(rows_of(guide)) == sorted(SHOWN[guide])
    for row, test in SHOWN[guide].items():
        file, _, name = test.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE), (row, test)
