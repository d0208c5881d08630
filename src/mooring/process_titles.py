"""What the processes of a server are called in ps and top: ``mooring: worker NAME VERSION``, ``mooring: frontend 2``.

The server itself keeps its command line. Linux only: on macOS a process that was forked dies of a change of its title.
"""

import os
import sys
from contextlib import suppress

_KEEP_ENVIRONMENT = "SPT_NOENV"  # read by setproctitle
_LONGEST_WORD = 40  # characters: there is room for the command line that the process was started with


def set_process_title(*words: str) -> None:
    """Call this process by these words. A long word is cut, and no character of it acts on a terminal.

    Nothing happens where the interpreter, such as that of a model's own environment, has no setproctitle.
    """
    if sys.platform != "linux":
        return
    if "setproctitle" not in sys.modules:
        with suppress(ImportError):
            _import_setproctitle()
    if "setproctitle" in sys.modules:
        sys.modules["setproctitle"].setproctitle(format_title(*words))


def _import_setproctitle() -> None:
    """Import it such that it leaves /proc/PID/environ alone, where operators look for CUDA_VISIBLE_DEVICES and the like."""
    before = os.environ.get(_KEEP_ENVIRONMENT)
    os.environ[_KEEP_ENVIRONMENT] = "1"
    try:
        import setproctitle  # noqa: PLC0415 - 0.5 ms, and not for the first process

        setproctitle.getproctitle()
    finally:
        del os.environ[_KEEP_ENVIRONMENT]
        if before is not None:
            os.environ[_KEEP_ENVIRONMENT] = before


def format_title(*words: str) -> str:
    """Return the title of these words.

    >>> format_title("worker", "digits", "1.0")
    'mooring: worker digits 1.0'
    """
    return " ".join(["mooring:", *map(_plain, words)])


def _plain(word: str) -> str:
    cut = word if len(word) <= _LONGEST_WORD else word[: _LONGEST_WORD - 3] + "..."
    return "".join(character if character.isprintable() else "?" for character in cut)
