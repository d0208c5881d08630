"""Stops a server that runs in the background or in another terminal."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import click
import psutil

from mooring.cli.pid_file import running_process_id

# Seconds to wait after each signal. The first lets the server finish its requests; the second stops it at once.
_PATIENCE = 120.0
_NO_PATIENCE = 10.0
_KEYS = Path("key_file.json")


def stop_server() -> None:
    """Stop the server; return when it has ended and its key file in this folder is removed."""
    number = running_process_id()
    if number is None:
        click.echo("TorchServe is not currently running.")
        return
    for ending, patience in (
        (signal.SIGTERM, _PATIENCE),
        (signal.SIGTERM, _NO_PATIENCE),
        (signal.SIGKILL, _NO_PATIENCE),
    ):
        try:
            alone = not _ends_with(number)
            os.kill(number, ending)
        except ProcessLookupError:
            break
        except PermissionError as error:
            raise click.ClickException(f"process {number} belongs to another user") from error
        if not alone:
            click.echo("TorchServe is stopping. It is the first process here: all others end with it.")
            return
        if _wait_for_exit(number, patience):
            break
        click.echo("Stopping takes long; what it still runs is given up.", err=True)
    _KEYS.unlink(missing_ok=True)
    click.echo("TorchServe has stopped.")


def _ends_with(number: int) -> bool:
    """Return whether this process ends with the server, whose parent is process 1 of a container."""
    with suppress(psutil.Error):
        server = psutil.Process(number)
        # Process 1 has forked the server and runs no other program (init_process.py).
        return server.ppid() == 1 and psutil.Process(1).cmdline() == server.cmdline()
    return False


def _wait_for_exit(number: int, patience: float) -> bool:
    """Wait for a process to end; return whether it has. A zombie counts as ended (its parent may never reap it)."""
    end = time.monotonic() + patience
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(number)
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
    return True
