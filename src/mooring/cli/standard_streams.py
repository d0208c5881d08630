"""Standard input, output and error of a command: closed ones, and those that cannot be written."""

import os
import select
import sys
from typing import TextIO

# Milliseconds until a reader is taken for absent.
_PATIENCE = 1000


def open_missing_streams() -> None:
    """Open the null device where the command was started with a standard stream closed (``>&-``).

    Otherwise the next file or socket would get its number, and whatever is printed would go there.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            os.set_inheritable(fd, True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def print_line(text: str, *, err: bool = False) -> None:
    """Print a line to standard output, or to standard error; a full disk or a reader that has gone is no reason to fail."""
    stream = sys.stderr if err else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        redirect_to_null(stream)


def redirect_to_null(stream: TextIO) -> None:
    """Put the null device in the place of a stream that cannot be written, since Python flushes it once more at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def takes_text(stream: TextIO) -> bool:
    """Wait a second at most until a stream has room for a few lines, and return whether it has."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # no real file, as under a test that captures it
        return True
    return bool(poll.poll(_PATIENCE))
