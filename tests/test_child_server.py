"""What a server that is started from Python tells its caller, and how a caller ends it."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mooring import child_server
from mooring.child_server import ModelReport, ReportChannel, ServerProcess, StartReport, write_report
from mooring.cli import caller
from mooring.cli.caller import find_caller


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Has ServerProcess run this code in the place of a server."""

    def prepare(code):
        (tmp_path / "mooring.py").write_text(code)
        monkeypatch.setattr(child_server, "_SECOND_SIGNAL", 0.3)
        monkeypatch.setattr(child_server, "_KILL", 0.3)
        return {"environment": os.environ | {"PYTHONPATH": str(tmp_path)}}

    return prepare


def test_a_report_comes_as_it_was_written():
    report = StartReport(inference="http://127.0.0.1:1", models=[ModelReport("m", "1", False, "broken")])
    with ReportChannel() as channel:
        write_report(os.dup(channel.writer), report)
        channel.close_writer()
        assert channel.read(lambda: False) == report


def test_a_server_that_dies_gives_no_report():
    with ReportChannel() as channel:
        channel.close_writer()
        assert channel.read(lambda: False) is None


def test_a_report_is_read_although_another_process_holds_the_pipe():
    """One that another thread forks while a server starts has a copy of it."""
    with ReportChannel() as channel:
        copy = os.dup(channel.writer)
        write_report(os.dup(channel.writer), StartReport(error="no"))
        channel.close_writer()
        assert channel.read(lambda: False) == StartReport(error="no")
        assert channel.read(lambda: True) is None
        os.close(copy)


@pytest.mark.processes
def test_the_pipe_is_none_of_the_standard_streams():
    code = """
import os, sys
from mooring.child_server import ReportChannel
os.close(0), os.close(1)
channel = ReportChannel()
sys.exit(channel._reader < 3 or channel.writer < 3)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.processes
def test_lines_are_shown_and_the_last_ones_kept(program):
    shown = []
    server = ServerProcess(
        ["serve"], show=shown.append, **program("import sys; print(sys.argv[1:]); print('two')")
    )
    server.show_until("serve")
    assert shown == ["['serve']\n"]
    ended = []
    server.keep_showing(lambda: ended.append(True))
    assert server.wait(30) == 0
    assert server.output == "['serve']\ntwo\n"
    assert ended == [True]


@pytest.mark.processes
def test_a_server_that_ignores_signals_is_killed(program):
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    server = ServerProcess(["serve"], show=lambda _line: None, **program(code))
    server.show_until("up")
    server.keep_showing()
    assert server.end() == -signal.SIGKILL
    assert server.end() == -signal.SIGKILL


def test_a_notice_of_somebody_elses_child_is_ignored():
    notice = child_server.CallerNotice(os.getpid(), 1)  # which is not our parent
    variables = {child_server.CALLER: notice.encode(), "HOME": "/root"}
    assert find_caller(variables) is None
    assert variables == {"HOME": "/root"}
    assert find_caller({child_server.CALLER: "{"}) is None


def test_a_caller_that_was_killed_while_the_server_started_is_still_its_caller(monkeypatch):
    monkeypatch.setattr(caller, "Caller", lambda notice: notice)
    with ReportChannel() as channel:
        notice = child_server.CallerNotice(os.getpid(), channel.writer)
        assert find_caller({child_server.CALLER: notice.encode()}) is None  # somebody reads the pipe
        reader, writer = os.pipe()
        os.close(reader)
        notice = child_server.CallerNotice(os.getpid(), writer)
        assert find_caller({child_server.CALLER: notice.encode()}) == notice
        os.close(writer)


@pytest.mark.processes
def test_a_server_ends_when_its_caller_has_gone(tmp_path):
    """The caller forks the server and dies; the server is told so, and removes its folder when it does not end by itself."""
    folder = tmp_path / "made"
    folder.mkdir()
    code = f"""
import os, signal, sys, time
from mooring.cli import caller
from mooring.child_server import CallerNotice
caller._LOOK = caller._FINISH = caller._KILL = 0.1
parent = os.getpid()
server = os.fork()
if not server:
    signal.signal(signal.SIGTERM, lambda *_: open({str(tmp_path / "asked")!r}, "a").write("x"))
    caller.Caller(CallerNotice(parent, -1, folder={str(folder)!r}))
    print(os.getpid(), flush=True)
    while True:
        time.sleep(0.01)
time.sleep(0.2)
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    pid = int(done.stdout)  # read to its end: the server is gone, too
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert (tmp_path / "asked").read_text() == "xx"
    assert not folder.exists()
