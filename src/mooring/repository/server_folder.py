"""The folder of one server, for what it unpacks and fetches; and removing those of servers that were killed.

A server holds a lock in its folder, which the kernel takes away with the process, as it does with the pid file's
(decision 15). So a folder whose lock nobody holds belongs to nobody any more.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mooring.observability.logs import get_logger

log = get_logger(__name__)

_PREFIX = "mooring-"
_LOCK = ".lock"


@contextmanager
def server_folder(parent: Path | None) -> Iterator[Path]:
    """Make a folder in ``parent`` (the system's for temporary files without), which is removed at the end.

    First it removes the folders there of servers of this user that are gone. Raises ``OSError`` where none can be made.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    _remove_abandoned(parent)
    folder, lock = lock_folder(parent)
    try:
        yield folder
    finally:
        remove_folder(folder)
        os.close(lock)


def lock_folder(parent: Path | None) -> tuple[Path, int]:
    """Make a folder that only this user can write to, and return it with the descriptor that holds its lock."""
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if _is_locked(lock) and (folder / _LOCK).exists():
            return folder, lock
        os.close(lock)  # another server that starts just now took it for abandoned, before it was locked


def _remove_abandoned(parent: Path) -> None:
    for folder in sorted(parent.glob(f"{_PREFIX}*")):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue  # everybody may write in a folder like /tmp
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # it has no lock and is something else, or it has just gone
            continue
        try:
            if _is_locked(lock):
                log.info("removing what a killed server left", folder=str(folder))
                remove_folder(folder)
        finally:
            os.close(lock)


def remove_folder(folder: Path) -> None:
    """Remove a folder, its lock last: a process that is killed meanwhile leaves a folder that the next start finds."""
    with suppress(OSError):
        for entry in folder.iterdir():
            if entry.name != _LOCK:
                shutil.rmtree(entry, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _is_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
