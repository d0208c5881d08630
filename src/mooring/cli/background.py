"""A server in the background: a process of its own that outlives the terminal, which waits until it serves."""

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
    """Run ``serve`` in the background, its output in ``log_file``; returns the text that it calls ``ready`` with.

    To be called while this process has one thread and no event loop. Raises ``ClickException`` with the reason when it
    ends before, and in this process only.
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
        _serve(serve, output, write)
    os.close(output)
    os.close(write)
    told = _told(read, child)
    if told[:1] == _READY:
        return told[1:].decode()
    _, status = os.waitpid(child, 0)
    reason = told[1:].decode() or _last_words(log_file, before, os.waitstatus_to_exitcode(status))
    raise click.ClickException(f"{reason}\n(more in {log_file})")


def _told(read: int, child: int) -> bytes:
    """What the server has to say; nothing where it died without a word. Ctrl-C ends it."""
    try:
        with os.fdopen(read, "rb") as pipe:
            return pipe.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        raise


def _serve(serve: Callable[[Ready], int], output: int, write: int) -> NoReturn:
    """The server's side of the fork."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for there, here in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(there, here)
    os.close(nothing)
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
    os._exit(status)  # what stands below this call on the stack is the terminal's part


def _last_words(log_file: Path, before: int, status: int) -> str:
    with log_file.open("rb") as file:
        file.seek(before)
        lines = file.read().decode(errors="replace").splitlines()
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return "\n".join([f"the server {how} before it served", *lines[-_MOST_LINES:]])
