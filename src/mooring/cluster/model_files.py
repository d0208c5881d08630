"""The model files of this machine, each by the hash of what it holds. Runs in node servers and in ``mooring serve --cluster``.

    FOLDER/SHA256             the one file that is sent: a model's file or archive, or a tar of its folder
    FOLDER/SHA256.RANDOM/NAME what is loaded: the same file under its name, or the folder, unpacked
    FOLDER/.part-PID-RANDOM   what is not whole yet

A name without ``.part`` is only ever given to what is whole, by a rename. What lies here is hashed again whenever it is opened:
who finds other bytes than were registered takes them away and says that they are not there.
"""

import hashlib
import os
import re
import shutil
import stat
import tarfile
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

import msgspec

from mooring.cluster.records import ModelFiles
from mooring.core.errors import FetchFailed, ModelLoadFailed, OutOfResources
from mooring.observability.logs import get_logger
from mooring.repository.archives import UnpackLimits, remove_folder, unpack_tar

log = get_logger(__name__)

_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = ".part-"
# What belongs to no model: what Python compiles, and what tools keep beside code.
NOT_PACKED = frozenset(
    {"__pycache__", ".git", ".venv", ".ipynb_checkpoints", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
)


class OpenFiles:
    """Model files in use: ``place`` is what to load, and nobody takes it away before ``close``."""

    def __init__(self, place: Path, on_close: Callable[[], None]) -> None:
        self.place = place
        self._on_close: Callable[[], None] | None = on_close

    def close(self) -> None:
        """Let the files go. A second call does nothing."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


class ModelFileCache:
    """Model files by hash, ``most_bytes`` of them at most (0: any number).

    How this works: ``add`` copies a file or packs a folder into the cache and tells what it is called, ``put`` takes in what was
    fetched, if its bytes are those that were registered. ``open`` hashes the file, has it ready under its name, and keeps it for as long
    as somebody uses it. What nobody uses goes when room is needed, first what was opened longest ago.

    Its methods may block for as long as a disk takes: call them in threads. Any number of threads may call them at once.
    """

    def __init__(self, folder: Path, most_bytes: int = 0, limits: UnpackLimits | None = None) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._limits = limits
        self._users: Counter[str] = Counter()  # by hash: those that may not be taken away now
        self._sizes: dict[str, int] = {}  # by hash: bytes on the disk
        self._lock = threading.Lock()  # of the two above and of what is taken away
        self._locks: dict[str, threading.Lock] = {}  # by hash: whoever reads or writes the files of one
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remove_parts()
        self._sizes = {each: self._measure(each) for each in self._find_hashes()}

    def hashes(self) -> list[str]:
        """The hashes of all files that are here, whoever put them there. Their bytes are not looked at."""
        found = set(self._find_hashes())
        with self._lock:
            kept = {each: size for each, size in self._sizes.items() if each in found}
            self._sizes = kept | {each: self._measure(each) for each in found - kept.keys()}
        return sorted(found)

    def path_of(self, sha256: str) -> Path:
        """Where the one file with this hash lies, if it is here."""
        return self._folder / sha256

    def add(
        self, place: Path, *, name: str = "", leave_out: Collection[str] = (), most_bytes: int = 0
    ) -> ModelFiles:
        """Copy a file into the cache, or pack a folder; ``leave_out`` are entries right in it that are not packed.

        Links are followed. The same contents have the same hash whoever owns them and whenever they were written. Raises ``ModelLoadFailed``
        for what cannot be read and for more than ``most_bytes``, ``OutOfResources`` where there is no room.
        """
        with self.part() as part:
            files = pack_files(place, part, leave_out=leave_out, most_bytes=most_bytes)
            files = msgspec.structs.replace(files, name=name or files.name)
            self._keep(part, files)
        return files

    @contextmanager
    def part(self) -> Iterator[Path]:
        """A path in the cache's folder for what is not whole yet. What is left there afterwards is removed."""
        part = self._folder / f"{_PART}{os.getpid()}-{uuid.uuid4().hex}"
        try:
            yield part
        finally:
            _remove(part)

    def put(self, fetched: Path, files: ModelFiles, source: str) -> None:
        """Move a file into the cache that was fetched from ``source``. It is gone from where it was, whatever comes of it.

        Raises ``FetchFailed`` where it has other bytes than were registered, ``OutOfResources`` where there is no room.
        """
        check_files(files)
        found = hash_file(fetched)
        if found != files.sha256:
            _remove(fetched)
            raise FetchFailed(
                f"{source} has other bytes than were registered: their sha256 is {found}, not {files.sha256}"
            )
        self._keep(fetched, files)
        _remove(fetched)  # where the file was here already

    def open(self, files: ModelFiles) -> OpenFiles | None:
        """Have the files ready to load; None where they are not here, or not as they were registered.

        Raises ``ModelLoadFailed`` for a folder's archive that cannot be unpacked, ``OutOfResources`` where there is no room.
        """
        check_files(files)
        sha256 = files.sha256
        with self._lock:
            self._users[sha256] += 1
        try:
            with self._lock_of(sha256):
                place = self._find_place(files)
        except BaseException:
            self._leave(sha256)
            raise
        if place is None:
            self._leave(sha256)
            return None
        return OpenFiles(place, lambda: self._leave(sha256))

    def _find_place(self, files: ModelFiles) -> Path | None:
        blob = self._folder / files.sha256
        if not blob.is_file():
            self._forget(files.sha256)
            return None
        if hash_file(blob) != files.sha256:
            log.error(
                "model file changed on the disk",
                file=str(blob),
                model_file=files.name,
                remedy="it is fetched anew",
            )
            self._forget(files.sha256)
            return None
        with suppress(OSError):
            os.utime(blob)
        for opened in self._opened(files.sha256):
            if self._is_whole(opened / files.name, blob, files):
                return opened / files.name
            with self._lock:
                if self._users[files.sha256] == 1:  # else somebody may still read it
                    remove_folder(opened)
        return self._make_place(blob, files)

    def _is_whole(self, place: Path, blob: Path, files: ModelFiles) -> bool:
        """Whether this is still what the file says: a model's own code may have written into its folder."""
        try:
            if files.packing == "file":
                return place.samefile(blob)
            return place.is_dir() and _hash_folder(place) == files.sha256
        except (OSError, ValueError, ModelLoadFailed):
            return False

    def _make_place(self, blob: Path, files: ModelFiles) -> Path:
        with self.part() as part:
            part.mkdir(mode=0o700)
            if files.packing == "file":
                (part / files.name).hardlink_to(blob)
            else:
                self._make_room(files.size, files.sha256)
                (part / files.name).mkdir()
                unpack_tar(blob, part / files.name, self._limits)
                _make_read_only(part)
            opened = self._folder / f"{files.sha256}.{uuid.uuid4().hex[:8]}"
            part.rename(opened)
        with self._lock:
            self._sizes[files.sha256] = self._measure(files.sha256)
        return opened / files.name

    def _keep(self, whole: Path, files: ModelFiles) -> None:
        """Give a whole file, whose bytes were hashed, its name here."""
        check_files(files)
        sha256, blob = files.sha256, self._folder / files.sha256
        with self._lock:
            self._users[sha256] += 1
        try:
            with self._lock_of(sha256):
                if blob.is_file() and blob.stat().st_size == files.size:
                    return  # its bytes are looked at when it is opened
                self._make_room(files.size, sha256)
                whole.chmod(0o444)
                shutil.move(whole, blob)
                with self._lock:
                    self._sizes[sha256] = self._measure(sha256)
        except OSError as error:
            raise OutOfResources(f"model file '{files.name}' cannot be kept: {_reason_of(error)}") from error
        finally:
            self._leave(sha256)

    def make_room(self, files: ModelFiles) -> None:
        """Take away what nobody uses until these files would fit. Raises ``OutOfResources``."""
        self._make_room(files.size, files.sha256)

    def _make_room(self, size: int, sha256: str) -> None:
        if not self._most_bytes:
            return
        self.hashes()  # a node actor may have put files here meanwhile
        with self._lock:
            used = sum(self._sizes.values())
            unused = [each for each in self._sizes if not self._users[each]]
            kept = used - sum(self._sizes[each] for each in unused)
            if kept + size > self._most_bytes:
                raise OutOfResources(
                    f"no room for a model file of {size} bytes (sha256 {sha256}): {kept} bytes of model files are in use, and at most "
                    f"{self._most_bytes} are kept; raise cluster_files_size"
                )
            for oldest in sorted(unused, key=self._last_opened):
                if used + size <= self._most_bytes:
                    return
                used -= self._sizes[oldest]
                self._take_away(oldest)
                log.info("model file evicted", sha256=oldest)

    def _forget(self, sha256: str) -> None:
        with self._lock:
            # Those who have it open go on with what they have loaded; the folder that they read is left to them.
            (self._folder / sha256).unlink(missing_ok=True)
            if self._users[sha256] <= 1:
                self._take_away(sha256)
            self._sizes.pop(sha256, None)

    def _take_away(self, sha256: str) -> None:
        (self._folder / sha256).unlink(missing_ok=True)
        for opened in self._opened(sha256):
            remove_folder(opened)
        self._sizes.pop(sha256, None)

    def _leave(self, sha256: str) -> None:
        with self._lock:
            self._users[sha256] -= 1
            if self._users[sha256] <= 0:
                del self._users[sha256]

    def _last_opened(self, sha256: str) -> float:
        try:
            return (self._folder / sha256).stat().st_mtime
        except OSError:
            return 0.0

    def _opened(self, sha256: str) -> list[Path]:
        return sorted(self._folder.glob(f"{sha256}.*"))

    def _measure(self, sha256: str) -> int:
        """Bytes that a file takes on the disk, with what was unpacked of it."""
        places = [self._folder / sha256]
        for opened in self._opened(sha256):
            places += opened.rglob("*")
        found: dict[tuple[int, int], int] = {}
        for place in places:
            with suppress(OSError):
                status = place.lstat()
                if stat.S_ISREG(status.st_mode):
                    found[status.st_dev, status.st_ino] = status.st_size
        return sum(found.values())

    def _find_hashes(self) -> list[str]:
        return [entry.name for entry in self._folder.iterdir() if _SHA256.fullmatch(entry.name)]

    def _remove_parts(self) -> None:
        """Remove what processes left that ended in the middle of it."""
        for part in self._folder.glob(f"{_PART}*"):
            pid = part.name.removeprefix(_PART).partition("-")[0]
            if not (pid.isdecimal() and Path("/proc", pid).exists()):
                _remove(part)

    def _lock_of(self, sha256: str) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(sha256, threading.Lock())


def check_files(files: ModelFiles) -> None:
    """Raise ``ModelLoadFailed`` for a hash or a name that no file here has: both come from other processes."""
    if not _SHA256.fullmatch(files.sha256):
        raise ModelLoadFailed(f"'{files.sha256[:80]}' is not a sha256 in hexadecimal digits")
    name = files.name
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(os.fsencode(name)) > 255:
        raise ModelLoadFailed(f"{name[:80]!r} is not the name of a file")


def hash_file(file: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def pack_files(
    place: Path, into: Path, *, leave_out: Collection[str] = (), most_bytes: int = 0
) -> ModelFiles:
    """Copy a file to ``into``, or write there a tar of a folder; as ``ModelFileCache.add``."""
    try:
        with into.open("wb") as sink:
            writer = _HashingWriter(sink, most_bytes, place)
            if place.is_dir():
                _pack_folder(place, writer, leave_out)
            else:
                _copy_file(place, writer)
    except (OSError, tarfile.TarError, ValueError) as error:
        raise ModelLoadFailed(f"'{place}' cannot be read: {_reason_of(error)}") from error
    packing = "folder" if place.is_dir() else "file"
    return ModelFiles(sha256=writer.sha256, name=place.name, size=writer.size, packing=packing)


class _HashingWriter:
    """Hashes and counts what it writes. Raises ``ModelLoadFailed`` for more than ``most_bytes`` (0: any number)."""

    def __init__(self, sink: IO[bytes] | None, most_bytes: int, place: Path) -> None:
        self._sink = sink
        self._most_bytes = most_bytes
        self._place = place
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """The hash of all that was written, in hexadecimal digits."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        if self._most_bytes and self.size > self._most_bytes:
            raise ModelLoadFailed(f"'{self._place}' has more than {self._most_bytes} bytes")
        self._hash.update(data)
        return self._sink.write(data) if self._sink is not None else len(data)


def _copy_file(file: Path, writer: _HashingWriter) -> None:
    with file.open("rb") as source:
        while chunk := source.read(_CHUNK):
            writer.write(chunk)


def _hash_folder(folder: Path) -> str:
    writer = _HashingWriter(None, 0, folder)
    _pack_folder(folder, writer, ())
    return writer.sha256


def _pack_folder(folder: Path, writer: _HashingWriter, leave_out: Collection[str]) -> None:
    """Write a tar of a folder that has only names and contents: in order of the names, without times, owners and modes."""
    with tarfile.open(
        fileobj=cast("IO[bytes]", writer), mode="w|", format=tarfile.PAX_FORMAT, bufsize=_CHUNK
    ) as archive:
        for name, place in _list_folder(folder, leave_out):
            entry = tarfile.TarInfo(name)
            if place.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
                continue
            if not place.is_file():
                raise ModelLoadFailed(
                    f"'{place}' is neither a file nor a folder; take it out of the model's folder"
                )
            with place.open("rb") as source:
                entry.size, entry.mode = os.fstat(source.fileno()).st_size, 0o644
                archive.addfile(entry, source)


def _list_folder(folder: Path, leave_out: Collection[str]) -> Iterator[tuple[str, Path]]:
    """List all that is below a folder by its path there, folders before what they hold. Links are followed, but for those in a circle."""

    def list_entries(place: Path, prefix: str, within: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
        for entry in sorted(place.iterdir()):
            if entry.name in NOT_PACKED or (not prefix and entry.name in leave_out):
                continue
            name = f"{prefix}{entry.name}"
            yield name, entry
            if entry.is_dir():
                real = entry.resolve()
                if real in within:
                    raise ModelLoadFailed(f"'{entry}' is a link to a folder that it is in itself")
                yield from list_entries(entry, f"{name}/", (*within, real))

    yield from list_entries(folder, "", (folder.resolve(),))


def _make_read_only(folder: Path) -> None:
    for place in folder.rglob("*"):
        if place.is_file():
            place.chmod(0o444)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        remove_folder(place)
        return
    with suppress(OSError):
        place.unlink(missing_ok=True)


def _reason_of(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    return f"{text or type(error).__name__}{where}"
