"""Where the desired state is kept, and who may act on it: one file for each epoch. Runs in the controller.

    FOLDER/CLUSTER/epoch-000000000007.json       of the controller with the epoch 7; the highest one counts

An *epoch* is the number of one life of a controller. To take one, a controller claims a number above all that it sees, and reads
the state only then. Whoever writes looks afterwards whether there is a higher claim, and does not answer before that. So a
change is either seen by the next controller, or its author hears that it was not made (decision 68).

On a disk, and in object stores that can create a file only where there is none, the claim is that creation. In other stores the names
of claims have the controller's own id in them, and a controller that sees another claim of its number takes a higher one.
"""

import asyncio
import contextlib
import inspect
import os
import random
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from mooring.cluster.controller.desired_state import FORMAT, DesiredState

T = TypeVar("T")

# Files of earlier epochs that are kept for people to look at.
_KEPT = 5
# Seconds that two controllers which claimed one number wait at most before they try again.
_BACKOFF = 0.5
_NAME = re.compile(r"epoch-([0-9]{12,})(?:-([0-9a-f]+))?\.json")
_KIND = "mooring cluster state"


class StateStoreError(Exception):
    """The store cannot be read or written; the text names the file and what to do."""


class Superseded(Exception):
    """A later controller has taken a higher ``epoch``; this one may not act any more."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"another controller has taken over with the epoch {epoch}")
        self.epoch = epoch


class Objects(Protocol):
    """A folder of small files. Its methods block; what goes wrong is an ``OSError``."""

    can_create: bool
    """Whether ``create`` fails where there is such a file, even for two callers at once."""

    def place(self, name: str) -> str:
        """The whole name of a file, for people."""

    def names(self) -> list[str]:
        """The files that are there now."""

    def read(self, name: str) -> bytes:
        """What is in a file. Raises ``FileNotFoundError``."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that is not there yet, whole or not at all; False where it is there."""

    def replace(self, name: str, data: bytes) -> None:
        """Write a file, or exchange it, whole or not at all."""

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""


class DirectoryObjects:
    """A directory of this machine, or one that machines share. What is written is on the disk before a call returns."""

    can_create = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def place(self, name: str) -> str:
        return str(self._directory / name)

    def names(self) -> list[str]:
        try:
            return [path.name for path in self._directory.iterdir()]
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        return (self._directory / name).read_bytes()

    def create(self, name: str, data: bytes) -> bool:
        temporary = self._write_temporary(data)
        try:
            os.link(temporary, self._directory / name)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        self._sync_directory()
        return True

    def replace(self, name: str, data: bytes) -> None:
        temporary = self._write_temporary(data)
        temporary.replace(self._directory / name)
        self._sync_directory()

    def delete(self, name: str) -> None:
        (self._directory / name).unlink(missing_ok=True)

    def _write_temporary(self, data: bytes) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)
        temporary = self._directory / f".{secrets.token_hex(8)}.tmp"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _sync_directory(self) -> None:
        handle = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class FsspecObjects:
    """A folder of an object store, through a file system of fsspec. Its listings must show what was written before."""

    def __init__(self, filesystem: Any, folder: str) -> None:
        self._files = filesystem
        self._folder = folder.rstrip("/")
        self.can_create = _creates_exclusively(filesystem)

    def place(self, name: str) -> str:
        return str(self._files.unstrip_protocol(f"{self._folder}/{name}"))

    def names(self) -> list[str]:
        self._files.invalidate_cache()
        try:
            with _as_os_errors():
                listed = self._files.ls(self._folder, detail=False)
        except FileNotFoundError:
            return []
        return [str(path).rstrip("/").rpartition("/")[2] for path in listed]

    def read(self, name: str) -> bytes:
        with _as_os_errors():
            return bytes(self._files.cat_file(f"{self._folder}/{name}"))

    def create(self, name: str, data: bytes) -> bool:
        if not self.can_create:
            self.replace(name, data)
            return True
        try:
            with _as_os_errors():
                self._files.pipe_file(f"{self._folder}/{name}", data, mode="create")
        except FileExistsError:
            return False
        return True

    def replace(self, name: str, data: bytes) -> None:
        with _as_os_errors():
            self._files.pipe_file(f"{self._folder}/{name}", data)

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), _as_os_errors():
            self._files.rm_file(f"{self._folder}/{name}")


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Raise what a library of a store raises as ``OSError``."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # each store's library has classes of its own, and may be anybody's
        raise OSError(f"{type(error).__name__}: {error}") from error


def _creates_exclusively(filesystem: Any) -> bool:
    """Whether the file system has a writing of its own that knows ``mode="create"``: fsspec's looks first and writes then."""
    for name in ("_pipe_file", "pipe_file"):
        method = getattr(type(filesystem), name, None)
        if method is not None and not method.__module__.startswith(("fsspec.spec", "fsspec.asyn")):
            return "mode" in inspect.signature(method).parameters
    return False


class StateFile(msgspec.Struct, frozen=True):
    """What a file holds. A claim has no ``state`` yet: that of the epoch before counts."""

    kind: str
    format: int
    cluster: str
    epoch: int
    state: DesiredState | None = None


class _Kind(msgspec.Struct, frozen=True):
    """As much of a file as tells whose it is."""

    kind: str
    format: int
    cluster: str


class StateStore:
    """The state of one cluster. Call ``take_epoch`` first; every other method is for the epoch that was taken.

    What the store does may take seconds, so ``offload`` runs it elsewhere: in a thread.
    """

    def __init__(
        self, objects: Objects, cluster: str, offload: Callable[..., Any] = asyncio.to_thread
    ) -> None:
        self._objects = objects
        self._cluster = cluster
        self._offload = offload
        self._id = secrets.token_hex(4)
        self._name = ""
        self.epoch = 0

    async def take_epoch(self) -> tuple[int, DesiredState]:
        """Claim an epoch above all others and return it with the state of the highest one before.

        Raises ``StateStoreError``, or ``Superseded`` where another controller was faster.
        """
        while True:
            if await self._call(self._claim):
                break
            await asyncio.sleep(random.uniform(0, _BACKOFF))  # noqa: S311 - no secret
        state = await self._call(self._read_before)
        await self.write(state)
        await self._call(self._delete_old)
        return self.epoch, state

    async def write(self, state: DesiredState) -> None:
        """Keep a state. Whoever returns from here may act on it.

        Raises ``StateStoreError`` where it may not have been kept, and ``Superseded`` where a later controller may not have seen it.
        """
        await self._call(self._objects.replace, self._name, self._encode(state))
        await self.check()

    async def check(self) -> None:
        """Raise ``Superseded`` where there is a higher epoch, and ``StateStoreError`` where the store does not tell."""
        highest = max(await self._call(self._claims), default=0)
        if highest > self.epoch:
            raise Superseded(highest)

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        try:
            result: T = await self._offload(function, *args)
        except (OSError, EOFError) as error:
            place = self._objects.place("")
            raise StateStoreError(f"the state of the cluster in {place} cannot be used: {error}") from error
        return result

    def _claims(self) -> dict[int, list[str]]:
        """The names of the files of each epoch."""
        claims: dict[int, list[str]] = {}
        for name in self._objects.names():
            if found := _NAME.fullmatch(name):
                claims.setdefault(int(found[1]), []).append(name)
        return claims

    def _claim(self) -> bool:
        """Claim the number after the highest. Returns False where another one has claimed it at the same time."""
        self.epoch = max(self._claims(), default=0) + 1
        own = "" if self._objects.can_create else f"-{self._id}"
        self._name = f"epoch-{self.epoch:012}{own}.json"
        if not self._objects.create(self._name, self._encode(None)):
            return False
        claims = self._claims()
        if (highest := max(claims)) > self.epoch:
            raise Superseded(highest)
        return claims[self.epoch] == [self._name]

    def _encode(self, state: DesiredState | None) -> bytes:
        content = StateFile(_KIND, FORMAT, self._cluster, self.epoch, state)
        return msgspec.json.format(msgspec.json.encode(content), indent=1)

    def _read_before(self) -> DesiredState:
        """The state of the highest epoch below ours that has one."""
        claims = self._claims()
        for epoch in sorted(claims, reverse=True):
            if epoch >= self.epoch:
                continue
            # Several of one number are claims of controllers that gave it up: none of them has a state.
            states = [state for name in claims[epoch] if (state := self._read(name)) is not None]
            if states:
                return states[0]
        return DesiredState()

    def _read(self, name: str) -> DesiredState | None:
        place = self._objects.place(name)
        try:
            data = self._objects.read(name)
            head = msgspec.json.decode(data, type=_Kind)
            if head.kind != _KIND:
                raise StateStoreError(f"{place} is no state of a cluster, but '{head.kind}'; move it away")
            if head.cluster != self._cluster:
                raise StateStoreError(
                    f"{place} is of the cluster '{head.cluster}', not of '{self._cluster}'; give it a folder of its own"
                )
            if head.format > FORMAT:
                raise StateStoreError(
                    f"{place} has the format {head.format}, and this Mooring knows {FORMAT}: a later one wrote it; start that"
                )
            return msgspec.json.decode(data, type=StateFile).state
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateStoreError(
                f"{place} is torn or no state of a cluster ({error}); move it away to go on with the epoch before"
            ) from error

    def _delete_old(self) -> None:
        claims = self._claims()
        for epoch in sorted(claims, reverse=True)[_KEPT:]:
            for name in claims[epoch]:
                self._objects.delete(name)


def open_state_store(location: str, cluster: str) -> StateStore:
    """The store at a path or a URL: ``file://``, or one that fsspec knows, such as ``s3://bucket/folder``.

    Raises ``StateStoreError`` where the URL or the package for it is unknown.
    """
    scheme, separator, rest = location.partition("://")
    if not separator or scheme == "file":
        directory = Path(rest if separator else location).absolute()
        return StateStore(DirectoryObjects(directory / cluster), cluster)
    try:
        import fsspec  # noqa: PLC0415 - an extra, and only for clusters with an object store

        filesystem, folder = fsspec.core.url_to_fs(location, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise StateStoreError(
            f"the state of the cluster cannot be kept at {location}: {error}; `pip install 'mooring[ray]'` brings fsspec, "
            f"and each kind of store needs a package of its own"
        ) from error
    return StateStore(FsspecObjects(filesystem, f"{folder.rstrip('/')}/{cluster}"), cluster)
