"""Standard output as a place for the log: whoever does not read it harms nobody."""

import logging
import os
import pty
import re
import threading
import time

import pytest

from mooring.observability.log_output import console
from mooring.observability.log_output.console import Console


@pytest.fixture
def pipe():
    """A pipe in place of standard output: its reading end, and the handler that writes to it."""
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        yield read, Console(stream)


def write(handler, text):
    handler.handle(logging.LogRecord("x", 20, "", 0, text, None, None))


def test_a_pipe_that_nobody_reads_loses_lines_and_says_so_when_somebody_does(pipe, monkeypatch):
    monkeypatch.setattr(console, "_PATIENCE", 50)
    read_end, handler = pipe
    begun = time.monotonic()
    for number in range(200):
        write(handler, f"{number} {'x' * 1000}")
    assert time.monotonic() - begun < 5
    read = os.read(read_end, 1 << 20)
    write(handler, "again")
    tail = os.read(read_end, 1 << 20).decode()
    os.close(read_end)
    *_, note, last = tail.splitlines()
    assert last == "again"
    missing = re.fullmatch(r'log lines left out lines=(\d+) reason="nobody read them"', note)
    assert (read.decode() + tail).count("x\n") + int(missing[1]) == 200


def test_a_reader_that_has_gone_is_no_fault(pipe):
    read_end, handler = pipe
    os.close(read_end)
    write(handler, "nobody hears it")


def test_a_line_longer_than_a_pipe_arrives_whole(pipe):
    read_end, handler = pipe
    write(handler, "y" * 50_000)
    assert os.read(read_end, 1 << 20) == b"y" * 50_000 + b"\n"
    os.close(read_end)


def test_a_terminal_that_was_stopped_loses_lines_and_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(console, "_PATIENCE", 50)
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream:
        handler = Console(stream)
        writing = threading.Thread(
            target=lambda: [write(handler, "z" * 900) for _ in range(100)], daemon=True
        )
        writing.start()
        writing.join(10)
        try:
            assert not writing.is_alive()
            os.set_blocking(master, False)
            _read_all(master)
            write(handler, "again")
            note = r'\r\nlog lines left out lines=\d+ reason="nobody read them"\r\nagain\r\n$'
            assert re.search(note, _read_all(master))
        finally:
            os.close(master)
        write(handler, "nobody hears it")


def test_a_pipe_that_another_process_fills_meanwhile_holds_nobody_up(pipe, monkeypatch):
    monkeypatch.setattr(console, "_PATIENCE", 50)
    read_end, handler = pipe
    handler._poll = AlwaysWritable()  # what it said is over when the line is written
    writing = threading.Thread(target=lambda: [write(handler, "z" * 900) for _ in range(200)], daemon=True)
    writing.start()
    writing.join(10)
    stuck = writing.is_alive()
    os.close(read_end)
    assert not stuck


class AlwaysWritable:
    def poll(self, _timeout):
        return [(0, 0)]


def _read_all(fd):
    text = b""
    try:
        while piece := os.read(fd, 1 << 16):
            text += piece
    except BlockingIOError:
        return text.decode()
