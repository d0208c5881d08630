"""A node server's folder: one actor works in it, the server outlives whoever started it, and the next actor finds it."""

import multiprocessing
import os
import subprocess
import sys
import time

import psutil
import pytest

from mooring.cluster.run_folder import RunFolder, claim_run_folder, make_private_folder, server_environment

SERVER = "import time; print('up', flush=True); time.sleep(1000)"


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """Has a plain process started in place of a server."""
    package = tmp_path / "stub" / "mooring"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SERVER)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def start_and_end(path, pids):
    pids.send(RunFolder(path, 1).start_server("port = 0\n").pid)


def test_a_server_outlives_the_process_that_started_it_and_is_found_again(tmp_path, stub):
    ours, theirs = multiprocessing.Pipe()
    actor = multiprocessing.get_context("spawn").Process(
        target=start_and_end, args=(tmp_path / "run", theirs)
    )
    actor.start()
    pid = ours.recv()
    actor.join()
    folder = RunFolder(tmp_path / "run", 1)
    found = folder.find_server()
    assert found.pid == pid
    assert psutil.Process(pid).ppid() != os.getpid()
    assert os.getsid(pid) != os.getsid(0)
    assert (tmp_path / "run" / "server.toml").read_text() == "port = 0\n"
    found.end(5.0)
    assert not found.alive
    assert folder.find_server() is None


def test_a_server_that_does_not_end_is_killed(tmp_path, stub, monkeypatch):
    (tmp_path / "stub/mooring/__main__.py").write_text(
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(1000)"
    )
    folder = RunFolder(tmp_path / "run", 1)
    server = folder.start_server("")
    end = time.monotonic() + 10
    while folder.last_words() != "up" and time.monotonic() < end:
        time.sleep(0.01)
    server.end(0.2)
    end = time.monotonic() + 5
    while server.alive and time.monotonic() < end:
        time.sleep(0.01)
    assert not server.alive


def test_a_process_that_has_got_the_number_of_an_ended_server_is_not_it(tmp_path):
    folder = RunFolder(tmp_path / "run", 1)
    (tmp_path / "run/server.json").write_text(f'{{"pid": {os.getpid()}, "created": 1.0, "software": "1"}}')
    assert folder.find_server() is None


HOLD = "import sys; from pathlib import Path; from mooring.cluster.run_folder import RunFolder\nf = RunFolder(Path(sys.argv[1]), int(sys.argv[2])); print('held', flush=True); input()"


@pytest.fixture
def hold():
    """Has another process hold a folder for a raylet; returns that process."""
    holders = []

    def start(path, raylet):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), str(raylet)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        holders.append(holder)
        assert holder.stdout.readline() == b"held\n"
        return holder

    yield start
    for holder in holders:
        holder.kill()
        holder.communicate()


def test_a_second_raylet_of_a_machine_has_the_next_folder(tmp_path, hold):
    hold(tmp_path / "10.0.0.1", os.getpid())
    folder = claim_run_folder(tmp_path, "10.0.0.1", 1, 5.0)
    assert folder.path == tmp_path / "10.0.0.1-2"


def test_the_folder_of_a_raylet_that_is_gone_is_waited_for(tmp_path, hold):
    gone = subprocess.Popen(["true"])
    gone.wait()
    holder = hold(tmp_path / "10.0.0.1", gone.pid)
    with pytest.raises(TimeoutError, match="locked by a node actor whose raylet is gone"):
        claim_run_folder(tmp_path, "10.0.0.1", 1, 0.2)
    holder.kill()
    holder.wait()
    assert claim_run_folder(tmp_path, "10.0.0.1", 1, 5.0).path == tmp_path / "10.0.0.1"


def test_a_path_that_no_socket_can_have_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(OSError, match=r"107 bytes.*shorter folder as cluster_dir"):
        RunFolder(tmp_path / ("x" * 100), 1)


def mode_of(path):
    return path.stat().st_mode & 0o777


def test_no_other_user_reads_the_folders_of_a_cluster_or_their_parents(tmp_path):
    (tmp_path / "b" / "m").mkdir(parents=True, mode=0o755)  # short: a socket's path has a limit
    folder = make_private_folder(tmp_path / "b", "m", "s")
    assert [mode_of(folder), mode_of(folder.parent)] == [0o700, 0o700]
    assert mode_of(make_private_folder(tmp_path / "new" / "er", "x").parent) == 0o700
    assert mode_of(RunFolder(folder / "10.0.0.1", 1).path) == 0o700


def test_a_base_that_everybody_may_write_to_is_refused_unless_entries_are_their_owners(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match=r"every user can write to .*another folder as cluster_dir"):
        make_private_folder(tmp_path, "mooring")
    tmp_path.chmod(0o1777)
    assert mode_of(make_private_folder(tmp_path, "mooring")) == 0o700


def test_a_folder_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mooring").symlink_to("elsewhere")
    with pytest.raises(PermissionError, match=r"mooring is a link"):
        make_private_folder(tmp_path, "mooring")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
@pytest.mark.parametrize("theirs", ["base", "base/mooring", "base/mooring/10.0.0.1"])
def test_a_folder_that_another_user_has_made_first_is_refused(tmp_path, theirs):
    (tmp_path / theirs).mkdir(parents=True)
    os.chown(tmp_path / theirs, 65534, 65534)
    with pytest.raises(PermissionError, match=f"{theirs} belongs to another user"):
        claim_run_folder(make_private_folder(tmp_path / "base", "mooring"), "10.0.0.1", 1, 1.0)


def test_a_server_sees_what_the_raylet_sees_and_no_secret_of_ray():
    own = {"PATH": "/bin", "RAY_AUTH_TOKEN": "secret", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    assert server_environment(own, {"CUDA_VISIBLE_DEVICES": "2,3", "PATH": "/other"}) == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "2,3",
    }
