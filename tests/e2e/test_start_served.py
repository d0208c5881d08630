"""How a server starts: what its models seem to need is begun before they are read, and ended where they do not."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from e2e_kit import DIGITS, PATIENCE, SAMPLES, Server, until
from onnx_kit import write_model
from terminal_kit import shown_lines


class Limited(Server):
    """A server that may have 200 files open, and no more."""

    PROGRAM = ("prlimit", "--nofile=200:200", *Server.PROGRAM)


def test_a_file_that_is_not_the_model_brings_nothing_of_its_kind(tmp_path):
    version = tmp_path / "repository" / "double" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text("def infer(x: 'ndarray'):\n    return x * 2\n")
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
    (tmp_path / "model.py").write_text("def infer(x: 'ndarray'):\n    return x * 2\n")
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
    (tmp_path / "model.py").write_text("def infer(x: 'ndarray'):\n    return x * 2\n")
    server = Server(tmp_path, f"m={tmp_path / 'model.py'}:infer")
    try:
        server.started()
        for process in server.process.children(recursive=True):
            assert b"very-secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    finally:
        server.stop()


GOOD = "def good(x):\n    return x\n"
# What cannot be loaded, and the reason that is to be told once.
BROKEN = {
    "a missing function": (GOOD, "f", "defines no function or class 'f'"),
    "a syntax error": ("def f(x:\n", "f", "m.py, line 1: SyntaxError: '(' was never closed"),
    "a missing package": (
        "import no_such_package\ndef f(x): ...\n",
        "f",
        "imports 'no_such_package', which is not",
    ),
    "an exception in load": (
        "class M:\n    def load(self, context):\n        raise ValueError('no weights')\n    def infer(self, x): ...\n",
        "M",
        "m.py, line 3: ValueError: no weights",
    ),
    "a crash": (
        "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\ndef f(x): ...\n",
        "f",
        "it was killed by signal 11 (SIGSEGV)",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_target_that_cannot_be_loaded_ends_the_start_with_its_reason_once(tmp_path, kind):
    source, name, reason = BROKEN[kind]
    (tmp_path / "m.py").write_text(source)
    server = Server(tmp_path, f"m.py:{name}")
    try:
        assert server.process.wait(PATIENCE) == 1
    finally:
        server.kill()
    told = server.log.splitlines()
    if kind == "a crash":
        assert (
            'm.py\\", line 2 in <module>' in server.log
        )  # the traceback of faulthandler, which the process printed
    assert told[-1].startswith("Error: ")
    assert [line for line in told if reason in line] == [told[-1]]
    assert "Mooring is up." not in server.log
    assert " failed again " not in server.log


def test_a_target_that_fails_waits_for_no_other_and_says_what_became_of_them(tmp_path):
    (tmp_path / "m.py").write_text(f"{GOOD}def f(x:\n")
    (tmp_path / "slow.py").write_text(f"import time\ntime.sleep(60)\n{GOOD}")
    server = Server(tmp_path, "slow.py:good", "m.py:f")
    try:
        assert server.process.wait(PATIENCE) == 1
    finally:
        server.kill()
    said = "(of the others, 'good' was being loaded; --keep-going serves what can be loaded)"
    assert server.log.splitlines()[-1].endswith(said)


def test_with_keep_going_the_others_are_served_and_the_one_that_failed_loads_once_its_file_is_mended(
    tmp_path,
):
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "m.py").write_text("def f(x:\n")
    server = Server(tmp_path, "--keep-going", "good.py:good", "m.py:f", "gone.py:f")
    try:
        server.started(ping=500)
        body, form = b'{"x": [1.5]}', "content-type: application/json"
        assert server.ask("POST", "/predictions/good", body, form).code == 200
        assert "model left out url=gone.py:f" in server.log
        (tmp_path / "m.py").write_text(GOOD.replace("good", "f"))
        until(lambda: server.ask("POST", "/predictions/f", body, form).code == 200)
    finally:
        server.stop()


def test_where_the_log_is_json_the_reason_of_a_failed_start_is_an_event_of_it(tmp_path):
    (tmp_path / "m.py").write_text("def f(x:\n")
    server = Server(tmp_path, "m.py:f", "--log-format=json")
    try:
        assert server.process.wait(PATIENCE) == 1
    finally:
        server.kill()
    *_, last = map(json.loads, server.log.splitlines())
    assert last["message"] == "server not started"
    assert last["fields"]["reason"].startswith("model 'f' cannot be loaded: ")
    assert "SyntaxError" in last["traceback"]


def write_onnx(folder):
    write_model(folder / "neg.onnx")
    return ["neg.onnx"]


def write_torchscript(folder):
    import torch

    torch.jit.script(torch.nn.Linear(3, 2)).save(folder / "linear.pt")
    return ["linear.pt"]


def write_function(folder):
    (folder / "greet.py").write_text(
        "def greet(name: str, times: int = 1) -> str:\n    return name * times\n"
    )
    return ["greet.py:greet"]


def write_declared(folder):
    (folder / "model.py").write_text("def infer(inputs):\n    return {'y': inputs['x'] + 1}\n")
    declared = '[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [-1, 2]\n[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [-1, 2]\n'
    (folder / "config.toml").write_text(f'platform = "python"\nentry = "model.py:infer"\n{declared}')
    return [f"declared={folder}"]


def write_builtin(folder):
    (folder / "config.toml").write_text('platform = "builtin"\nentry = "echo"\n')
    return [f"echo={folder}"]


def name_digits(_folder):
    return [DIGITS]


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(
    ("write", "asks"),
    [
        (write_onnx, "/predictions/neg "),
        (write_torchscript, ""),
        (write_function, "/predictions/greet -H"),
        (write_declared, "/predictions/declared "),
        (write_builtin, "/predictions/echo "),
        (name_digits, "/predictions/digits -T FILE"),
    ],
)
def test_the_command_of_the_greeting_is_answered(tmp_path, write, asks):
    (tmp_path / "model").mkdir()
    targets = write(tmp_path / "model")
    server = Server(
        tmp_path, *(each if "=" in str(each) or each == DIGITS else f"model/{each}" for each in targets)
    )
    try:
        server.started()
        command = server.log.partition("Try:\n")[2].splitlines()[1]
        assert asks in command
        command = command.replace("FILE", str(SAMPLES[0]), 1)
        code = ["bash", "-c", f"{command.partition('#')[0]} -sS -o body -w '%{{http_code}}'"]
        done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == "200", (command, (tmp_path / "body").read_text())
    finally:
        server.stop()


def test_a_terminal_shows_the_models_while_they_are_loaded_and_the_log_above_them(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\nprint('reading weights', flush=True)\ntime.sleep(1)\ndef slow(x): ...\ndef quick(x): ...\n"
    )
    (tmp_path / "bad.py").write_text("import no_such_package\ndef bad(x): ...\n")
    words = [
        sys.executable,
        "-m",
        "mooring",
        "serve",
        "--port=0",
        "--keep-going",
        "slow.py:slow",
        "bad.py:bad",
    ]
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        os.environ.update(TERM="xterm", NO_COLOR="1")
        os.execv(words[0], words)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    data = b""
    try:
        while b"Mooring is up." not in data:
            data += os.read(terminal, 65536)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    *begun, _up = shown_lines(data.partition(b"Mooring is up.")[0])
    assert begun[0] == "Mooring is starting."
    assert begun[1].startswith("  inference   http://127.0.0.1:")
    assert begun[-3] == "  bad 1   failed"
    assert begun[-2].startswith(
        "      bad.py:1 imports 'no_such_package', which is not installed: pip install "
    )
    assert begun[-1].startswith("  slow 1  ready    1.")
    above = begun[:-3]
    assert len([line for line in above if "reading weights" in line]) == 1
    assert not [line for line in above if "bad" in line or "model ready" in line]
    assert any(re.fullmatch(r"  slow 1  loading  0\.\d s", line) for line in data.decode().split("\r\n"))
