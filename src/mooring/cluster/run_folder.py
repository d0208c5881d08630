"""The folder in which a node server runs, and the start of that server. Runs in node actors.

    FOLDER/ADDRESS/           one server's; where one machine has several raylets, the second's is ADDRESS-2
        lock                  locked by the node actor that works here
        server.toml           the settings of the server
        server.json           which process it is
        server.sock           where it listens for its actor
        server.log            its log
        files/                its model files

The server is a process of a session of its own, and a child of nobody who could end it: Ray ends the processes that its
workers have started, and those of their group.
"""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from mooring import __version__

_LONGEST_SOCKET = 107
_MOST_SERVERS = 64  # of one machine
_LOG_BYTES = 4096
_LOOK = 0.05
# Starts its arguments in the background, says which process that is, and ends: so that process has no parent.
_DETACH = '"$@" </dev/null >>"$MOORING_NODE_LOG" 2>&1 & echo $!'
# What Ray sets for a worker that has no CPUs and GPUs of its own. A server is to see what the machine has.
_OF_WORKERS = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "PYTHONBREAKPOINT",
    "PYTHONUNBUFFERED",
    "SPT_NOENV",
)


class FolderInUse(Exception):
    """The actor of another raylet works in this folder, and lives."""


class ServerProcess(msgspec.Struct, frozen=True):
    """A node server's process. ``created`` tells it from a later process with the same number: seconds since 1970."""

    pid: int
    created: float
    software: str

    @property
    def alive(self) -> bool:
        """Whether it runs. One that has ended and waits for its parent does not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def end(self, patience: float) -> None:
        """Let it finish its requests, at most so many seconds, and end it. Blocks until it is gone."""
        if not self.alive:
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        end = time.monotonic() + patience
        while self.alive and time.monotonic() < end:
            time.sleep(_LOOK)
        with suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, signal.SIGKILL)


def default_cluster_dir() -> Path:
    """Where node servers run if no setting says it: a folder of this user among the temporary files."""
    return Path(tempfile.gettempdir(), f"mooring-{os.getuid()}")


def make_private_folder(base: Path, *names: str) -> Path:
    """Make a folder below ``base`` in which no other user can read or put anything; return it.

    Whoever can put a file there decides what this user's processes run. Raises ``PermissionError``, which names the path, where another
    user has been there first or could exchange it: temporary files are everybody's.
    """
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not {base.lstat().st_uid, base.stat().st_uid} <= {0, os.getuid()}:
        raise PermissionError(f"{base} belongs to another user: give another folder as cluster_dir")
    mode = base.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise PermissionError(f"every user can write to {base}: give another folder as cluster_dir")
    for name in names:
        base /= name
        _make_own_folder(base)
    return base


def _make_own_folder(path: Path) -> None:
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to another user: give another folder as cluster_dir")
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{path} is a link: give another folder as cluster_dir")
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)


class RunFolder:
    """One server's folder, locked until this process ends. Raises ``FolderInUse``, or ``OSError`` which names the path."""

    def __init__(self, path: Path, raylet: int) -> None:
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_own_folder(path)
        if len(os.fsencode(self.socket)) > _LONGEST_SOCKET:
            raise OSError(
                f"{self.socket} has more than {_LONGEST_SOCKET} bytes, which is the limit of a unix socket's path:"
                " give a shorter folder as cluster_dir"
            )
        self._raylet = raylet
        self._lock = _lock(path / "lock", raylet)

    @property
    def socket(self) -> Path:
        return self.path / "server.sock"

    @property
    def log(self) -> Path:
        return self.path / "server.log"

    def find_server(self) -> ServerProcess | None:
        """The server that was started here last, if it still runs."""
        try:
            found = msgspec.json.decode((self.path / "server.json").read_bytes(), type=ServerProcess)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return found if found.alive else None

    def start_server(self, settings: str) -> ServerProcess:
        """Start a server with these settings, as TOML. Raises ``OSError``."""
        file = self.path / "server.toml"
        file.touch(mode=0o600)
        file.write_text(settings)
        environment = server_environment(os.environ, _environment_of(self._raylet))
        environment["MOORING_NODE_LOG"] = str(self.log)
        started = subprocess.run(  # noqa: S603 - our own command under our own interpreter
            ["/bin/sh", "-c", _DETACH, "sh", sys.executable, "-m", "mooring", "serve", "--config", str(file)],
            start_new_session=True, stdout=subprocess.PIPE, check=True, cwd=self.path, env=environment,
        )  # fmt: skip
        pid = int(started.stdout)
        try:
            created = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            created = 0.0
        server = ServerProcess(pid, created, __version__)
        part = self.path / "server.json.part"
        part.write_bytes(msgspec.json.encode(server))
        part.replace(self.path / "server.json")
        return server

    def last_words(self) -> str:
        """The last line of the server's log, which says why it has ended; empty where there is none."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((each.strip() for each in reversed(lines) if each.strip()), "")


def claim_run_folder(cluster_dir: Path, address: str, raylet: int, patience: float) -> RunFolder:
    """The run folder of the node with this address, locked. ``raylet`` is the process of the raylet that asks.

    Where the actor of another raylet works there, this machine has several, and the next folder is taken. One whose raylet has
    died, or is this one, is ending: it is waited for, at most ``patience`` seconds. Raises ``OSError`` and ``TimeoutError``.
    """
    end = time.monotonic() + patience
    for number in range(1, _MOST_SERVERS + 1):
        path = cluster_dir / (address if number == 1 else f"{address}-{number}")
        while True:
            try:
                return RunFolder(path, raylet)
            except FolderInUse:
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(
                        f"{path} is locked by a node actor whose raylet is gone, for {patience:g} s"
                    ) from None
                time.sleep(_LOOK)
    raise OSError(f"{cluster_dir}: {_MOST_SERVERS} node servers run on this machine")


def _lock(path: Path, raylet: int) -> int:
    """Lock a file, and write into it which raylet's actor has it. Raises ``FolderInUse`` or ``BlockingIOError``."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 32, 0).decode(errors="replace")
        os.close(file)
        if holder.isdigit() and int(holder) != raylet and psutil.pid_exists(int(holder)):
            raise FolderInUse from None
        raise
    os.ftruncate(file, 0)
    os.pwrite(file, str(raylet).encode(), 0)
    return file


def server_environment(own: Mapping[str, str], raylet: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server: that of its actor, without what Ray sets for its own workers.

    >>> server_environment({"A": "1", "RAY_JOB_ID": "2", "CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "0,1"})
    {'A': '1', 'CUDA_VISIBLE_DEVICES': '0,1'}
    """
    kept = {
        name: value for name, value in own.items() if not name.startswith("RAY_") and name not in _OF_WORKERS
    }
    return kept | {name: raylet[name] for name in _OF_WORKERS if name in raylet}


def _environment_of(pid: int) -> dict[str, str]:
    """The environment with which a process was started; empty where the system does not say."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (each.partition("=") for each in data.decode(errors="surrogateescape").split("\0"))
    return {name: value for name, found, value in pairs if found}
