"""A command as a pod has it: process 1, a user without rights, no HOME, a read-only root, 64 MB of shared memory, own network.

Its ports may be fixed ones: nobody else is in its network.
"""

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from e2e_kit import PATIENCE, SCRIPTS, until
from namespace_kit import NEEDS_ROOT, drop_rights, make_home, namespace, remove_home

USER = 1000
ASKS = Path(__file__).parent / "kserve_pod_asks.py"
NEEDS_NETWORK = [
    *NEEDS_ROOT,
    pytest.mark.skipif(shutil.which("ip") is None, reason="there is no ip, which brings up a network, here"),
]


class Pod:
    """A command with a folder of models at /mnt/models, which lies in ``home``; ``models`` None has it come later."""

    def __init__(self, home: Path, command: str, models: Path | None, **environ: str) -> None:
        self.home = home
        aliases = [SCRIPTS / "mooring", "torchserve", "--install-aliases", home / "bin"]
        subprocess.run(aliases, check=True, capture_output=True)
        path = f"{home / 'bin'}:{SCRIPTS}:/usr/bin:/bin"
        mounts = ["mount -t tmpfs -o mode=755 tmpfs /mnt"]
        if models is not None:
            folder = shlex.quote(str(models))
            mounts += [f"mkdir /mnt/models\nmount --bind {folder} /mnt/models"]
            mounts += ["mount -o remount,bind,ro /mnt/models"]
        around = namespace(home, read_only=True, container=True, further=mounts)
        self.log_file = home / "pod.log"
        self.began = time.monotonic()
        with self.log_file.open("wb") as log:
            self.process = psutil.Popen(
                [*around, *drop_rights(USER), *shlex.split(command)], cwd=home, stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, env={"PATH": path, "TMPDIR": str(home / "tmp"), **environ},
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def first(self) -> psutil.Process:
        """Process 1 of the pod, as it is called outside."""
        (first,) = self.process.children()
        return first

    def enter(self, *command: str | Path, mount: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command of root's in the pod's network, or with ``mount`` with its files."""
        into = ["nsenter", f"--target={self.first.pid}", "--net", *(["--mount"] if mount else [])]
        return subprocess.run(
            [*into, *command], capture_output=True, text=True, timeout=4 * PATIENCE, check=False
        )

    def status(self, *curl: str) -> str:
        """The status of a response."""
        return self.enter("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *curl).stdout

    def ready(self) -> "Pod":
        def is_ready() -> bool:
            assert self.process.poll() is None, self.log
            return bool(self.process.children()) and self.status("127.0.0.1:8080/v2/health/ready") == "200"

        try:
            until(is_ready, within=2 * PATIENCE)
        except AssertionError:
            print(self.log)
            raise
        print(f"ready after {time.monotonic() - self.began:.1f} s")
        return self

    def ask(self, python: Path, model: str, values: Sequence[float], *protocols: str) -> dict[str, list]:
        """What KServe's clients find, at the pod and through a transformer."""
        asked = self.enter(python, ASKS, model, json.dumps(values), *protocols)
        assert asked.returncode == 0, f"{asked.stderr[-3000:]}\n{self.log[-3000:]}"
        return json.loads(asked.stdout.splitlines()[-1])

    def stop(self) -> None:
        self.first.terminate()
        assert self.process.wait(PATIENCE) == 0, self.log
        assert "Traceback" not in self.log, self.log

    def kill(self) -> None:
        if self.process.poll() is None:
            until(lambda: self.process.children() or self.process.poll() is not None)
            for each in self.process.children():
                each.kill()
            self.process.wait(PATIENCE)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that only its folder for temporary files can be written in."""
    folder = make_home(USER)
    os.chown(folder, 0, 0)
    folder.chmod(0o755)
    yield folder
    remove_home(folder)
