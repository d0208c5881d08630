"""The pictures of the console in the documents are of the page as it is now."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/screenshots.py"
PICTURES = ROOT / "docs/pictures"
MOST = 150_000
MOST_TOGETHER = 1_500_000


@pytest.fixture
def manifest():
    return json.loads((PICTURES / "console.json").read_text())


def test_the_pictures_are_of_this_page_and_of_this_script(manifest):
    now = runpy.run_path(str(SCRIPT))["fingerprint"]()
    assert {key: manifest[key] for key in now} == now, "run make pictures, look at them, and commit them"


def test_every_picture_is_small_and_listed(manifest):
    sizes = {file.name: file.stat().st_size for file in PICTURES.glob("console-*.png")}
    assert set(sizes) <= set(manifest["pictures"])
    assert [name for name, size in sizes.items() if size > MOST] == []
    assert sum(sizes.values()) < MOST_TOGETHER


def test_every_picture_is_shown_by_a_document():
    text = "".join(file.read_text() for file in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    assert [file.name for file in PICTURES.glob("console-*.png") if file.name not in text] == []
