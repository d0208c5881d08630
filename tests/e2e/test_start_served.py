"""How a server starts: what its models seem to need is begun before they are read, and ended where they do not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_kit import Server


class Limited(Server):
    """A server that may have 200 files open, and no more."""

    PROGRAM = ("prlimit", "--nofile=200:200", *Server.PROGRAM)


def test_a_file_that_is_not_the_model_brings_nothing_of_its_kind(tmp_path):
    version = tmp_path / "repository" / "double" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text("def infer(x):\n    return x * 2\n")
    (version / "leftover.onnx").write_bytes(b"")  # at a glance, a model of ONNX Runtime's
    (version.parent / "config.toml").write_text('platform = "python"\nentry = "model.py:infer"\n')
    server = Server(tmp_path, "--model-repository", tmp_path / "repository")
    try:
        server.started()
        answer = server.ask("POST", "/predictions/double", b'{"x": [1.5]}', "content-type: application/json")
        assert json.loads(answer.body) == {"output": [3.0]}
        (template,) = server.process.children()
        assert "onnxruntime" not in Path(f"/proc/{template.pid}/maps").read_text()
    finally:
        server.stop()


@pytest.mark.skipif(not shutil.which("prlimit"), reason="no prlimit on this machine")
def test_too_few_descriptors_for_the_models_are_said_at_the_start(tmp_path):
    (tmp_path / "model.py").write_text("def infer(x):\n    return x * 2\n")
    command = ["--default-workers-per-model", "2", f"m={tmp_path / 'model.py'}:infer"]
    server = Limited(tmp_path, *command)
    try:
        server.started()
        assert "too few file descriptors for all models needed=264 limit=200" in server.log
    finally:
        server.stop()


def test_a_command_line_that_is_refused_leaves_nothing_running():
    words = [sys.executable, "-m", "mooring", "serve", "--no-such-flag"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as command:
        assert (
            "No such option" in command.communicate(timeout=60)[1]
        )  # whoever lived on would hold the pipe open
    assert command.returncode == 2
    with pytest.raises(ProcessLookupError):
        os.killpg(command.pid, 0)


def test_workers_do_not_see_a_token_that_is_given_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MOORING_MANAGEMENT_TOKEN", "very-secret")
    (tmp_path / "model.py").write_text("def infer(x):\n    return x * 2\n")
    server = Server(tmp_path, f"m={tmp_path / 'model.py'}:infer")
    try:
        server.started()
        for process in server.process.children(recursive=True):
            assert b"very-secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    finally:
        server.stop()
