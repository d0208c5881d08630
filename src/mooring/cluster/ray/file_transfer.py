"""Model files from node to node, in pieces through Ray's object store. Runs in node actors and in ``mooring serve --cluster``."""

import asyncio
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Bytes of a piece: small beside an object store, large beside what a call costs.
PIECE = 8 << 20
_AHEAD = 2  # pieces that are asked for before they are written


def read_piece(files: Path, sha256: str, offset: int, size: int) -> bytes:
    """Return a piece of the file with this hash. Raises ``FileNotFoundError``."""
    return _read(files / _checked(sha256), offset, size)


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def write_piece(files: Path, sha256: str, offset: int, data: bytes, *, last: bool) -> None:
    """Write a piece of a file; with the ``last`` one it is given its name. Raises ``ValueError`` if it has another hash."""
    part = files / f".part-sent-{_checked(sha256)}"
    mode = "r+b" if offset else "wb"
    with part.open(mode) as file:
        file.seek(offset)
        file.write(data)
    if last:
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            part.unlink()
            raise ValueError(f"the file that was sent has the sha256 {found}, not {sha256}")
        part.replace(files / sha256)


async def fetch_from(actor: Any, sha256: str, files: Path) -> Path:
    """Bring the file with this hash from another node's actor; return where it lies, not checked. Raises what Ray raises."""
    path = files / f".part-{os.getpid()}-{uuid.uuid4().hex}"
    asked = [actor.read_file.remote(sha256, number * PIECE, PIECE) for number in range(_AHEAD)]
    offset = _AHEAD * PIECE
    try:
        with path.open("wb") as file:
            while data := await asked.pop(0):
                asked.append(actor.read_file.remote(sha256, offset, PIECE))
                offset += PIECE
                await asyncio.to_thread(file.write, data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def pieces_of(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """The pieces of a file: where each begins, its bytes, and whether it is the last one."""
    size, offset = path.stat().st_size, 0
    while True:
        data = _read(path, offset, PIECE)
        yield offset, data, offset + len(data) >= size
        offset += len(data)
        if offset >= size:
            return


def _checked(sha256: str) -> str:
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise ValueError(f"{sha256!r} is no sha256")
    return sha256
