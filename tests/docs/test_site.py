"""The documentation site, built once as ``make docs`` builds it: complete, linked, searchable and of this machine alone."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("furo", reason="the documentation's tools are not installed: pip install '.[docs]'")

ROOT = Path(__file__).parent.parent.parent
BUILD = ROOT / "scripts" / "build_docs.py"
build_docs = runpy.run_path(str(BUILD))

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, str(BUILD), "--output", str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """The pages of the site by their paths in it."""
    return {str(file.relative_to(site)): page for file, page in build_docs["read_pages"](site).items()}


def test_make_docs_runs_the_build_that_is_tested_here():
    recipe = (ROOT / "Makefile").read_text().partition("\ndocs: ")[2].partition("\n\n")[0]
    assert "$(BIN)/python scripts/build_docs.py" in recipe


def test_each_page_of_the_folder_is_on_the_site_and_in_the_navigation(site, pages):
    files = {file.relative_to(ROOT / "docs").with_suffix(".html") for file in (ROOT / "docs").rglob("*.md")}
    assert {str(file) for file in files} <= set(pages)
    contents = (site / "index.html").read_text().partition('class="sidebar-tree"')[2].partition("</aside>")[0]
    assert [
        str(file) for file in files if f'href="{file}"' not in contents and str(file) != "index.html"
    ] == []


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<p id="here"><a href="#here">1</a><a href="b.html#there">2</a>')
    (tmp_path / "b.html").write_text(
        '<a href="a.html#gone">3</a><a href="c.html">4</a><a href="https://x.example">5</a>'
    )
    assert list(build_docs["find_dead_links"](tmp_path)) == [
        "a.html: b.html#there leads to no place on its page",
        "b.html: a.html#gone leads to no place on its page",
        "b.html: c.html leads to no file",
    ]


def test_nothing_is_loaded_from_another_machine(site, pages):
    loaded = [
        (name, url)
        for name, page in pages.items()
        for tag, url in page.links
        if tag != "a" and re.match(r"(?:\w+:)?//", url)
    ]
    assert loaded == []
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text()) == [], sheet
