"""The repository while it changes: what is added is served, what changes is served anew, what goes is gone."""

import asyncio
import shutil
import time

import pytest
from test_administration import SAY, Harness

from mooring.core.errors import ModelNotFound
from mooring.engine.monitoring import RepositoryMonitor

pytestmark = pytest.mark.processes


async def until(reached, seconds=40.0):
    end = time.monotonic() + seconds
    while not await reached():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("polling", [False, True])
async def test_models_come_change_and_go_with_their_folders(tmp_path, polling):
    harness = Harness(tmp_path)
    catalog = harness.administration._catalog
    monitor = RepositoryMonitor(harness.administration, catalog, harness.repository, polling=polling)
    monitor.start()
    await asyncio.sleep(0.6)

    async def says(text):
        answer = await harness.ask("talker")
        return isinstance(answer, bytes) and text in answer

    async def is_gone():
        return isinstance(await harness.ask("talker"), ModelNotFound)

    harness.write("talker", SAY.format(text="one"))
    await until(lambda: says(b"one"))
    await asyncio.sleep(1.1 if polling else 0)  # polling tells files apart by their times, in whole seconds
    harness.write("broken", "raise RuntimeError('no')")
    harness.write("talker", SAY.format(text="two"))
    await until(lambda: says(b"two"))
    shutil.rmtree(harness.repository / "talker")
    await until(is_gone)
    await asyncio.sleep(1.1 if polling else 0)
    harness.write("broken", SAY.format(text="mended"))

    async def mended():
        return [state.name for state in harness.engine.models() if state.ready] == ["broken"]

    await until(mended)
    await monitor.close()
    await harness.engine.close()


async def test_versions_come_and_go_with_their_folders(tmp_path):
    harness = Harness(tmp_path)
    monitor = RepositoryMonitor(harness.administration, harness.administration._catalog, harness.repository)
    monitor.start()
    await asyncio.sleep(0.6)

    async def serves(*versions):
        return [state.version for state in harness.engine.models() if state.ready] == list(versions)

    harness.write("talker", SAY.format(text="one"))
    await until(lambda: serves("1"))
    harness.write("talker", SAY.format(text="two"), "2")
    await until(lambda: serves("2"))
    shutil.rmtree(harness.repository / "talker" / "1")
    harness.write("talker", "raise RuntimeError('broken release')", "3")

    async def told():
        states = [(state.version, state.state) for state in harness.administration.index()]
        return states == [("2", "READY"), ("3", "UNAVAILABLE")]

    await until(told)
    assert await serves("2")
    shutil.rmtree(harness.repository / "talker" / "3")
    shutil.rmtree(harness.repository / "talker" / "2")
    await until(serves)
    (state,) = harness.administration.index()
    assert "is empty" in state.reason
    shutil.rmtree(harness.repository / "talker")

    async def forgotten():
        return harness.administration.index() == []

    await until(forgotten)
    await monitor.close()
    await harness.engine.close()


def switch(link, target):
    """As a release tool does it, and Kubernetes: in one step."""
    link.with_name(f"{link.name}_new").symlink_to(target)
    link.with_name(f"{link.name}_new").rename(link)


async def test_a_link_that_leads_elsewhere_now_is_another_release(tmp_path):
    harness = Harness(tmp_path)
    for release in ("41", "42"):
        for name in ("talker", "mounted"):
            place = tmp_path / "releases" / release / name / "1"
            place.mkdir(parents=True)
            (place / "model.py").write_text(SAY.format(text=f"release {release}"))
    switch(harness.repository / "..data", tmp_path / "releases" / "41")
    switch(harness.repository / "talker", tmp_path / "releases" / "41" / "talker")
    switch(harness.repository / "mounted", "..data/mounted")
    monitor = RepositoryMonitor(harness.administration, harness.administration._catalog, harness.repository)
    monitor.start()
    await asyncio.sleep(0.6)
    for name in ("talker", "mounted"):
        await harness.administration.load(name)
        assert b"release 41" in await harness.ask(name)

    async def released(name):
        return b"release 42" in await harness.ask(name)

    switch(harness.repository / "talker", tmp_path / "releases" / "42" / "talker")
    await until(lambda: released("talker"))
    assert b"release 41" in await harness.ask("mounted")
    switch(harness.repository / "..data", tmp_path / "releases" / "42")
    await until(lambda: released("mounted"))
    await monitor.close()
    await harness.engine.close()


CHAIN = """
[[models]]
name = "first"
platform = "amdinfer_cpp"
id = "libfake.so"
[[models]]
name = "second"
platform = "amdinfer_cpp"
id = "libfake.so"
"""


async def test_what_a_removed_folder_held_goes_whatever_it_was_called(tmp_path):
    harness = Harness(tmp_path)
    catalog = harness.administration._catalog
    monitor = RepositoryMonitor(harness.administration, catalog, harness.repository)
    monitor.start()
    await asyncio.sleep(0.6)

    def loaded():
        return {state.name for state in harness.engine.models() if state.ready}

    async def there():
        return loaded() == {"called_so", "first", "second", "pair", "stays"}

    async def gone():
        return loaded() == {"stays"}

    harness.write("stays", SAY.format(text="here"))
    harness.write("folder", SAY.format(text="one"))
    (harness.repository / "folder" / "config.toml").write_text('name = "called_so"\n')
    (harness.repository / "pair").mkdir()
    (harness.repository / "pair" / "chain.toml").write_text(CHAIN)
    await until(there)
    shutil.rmtree(harness.repository / "folder")
    shutil.rmtree(harness.repository / "pair")
    await until(gone)
    await monitor.close()
    await harness.engine.close()
