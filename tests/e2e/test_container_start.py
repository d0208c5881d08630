"""TorchServe's own start, as a container has it: process 1, no rights, a read-only root, 64 MB of shared memory."""

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from e2e_kit import PATIENCE, SCRIPTS, assert_gone, free_ports, pack, until
from namespace_kit import DROP_RIGHTS, NEEDS_ROOT, NOBODY, make_home, namespace, remove_home

pytestmark = NEEDS_ROOT

# As people write it after TorchServe's pages, in `docker exec`: no word of it is about Mooring.
SCRIPT = r"""
set -e
until curl -sf http://localhost:$INFERENCE/ping | grep -q Healthy; do sleep 0.1; done

cat key_file.json | python3 -c 'import json, sys; print(json.load(sys.stdin)["management"]["key"])' > management_key
management=$(cat management_key)
inference=$(python3 -c 'import json; print(json.load(open("key_file.json"))["inference"]["key"])')

curl -sf -X POST -H "Authorization: Bearer $management" \
    "http://localhost:$MANAGEMENT/models?url=second.mar&initial_workers=1&synchronous=true" | grep "registered with 1 initial workers"
curl -sf "http://localhost:$MANAGEMENT/models" | grep second
curl -s -H "Authorization: Bearer wrong" "http://localhost:$INFERENCE/predictions/rows" | grep InvalidKeyException

for model in rows second; do
    curl -sf -H "Authorization: Bearer $inference" "http://localhost:$INFERENCE/predictions/$model" -d "data=1" | grep "bytearray(b'1')"
    curl -sf "http://localhost:$INFERENCE/predictions/$model" -T large | wc -c
done
grep "ModelName:rows" logs/model_metrics.log
grep "Requests2XX" logs/ts_metrics.log
grep "POST /predictions/rows" logs/access_log.log
torchserve --stop
"""
# Leaves a process to process 1 with every request; one takes its time and says that it has begun.
ORPHANS = """
import os
import subprocess
import time
from pathlib import Path


def handle(data, context):
    if data is None:
        return None
    if "slow" in data[0]:
        Path(os.environ["TMPDIR"], "begun").touch()
        time.sleep(0.5)
    shell = ["sh", "-c", "sleep 0.1 & echo $!"]
    return [subprocess.run(shell, stdout=subprocess.PIPE, start_new_session=True, text=True).stdout for _ in data]
"""
CONFIG = """
inference_address=http://127.0.0.1:{0}
management_address=http://127.0.0.1:{1}
metrics_address=http://127.0.0.1:{2}
grpc_inference_port={3}
grpc_management_port={4}
model_store=store
load_models=rows.mar
default_workers_per_model=1
max_request_size=100000000
max_response_size=100000000
"""


class Container:
    """A command as process 1, in a folder of its own; ``execute`` is what `docker exec` is."""

    def __init__(self, home: Path, command: str, **environ: str) -> None:
        self.home, self.ports = home, free_ports(5)
        (home / "config.properties").write_text(CONFIG.format(*self.ports))
        subprocess.run(
            [SCRIPTS / "mooring", "torchserve", "--install-aliases", home / "bin"],
            check=True,
            capture_output=True,
        )
        self.environ = {
            "PATH": f"{home / 'bin'}:{Path(os.sys.executable).parent}:/usr/bin:/bin",
            "HOME": "/nonexistent",
            "INFERENCE": str(self.ports[0]),
            "MANAGEMENT": str(self.ports[1]),
            **environ,
        }
        self.log_file = home / "container.log"
        around = namespace(home, read_only=True, container=True)
        with self.log_file.open("wb") as log:
            self.process = psutil.Popen(
                [*around, *DROP_RIGHTS, *shlex.split(command)], cwd=home, stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, env=self.environ,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def started(self) -> "Container":
        end = time.monotonic() + 2 * PATIENCE
        while "Model server started." not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        if self.process.poll() is None:
            for each in self.process.children():
                each.kill()  # process 1, and the kernel all others with it
            self.process.wait(PATIENCE)

    @property
    def first(self) -> psutil.Process:
        """Process 1 of the container, as it is called outside."""
        (first,) = self.process.children()
        return first

    def execute(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self.first.pid}", "--mount", "--pid", f"--wdns={self.home}"]
        return subprocess.run(
            [*enter, *DROP_RIGHTS, *command], env=self.environ, capture_output=True, text=True,
            timeout=2 * PATIENCE, check=False,
        )  # fmt: skip


@pytest.fixture
def home() -> Iterator[Path]:
    folder = make_home()
    (folder / "store").mkdir()
    pack(folder / "store", "rows", "rows_handler.py")
    pack(folder / "store", "second", "rows_handler.py")
    (folder / "orphans.py").write_text(ORPHANS)
    pack(folder / "store", "orphans", str(folder / "orphans.py"))
    (folder / "large").write_bytes(b"x" * 40_000_000)
    os.chown(folder / "store", NOBODY, NOBODY)  # as an image's COPY --chown
    yield folder
    remove_home(folder)


FOREGROUND = "torchserve --start --foreground --ncs --ts-config config.properties"


@pytest.mark.parametrize(
    ("command", "ends"),
    [
        (FOREGROUND, True),
        # As the entry point of TorchServe's own images does it.
        ("sh -c 'torchserve --start --ncs --ts-config config.properties; exec sleep 600'", False),
    ],
)
def test_a_script_of_torchserves_pages_runs_unchanged(home, command, ends):
    container = Container(home, command, TMPDIR=str(home / "tmp"))
    try:
        container.started()
        family = [container.first, *container.first.children(recursive=True)]
        assert {each.uids().real for each in family} == {NOBODY}
        (home / "script.sh").write_text(SCRIPT)
        done = container.execute("sh", "-x", "script.sh")
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{container.log}"
        if ends:
            assert container.process.wait(PATIENCE) == 0
            assert_gone(family)
        else:
            (sleep,) = [
                each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE
            ]
            assert sleep.pid == container.first.pid
            container.kill()
        assert not (home / "key_file.json").exists()
        assert "WARN" not in container.log, container.log
    finally:
        container.kill()


def test_process_1_drains_when_it_is_told_to_stop_and_leaves_no_zombies(home):
    container = Container(home, FOREGROUND, TMPDIR=str(home / "tmp"))
    try:
        container.started()
        ask = ["curl", "-sf", f"http://127.0.0.1:{container.ports[0]}/predictions/orphans", "-d", "data=1"]
        where = (
            f"http://127.0.0.1:{container.ports[1]}/models?url=orphans.mar&initial_workers=1&synchronous=true"
        )
        assert container.execute("curl", "-sf", "-X", "POST", where).returncode == 0
        left = [int(container.execute(*ask).stdout) for _ in range(3)]
        assert len(set(left)) == 3
        until(lambda: zombies(container) == [])
        with ThreadPoolExecutor() as pool:
            last = pool.submit(container.execute, *ask[:-1], "slow=1")
            until((home / "tmp/begun").exists)
            container.first.terminate()
            assert last.result().stdout.strip().isdigit()
        assert container.process.wait(PATIENCE) == 0
        assert "stopped" in container.log
    finally:
        container.kill()


def zombies(container: Container) -> list[psutil.Process]:
    found = []
    for each in container.first.children():
        try:
            if each.status() == psutil.STATUS_ZOMBIE:
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


def test_where_nothing_can_be_written_one_sentence_says_what_to_give(home):
    os.chown(home, 0, 0)
    home.chmod(0o755)
    container = Container(home, FOREGROUND)
    try:
        assert container.process.wait(PATIENCE) == 1
        (line,) = container.log.splitlines()
        assert line.startswith("Error: no folder for temporary files can be written to")
        assert line.endswith("name one that can be in TMPDIR")
    finally:
        container.kill()


def test_with_a_folder_for_temporary_files_alone_it_serves_and_says_what_it_cannot_write(home):
    os.chown(home, 0, 0)
    home.chmod(0o755)
    container = Container(home, FOREGROUND.replace(" --ncs", ""), TMPDIR=str(home / "tmp"))
    try:
        container.started()
        ask = ["curl", "-sf", f"http://127.0.0.1:{container.ports[0]}/predictions/rows", "-d", "data=1"]
        assert container.execute(*ask).stdout == "{'data': bytearray(b'1')}"
        warnings = [line for line in container.log.splitlines() if "WARN" in line]
        (keys,) = [line for line in warnings if "there is no key file" in line]
        assert "no token is checked, and none is needed" in keys
        assert "tokens   " not in container.log
        container.first.terminate()
        assert container.process.wait(PATIENCE) == 0
    finally:
        container.kill()
