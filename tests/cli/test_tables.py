"""Rows as a person reads them, and as a script does."""

import sys

from mooring.cli.tables import align_columns, print_table

HEAD, ROWS = ["MODEL", "REASON"], [["digits", ""], ["a", "it says [bold]no[/bold]"]]


def test_columns_stand_under_each_other_and_nothing_trails():
    assert align_columns([HEAD, *ROWS]) == ["MODEL   REASON", "digits", "a       it says [bold]no[/bold]"]


def test_a_pipe_gets_plain_columns(capsys):
    print_table(HEAD, ROWS)
    assert capsys.readouterr().out == "MODEL   REASON\ndigits\na       it says [bold]no[/bold]\n"


def test_a_terminal_gets_a_table_whose_cells_are_text_and_no_markup(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(HEAD, ROWS)
    out = capsys.readouterr().out
    assert "\u2500" in out
    assert "it says [bold]no[/bold]" in out
