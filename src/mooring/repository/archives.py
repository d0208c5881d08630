"""Unpacking an archive that nobody vouches for: nothing lands outside the folder it is given, and no bomb fills it.

Only plain files and folders are taken. Links, devices and names that lead elsewhere are no accident in a model's
archive: the first one refuses the whole archive.
"""

import errno
import gzip
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

import msgspec

from mooring.core.errors import ModelLoadFailed, OutOfResources

_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20

# What the standard library raises for broken archives: documented errors, and what its parsers run into.
_BROKEN = (
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


# Where a zip ends: how many members its directory has, and how long that is. The end is followed by a comment at most.
_DIRECTORY = struct.Struct("<10xHI")
_ZIP64_DIRECTORY = struct.Struct("<32xQQ")
_LONGEST_END = 22 + 65_535 + 20 + 56
# Bytes that a member takes in the directory, its name included: no archive people make comes near this on average.
_LONG_ENTRY = 512

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


class UnpackLimits(msgspec.Struct, frozen=True):
    """How large an archive may become. Weights compress to a half at best; a bomb to a thousandth."""

    total_bytes: int = 64 << 30
    files: int = 100_000
    ratio: int = 200
    # Up to here the ratio is not asked: a small text file may well compress that far.
    small_bytes: int = 64 << 20

    def bytes_from(self, archive_bytes: int) -> int:
        """The most bytes that may come out of an archive of that size."""
        return min(self.total_bytes, max(self.small_bytes, archive_bytes * self.ratio))


def unpack(archive: Path, into: Path, limits: UnpackLimits | None = None) -> None:
    """Unpack a zip (``.mar``) or gzipped tar into the empty folder ``into``; which it is, its bytes say.

    Raises ``ModelLoadFailed`` naming the archive, or ``OutOfResources`` where the disk is full; ``into`` then holds an
    unknown part of it.
    """
    try:
        with archive.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            extraction = _Extraction(archive, into, (limits or UnpackLimits()), size)
            if file.read(2) == _GZIP:
                file.seek(0)
                _unpack_gzipped_tar(file, extraction)
            elif zipfile.is_zipfile(file):
                _unpack_zip(file, extraction)
            else:
                raise ModelLoadFailed(f"archive '{archive}' is neither a zip (.mar) nor a gzipped tar file")
    except _BROKEN as error:
        raise _unpack_error(archive, error) from error


def unpack_tar(archive: Path, into: Path, limits: UnpackLimits | None = None) -> None:
    """Unpack a tar archive that is not compressed into the empty folder ``into``. Raises as ``unpack``."""
    try:
        with archive.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            _unpack_tar_stream(file, _Extraction(archive, into, limits or UnpackLimits(), size))
    except _BROKEN as error:
        raise _unpack_error(archive, error) from error


def _unpack_error(archive: Path, error: BaseException) -> ModelLoadFailed | OutOfResources:
    # A full disk is no fault of the archive's, or of whoever asked for it.
    full = isinstance(error, OSError) and error.errno in _FULL
    kind = OutOfResources if full else ModelLoadFailed
    return kind(f"archive '{archive}' cannot be unpacked: {_error_reason(error)}")


class _Extraction:
    """The folder that an archive is unpacked to, and the rest of its limits."""

    def __init__(self, archive: Path, into: Path, limits: UnpackLimits, archive_bytes: int) -> None:
        self._archive = archive
        self._into = into
        self._files_left = limits.files
        self.bytes_left = limits.bytes_from(archive_bytes)

    def refuse(self, name: str, reason: str) -> ModelLoadFailed:
        return ModelLoadFailed(f"archive '{self._archive}' is refused: {name[:200]!r} {reason}")

    def spend(self, size: int) -> None:
        """Count bytes against the limit."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise ModelLoadFailed(
                f"archive '{self._archive}' is refused: it unpacks to more bytes than its size allows"
            )

    def announce(self, members: int, size: int) -> None:
        """Refuse an archive whose directory lists too much, before anything of it is written."""
        if members > self._files_left:
            raise ModelLoadFailed(
                f"archive '{self._archive}' is refused: it holds too many files ({members}, at most "
                f"{self._files_left} are taken)"
            )
        if size > self.bytes_left:
            self.spend(size)

    def folder(self, name: str) -> None:
        """Make a folder."""
        self._place(name).mkdir(parents=True, exist_ok=True)

    def file(self, name: str, source: IO[bytes], *, metered: bool = False) -> None:
        """Write a file. Of two with one name the later stays, as with every unpacker."""
        target = self._place(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as sink:
            while chunk := source.read(_CHUNK):
                if not metered:
                    self.spend(len(chunk))
                sink.write(chunk)

    def _place(self, name: str) -> Path:
        self._files_left -= 1
        if self._files_left < 0:
            raise ModelLoadFailed(f"archive '{self._archive}' is refused: it holds too many files")
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise self.refuse(name, "leads out of the archive's own folder")
        return self._into / name


def _unpack_zip(file: BinaryIO, extraction: _Extraction) -> None:
    # First as it announces itself: reading a directory of millions of members takes minutes and gigabytes.
    extraction.announce(max_zip_members(file), 0)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        extraction.announce(len(entries), sum(entry.file_size for entry in entries))
        for entry in entries:
            kind = stat.S_IFMT(entry.external_attr >> 16)
            # Archives made elsewhere than on Unix have no mode at all.
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise extraction.refuse(entry.filename, "is a link or a device")
            # zipfile cuts names at a NUL; what the archive really says is in orig_filename.
            if "\0" in entry.orig_filename:
                raise extraction.refuse(entry.orig_filename, "has a NUL in its name")
            if entry.is_dir():
                extraction.folder(entry.filename)
                continue
            with archive.open(entry) as source:
                extraction.file(entry.filename, source)


def max_zip_members(file: BinaryIO) -> int:
    """The most members that the directory of a zip can have: its own count, or what its size allows where that is more.

    0 where the end of the directory is not found; reading the archive then tells what is wrong.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _LONGEST_END, 0))
    tail = file.read()
    at, at_zip64 = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    try:
        count, length = _DIRECTORY.unpack_from(tail, at) if at >= 0 else (0, 0)
        if at_zip64 >= 0 and (count == 0xFFFF or length == 0xFFFFFFFF):
            count, length = _ZIP64_DIRECTORY.unpack_from(tail, at_zip64)
    except struct.error:
        return 0
    # zipfile goes by the length, whatever the count says.
    return max(int(count), int(length) // _LONG_ENTRY)


def _unpack_gzipped_tar(file: BinaryIO, extraction: _Extraction) -> None:
    with gzip.GzipFile(fileobj=file) as plain:
        _unpack_tar_stream(plain, extraction)


def _unpack_tar_stream(plain: IO[bytes] | gzip.GzipFile, extraction: _Extraction) -> None:
    metered = _MeteredReader(plain, extraction)
    # As a stream: headers are metered too, since tarfile reads a long one into memory as it comes.
    with tarfile.open(fileobj=cast("IO[bytes]", metered), mode="r|") as archive:
        for member, source in _iterate_members(archive):
            if member.isdir():
                extraction.folder(member.name)
            elif source is None or member.issparse():
                raise extraction.refuse(member.name, "is a link, a device or a sparse file")
            else:
                extraction.file(member.name, source, metered=True)
    # The checksum of gzip stands at the end, behind what tar has asked for.
    while metered.read(_CHUNK):
        pass


def _iterate_members(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    for member in archive:
        yield member, archive.extractfile(member) if member.isreg() else None


class _MeteredReader:
    """A reader that counts every unpacked byte against the limits."""

    def __init__(self, source: IO[bytes] | gzip.GzipFile, extraction: _Extraction) -> None:
        self._source = source
        self._extraction = extraction

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        self._extraction.spend(len(chunk))
        return chunk


def find_model_root(folder: Path) -> Path:
    """Find the model in an unpacked folder: right there, or in the only folder in it (as in a .tar.gz)."""
    if (folder / "MAR-INF").is_dir() or (folder / "WAR-INF").is_dir():
        return folder
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    if len(entries) == 1 and entries[0].is_dir() and not entries[0].is_symlink():
        return entries[0]
    return folder


def remove_folder(folder: Path) -> None:
    """Remove an unpacked folder. A file that cannot be removed stays: its model is gone already."""
    shutil.rmtree(folder, ignore_errors=True)


def _error_reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__
