"""Log files that are rotated, by size and by time, whichever process writes to them.

Several processes (frontends) may append to one file. Whoever writes holds a shared lock of the file, and whoever renames it
holds the exclusive one, so no line goes to a file that is being compressed. A file that somebody else has renamed or deleted,
such as logrotate, is opened anew.
"""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from mooring.observability.log_output.patterns import DateFormat
from mooring.observability.logs import get_logger

log = get_logger(__name__)

_DATE = re.compile(r"%d\{([^}]*)\}(?:\{([^}]*)\})?")
_INDEX = re.compile(r"%0?\d*i")
# Seconds until a file that could not be rotated is tried again, and between two warnings that one cannot be written.
_RETRY = 60.0


class Rotation(msgspec.Struct, frozen=True):
    """When a file makes way for a new one, and the name that the old one gets.

    ``pattern`` is log4j's ``filePattern``: ``%d{dd-MMM}`` is the date of the old file, ``%i`` a number from 1 on, and a name
    that ends with ``.gz`` has the file compressed. ``max_bytes`` 0 is no limit of the size. With ``by_time`` a file also
    makes way when its date is over. Of the files of a date, or of all where the pattern has no date, ``keep`` are kept.
    """

    pattern: str = ""
    max_bytes: int = 0
    by_time: bool = False
    at_start: bool = False
    keep: int = 7


NO_ROTATION = Rotation()


def find_dates(pattern: str) -> list[DateFormat]:
    """Return the dates in the pattern of a file's name. Raises ``UnknownPattern``."""
    return [DateFormat(text or "yyyy-MM-dd", zone) for text, zone in _DATE.findall(pattern)]


class RotatedFile(logging.Handler):
    """Appends records to a file. Raises ``OSError`` where it cannot be opened.

    Later faults (a full disk, a folder that is gone) lose the line, with a warning, and harm nobody who logs.
    """

    def __init__(self, path: Path, rotation: Rotation, *, append: bool = True) -> None:
        super().__init__()
        self.path = path
        self._rotation = rotation
        self._dates = find_dates(rotation.pattern)
        self._dated = (-1, "")
        self._fd = -1
        self._identity = (0, 0)
        self._period = ""
        self._retry_at = self._warn_at = 0.0
        self._failing = self._cut_off = False
        self._compressing: list[threading.Thread] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        if not append:
            os.ftruncate(self._fd, 0)
        if rotation.at_start and path.stat().st_size:
            self._rotate(time.time(), forced=True)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._append_text(self.format(record))
        except Exception:  # whoever logs must not fail by it
            self.handleError(record)

    def write_lines(self, lines: Sequence[str]) -> None:
        """Append lines that are formatted, all at once."""
        with self.lock or contextlib.nullcontext():
            self._append_text("\n".join(lines))

    def _append_text(self, text: str) -> None:
        try:
            self._append(text.encode("utf-8", "backslashreplace") + b"\n")
            self._failing = False
        except OSError as error:
            self._report(error)

    def close(self) -> None:
        """Close the file and wait for old ones that are being compressed."""
        with self.lock or contextlib.nullcontext():
            self._close()
        for thread in self._compressing:
            thread.join(_RETRY)
        super().close()

    def _append(self, data: bytes) -> None:
        while True:
            if self._fd < 0:
                self._open()
            now = time.time()
            with _locked(self._fd, fcntl.LOCK_SH):
                size = self._size()
                if size >= 0 and not self._is_due(size, now):
                    self._write(data)
                    return
            if size >= 0:
                self._rotate(now)
            self._close()

    def _write(self, data: bytes) -> None:
        rest = memoryview(b"\n" + data if self._cut_off else data)
        self._cut_off = True  # until the whole line is there: a full disk takes a part of it
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self._cut_off = False

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        status = os.fstat(self._fd)
        self._identity = (status.st_dev, status.st_ino)
        # An old file that is empty begins its time now.
        self._period = self._format_date(status.st_mtime if status.st_size else time.time())

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _size(self) -> int:
        """Return the size of the file; -1 where the path no longer leads to the file that is open."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return -1
        return status.st_size if (status.st_dev, status.st_ino) == self._identity else -1

    def _is_due(self, size: int, now: float) -> bool:
        rotation = self._rotation
        if not size or now < self._retry_at:
            return False
        if rotation.max_bytes and size >= rotation.max_bytes:
            return True
        return rotation.by_time and self._format_date(now) != self._period

    def _format_date(self, moment: float) -> str:
        """Return the pattern of old files' names with the dates in it."""
        second, dated = self._dated
        if int(moment) != second:
            dates = iter(self._dates)
            dated = _DATE.sub(lambda _match: next(dates).format(moment), self._rotation.pattern)
            self._dated = int(moment), dated
        return dated

    def _rotate(self, now: float, *, forced: bool = False) -> None:
        """Rename the file, unless another process has just done so. The next line opens a new one."""
        try:
            with _locked(self._fd, fcntl.LOCK_EX):
                size = self._size()
                if size < 0 or not (forced or self._is_due(size, now)):
                    return
                target = self._make_room()
                self.path.rename(target)
        except OSError as error:
            self._retry_at = now + _RETRY
            log.warning("log file not rotated", file=self.path, reason=error.strerror)
            return
        if forced:
            self._close()
            self._open()
        if target.name != (named := self._final_name(target)).name:
            thread = threading.Thread(target=_compress_file, args=(target, named), name="compress")
            self._compressing = [each for each in self._compressing if each.is_alive()] + [thread]
            thread.start()

    def _make_room(self) -> Path:
        """Return the free name for the file that is full, before it is compressed; the oldest of its kind may be deleted."""
        dated = self._period or f"{self.path}.%i"
        if not _INDEX.search(dated) and not self._taken(Path(dated)):
            Path(dated).parent.mkdir(parents=True, exist_ok=True)
            return _without_suffix(Path(dated))
        if not _INDEX.search(dated):
            # Two files of one date: log4j would overwrite the first.
            plain = _without_suffix(Path(dated))
            dated = f"{plain}.%i{dated[len(str(plain)) :]}"
        before, after = _INDEX.split(dated, maxsplit=1)
        Path(before).parent.mkdir(parents=True, exist_ok=True)
        taken = sorted(_taken_numbers(before, after))
        for number in taken[: max(len(taken) + 1 - self._rotation.keep, 0)]:
            for name in (f"{before}{number}{after}", f"{before}{number}{_without_suffix(Path(after)).name}"):
                Path(name).unlink(missing_ok=True)
        return _without_suffix(Path(f"{before}{(taken or [0])[-1] + 1}{after}"))

    def _taken(self, path: Path) -> bool:
        return path.exists() or _without_suffix(path).exists()

    def _final_name(self, target: Path) -> Path:
        return target.with_name(f"{target.name}.gz") if self._rotation.pattern.endswith(".gz") else target

    def _report(self, error: OSError) -> None:
        self._close()
        now = time.monotonic()
        if not self._failing and now >= self._warn_at:
            self._failing, self._warn_at = True, now + _RETRY
            log.warning("log file not written, its lines are lost", file=self.path, reason=error.strerror)


def _without_suffix(path: Path) -> Path:
    return path.with_suffix("") if path.suffix == ".gz" else path


def _taken_numbers(before: str, after: str) -> Iterator[int]:
    """Yield the numbers of the files that are named ``before``, a number, and ``after``, compressed or not yet."""
    head, folder = Path(before).name, Path(before).parent
    if before.endswith("/"):
        head, folder = "", Path(before)
    name = re.compile(f"{re.escape(head)}(\\d+)(?:{re.escape(after)}|{re.escape(after.removesuffix('.gz'))})")
    for entry in folder.iterdir():
        if match := name.fullmatch(entry.name):
            yield int(match[1])


def _compress_file(source: Path, target: Path) -> None:
    """Compress an old file. Where that fails it stays as it is."""
    import gzip  # noqa: PLC0415 - once a day

    part = target.with_name(f".{target.name}.part")
    try:
        with source.open("rb") as plain, gzip.open(part, "wb") as compressed:
            shutil.copyfileobj(plain, compressed, 1 << 20)
        part.rename(target)
        source.unlink()
    except OSError as error:
        log.warning("log file not compressed", file=source, reason=error.strerror)
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(fd: int, kind: int) -> Iterator[None]:
    """Hold a lock of a file, which ends with the block; without one where the file system has none."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, kind)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
