"""``mooring init`` writes a project that can be served, and touches no folder that holds anything."""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from mooring.cli.init import KINDS, TEMPLATES, init, write_project
from mooring.core.missing_packages import install_command
from mooring.repository.targets import find_target

ROOT = Path(__file__).parents[2]


def run(*arguments):
    return CliRunner().invoke(init, arguments)


def test_every_template_is_offered():
    assert {each.name for each in TEMPLATES.iterdir() if each.is_dir()} == set(KINDS)


@pytest.mark.parametrize("template", KINDS)
def test_a_project_has_a_model_a_test_and_a_readme_with_its_commands(tmp_path, monkeypatch, template):
    monkeypatch.chdir(tmp_path)
    done = run("my project", "-t", template)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "my project"
    names = {each.name for each in folder.iterdir()}
    assert {"README.md", "requirements.txt", "test_app.py"} < names
    readme = (folder / "README.md").read_text()
    assert readme.startswith("# my project\n")
    assert "PROJECT" not in readme
    commands = re.findall(r"^\$ (.*)", readme, re.MULTILINE)
    assert commands[0] == "pip install -r requirements.txt"
    assert any(each.startswith("mooring serve ") and "--port 8080" in each for each in commands)
    assert any(each.startswith("curl ") for each in commands)
    assert "cd 'my project'" in done.output
    assert all(command in done.output for command in commands[:3])
    for file in folder.glob("*.py"):
        compile(file.read_text(), str(file), "exec")


def test_what_a_project_needs_is_an_extra_that_we_have():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    needed = {
        template: {extra for line in (TEMPLATES / template / "requirements.txt").read_text().split()
                   for extra in Requirement(line).extras}
        for template in KINDS
    }  # fmt: skip
    assert needed == {"function": set(), "onnx": {"onnx"}, "handler": {"torchserve"}, "llm": {"llm"}}
    assert set.union(*needed.values()) <= set(extras)
    assert install_command("transformers") == 'pip install "mooring[llm]"'


def test_the_targets_of_the_templates_are_found(monkeypatch):
    monkeypatch.chdir(TEMPLATES / "function")
    assert (
        find_target("app.py").name
        == find_target("app.py:Model").name
        == find_target("app:Model").name
        == "app"
    )
    assert find_target("app.py:shorten").function == "shorten"
    monkeypatch.chdir(TEMPLATES / "llm")
    assert find_target("app.py:Model").name == "app"


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    assert "is not empty" in run(str(tmp_path / "full")).output
    assert [each.name for each in (tmp_path / "full").iterdir()] == ["notes.txt"]
    assert "is a file" in run(str(tmp_path / "full" / "notes.txt")).output
    assert run(str(tmp_path / "empty")).exit_code == 0
    (tmp_path / "locked").write_text("")
    assert run(str(tmp_path / "locked" / "inner")).exit_code == 1


def test_an_unknown_template_is_answered_with_those_that_there_are(tmp_path):
    done = run(str(tmp_path / "x"), "--template", "lmm")
    assert done.exit_code == 2
    assert all(name in done.output for name in KINDS)


def test_the_onnx_file_is_what_its_script_makes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(TEMPLATES / "onnx" / "make_model.py"), run_name="__main__")
    flowers = np.array([[5.0, 3.4, 1.5, 0.2], [5.9, 2.8, 4.3, 1.3], [6.6, 3.0, 5.6, 2.0]], np.float32)
    shipped, made = (
        onnxruntime.InferenceSession(file).run(None, {"measurements": flowers})[0]
        for file in (TEMPLATES / "onnx" / "flowers.onnx", tmp_path / "flowers.onnx")
    )
    assert made.argmax(axis=1).tolist() == [0, 1, 2]
    assert np.allclose(shipped, made, atol=1e-3)


@pytest.mark.processes
def test_the_command_needs_nothing_but_the_base_installation(tmp_path):
    """It imports no server and no library of models."""
    code = (
        "import sys; sys.argv = ['mooring', 'init', 'here'];"
        "from mooring.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'onnxruntime', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "here" / "app.py").is_file()


@pytest.mark.processes
@pytest.mark.parametrize("template", ["function", "onnx"])
def test_the_test_of_a_project_passes(tmp_path, template):
    """Those of the other two need torch, which takes long: their models are asked where they are served."""
    write_project(tmp_path / "here", template)
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"]
    done = subprocess.run(
        command, cwd=tmp_path / "here", capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout
