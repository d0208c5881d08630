"""A server in the background tells its terminal that it serves or why not, and one at a time holds the pid file."""

import os
import subprocess
import sys
import time
from pathlib import Path

import click
import psutil
import pytest

from mooring.cli.pid_file import AlreadyServing, hold_pid_file, running_process_id

START = """
import os, signal, sys, time, click
from pathlib import Path
from mooring.cli.background import start

def serve(ready):
    print("in the log", file=sys.stderr, flush=True)
    {body}

try:
    print(start(serve))
except click.ClickException as error:
    error.show()
    sys.exit(error.exit_code)
"""


def started(folder, body):
    """Run a start whose output is in files: the process that stays keeps it open."""
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        done = subprocess.run(
            [sys.executable, "-c", START.format(body=body)],
            cwd=folder, stdout=out, stderr=err, timeout=30, check=False,
        )  # fmt: skip
    done.stdout, done.stderr = (folder / "out").read_text(), (folder / "err").read_text()
    return done


def test_the_terminal_gets_its_prompt_back_when_the_server_serves(tmp_path):
    done = started(tmp_path, "ready(f'up {os.getpid()} {os.getsid(0)}'); time.sleep(60)")
    up, number, session = done.stdout.split()
    process = psutil.Process(int(number))
    process.kill()
    assert (done.returncode, up, session) == (0, "up", number)


STAYING = """
    ready('up')
    import logging
    from mooring.config.settings import Config
    from mooring.observability.log_output.setup import setup_logging
    setup_logging(Config(log_folder=Path('logs'), log_format='torchserve'))
    for number in range(3000):
        gone = Path('gone').exists()
        logging.getLogger('mooring.test').info('line %d', number)
        if gone:
            Path('alive').touch()
            break
        time.sleep(0.01)
    return 0
"""


@pytest.mark.parametrize("open_output", [os.pipe, os.openpty])
def test_the_process_that_stays_keeps_its_output_whose_reader_may_leave(tmp_path, open_output):
    """The reader of a pipe or a terminal gets the server's lines after the command has returned."""
    read, write = open_output()
    done = subprocess.run(
        [sys.executable, "-c", START.format(body=STAYING.strip())],
        cwd=tmp_path, stdout=write, stderr=write, timeout=30, check=False,
    )  # fmt: skip
    os.close(write)
    assert done.returncode == 0
    with os.fdopen(read, "rb", buffering=0) as lines:
        assert any(line.rstrip().endswith(b"line 5") for line in lines)
    (tmp_path / "gone").touch()
    end = time.monotonic() + 30
    while not (tmp_path / "alive").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert " [INFO ] main mooring.test - line 0\n" in (tmp_path / "logs/ts_log.log").read_text()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise click.ClickException('no such model')", "Error: no such model\n"),
        ("raise RuntimeError('a fault of ours')", "RuntimeError: a fault of ours\n"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "in the log\nError: the server was killed by signal 9 before it served\n",
        ),
        ("sys.exit(4)", "the server ended with status 4 before it served\n"),
        ("return 0", "the server ended with status 0 before it served\n"),
    ],
)
def test_a_server_that_ends_before_it_serves_says_why_in_the_terminal(tmp_path, body, said):
    done = started(tmp_path, body)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_the_file_has_the_number_of_the_process_for_as_long_as_it_serves(folder):
    assert running_process_id() is None
    with hold_pid_file():
        assert running_process_id() == os.getpid()
        assert (folder / ".model_server.pid").read_text() == str(os.getpid())
        with pytest.raises(AlreadyServing), hold_pid_file():
            pass
        assert running_process_id() == os.getpid()
    assert running_process_id() is None
    assert not (folder / ".model_server.pid").exists()


def test_the_file_of_a_server_that_was_killed_is_no_hindrance(folder):
    code = "import os, signal\nfrom mooring.cli.pid_file import hold_pid_file\nwith hold_pid_file(): os.kill(os.getpid(), 9)"
    environ = os.environ | {"TMPDIR": str(folder)}
    assert subprocess.run([sys.executable, "-c", code], env=environ, check=False).returncode == -9
    assert int((folder / ".model_server.pid").read_text())
    assert running_process_id() is None
    with hold_pid_file():
        assert running_process_id() == os.getpid()


def test_a_link_in_place_of_the_file_is_not_followed(folder):
    (folder / "mine").write_text("precious")
    (folder / ".model_server.pid").symlink_to(folder / "mine")
    with pytest.raises(click.ClickException, match="TMPDIR"), hold_pid_file():
        pass
    assert Path(folder / "mine").read_text() == "precious"
