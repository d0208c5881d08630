"""When a worker that could not load its model, or died, is tried again.

What cannot load from the same files is not tried over and over: its files are watched, and it is tried when they have
changed and are quiet again, so that one that was half copied loads soon after its last byte. Whatever else may have
been the reason (a library, a locale, a memory limit) is left a try now and then.
"""

import asyncio
import itertools
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

# Seconds between two tries of what cannot load, where nothing has changed.
_SELDOM = 300.0
# Seconds between two looks at its files.
_LOOK = 1.0
# A file that was half copied is to be tried soon, however often it has failed.
_LONGEST_PAUSE = 5.0
# A model's folder may hold a whole environment of Python's: so many files are looked at.
_MOST_FILES = 2000
# Seconds that a file may be older than the try which missed its last bytes, by clocks that tick coarsely.
_SLACK = 1.0


def backoff(failures: int) -> float:
    """Seconds to wait before the next try after so many failures in a row.

    >>> [backoff(n) for n in range(1, 9)]
    [0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0]
    """
    if failures <= 1:
        return 0.0
    current, following = 1.0, 1.0
    for _ in range(failures - 2):
        current, following = following, current + following
    return min(current, 34.0)


class FileState(msgspec.Struct, frozen=True):
    """What the files of a model look like: any change of one is another state. ``newest`` is a time of the wall clock."""

    files: tuple[tuple[str, int, int, int], ...]
    newest: float


def file_state(location: Path) -> FileState:
    """Of a folder, or of a single file; empty where there is none. Hidden files and bytecode do not count.

    ``newest`` counts folders, too: of a file that is gone they alone tell.
    """
    files, newest = [], 0.0
    for path in itertools.islice(_paths(location), _MOST_FILES):
        try:
            found = path.stat()
        except OSError:
            continue
        if not stat.S_ISDIR(found.st_mode):
            files.append((str(path), found.st_mtime_ns, found.st_size, found.st_ino))
        newest = max(newest, found.st_mtime, found.st_ctime)
    return FileState(tuple(sorted(files)), newest)


async def files_changed(location: Path, since: float, pause: float = 0.0) -> None:
    """Return when files have changed after ``since``, a time of the wall clock, and then been quiet between two looks.

    Returns after some minutes in any case, and not before ``pause`` seconds, within limits: something else in the folder
    may change all the time.
    """
    end = time.monotonic() + _SELDOM
    await asyncio.sleep(min(pause, _LONGEST_PAUSE))
    before = await asyncio.to_thread(file_state, location)
    changed = before.newest > since - _SLACK
    while time.monotonic() < end:
        await asyncio.sleep(_LOOK)
        now = await asyncio.to_thread(file_state, location)
        if now.files != before.files:
            before, changed = now, True
        elif changed:
            return


def _paths(location: Path) -> Iterator[Path]:
    if location.is_file():
        yield location
        return
    for folder, folders, names in os.walk(location):
        yield Path(folder)
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))
