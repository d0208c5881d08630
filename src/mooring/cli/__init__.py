"""The ``mooring`` command. The process that workers are forked from is started first, before the flags are read."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from mooring.cli.init_process import leave_process_one
from mooring.cli.standard_streams import open_missing_streams, print_line, redirect_to_null

if TYPE_CHECKING:
    from mooring.cli.caller import Caller
    from mooring.workers.library_process import LibraryProcess

# As child_server.CALLER, which takes a third of this command's own start to import.
_CALLER = "MOORING_CALLER"
# As kserve_pod.MODELS, for the same reason.
_KSERVE_MODELS = "/mnt/models"
# With these TorchServe's command starts no server.
_DOES_ELSE = frozenset({"--stop", "--install-aliases", "--help", "-h", "--version", "-v"})


class Begun(NamedTuple):
    """What is there before the flags are read: the process that workers are forked from, and who started this one.

    ``serves_here`` is whether this process is to become the server: it must not go to the background.
    """

    libraries: "LibraryProcess | None" = None
    caller: "Caller | None" = None
    serves_here: bool = False


def main() -> None:
    """Run the command line of this process and leave with its exit status."""
    open_missing_streams()
    arguments = sys.argv[1:]
    begun = Begun()
    if _is_server_start(arguments):
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(
                signal.SIGINT, signal.SIG_DFL
            )  # until the next import is done: no traceback of ours
        leave_process_one()
        caller = _find_caller()
        begun = Begun(_start_library_process(), caller, serves_here=True)
    try:
        from mooring.cli.commands import commands

        if begun.caller is None:
            _run(lambda: commands(prog_name="mooring", args=arguments, obj=begun))
        else:
            begun.caller.tell_errors(lambda: commands(args=arguments, obj=begun, standalone_mode=False))
    finally:
        if begun.libraries is not None:
            begun.libraries.end()
        if begun.caller is not None:
            begun.caller.close()


def _run(commands: Callable[[], None]) -> None:
    """Run a command. Where it cannot write what it found, as to a full disk, it ends with a sentence and status 1."""
    try:
        commands()
    except OSError as error:
        where = error.filename or "standard output"
        print_line(f"Error: {where}: {error.strerror or error}", err=True)
        redirect_to_null(sys.stdout)
        sys.exit(1)


def _is_server_start(arguments: Sequence[str]) -> bool:
    """Return whether these arguments start a server in this process.

    TorchServe's go to the background, but in a container that would end with this process: as process 1, and under KServe.
    """
    names = {each.partition("=")[0] for each in arguments}
    if arguments[:1] == ["torchserve"]:
        in_container = os.getpid() == 1 or any(_KSERVE_MODELS in each for each in arguments)
        return "--foreground" in names or (in_container and not names & _DOES_ELSE)
    return arguments[:1] in (["serve"], ["kserve"], ["amdinfer-server"], ["tritonserver"]) and not (
        {"--help", "-h"} & names
    )


def _find_caller() -> "Caller | None":
    if _CALLER not in os.environ:
        return None
    from mooring.cli.caller import find_caller

    return find_caller(os.environ)


def _start_library_process() -> "LibraryProcess | None":
    """Start the process that workers are forked from. From here on a signal to stop ends this process cleanly."""
    from mooring.signals import exit_on_signal
    from mooring.workers.library_process import LibraryProcess

    exit_on_signal()
    with suppress(OSError):  # a server that needs one reports the error later
        return LibraryProcess(os.environ)
    return None
