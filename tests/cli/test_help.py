"""What the commands say of themselves: every option in its group, whole lists of commands, and the name that was meant."""

import re

import pytest

from mooring.cli.commands import _COMMANDS
from mooring.config.setting_groups import GROUPS, USUAL, word_of
from mooring.config.settings import SETTINGS, is_secret, is_switch


def sections(text):
    """Heading -> the lines below it."""
    parts = re.split(r"^(\S[^\n]*):\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def flags(text):
    lines = [line for line in text.splitlines() if line.startswith("  -")]
    return re.findall(r"(?<!\S)--(?!no-)[a-z][a-z-]*", "\n".join(lines))


def test_the_usual_options_come_first_and_the_others_in_the_groups_of_the_guide(mooring):
    shown = sections(mooring("serve", "--help").output)
    groups = [name for name in shown if not name.startswith("Usage")]
    assert groups == [*GROUPS, "Other"]
    assert flags(shown[USUAL])[:2] == ["--host", "--port"]
    assert {
        "--workers",
        "--device",
        "--reload",
        "--keep-going",
        "--show-errors",
        "--access-log",
        "--log-format",
        "--config",
    } <= {*flags(shown[USUAL])}
    assert flags(shown["Other"]) == ["--help"]
    for group, names in GROUPS.items():
        expected = [
            f"--{name.replace('_', '-')}" for name in names if name != "targets" and not is_secret(name)
        ]
        assert [flag for flag in flags(shown[group]) if flag in expected] == expected


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_written_in_the_place_of_a_value_says_what_is_wanted(name):
    word = word_of(name)
    assert word != "VALUE"
    numbers = ("seconds", "minutes", "bytes")
    wanted = next((unit for unit in numbers if SETTINGS[name].startswith(unit)), None)
    assert wanted is None or word == wanted.upper()


def test_switches_and_choices_are_said_once(mooring):
    shown = mooring("serve", "--help", COLUMNS="110").output
    assert "true or false" not in shown
    assert "VALUE" not in shown
    assert re.search(r"--log-level debug\|info\|warning\|error\s+how much is logged", shown)
    assert re.search(r"--drain-timeout SECONDS .*\n?.*\[30\]", shown)
    assert not is_switch("port")


def test_the_list_of_commands_is_whole(mooring):
    shown = mooring("--help").output
    assert "..." not in shown.partition("Commands:")[2]
    for command in _COMMANDS:
        assert re.search(rf"^  {command} +\S", shown, re.MULTILINE), command


def test_every_kind_of_target_is_named(mooring):
    shown = mooring("serve", "--help").output
    assert all(
        kind in shown
        for kind in ("app.py:double", "app:double", ".onnx", ".pt2", "digits.mar", "FOLDER", "https://")
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sevre",), "no such command 'sevre'; did you mean serve?"),
        (("model", "list"), "no such command 'model'; did you mean models?"),
        (("models", "lst"), "no such command 'lst'; did you mean list?"),
        (("models", "xyz"), "no such command 'xyz'; there are describe, list, load, unload"),
        (("help", "sevre"), "no such command 'sevre'; did you mean serve?"),
    ],
)
def test_a_misspelt_command_is_told_the_nearest(mooring, words, said):
    done = mooring(*words)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == f"Error: {said}"


def test_help_and_version_are_commands_too(mooring):
    assert mooring("help").output == mooring("--help").output
    assert mooring("help", "serve").output == mooring("serve", "--help").output
    assert mooring("help", "models", "load").output == mooring("models", "load", "--help").output
    assert mooring("version").output == mooring("--version").output
