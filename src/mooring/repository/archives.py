"""Unpacking an archive that nobody vouches for: nothing lands outside the folder it is given, and no bomb fills it.

Only plain files and folders are taken. Links, devices and names that lead elsewhere are no accident in a model's
archive: the first one refuses the whole archive.
"""

import errno
import gzip
import os
import shutil
import stat
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


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


class Limits(msgspec.Struct, frozen=True):
    """How much an archive may become. Weights compress to a half at best; a bomb to a thousandth."""

    total_bytes: int = 64 << 30
    files: int = 100_000
    ratio: int = 200
    # Up to here the ratio is not asked: a small text file may well compress that far.
    small_bytes: int = 64 << 20

    def bytes_from(self, archive_bytes: int) -> int:
        """How many bytes may come out of an archive of that size."""
        return min(self.total_bytes, max(self.small_bytes, archive_bytes * self.ratio))


def unpack(archive: Path, into: Path, limits: Limits | None = None) -> None:
    """Unpack a zip (``.mar``) or gzipped tar into the empty folder ``into``; which it is, its bytes say.

    Raises ``ModelLoadFailed`` naming the archive, or ``OutOfResources`` where the disk is full; ``into`` then holds an
    unknown part of it.
    """
    try:
        with archive.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            extraction = _Extraction(archive, into, (limits or Limits()), size)
            if file.read(2) == _GZIP:
                file.seek(0)
                _unpack_tar(file, extraction)
            elif zipfile.is_zipfile(file):
                _unpack_zip(file, extraction)
            else:
                raise ModelLoadFailed(f"archive '{archive}' is neither a zip (.mar) nor a gzipped tar file")
    except _BROKEN as error:
        # A full disk is no fault of the archive's, or of whoever asked for it.
        full = isinstance(error, OSError) and error.errno in _FULL
        kind = OutOfResources if full else ModelLoadFailed
        raise kind(f"archive '{archive}' cannot be unpacked: {_reason(error)}") from error


class _Extraction:
    """The folder that one archive becomes, and what is left of its limits."""

    def __init__(self, archive: Path, into: Path, limits: Limits, archive_bytes: int) -> None:
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
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
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


def _unpack_tar(file: BinaryIO, extraction: _Extraction) -> None:
    with gzip.GzipFile(fileobj=file) as plain:
        metered = _Metered(plain, extraction)
        # As a stream: headers are metered too, since tarfile reads a long one into memory as it comes.
        with tarfile.open(fileobj=cast("IO[bytes]", metered), mode="r|") as archive:
            for member, source in _members(archive):
                if member.isdir():
                    extraction.folder(member.name)
                elif source is None or member.issparse():
                    raise extraction.refuse(member.name, "is a link, a device or a sparse file")
                else:
                    extraction.file(member.name, source, metered=True)
        # The checksum of gzip stands at the end, behind what tar has asked for.
        while metered.read(_CHUNK):
            pass


def _members(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    for member in archive:
        yield member, archive.extractfile(member) if member.isreg() else None


class _Metered:
    """Every byte that is decompressed counts."""

    def __init__(self, source: gzip.GzipFile, extraction: _Extraction) -> None:
        self._source = source
        self._extraction = extraction

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        self._extraction.spend(len(chunk))
        return chunk


def model_root(folder: Path) -> Path:
    """Where in an unpacked folder the model lies: there, or in the one folder that it holds (as in a .tar.gz)."""
    if (folder / "MAR-INF").is_dir() or (folder / "WAR-INF").is_dir():
        return folder
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    if len(entries) == 1 and entries[0].is_dir() and not entries[0].is_symlink():
        return entries[0]
    return folder


def remove(folder: Path) -> None:
    """Remove what was unpacked. A file that cannot be removed is left: the model it belonged to is gone already."""
    shutil.rmtree(folder, ignore_errors=True)


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__
