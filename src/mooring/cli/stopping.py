"""Ending a server that runs in the background, or in another terminal."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import click
import psutil

from mooring.cli.pid_file import running

# Seconds. A server finishes what it was asked, and the second signal makes it stop at once.
_PATIENCE = 120.0
_NO_PATIENCE = 10.0
_KEYS = Path("key_file.json")


def stop() -> None:
    """Return when the server is gone, and its file with the keys in this folder."""
    number = running()
    if number is None:
        click.echo("TorchServe is not currently running.")
        return
    for ending, patience in (
        (signal.SIGTERM, _PATIENCE),
        (signal.SIGTERM, _NO_PATIENCE),
        (signal.SIGKILL, _NO_PATIENCE),
    ):
        try:
            os.kill(number, ending)
        except ProcessLookupError:
            break
        except PermissionError as error:
            raise click.ClickException(f"process {number} belongs to another user") from error
        if _gone(number, patience):
            break
        click.echo("Stopping takes long; what it still runs is given up.", err=True)
    _KEYS.unlink(missing_ok=True)
    click.echo("TorchServe has stopped.")


def _gone(number: int, patience: float) -> bool:
    """Whether a process has ended; one that its parent has not asked after yet (in a container) has."""
    end = time.monotonic() + patience
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(number)
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
    return True
