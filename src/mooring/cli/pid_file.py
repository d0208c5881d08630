"""The PID file of a server: ``.model_server.pid`` in the folder for temporary files, as TorchServe has it.

The server holds a lock on it, which the kernel releases when the process ends. So a file left by a killed server does
not prevent a start, and ``--stop`` never ends another process that has got the same number.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

_NAME = ".model_server.pid"


class AlreadyServing(click.ClickException):
    """Another server holds the PID file."""

    def __init__(self) -> None:
        super().__init__("TorchServe is already running, please use torchserve --stop to stop TorchServe.")


def running_process_id() -> int | None:
    """Return the process ID of the running server; None if there is none."""
    try:
        file = _open_file(os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if _try_lock(file):
            return None
        return int(os.pread(file, 32, 0) or b"0") or None
    except ValueError:
        return None
    finally:
        os.close(file)


@contextmanager
def hold_pid_file() -> Iterator[None]:
    """Hold the PID file while this process serves. Raises ``AlreadyServing``."""
    file = _lock_file()
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}".encode(), 0)
        yield
    finally:
        with suppress(FileNotFoundError):
            _file_path().unlink()
        os.close(file)


def _lock_file() -> int:
    """Return the descriptor of the PID file, locked. Raises ``AlreadyServing``."""
    while True:
        file = _open_file(os.O_RDWR | os.O_CREAT)
        if not _try_lock(file):
            os.close(file)
            raise AlreadyServing
        with suppress(FileNotFoundError):
            if _file_path().stat().st_ino == os.fstat(file).st_ino:
                return file
        os.close(file)  # another server removed it after it was opened here and before it was locked


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_file(flags: int) -> int:
    try:
        # No symbolic link is followed: every user may write into the folder.
        return os.open(_file_path(), flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        text = f"{_file_path()}: {error.strerror}; a server of another user? TMPDIR names another folder"
        raise click.ClickException(text) from error


def _file_path() -> Path:
    return Path(find_temporary_folder(), _NAME)


def find_temporary_folder() -> str:
    """Return the system's folder for temporary files. Raises ``ClickException`` where none can be written to."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        tried = "/tmp, /var/tmp, the working directory"  # noqa: S108 - shown, and not used
        text = f"no folder for temporary files can be written to ({tried}): name one that can be in TMPDIR"
        raise click.ClickException(text) from error
