"""A server as a user without rights, and in what a container has of namespaces: where the kernel allows it, as root."""

import os
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import pytest
from e2e_kit import ROOT

NOBODY = 65_534


def drop_rights(user: int | str, group: int | str = "") -> tuple[str, ...]:
    """The command that runs another one as a user without rights, by default in the group of the same number."""
    ids = (f"--reuid={user}", f"--regid={group or user}")
    return ("setpriv", *ids, "--clear-groups", "--no-new-privs", "--bounding-set=-all")


DROP_RIGHTS = drop_rights(NOBODY)

NEEDS_ROOT = [
    pytest.mark.skipif(os.getuid() != 0, reason="only root can start a server as somebody else"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv here"),
]

# The name of the folder in ``home`` at which ``namespace`` mounts.
SHOWN = "shown"


def namespace(
    home: Path, *, read_only: bool = False, container: bool = False, further: Sequence[str] = ()
) -> list[str]:
    """The command that runs another one in a mount namespace where anybody can read the server's program.

    The interpreter, the virtual environment and the sources may lie in a folder that only its owner may enter, as
    root's home is: such a folder is replaced by an empty one, which has them at their old paths. ``read_only`` mounts
    all but ``home`` read-only. A ``container`` also has a PID namespace, of which the command is process 1, and 64 MB in
    /dev/shm, as Docker gives. With ``further`` steps, shell commands before the root is read-only, it has a network of its
    own, too, as a pod. Skips the test where nothing can be mounted.
    """
    program = sorted({Path(place).resolve() for place in (sys.base_prefix, sys.prefix, ROOT / "src")})
    closed = {place: top for place in program if (top := closed_parent(place))}
    if not closed and not read_only and not container:
        return []
    steps = ["set -e", "mount --make-rprivate /"]
    shown = {place: home / SHOWN / str(number) for number, place in enumerate(closed)}
    steps += [mount(place, there) for place, there in shown.items()]
    steps += [f"mount -t tmpfs -o mode=755 tmpfs {quote(str(top))}" for top in sorted(set(closed.values()))]
    steps += [mount(there, place) for place, there in shown.items()]
    if container:
        steps += ["mount -t tmpfs -o size=64m,mode=1777 tmpfs /dev/shm"]
    steps += [*(["ip link set lo up"] if further else []), *further]
    if read_only:
        # Into the folder once more: the one that the command is started in lies below the mount.
        steps += [mount(home, home), "mount -o remount,bind,ro /", f"cd {quote(str(home))}"]
    own = ["--pid", "--fork", "--mount-proc"] if container else []
    own += ["--net"] if further else []
    around = ["unshare", "--mount", *own, "sh", "-c", "\n".join([*steps, 'exec "$@"']), "sh"]
    tried = subprocess.run([*around, "true"], capture_output=True, text=True, timeout=60, check=False)
    if tried.returncode:
        pytest.skip(f"file systems cannot be mounted here: {tried.stderr.strip()}")
    return around


def closed_parent(place: Path) -> Path | None:
    """The uppermost folder above ``place`` that other users may not enter."""
    return next((each for each in reversed(place.parents) if not each.stat().st_mode & stat.S_IXOTH), None)


def mount(source: Path, target: Path) -> str:
    """The shell commands that show ``source`` at ``target``, too."""
    return f"mkdir -p {quote(str(target))}\nmount --bind {quote(str(source))} {quote(str(target))}"


def make_home(user: int = NOBODY) -> Path:
    """A folder of a user's, nobody's by default, with a folder for temporary files."""
    folder = Path("/var/tmp", f"mooring-test-{uuid.uuid4()}")
    for each in (folder, folder / "tmp"):
        each.mkdir()
        os.chown(each, user, user)
        each.chmod(0o700)
    return folder


def remove_home(folder: Path) -> None:
    """Remove it with all that is in it."""
    for mounted in [*(folder / SHOWN).glob("*"), folder / SHOWN]:
        if mounted.exists():
            mounted.rmdir()  # not with what lies in it: it is empty unless a mount has come through
    shutil.rmtree(folder)
