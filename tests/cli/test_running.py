"""The real command in a process of its own, from its first line to its exit status."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

DOUBLE = "def double(inputs, parameters):\n    return {'doubled': inputs['x'] * 2}\n"


class UnixConnection(HTTPConnection):
    """HTTP over a socket file."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self.path)


@contextmanager
def served(folder, *args):
    """A server on one socket file in ``folder``; yields its process once it has greeted."""
    address = f"unix:{folder}/s"
    flags = [f"--{name}-address={address}" for name in ("inference", "management", "metrics")]
    flags += [f"--grpc-address=unix:{folder}/g", f"--grpc-management-address=unix:{folder}/g"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mooring", "serve", *args, *flags],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("MOORING_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answer(folder, method, path, body=None):
    connection = UnixConnection(f"{folder}/s")
    try:
        connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "double.py").write_text(DOUBLE)
    return tmp_path


def test_a_function_is_served_and_a_signal_ends_the_server(folder):
    with served(folder, "double.py:double") as process:
        told = [process.stdout.readline() for _ in range(8)]
        assert (told[0], told[5], told[7]) == (
            "Mooring is starting.\n",
            "loading double 1 ...\n",
            "Mooring is up.\n",
        )
        assert told[6].startswith("double 1 is ready after ")
        assert answer(folder, "POST", "/predictions/double", '{"x": [1, 2.5]}') == (
            200,
            {"doubled": [2.0, 5.0]},
        )
        assert answer(folder, "GET", "/models")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_with_keep_going_a_function_that_is_not_there_leaves_a_server_that_says_so(folder):
    (folder / "double.py").write_text("import no_such_package\n" + DOUBLE + "treble = double\n")
    with served(folder, "--keep-going", "double.py:treble") as process:
        told = [process.stdout.readline() for _ in range(6)]
        if told[5] == "loading treble 1 ...\n":  # seen while it was being tried
            told[5] = process.stdout.readline()
        assert told[5].startswith("treble 1 failed: ")
        assert "no_such_package" in told[5]
        assert process.stdout.readline() == "Mooring is up.\n"
        assert answer(folder, "GET", "/ping")[0] == 500


def run(folder, *arguments, **streams):
    command = [sys.executable, "-m", "mooring", *arguments]
    return subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        **streams,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [["version"], ["serve", "--help"], ["init", "new"]])
def test_a_command_that_cannot_write_its_result_says_so_in_a_sentence(tmp_path, arguments):
    with Path("/dev/full").open("w") as full:
        ended = run(tmp_path, *arguments, stdout=full)
    assert (ended.returncode, ended.stderr) == (1, "Error: standard output: No space left on device\n")


def test_an_empty_target_is_no_start_without_models(tmp_path):
    ended = run(tmp_path, "serve", "", "--port=0", stdout=subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: a TARGET is empty, as an unset variable makes it: give a file")


def test_what_ends_a_start_shows_lines_of_the_user_and_none_of_ours(tmp_path):
    (tmp_path / "model.py").write_text("def part():\n    raise ValueError('no weights')\n\n\npart()\n")
    ended = run(tmp_path, "serve", "model.py:part", "--port=0", "--log-level=error", stdout=subprocess.PIPE)
    assert ended.returncode == 1
    assert f'{tmp_path}/model.py", line 5, in <module>' in ended.stderr
    assert ended.stderr.splitlines()[-1].endswith("model.py, line 2: ValueError: no weights")
    assert "user_function" not in ended.stderr
    assert "importlib" not in ended.stderr
    assert "part 1 failed\n" in ended.stdout


def test_a_key_pressed_at_the_first_moment_of_a_start_leaves_no_traceback(tmp_path):
    for moment in (0.02, 0.06):
        command = [sys.executable, "-m", "mooring", "serve", "--port=0"]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            # Python can drop a signal while it starts, before any line of ours runs. The user presses the key again.
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        # Before main runs, while Python imports it, nothing can be done about a key.
        assert not re.search(rb"mooring/cli/[^\n]*, in (?!<module>)", said), said
