"""The file that says which process serves: ``.model_server.pid`` in the folder for temporary files, as TorchServe has it.

Whoever serves holds a lock on it, which the kernel takes away with the process. So a file that was left behind by a
server that was killed is no hindrance, and ``--stop`` never ends a process that only has the same number.
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
    """Another server holds the file."""

    def __init__(self) -> None:
        super().__init__("TorchServe is already running, please use torchserve --stop to stop TorchServe.")


def running() -> int | None:
    """The number of the process that serves; None where none does."""
    try:
        file = _opened(os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if _lock(file):
            return None
        return int(os.pread(file, 32, 0) or b"0") or None
    except ValueError:
        return None
    finally:
        os.close(file)


@contextmanager
def serving() -> Iterator[None]:
    """Hold the file for as long as this process serves. Raises ``AlreadyServing``."""
    file = _held()
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}".encode(), 0)
        yield
    finally:
        with suppress(FileNotFoundError):
            _path().unlink()
        os.close(file)


def _held() -> int:
    """The file, locked."""
    while True:
        file = _opened(os.O_RDWR | os.O_CREAT)
        if not _lock(file):
            os.close(file)
            raise AlreadyServing
        with suppress(FileNotFoundError):
            if _path().stat().st_ino == os.fstat(file).st_ino:
                return file
        os.close(file)  # removed by the one that held it before, between our opening and our lock


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opened(flags: int) -> int:
    try:
        # No link is followed: the folder is one where everybody may write.
        return os.open(_path(), flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        text = f"{_path()}: {error.strerror}; a server of another user? TMPDIR names another folder"
        raise click.ClickException(text) from error


def _path() -> Path:
    return Path(tempfile.gettempdir(), _NAME)
