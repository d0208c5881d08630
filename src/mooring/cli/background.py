"""Starts a server in the background: a process that outlives the terminal. The command waits until it serves."""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import click

_READY, _FAILED = b"+", b"!"

Ready = Callable[[str], None]


def start(serve: Callable[[Ready], int]) -> str:
    """Run ``serve`` in the background; return the text that it calls ``ready`` with.

    The process keeps standard output and error, so that its log goes on where the command was started. It does not end with
    the terminal. The calling process must have one thread and no event loop. Raises ``ClickException`` with the reason
    if the server ends before it is ready; only the calling process raises it.
    """
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(read)
        _run_child(serve, write)
    os.close(write)
    report = _read_report(read, child)
    if report[:1] == _READY:
        return report[1:].decode()
    _, status = os.waitpid(child, 0)
    raise click.ClickException(report[1:].decode() or _describe_end(os.waitstatus_to_exitcode(status)))


def _read_report(read: int, child: int) -> bytes:
    """Return the server's report; empty if it died without one. Ctrl-C ends the server."""
    try:
        with os.fdopen(read, "rb") as pipe:
            return pipe.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        raise


def _run_child(serve: Callable[[Ready], int], write: int) -> NoReturn:
    """Run the server in the forked process, and exit."""
    os.setsid()  # a terminal that closes ends the processes of its session
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    def ready(text: str) -> None:
        with os.fdopen(write, "wb") as pipe:
            pipe.write(_READY + text.encode())

    status = 1
    try:
        status = serve(ready)
    except click.ClickException as error:
        os.write(write, _FAILED + error.format_message().encode())
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    logging.shutdown()  # old log files that are being compressed
    with suppress(OSError):  # whoever read standard output may have gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)  # the callers on the stack belong to the terminal's process


def _describe_end(status: int) -> str:
    ending = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"the server {ending} before it served"
