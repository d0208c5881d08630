"""The files of the console's page: what they weigh, and what they may not hold."""

import re
from pathlib import Path

STATIC = Path(__file__).parents[2] / "src/mooring/console/static"
MOST = 150_000


def test_the_page_is_small():
    sizes = {file.name: file.stat().st_size for file in STATIC.iterdir()}
    assert sum(sizes.values()) < MOST, sizes


def test_the_page_names_no_other_host():
    for file in STATIC.iterdir():
        named = set(re.findall(r"(?:https?:|wss?:)?//[\w.-]+\.\w+", file.read_text()))
        assert named <= {"http://www.w3.org"}, file.name  # SVG's namespace


def test_no_script_makes_markup_of_text():
    for file in STATIC.glob("*.js"):
        found = re.findall(
            r"\b(?:innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|new Function)\b",
            file.read_text(),
        )
        assert found == [], file.name


def test_no_script_and_no_style_stands_in_the_page():
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<style|<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=", page) == []
