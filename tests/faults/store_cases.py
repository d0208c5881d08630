"""Models whose files go bad while they are served, models that do not load, and disks that are full."""

import itertools
import os
import shutil
import signal
import subprocess
import urllib.request
from contextlib import suppress
from pathlib import Path

from accounting import once
from stage import Stage, case
from subjects import MODEL, WEIGHTS, NotHere, archive, until
from worker_cases import MB


def damages(file: Path):
    """What may become of a file, one after the other."""
    whole = file.read_bytes()
    file.write_bytes(os.urandom(len(whole)))
    yield "corrupted"
    file.write_bytes(whole[: len(whole) // 2])
    yield "truncated"
    file.unlink()
    yield "deleted"


@case("archive corrupted, truncated, deleted while served", short=True)
def archive_damaged(stage: Stage) -> None:
    server = stage.subject
    model = server.registered("packed")
    with stage.load(model) as load:
        for damage in damages(server.store / "packed.mar"):
            (victim,) = server.workers(model)
            stage.strike()
            os.kill(victim, signal.SIGKILL)
            until(lambda gone=victim: (now := server.workers(model)) and gone not in now)
            load.until_right(20)
            status, told = server.manage("POST", "/models?url=packed.mar&model_name=again&synchronous=true")
            assert status in (400, 404, 500), f"{damage}: {status} {told}"
            assert told["message"], told
            load.until_right(20)
    assert not stage.account.honest
    stage.notes.append(
        "workers come back from what was unpacked; a registration of it is refused with the reason"
    )


def unpacked(store: Path, name: str, workers: int) -> Path:
    """The model of faults as a folder, which is served where it lies. Its file of weights."""
    folder = store / name
    packed = archive(store, name, {"minWorkers": workers, "maxWorkers": workers})
    shutil.unpack_archive(packed, folder, "zip")
    packed.unlink()
    return folder / "weights"


@case("weights corrupted, truncated, deleted under one of two workers", short=True)
def weights_damaged(stage: Stage) -> None:
    server = stage.subject
    weights = unpacked(server.store, "folder", 2)
    status, told = server.manage("POST", "/models?url=folder&initial_workers=2&synchronous=true")
    assert status == 200, told
    until(lambda: len(server.workers("folder")) == 2)
    counts: list[float] = []
    with stage.load("folder") as load:
        for _damage in itertools.islice(damages(weights), 1 if stage.span < 1 else 3):
            before = counted(server, "mooring_worker_failures_total", "folder")
            stage.strike()
            os.kill(server.workers("folder")[1], signal.SIGKILL)
            until(lambda n=before: counted(server, "mooring_worker_failures_total", "folder") > n + 2)
            load.until_right(20)
            counts.append(counted(server, "mooring_worker_failures_total", "folder") - before)
            weights.write_text(WEIGHTS)
            until(lambda: len(server.workers("folder")) == 2)
            load.until_right(100)
    assert max(counts) <= 6, f"{counts} tries: the other worker's answers ended the back-off"
    assert not stage.account.honest
    assert weights.read_text() == WEIGHTS
    stage.notes.append("the other worker serves; the lost one comes back when the file does")


def counted(server, family: str, model: str, **labels: str) -> float:
    """The value of a metric for a model; 0 where there is none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports[2]}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    wanted = [f'model_name="{model}"', *(f'{name}="{value}"' for name, value in labels.items())]
    found = [line for line in lines if line.startswith(family + "{") and all(each in line for each in wanted)]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


@case("crash loop of the only worker", short=True)
def crash_loop(stage: Stage) -> None:
    server = stage.subject
    weights = unpacked(server.store, "loop", 1)
    status, told = server.manage("POST", "/models?url=loop&initial_workers=1&synchronous=true")
    assert status == 200, told
    with stage.load("loop") as load:
        weights.write_text("none")
        (victim,) = server.workers("loop")
        stage.strike()
        os.kill(victim, signal.SIGKILL)
        until(lambda: counted(server, "mooring_model_state", "loop", state="FAILED"))
        failures = counted(server, "mooring_worker_failures_total", "loop")
        stage.wait()
        tries = counted(server, "mooring_worker_failures_total", "loop") - failures
        assert tries <= 3, f"{tries} tries in {stage.span} s: no back-off"
        described = str(server.describe("loop"))
        assert "these are not the weights of this model" in described, described
        assert "Traceback" in server.log
        weights.write_text(WEIGHTS)
        until(lambda: counted(server, "mooring_model_state", "loop", state="READY"))
        load.until_right(20)
    assert set(load.account.statuses) <= {200, 503}
    stage.notes.append(
        "refused at once while it lasts; the traceback is in describe and the log; it recovers by itself"
    )


@case("model that raises while it loads", short=True)
def raises_at_load(stage: Stage) -> None:
    server = stage.subject
    model = server.registered("neighbor")
    unpacked(server.store, "unloadable", 1).write_text("none")
    with stage.load(model) as load:
        stage.strike()
        status, told = server.manage("POST", "/models?url=unloadable&initial_workers=1&synchronous=true")
        assert status == 500, told
        assert "these are not the weights" in str(told), told
        load.until_right(20)
    assert not stage.account.honest
    assert once(server.port, "unloadable", stage.account) == "honest"
    assert MODEL.exists()


def small_disk(folder: Path, size: int) -> list[str]:
    """What to put before a command so that this folder is a file system of so many bytes for it. Raises ``NotHere``."""
    folder.mkdir(parents=True)
    if shutil.which("unshare") is None:
        raise NotHere("unshare is not installed, which makes a small file system without root")
    outside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f'mount -t tmpfs -o size={size} tmpfs "{folder}" && exec "$@"'
    tried = subprocess.run([*outside, mount, "sh", "true"], capture_output=True, check=False)
    if tried.returncode:
        raise NotHere("this kernel lets nobody but root mount a small file system")
    return [*outside, mount, "sh"]


@case("disk full while archives are unpacked", short=True)
def disk_full(stage: Stage) -> None:
    disk = stage.folder / "disk"
    server = stage.own("--temporary-folder", disk, before=small_disk(disk, 3 * MB))
    server.await_start()
    model = server.registered("small")
    with stage.load(model, server=server) as load:
        large = archive(server.store, "large", {})
        shutil.unpack_archive(large, stage.folder / "large", "zip")
        (stage.folder / "large/ballast").write_bytes(os.urandom(8 * MB))
        shutil.make_archive(str(large), "zip", stage.folder / "large")
        large.with_suffix(".mar.zip").rename(large)
        for _ in range(3):
            stage.strike()
            status, told = server.manage("POST", "/models?url=large.mar&initial_workers=1&synchronous=true")
            assert status == 507, told
            assert "No space left" in str(told), told
            load.until_right(20)
        server.registered("another")  # what was unpacked in vain is gone again
        load.until_right(20)
    assert not stage.account.honest
    assert (status := server.stop()) == 0, status
    stage.notes.append("refused with the reason, three times; a smaller archive loads after it")


@case("disk full for logs, metrics and snapshots", short=True)
def logs_full(stage: Stage) -> None:
    disk = stage.folder / "disk"
    before = small_disk(disk, 64 * 1024)
    fill = 'dd if=/dev/zero of="$0/ballast" bs=4096 2>/dev/null; exec "$@"'
    server = stage.own(
        "--metrics-mode", "log", "--metrics-folder", disk / "metrics", "--metric-time-interval", "0.2",
        "--snapshot-folder", disk / "snapshots", "--log-level", "debug",
        before=[*before, "sh", "-c", f'mkdir "$0/metrics" "$0/snapshots"; {fill}', str(disk)], output=Path("/dev/full"),
    )  # fmt: skip
    server.await_start()
    model = server.registered("quiet", workers=2)
    with stage.load(model, server=server) as load:
        stage.wait(0.5)
        stage.strike()
        with suppress(ProcessLookupError):
            os.kill(server.workers(model)[0], signal.SIGKILL)
        load.until_right(100)
        assert once(server.port, model, stage.account, do="flood") == "right"
        load.until_right(50)
    assert not stage.account.honest
    assert (status := server.stop()) == 0, status
    stage.notes.append("the log is written to a device that is always full")
