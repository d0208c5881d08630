"""``mooring archive`` takes torch-model-archiver's flags."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mooring.cli.archive import archive


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


def test_every_flag_of_the_real_archiver_is_one_here(mooring):
    program = "from model_archiver.arg_parser import ArgParser as p; p.export_model_args_parser()"
    told = subprocess.run(
        [sys.executable, "-c", program, "-h"], capture_output=True, text=True, check=True
    ).stdout
    usage = told.partition("options:")[0]
    theirs = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", usage.removeprefix("usage: torch-model-archiver")))
    ours = {name for option in archive.params for name in option.opts} | {"-h"}
    assert {"--model-name", "-v", "-f"} <= theirs
    assert theirs <= ours


def test_the_flags_of_the_real_workflow_archiver_make_a_workflow(mooring, handler):
    Path("wf.yaml").write_text("dag: {handle: []}\n")
    Path("out").mkdir()
    command = (
        "archive",
        "--workflow",
        "--workflow-name",
        "wf",
        "--spec-file",
        "wf.yaml",
        "--handler",
        handler,
    )
    more = ("--extra-files", "names.json", "--export-path", "out")
    done = mooring(*command, *more)
    assert (done.exit_code, done.stdout) == (0, "made out/wf.war\n")
    with zipfile.ZipFile("out/wf.war") as made:
        assert set(made.namelist()) == {"wf.yaml", "handler.py", "names.json", "WAR-INF/MANIFEST.json"}
    assert mooring(*command, *more).exit_code == 1
    assert mooring(*command, *more, "-f").exit_code == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workflow", "--workflow-name", "wf"], "Missing option '--spec-file'"),
        (["--workflow", "--spec-file", "wf.yaml"], "Missing option '--workflow-name'"),
        (["--workflow", "--workflow-name", "w", "--spec-file", "s", "-v", "1"], "--version is not for a workflow"),
        (["--workflow", "--workflow-name", "w", "--spec-file", "s", "--runtime", "LSP"], "--runtime is not for a"),
        (["--model-name", "m", "-v", "1"], "Missing option '--handler'"),
        (["--model-name", "m", "-v", "1", "--handler", "h.py", "--spec-file", "s"], "give --workflow"),
    ],
)  # fmt: skip
def test_flags_of_the_other_kind_and_missing_ones_are_mistakes(mooring, flags, said):
    done = mooring("archive", *flags)
    assert done.exit_code == 2
    assert said in done.stderr
