"""The ``mooring`` command. The process that workers are forked from is started first, before the flags are read."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from mooring.cli.init_process import leave_process_one
from mooring.cli.standard_streams import open_missing_streams

if TYPE_CHECKING:
    from mooring.workers.library_process import LibraryProcess


def main() -> None:
    """Run the command line of this process and leave with its exit status."""
    open_missing_streams()
    arguments = sys.argv[1:]
    first = None
    if _is_server_start(arguments):
        leave_process_one()
        first = _start_library_process()
    try:
        from mooring.cli.commands import commands

        commands(prog_name="mooring", args=arguments, obj=first)
    finally:
        if first is not None:
            first.end()


def _is_server_start(arguments: Sequence[str]) -> bool:
    """Return whether these arguments start a server in this process."""
    foreground = arguments[:1] == ["torchserve"] and "--foreground" in arguments
    return foreground or (
        arguments[:1] in (["serve"], ["amdinfer-server"], ["tritonserver"]) and "--help" not in arguments
    )


def _start_library_process() -> "LibraryProcess | None":
    """Start the process that workers are forked from. From here on a signal to stop ends this process cleanly."""
    from mooring.signals import exit_on_signal
    from mooring.workers.library_process import LibraryProcess

    exit_on_signal()
    with suppress(OSError):  # a server that needs one reports the error later
        return LibraryProcess(os.environ)
    return None
