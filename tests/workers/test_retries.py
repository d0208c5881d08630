"""When what failed is tried again: soon after its files have changed, and hardly ever where they have not."""

import asyncio
import os
import time

import pytest

from mooring.workers import retries
from mooring.workers.retries import backoff, file_state, files_changed


@pytest.fixture
def quick(monkeypatch):
    """A look at the files each hundredth of a second, and a try each two seconds."""
    monkeypatch.setattr(retries, "_LOOK", 0.01)
    monkeypatch.setattr(retries, "_SELDOM", 2.0)
    monkeypatch.setattr(retries, "_SLACK", 0.0)


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"half")
    past = time.time() - 100
    os.utime(tmp_path / "model.onnx", (past, past))
    return tmp_path


def later():
    """A try after which nothing has changed, whatever the clock of the file system."""
    return time.time() + 10


@pytest.mark.usefixtures("quick")
async def test_nothing_is_tried_while_nothing_changes_but_now_and_then(model):
    begin = time.monotonic()
    await files_changed(model, later())
    assert time.monotonic() - begin > 1.9


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("single", [False, True])
async def test_a_file_that_grows_is_waited_for_until_it_is_quiet(model, single):
    file = model / "model.onnx"
    waiting = asyncio.ensure_future(files_changed(file if single else model, later()))
    for _ in range(20):
        await asyncio.sleep(0.002)
        with file.open("ab") as half:
            half.write(b"more")
        assert not waiting.done()
    await asyncio.wait_for(waiting, 1.5)


@pytest.mark.usefixtures("quick")
async def test_what_was_written_while_it_was_being_loaded_counts_as_changed(model):
    await asyncio.wait_for(files_changed(model, time.time() - 50), 1.5)


@pytest.mark.usefixtures("quick")
async def test_a_file_that_was_taken_away_while_it_was_being_loaded_counts_as_changed(model):
    began = time.time() - 5
    (model / "broken").touch()
    (model / "broken").unlink()
    await asyncio.wait_for(files_changed(model, began), 1.5)


def test_a_new_file_and_one_of_the_same_size_are_another_state_and_bytecode_is_none(model):
    before = file_state(model).files
    (model / "__pycache__").mkdir()
    (model / "__pycache__" / "model.pyc").write_bytes(b"x")
    (model / ".hidden").write_bytes(b"x")
    assert file_state(model).files == before
    (model / "model.onnx").write_bytes(b"ahlf")
    changed = file_state(model).files
    assert changed != before
    (model / "weights.bin").write_bytes(b"")
    assert file_state(model).files != changed
    assert file_state(model / "missing").files == ()


def test_the_first_restart_is_immediate_and_later_ones_wait_ever_longer_within_a_limit():
    waits = [backoff(n) for n in range(1, 40)]
    assert waits[0] == 0.0
    assert waits == sorted(waits)
    assert waits[-1] == 34.0
