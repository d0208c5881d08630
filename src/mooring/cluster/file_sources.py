"""Where model files come from when a machine lacks them. Runs in node servers.

    file:///shared/model.mar     a path that nodes share: the file, or the folder that was packed
    https://...                  where the setting allowed_urls names its address; also http:
    s3:// gs:// az:// ...        what fsspec reads, with the package for it: s3fs, gcsfs, adlfs
    node:NAME                    another node that has it, through Ray

They are tried in order. Whatever comes is hashed before anybody looks into it: a source with other bytes is logged and left.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mooring.cluster.model_files import ModelFileCache, OpenFiles, pack_files
from mooring.cluster.records import ModelFiles
from mooring.core.errors import FetchFailed, MooringError
from mooring.observability.logs import get_logger
from mooring.repository.fetch import Fetcher, url_for_log

log = get_logger(__name__)

NODE = "node:"
FetchFromNode = Callable[[str, str], Awaitable[Path]]
"""Brings the file with this hash from the node of that name and returns where it lies, unverified. Raises ``FetchFailed``."""

# Seconds between two lines of the log about a file that is still coming.
_PROGRESS_EVERY = 5.0
_CHUNK = 1 << 20
# What fsspec needs beside itself, by the kind of address.
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}


class FileSources:
    """Has model files ready on this node, and fetches those that are not here.

    ``node`` is this node's name. Two who want the same file at once wait for one fetch.
    """

    def __init__(
        self, cache: ModelFileCache, fetcher: Fetcher, fetch_from_node: FetchFromNode, node: str = ""
    ) -> None:
        self._cache = cache
        self._fetcher = fetcher
        self._fetch_from_node = fetch_from_node
        self._node = node
        self._locks: dict[str, asyncio.Lock] = {}

    async def open_files(self, files: ModelFiles) -> OpenFiles:
        """Have files ready to load. The caller closes what it gets.

        Raises ``FetchFailed`` naming each source with its reason, ``ModelLoadFailed`` for an archive that cannot be unpacked and
        ``OutOfResources`` where there is no room.
        """
        async with self._locks.setdefault(files.sha256, asyncio.Lock()):
            opened = await asyncio.to_thread(self._cache.open, files)
            reasons = []
            for source in files.sources if opened is None else ():
                try:
                    await self._fetch(files, source)
                except FetchFailed as error:
                    reasons.append(error.message)
                    shown = _shown(source)
                    log.error("model file not fetched", file=files.name, source=shown, reason=error.message)  # noqa: TRY400 - the reason says it all
                    continue
                opened = await asyncio.to_thread(self._cache.open, files)
                if opened is not None:
                    break
        if opened is None:
            tried = "; ".join(reasons) or "it has no source"
            raise FetchFailed(f"model file '{files.name}' (sha256 {files.sha256}) could not be had: {tried}")
        return opened

    async def _fetch(self, files: ModelFiles, source: str) -> None:
        """Fetch from one source. Raises ``FetchFailed`` that names it."""
        shown = _shown(source)
        await asyncio.to_thread(self._cache.make_room, files)
        with self._cache.part() as part:
            watching = asyncio.ensure_future(_log_progress(part, files, shown))
            try:
                fetched = await self._fetch_to(part, files, source)
                await asyncio.to_thread(self._cache.put, fetched, files, f"'{shown}'")
            except FetchFailed:
                raise
            except (OSError, MooringError) as error:
                raise FetchFailed(f"'{shown}': {_reason_of(error)}") from error
            finally:
                watching.cancel()
        log.info("model file fetched", file=files.name, source=shown, bytes=files.size)

    async def _fetch_to(self, part: Path, files: ModelFiles, source: str) -> Path:
        """Fetch into ``part``, and return where the file lies then."""
        if source.startswith(NODE):
            node = source.removeprefix(NODE)
            if node == self._node:
                raise FetchFailed(f"'{source}': this node itself has it no more")
            return await self._fetch_from_node(files.sha256, node)
        scheme = urlsplit(source).scheme
        if scheme == "file":
            await asyncio.to_thread(_copy, source, files, part)
            return part
        if scheme in ("http", "https"):
            return await asyncio.to_thread(self._download, source, part)
        await asyncio.to_thread(_read_with_fsspec, source, scheme, part, files.size)
        return part

    def _download(self, source: str, part: Path) -> Path:
        part.mkdir(mode=0o700)
        return self._fetcher.fetch(source, part)


def _copy(source: str, files: ModelFiles, part: Path) -> None:
    place = Path(unquote(urlsplit(source).path))
    if not (place.is_file() or (files.packing == "folder" and place.is_dir())):
        raise FetchFailed(f"'{source}' is not on this machine")
    pack_files(place, part, most_bytes=files.size)


def _read_with_fsspec(source: str, scheme: str, part: Path, size: int) -> None:
    shown = _shown(source)
    try:
        import fsspec  # noqa: PLC0415 - of an extra
    except ImportError:
        raise FetchFailed(f"'{shown}': fsspec is not installed: pip install 'mooring[ray]'") from None
    try:
        with fsspec.open(source, "rb") as remote, part.open("wb") as sink:
            left = size
            while chunk := remote.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise FetchFailed(f"'{shown}' has more than the {size} bytes that were registered")
                sink.write(chunk)
    except FetchFailed:
        raise
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        what = f"pip install {package}" if package else str(error)
        raise FetchFailed(f"'{shown}': what reads {scheme}:// is not installed: {what}") from None
    except Exception as error:  # whatever a storage's own client raises: the next source may do
        raise FetchFailed(f"'{shown}': {_reason_of(error)}") from error


async def _log_progress(part: Path, files: ModelFiles, shown: str) -> None:
    """Say every few seconds how much of a file has come."""
    while True:
        await asyncio.sleep(_PROGRESS_EVERY)
        come = await asyncio.to_thread(_size_of, part)
        log.info("fetching a model file", file=files.name, source=shown, bytes=come, of=files.size)


def _size_of(part: Path) -> int:
    try:
        return sum(each.stat().st_size for each in part.iterdir()) if part.is_dir() else part.stat().st_size
    except OSError:  # not there yet
        return 0


def _shown(source: str) -> str:
    return source if source.startswith(NODE) else url_for_log(source)


def _reason_of(error: Exception) -> str:
    if isinstance(error, MooringError):
        return error.message
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{text or type(error).__name__}"
