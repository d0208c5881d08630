"""Models of the command line and their files: which are loaded anew, when, and what is said where one cannot be."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import watchfiles

from mooring.core.errors import ModelLoadFailed
from mooring.engine.reloading import TargetReloader, with_place
from mooring.repository.source_files import SourceFiles


class Administration:
    """Notes which models are to be loaded anew; a load takes until ``free`` is set, and fails with ``error``."""

    def __init__(self):
        self.asked, self.error, self.free = [], None, asyncio.Event()
        self.given_up = 0
        self.free.set()

    async def reload_target(self, model):
        self.asked.append(model)
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.error is not None:
            raise self.error


@asynccontextmanager
async def reloading(administration, **sources):
    reloader = TargetReloader(administration, sources)
    reloader.start()
    await asyncio.sleep(0.3)
    yield
    await reloader.close()


async def until(reached):
    async with asyncio.timeout(20):
        while not reached():
            await asyncio.sleep(0.02)


async def test_a_model_is_loaded_anew_when_its_own_files_change(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.py").write_text("")
    administration = Administration()
    sources = {name: SourceFiles(tmp_path / name, whole=True) for name in ("a", "b")}
    async with reloading(administration, **sources):
        (tmp_path / "a" / "model.py").write_text("x = 1")
        await until(lambda: administration.asked)
        (tmp_path / "b" / "deep").mkdir()
        (tmp_path / "b" / "deep" / "weights.bin").write_text("x")
        await until(lambda: len(administration.asked) > 1)
    assert (administration.asked[0], set(administration.asked[1:])) == ("a", {"b"})


async def test_what_changes_while_a_model_loads_is_loaded_in_its_place(tmp_path):
    (tmp_path / "model.py").write_text("")
    administration = Administration()
    async with reloading(administration, m=SourceFiles(tmp_path / "model.py", root=tmp_path)):
        administration.free.clear()
        (tmp_path / "model.py").write_text("x = 1")
        await until(lambda: administration.asked)
        for number in range(5):
            (tmp_path / "model.py").write_text(f"x = {number} * 10")
        await until(lambda: len(administration.asked) == 2)
        assert administration.given_up == 1
        administration.free.set()
        await asyncio.sleep(0.3)
        assert (administration.asked, administration.given_up) == (["m", "m"], 1)


async def test_what_is_being_loaded_is_given_up_at_the_end(tmp_path):
    (tmp_path / "model.py").write_text("")
    administration = Administration()
    administration.free.clear()
    async with asyncio.timeout(20):
        async with reloading(administration, m=SourceFiles(tmp_path / "model.py", root=tmp_path)):
            (tmp_path / "model.py").write_text("x = 1")
            await until(lambda: administration.asked)
    assert administration.given_up == 1


@pytest.mark.parametrize("error", [ModelLoadFailed("it is broken"), RuntimeError("a fault of ours")])
async def test_one_that_cannot_be_loaded_is_logged_and_the_watch_goes_on(tmp_path, error, caplog):
    caplog.set_level("INFO")
    (tmp_path / "model.py").write_text("")
    administration = Administration()
    administration.error = error
    async with reloading(administration, m=SourceFiles(tmp_path / "model.py", root=tmp_path)):
        (tmp_path / "model.py").write_text("x = 1")
        await until(lambda: str(error) in caplog.text)
        administration.error = None
        (tmp_path / "model.py").write_text("x = 22")
        await until(lambda: " reloaded model=m" in caplog.text)


async def test_changes_are_found_where_the_system_does_not_tell_of_them(tmp_path, monkeypatch, caplog):
    async def refuse(*_folders, **_options):
        raise OSError("no space left on device")  # what Linux says when a user has no more watches
        yield

    monkeypatch.setattr(watchfiles, "awatch", refuse)
    monkeypatch.setattr("mooring.engine.reloading._EVERY", 20)
    (tmp_path / "model.py").write_text("")
    administration = Administration()
    async with reloading(administration, m=SourceFiles(tmp_path / "model.py", root=tmp_path)):
        (tmp_path / "model.py").write_text("x = 1")
        await until(lambda: administration.asked == ["m"])
    assert caplog.text.count("files are looked at once a second") == 1


def test_the_reason_begins_with_the_last_line_of_the_models_own_code(tmp_path):
    trace = f'File "{tmp_path}/m.py", line 3, in <module>\n  File "{tmp_path}/p.py", line 7, in f\n  File "/usr/x.py", line 9'
    source = SourceFiles(tmp_path / "m.py", root=tmp_path)
    assert with_place("NameError: y", trace, source) == f"{tmp_path}/p.py, line 7: NameError: y"
    assert with_place("p.py, line 7: NameError: y", trace, source) == "p.py, line 7: NameError: y"
    assert with_place("no such file", "", source) == "no such file"
