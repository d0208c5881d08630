"""``mooring torchserve --install-aliases``: TorchServe's commands under their own names, and nobody else's replaced."""

import os
import subprocess
from pathlib import Path

NAMES = ["torch-model-archiver", "torch-workflow-archiver", "torchserve"]


def run(*command, **environ):
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | environ
    )


def test_each_alias_runs_the_command_of_that_name_with_all_it_is_given(mooring):
    done = mooring("torchserve", "--install-aliases", "bin dir")
    assert done.exit_code == 0
    assert sorted(file.name for file in Path("bin dir").iterdir()) == NAMES
    assert run("bin dir/torchserve", "--version").stdout.startswith("TorchServe Version is 0.12.0 ")
    Path("handler.py").write_text("def handle(data, context):\n    return data\n")
    Path("logging.py").write_text("raise SystemExit('shadowed')")  # of the folder in which it is called
    Path("wf.yaml").write_text("dag: {pre: []}\n")
    Path("fn.py").write_text("def pre(data, context):\n    return data\n")
    made = run(
        "bin dir/torch-model-archiver", "--model-name", "m", "-v", "1.0", "--handler", "handler.py", "-f"
    )
    assert (made.returncode, Path("m.mar").exists()) == (0, True), made.stderr
    made = run(
        "bin dir/torch-workflow-archiver", "--workflow-name", "w", "--spec-file", "wf.yaml", "--handler", "fn.py",
        "--export-path", ".", "--force",
    )  # fmt: skip
    assert (made.returncode, Path("w.war").exists()) == (0, True), made.stderr


def test_a_program_of_that_name_is_replaced_only_by_force_and_an_alias_always(mooring):
    Path("bin").mkdir()
    Path("bin/torchserve").write_text("#!/bin/sh\necho the real one\n")
    done = mooring("torchserve", "--install-aliases", "bin")
    assert done.exit_code == 1
    assert "bin has torchserve already" in done.stderr
    assert [file.name for file in Path("bin").iterdir()] == ["torchserve"]
    assert "the real one" in Path("bin/torchserve").read_text()
    assert mooring("torchserve", "--install-aliases", "bin", "--force").exit_code == 0
    assert mooring("torchserve", "--install-aliases", "bin").exit_code == 0
    assert "the real one" not in Path("bin/torchserve").read_text()


def test_a_link_is_a_program_of_somebody_elses_and_is_not_written_through(mooring):
    Path("bin").mkdir()
    Path("other").write_text("precious")
    Path("bin/torchserve").symlink_to("../other")
    assert mooring("torchserve", "--install-aliases", "bin").exit_code == 1
    assert mooring("torchserve", "--install-aliases", "bin", "--force").exit_code == 0
    assert Path("other").read_text() == "precious"


def test_it_says_what_the_names_run_from_a_shell(mooring):
    for folder in ("mine", "theirs"):
        assert (
            "mine is not on PATH"
            in mooring("torchserve", "--install-aliases", "mine", PATH="/nowhere").stderr
        )
        Path(folder).mkdir(exist_ok=True)
    assert (
        mooring("torchserve", "--install-aliases", "mine", PATH=f"{Path('mine').absolute()}:/bin").stderr
        == ""
    )
    Path("theirs/torchserve").write_text("#!/bin/sh\n")
    Path("theirs/torchserve").chmod(0o755)
    path = f"{Path('theirs').absolute()}:{Path('mine').absolute()}"
    said = mooring("torchserve", "--install-aliases", "mine", PATH=path).stderr
    assert f"PATH has {Path('theirs/torchserve').absolute()} before it" in said


def test_a_folder_of_that_name_is_named(mooring):
    Path("bin/torchserve").mkdir(parents=True)
    done = mooring("torchserve", "--install-aliases", "bin", "--force")
    assert (done.exit_code, done.stderr) == (1, "Error: bin/torchserve: Is a directory\n")


def test_a_folder_that_cannot_be_made_is_one_line(mooring):
    Path("file").touch()
    done = mooring("torchserve", "--install-aliases", "file/bin")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
