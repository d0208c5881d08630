"""A server in real control groups, as a container has them: it counts cores, memory and processes within their limits."""

import math
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e_kit import PATIENCE, Answer, Server, Wire, request, until
from onnx_kit import write_model

GROUPS = Path("/sys/fs/cgroup")
MB = 1 << 20
CODE = """
import os
import time

import torch


def threads(n: int) -> list[int]:
    return [torch.get_num_threads(), int(os.environ["OMP_NUM_THREADS"])]


def length(data: bytes) -> int:
    time.sleep(0.3)
    return len(data)
"""


class ControlGroup:
    """Control groups of a test's own, of version 2, or one of version 1 for each kind of limit."""

    def __init__(self) -> None:
        self.folders: list[Path] = []

    def make(self, *, cores: float, memory: int, tasks: int) -> None:
        """Make them. Raises ``OSError`` where that cannot be done."""
        name = f"mooring-test-{secrets.token_hex(4)}"
        quota = math.floor(cores * 100_000)
        if (GROUPS / "cgroup.controllers").exists():
            (GROUPS / "cgroup.subtree_control").write_text("+cpu +memory +pids")
            self._make(GROUPS / name, {"cpu.max": f"{quota} 100000", "memory.max": memory, "pids.max": tasks})
            return
        self._make(GROUPS / "cpu" / name, {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": quota})
        self._make(GROUPS / "memory" / name, {"memory.limit_in_bytes": memory})
        self._make(GROUPS / "pids" / name, {"pids.max": tasks})

    def _make(self, folder: Path, limits: dict[str, object]) -> None:
        folder.mkdir()
        self.folders.append(folder)
        for file, value in limits.items():
            (folder / file).write_text(str(value))

    def around(self) -> Sequence[str]:
        """The command that runs another one in these groups."""
        joins = "".join(f"echo $$ > {folder}/cgroup.procs; " for folder in self.folders)
        return ("sh", "-ec", joins + 'exec "$@"', "sh")

    def killed_for_memory(self) -> int:
        """How many processes the kernel has ended because the memory was used up."""
        for folder in self.folders:
            for file in ("memory.events", "memory.oom_control"):
                if (folder / file).exists():
                    return int(
                        dict(line.split() for line in (folder / file).read_text().splitlines())["oom_kill"]
                    )
        raise AssertionError("no group counts that")

    def remove(self) -> None:
        for folder in self.folders:
            until(lambda folder=folder: not (folder / "cgroup.procs").read_text())
            folder.rmdir()


@pytest.fixture
def group() -> Iterator:
    """Makes control groups; they are removed at the end. Skips the test where that cannot be done."""
    made: list[ControlGroup] = []

    def make(**limits) -> ControlGroup:
        made.append(ControlGroup())
        try:
            made[-1].make(**limits)
        except OSError as error:
            pytest.skip(f"no control group can be made here: {error}")
        return made[-1]

    yield make
    for each in made:
        each.remove()


class Limited(Server):
    """A server with a command around it, which puts it into control groups."""

    def __init__(self, around: Sequence[str], folder: Path, *arguments: str | Path) -> None:
        self.PROGRAM = (*around, *Server.PROGRAM)
        super().__init__(folder, *arguments)


def ask_at(port: int, method: str, target: str) -> Answer:
    with Wire(port) as wire:
        wire.send(request(method, target))
        return wire.answer()


def test_it_keeps_within_its_cores_its_memory_and_its_processes(group, tmp_path):
    limited = group(cores=0.9, memory=600 * MB, tasks=80)
    (tmp_path / "code.py").write_text(CODE)
    write_model(tmp_path / "same.onnx")
    server = Limited(
        limited.around(),
        tmp_path,
        "code.py:threads",
        "code.py:length",
        "same.onnx",
        "--max-request-size",
        "100000000",
    )
    try:
        server.started()
        assert len(server.workers("same")) == 1  # one for each core
        assert server.predict("threads", '{"n": 0}', "Content-Type: application/json").json() == [1, 1]
        metrics = ask_at(server.ports[2], "GET", "/metrics").body.decode()
        assert f"mooring_arena_size_bytes {float(64 * MB)}" in metrics
        assert f"mooring_body_memory_limit_bytes {float(150 * MB)}" in metrics
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: server.predict("length", b"x" * (50 * MB)).code, range(12)))
        assert set(answers) <= {200, 503}
        assert answers.count(200) >= 2
        assert limited.killed_for_memory() == 0
        refused = ask_at(server.ports[1], "PUT", "/models/threads?min_worker=40&synchronous=true")
        assert refused.code >= 400
        assert "2 of the 80 processes and threads that there may be" in refused.body.decode()
        assert server.stop() == 0
        assert not server.faults()
    finally:
        server.kill()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare on this machine")
def test_groups_of_version_2_and_little_shared_memory_are_heeded_as_well(tmp_path):
    """The groups are files of the test's own, shown in their place; Docker's 64 MB of /dev/shm hold no body."""
    shown = tmp_path / "groups"
    for file, text in {
        "cpu.max": "90000 100000",
        "memory.max": str(600 * MB),
        "pids.max": "80",
        "pod/cpu.max": "max 100000",
        "pod/memory.max": "max",
        "pod/pids.max": "max",
    }.items():
        (shown / file).parent.mkdir(parents=True, exist_ok=True)
        (shown / file).write_text(f"{text}\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/pod\n")
    (tmp_path / "code.py").write_text(CODE)
    steps = [
        "mount --make-rprivate /",
        f"mount --bind {shown} {GROUPS}",
        "mount -t tmpfs -o size=64m tmpfs /dev/shm",
        f"mount --bind {own} /proc/$$/cgroup",
        'exec "$@"',
    ]
    around = ("unshare", "--mount", "sh", "-ec", "\n".join(steps), "sh")
    tried = subprocess.run([*around, "cat", "/proc/self/cgroup"], capture_output=True, text=True, check=False)
    if tried.stdout != own.read_text():
        pytest.skip(f"nothing can be mounted in the place of control groups: {tried.stderr.strip()}")
    server = Limited(around, tmp_path, "code.py:threads", "code.py:length", "--max-request-size", "100000000")
    try:
        server.started()
        assert server.predict("threads", '{"n": 0}', "Content-Type: application/json").json() == [1, 1]
        metrics = ask_at(server.ports[2], "GET", "/metrics").body.decode()
        assert f"mooring_arena_size_bytes {float(64 * MB)}" in metrics
        assert server.predict("length", b"x" * (80 * MB)).json() == 80 * MB
        refused = ask_at(server.ports[1], "PUT", "/models/threads?min_worker=40&synchronous=true")
        assert "2 of the 80 processes and threads that there may be" in refused.body.decode()
        assert server.stop() == 0
        assert not server.faults()
    finally:
        server.kill()


def test_where_no_more_processes_can_be_started_the_reason_is_told(group, tmp_path):
    """The user says that there is room for more than there is."""
    limited = group(cores=4, memory=2000 * MB, tasks=30)
    (tmp_path / "code.py").write_text("def same(x: float) -> float:\n    return x\n")
    server = Limited(
        limited.around(), tmp_path, "code.py", "--workers", "60", "--max-worker-processes", "100"
    )
    try:
        until(lambda: "there may be 30 processes and threads here" in server.log, within=PATIENCE)
    finally:
        server.kill()
