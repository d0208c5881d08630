"""What servers unpack lies in folders with a lock: a start removes those that nobody holds, and no others."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from mooring.repository.server_folder import server_folder

pytestmark = pytest.mark.processes

KILLED = """
import os, pathlib, signal, sys
from mooring.repository.server_folder import server_folder
with server_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "archives").mkdir()
    (folder / "archives/weights").write_text("large")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_is_there_for_its_server_only(tmp_path):
    with server_folder(tmp_path) as folder:
        (folder / "archives").mkdir()
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(tmp_path.iterdir())


def test_what_a_killed_server_left_is_removed_by_the_next_one(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    (left,) = tmp_path.iterdir()
    assert (left / "archives/weights").exists()
    with server_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_what_a_living_server_holds_stays(tmp_path):
    with server_folder(tmp_path) as first, server_folder(tmp_path) as second:
        assert sorted(tmp_path.iterdir()) == sorted([first, second])


def test_folders_of_others_stay_whatever_they_are_called(tmp_path):
    (tmp_path / "mooring-without-lock").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/.lock").touch()
    (tmp_path / "mooring-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mooring-linked-lock").mkdir()
    (tmp_path / "mooring-linked-lock/.lock").symlink_to(tmp_path / "elsewhere/.lock")
    (tmp_path / "mooring-file").touch()
    before = sorted(tmp_path.rglob("*"))
    with server_folder(tmp_path):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_taken_for_abandoned_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    real, seen = fcntl.flock, []

    def late(file, how):
        if not seen:  # another server that starts removes it first
            seen.append(Path(f"/proc/self/fd/{file}").readlink())
            seen[0].unlink()
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with server_folder(tmp_path) as folder:
        assert (folder / ".lock").exists()
        assert seen[0].parent != folder
