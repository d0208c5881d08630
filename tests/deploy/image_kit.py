"""Builds images by buildah, which needs no service, and runs them as a container is run: process 1, no rights, read-only.

The base is a Debian of debootstrap's, made once and kept in buildah's store as ``localhost/mooring-base``. What pip needs
of this machine (certificates, folders of packages) is shown to the build at its own place.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

import psutil
from e2e_kit import PATIENCE
from namespace_kit import drop_rights

ROOT = Path(__file__).parents[2]
BASE = "localhost/mooring-base:bookworm"
DEBIAN = "http://deb.debian.org/debian"
_ENVIRON = os.environ | {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay"}
# Packages from the network, on a busy machine.
_MINUTES = 60.0


def why_not() -> str:
    """Why no image can be built here; empty where it can."""
    if os.getuid() != 0:
        return "only root can build an image without a service"
    missing = [
        each for each in ("buildah", "debootstrap", "unshare", "setpriv") if shutil.which(each) is None
    ]
    return f"there is no {' and no '.join(missing)} here" if missing else ""


def buildah(*arguments: str | Path, limit: float = 5 * _MINUTES) -> str:
    """Run buildah; its output. Fails with what it said."""
    done = subprocess.run(
        ["buildah", *arguments], env=_ENVIRON, capture_output=True, text=True, timeout=limit, check=False
    )
    assert done.returncode == 0, f"buildah {' '.join(map(str, arguments))}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def make_base() -> None:
    """Make the base, unless it is there."""
    if BASE in buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        return
    container = buildah("from", "scratch")
    try:
        place = buildah("mount", container)
        subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm", place, DEBIAN],
            check=True, capture_output=True, timeout=10 * _MINUTES,
        )  # fmt: skip
        for left in [
            *Path(place, "var/cache/apt/archives").glob("*.deb"),
            *Path(place, "var/lib/apt/lists").iterdir(),
        ]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        buildah("commit", container, BASE)
    finally:
        buildah("rm", container)


def build(file: Path, context: Path, tag: str, scratch: Path, **arguments: str) -> None:
    """Build an image. The health check is only in Docker's own format."""
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    buildah(
        "bud", "--format", "docker", "--layers", *_pip_volumes(scratch), "-f", file, *words, "-t", tag, context,
        limit=10 * _MINUTES,
    )  # fmt: skip


def _pip_volumes(scratch: Path) -> list[str]:
    """What pip has here, shown to the build: its settings and the folders that they name."""
    listed = subprocess.run(
        ["pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    settings = dict(
        line.removeprefix("global.").split("=", 1) for line in listed if line.startswith("global.")
    )
    kept = {
        name: value.strip("'") for name, value in settings.items()
        if name in ("cert", "index-url", "extra-index-url", "find-links", "trusted-host")
    }  # fmt: skip
    file = scratch / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in kept.items()))
    words = [word.removeprefix("file://") for value in kept.values() for word in value.split()]
    folders = {
        Path(word).parent if "simple" in word else Path(word) for word in words if word.startswith("/")
    }
    shown = {Path("/etc/ssl/certs"), *(each for each in folders if each.is_dir())}
    volumes = [f"--volume={each}:{each}:ro" for each in sorted(shown)]
    return [*volumes, f"--volume={file}:/etc/pip.conf:ro"]


def image_config(tag: str) -> dict:
    """What the image says of itself, as `docker inspect` shows it."""
    return json.loads(buildah("inspect", "--type", "image", tag))["Docker"]["config"]


def image_megabytes(tag: str) -> float:
    """The size of all layers together, unpacked, as `buildah images` shows it."""
    (size,) = [each["size"] for each in json.loads(buildah("images", "--json", tag))]
    number, unit = size.split()
    return float(number) * {"KB": 1e-3, "MB": 1.0, "GB": 1e3}[unit]


class Container:
    """A running image: process 1 of a PID namespace, its user without any right, all read-only but /tmp, 64 MB of /dev/shm.

    The network is the machine's own. ``shown`` are folders of this machine by their places in the container.
    """

    def __init__(
        self,
        tag: str,
        folder: Path,
        *words: str,
        shown: Mapping[str, Path] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        config = image_config(tag)
        self._container = buildah("from", tag)
        self._root = Path(buildah("mount", self._container))
        self.folder = config["WorkingDir"] or "/"
        self.environ = [*config["Env"], *(f"{name}={value}" for name, value in (environ or {}).items())]
        self.user = config["User"]
        self.log_file = folder / f"{self._container}.log"
        command = [*config["Entrypoint"], *(words or config["Cmd"])]
        steps = "\n".join([*self._steps(shown or {}), 'exec "$@"'])
        with self.log_file.open("wb") as log:
            self.process = psutil.Popen(
                ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "sh", "-ec", steps, "sh", *self._inside(command)],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def _steps(self, shown: Mapping[str, Path]) -> list[str]:
        root = quote(str(self._root))
        return [
            "mount --make-rprivate /",
            f"mount --bind {root} {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /sys {root}/sys",
            f"mount --rbind /dev {root}/dev",
            f"mount -t tmpfs -o size=64m,mode=1777 tmpfs {root}/dev/shm",
            f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp",
            *(f"mount --bind -o ro {quote(str(place))} {root}{inside}" for inside, place in shown.items()),
            f"mount -o remount,bind,ro {root}",
        ]

    def _inside(self, command: Sequence[str]) -> list[str]:
        """The command that runs another one as the image's user, with its environment alone: no HOME among it."""
        environ = ["env", "-i", f"--chdir={self.folder}", *self.environ]
        return ["chroot", str(self._root), *drop_rights(*self.user.split(":")), *environ, *command]

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def first(self) -> psutil.Process:
        """Process 1 of the container, as it is called outside."""
        (first,) = self.process.children()
        return first

    def started(self, said: str = "Mooring is up.") -> "Container":
        end = time.monotonic() + 3 * PATIENCE
        while said not in self.log:
            assert self.process.poll() is None, f"the container ended by itself:\n{self.log}"
            assert time.monotonic() < end, f"the server did not start:\n{self.log}"
            time.sleep(0.05)
        return self

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as `docker exec` does."""
        enter = ["nsenter", f"--target={self.first.pid}", "--mount", "--pid"]
        return subprocess.run(
            [*enter, *self._inside(command)],
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )

    def remove(self) -> None:
        """End it, with all its processes, and remove its file system."""
        if self.process.poll() is None:
            for each in self.process.children():
                each.kill()  # process 1, and the kernel all others with it
            self.process.wait(PATIENCE)
        buildah("umount", self._container)
        buildah("rm", self._container)
