"""The ``mooring`` command. What a server's workers are forked from is begun first of all, before the flags are read."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mooring.workers.library_process import LibraryProcess


def main() -> None:
    """Run the command line of this process and leave with its exit status."""
    arguments = sys.argv[1:]
    first = _begun() if _serves(arguments) else None
    try:
        from mooring.cli.commands import commands

        commands(prog_name="mooring", args=arguments, obj=first)
    finally:
        if first is not None:
            first.end()


def _serves(arguments: Sequence[str]) -> bool:
    """Whether these words are going to start a server in this very process."""
    foreground = arguments[:1] == ["torchserve"] and "--foreground" in arguments
    return foreground or (arguments[:1] in (["serve"], ["amdinfer-server"]) and "--help" not in arguments)


def _begun() -> "LibraryProcess | None":
    """What workers will be forked from. From here on a signal to stop ends this process cleanly."""
    from mooring.signals import exit_on_signal
    from mooring.workers.library_process import LibraryProcess

    exit_on_signal()
    with suppress(OSError):  # who needs one will say so
        return LibraryProcess(os.environ)
    return None
