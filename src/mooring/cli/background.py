"""Starts a server in the background: a process that outlives the terminal. The command waits until it serves."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click

_READY, _FAILED = b"+", b"!"
_MOST_LINES = 20

Ready = Callable[[str], None]


def start(serve: Callable[[Ready], int], log_file: Path) -> str:
    """Run ``serve`` in the background, its output in ``log_file``; return the text that it calls ``ready`` with.

    The calling process must have one thread and no event loop. Raises ``ClickException`` with the reason if the server
    ends before it is ready; only the calling process raises it.
    """
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        output = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise click.ClickException(f"{log_file}: {error.strerror}") from error
    before = log_file.stat().st_size
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(read)
        _run_child(serve, output, write)
    os.close(output)
    os.close(write)
    report = _read_report(read, child)
    if report[:1] == _READY:
        return report[1:].decode()
    _, status = os.waitpid(child, 0)
    reason = report[1:].decode() or _last_words(log_file, before, os.waitstatus_to_exitcode(status))
    raise click.ClickException(f"{reason}\n(more in {log_file})")


def _read_report(read: int, child: int) -> bytes:
    """Return the server's report; empty if it died without one. Ctrl-C ends the server."""
    try:
        with os.fdopen(read, "rb") as pipe:
            return pipe.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        raise


def _run_child(serve: Callable[[Ready], int], output: int, write: int) -> NoReturn:
    """Run the server in the forked process, and exit."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(output)

    def ready(text: str) -> None:
        with os.fdopen(write, "wb") as pipe:
            pipe.write(_READY + text.encode())

    status = 1
    try:
        status = serve(ready)
    except click.ClickException as error:
        error.show()
        os.write(write, _FAILED + error.format_message().encode())
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the callers on the stack belong to the terminal's process


def _last_words(log_file: Path, before: int, status: int) -> str:
    with log_file.open("rb") as file:
        file.seek(before)
        lines = file.read().decode(errors="replace").splitlines()
    ending = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return "\n".join([f"the server {ending} before it served", *lines[-_MOST_LINES:]])
