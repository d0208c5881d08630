"""Log files: rotated by size and by date, by one process or by several, and no line is lost."""

import gzip
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mooring.observability.log_output.files import NO_ROTATION, RotatedFile, Rotation

WRITER = """
import logging, sys
from pathlib import Path
from mooring.observability.log_output.files import RotatedFile, Rotation
handler = RotatedFile(Path("log"), Rotation("log.%d{dd-MMM}.%i.gz", 2000, by_time=True, keep=1000))
for number in range(2000):
    handler.handle(logging.LogRecord("x", 20, "", 0, f"{sys.argv[1]} {number}", None, None))
handler.close()
"""


def write(handler, text, created=None):
    handler.handle(logging.LogRecord("x", 20, "", 0, text, None, None))


def read_all(folder):
    """The lines of all files of a folder, compressed or not."""
    lines = []
    for file in folder.iterdir():
        data = file.read_bytes()
        lines += (gzip.decompress(data) if file.suffix == ".gz" else data).decode().splitlines()
    return lines


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Makes handlers of a file in an empty folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    handlers = []

    def make(rotation=NO_ROTATION, **more):
        handlers.append(RotatedFile(tmp_path / "log", rotation, **more))
        return handlers[-1]

    yield make
    for handler in handlers:
        handler.close()


def test_a_full_file_makes_way_and_the_oldest_go(opened, tmp_path):
    handler = opened(Rotation("log.%i", max_bytes=10, keep=2))
    for text in ("first line", "second line", "third line", "fourth line"):
        write(handler, text)
    assert (tmp_path / "log").read_text() == "fourth line\n"
    assert sorted(read_all(tmp_path)) == ["fourth line", "second line", "third line"]


def test_files_of_one_date_do_not_overwrite_each_other_and_are_compressed(opened, tmp_path):
    handler = opened(Rotation("old/log.%d{yyyy}.log.gz", max_bytes=10, keep=5))
    for text in ("first line", "second line", "third line", "fourth line"):
        write(handler, text)
    handler.close()
    year = time.strftime("%Y")
    assert sorted(file.name for file in (tmp_path / "old").iterdir()) == [
        f"log.{year}.log.1.gz", f"log.{year}.log.2.gz", f"log.{year}.log.gz",
    ]  # fmt: skip
    assert sorted(read_all(tmp_path / "old")) == ["first line", "second line", "third line"]


def test_a_file_makes_way_when_its_date_is_over(opened, tmp_path):
    (tmp_path / "log").write_text("yesterday\n")
    os.utime(tmp_path / "log", (86_400 * 365, 86_400 * 365))
    handler = opened(Rotation("log.%d{yyyy-MM-dd}{UTC}.gz", by_time=True))
    write(handler, "today")
    handler.close()
    assert (tmp_path / "log").read_text() == "today\n"
    with gzip.open(tmp_path / "log.1971-01-01.gz", "rt") as old:
        assert old.read() == "yesterday\n"


def test_a_start_can_begin_a_new_file(opened, tmp_path):
    (tmp_path / "log").write_text("before\n")
    write(opened(Rotation("log.%i", at_start=True)), "after")
    assert (tmp_path / "log").read_text() == "after\n"
    assert (tmp_path / "log.1").read_text() == "before\n"
    write(opened(append=False), "anew")
    assert (tmp_path / "log").read_text() == "anew\n"


@pytest.mark.processes
def test_processes_that_share_a_file_lose_no_line(opened, tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name], cwd=tmp_path) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert sorted(read_all(tmp_path)) == sorted(f"{name} {number}" for name in "ab" for number in range(2000))
    assert len(list(tmp_path.iterdir())) > 5


def test_a_file_that_somebody_else_renames_is_opened_anew(opened, tmp_path):
    handler = opened()
    write(handler, "one")
    (tmp_path / "log").rename(tmp_path / "moved")
    write(handler, "two")
    assert [(tmp_path / name).read_text() for name in ("moved", "log")] == ["one\n", "two\n"]


def test_a_folder_that_is_gone_loses_lines_with_one_warning_until_it_is_there_again(tmp_path, caplog):
    (tmp_path / "logs").mkdir()
    handler = RotatedFile(tmp_path / "logs/log", Rotation())
    (tmp_path / "logs/log").unlink()
    (tmp_path / "logs").rmdir()
    for text in ("one", "two"):
        write(handler, text)
    (warning,) = caplog.messages
    assert "log file not written" in warning
    (tmp_path / "logs").mkdir()
    write(handler, "three")
    assert (tmp_path / "logs/log").read_text() == "three\n"
    handler.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_fails_nobody(caplog):
    handler = RotatedFile(Path("/dev/full"), Rotation())
    write(handler, "one")
    write(handler, "two")
    (warning,) = caplog.messages
    assert "No space left on device" in warning
    handler.close()


def test_a_file_that_cannot_be_renamed_goes_on(opened, tmp_path, caplog):
    (tmp_path / "old").write_text("no folder")
    handler = opened(Rotation("old/log.%i", max_bytes=5))
    for text in ("first", "second", "third"):
        write(handler, text)
    assert (tmp_path / "log").read_text() == "first\nsecond\nthird\n"
    assert sum("log file not rotated" in message for message in caplog.messages) == 1
