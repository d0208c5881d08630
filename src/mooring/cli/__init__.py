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
    first = _begun(arguments)
    try:
        from mooring.cli.commands import commands

        commands(prog_name="mooring", args=arguments, obj=first)
    finally:
        if first is not None:
            first.end()


def _begun(arguments: Sequence[str]) -> "LibraryProcess | None":
    """What workers will be forked from, where these words are going to start a server in this very process."""
    foreground = arguments[:1] == ["torchserve"] and "--foreground" in arguments
    if not foreground and (arguments[:1] not in (["serve"], ["amdinfer-server"]) or "--help" in arguments):
        return None
    from mooring.workers.library_process import LibraryProcess

    with suppress(OSError):  # who needs one will say so
        return LibraryProcess(os.environ)
    return None
