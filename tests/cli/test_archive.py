"""``mooring archive`` takes torch-model-archiver's flags."""

import json
import zipfile
from pathlib import Path

import pytest


@pytest.fixture
def handler(tmp_path):
    (tmp_path / "handler.py").write_text("def handle(data, context):\n    return data\n")
    (tmp_path / "names.json").write_text("{}")
    return "handler.py"


def test_the_flags_make_an_archive(mooring, handler):
    done = mooring(
        "archive", "--model-name", "m", "-v", "2.0", "--handler", handler, "--extra-files", "names.json",
        "--runtime", "python3", "--archive-format", "zip-store",
    )  # fmt: skip
    assert (done.exit_code, done.stdout) == (0, "made m.mar\n")
    with zipfile.ZipFile("m.mar") as made:
        assert {"handler.py", "names.json"} < set(made.namelist())
        model = json.loads(made.read("MAR-INF/MANIFEST.json"))["model"]
    assert (model["modelName"], model["modelVersion"], model["handler"]) == ("m", "2.0", "handler.py")


def test_an_archive_goes_where_it_is_sent_and_replaces_only_by_force(mooring, handler):
    Path("out").mkdir()
    command = ("archive", "--model-name", "m", "--version", "1", "--handler", handler, "--export-path", "out")
    assert mooring(*command).exit_code == 0
    again = mooring(*command)
    assert again.exit_code == 1
    assert again.stderr.startswith("Error: ")
    assert again.stderr.count("\n") == 1
    assert mooring(*command, "--force").exit_code == 0


def test_a_file_that_is_not_there_is_one_line_and_status_1(mooring):
    done = mooring("archive", "--model-name", "m", "--version", "1", "--handler", "nowhere.py")
    assert done.exit_code == 1
    assert "nowhere.py" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("left_out", ["--model-name", "--version", "--handler"])
def test_what_is_needed_is_asked_for(mooring, handler, left_out):
    flags = {"--model-name": "m", "--version": "1", "--handler": handler}
    del flags[left_out]
    done = mooring("archive", *(word for pair in flags.items() for word in pair))
    assert done.exit_code == 2
    assert left_out in done.stderr
