"""The sync client is what the script makes of the async one, and nothing else."""

import runpy
from pathlib import Path

import mooring.client

ROOT = Path(mooring.client.__file__).parent
unasync = runpy.run_path(str(ROOT.parents[2] / "scripts" / "unasync.py"))
SOURCES = sorted(unasync["SOURCE"].glob("*.py"))


def test_the_sync_client_is_as_fresh_as_the_async_one():
    assert [path.name for path in SOURCES] == [path.name for path in sorted(unasync["TARGET"].glob("*.py"))]
    for source in SOURCES:
        made = unasync["TARGET"] / source.name
        assert made.read_text() == unasync["made_of"](source), "run scripts/unasync.py"


def test_nothing_asynchronous_is_left_in_it():
    for path in unasync["TARGET"].glob("*.py"):
        text = path.read_text()
        for word in ("await ", "async ", "Async", "aio", "__aenter__", "aclose"):
            assert word not in text.replace("Made by scripts/unasync.py of aio/", ""), (path.name, word)
