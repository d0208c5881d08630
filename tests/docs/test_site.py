"""The documentation site, built once as ``make docs`` builds it: complete, linked, searchable and of this machine alone."""

import json
import re
import runpy
import subprocess
import sys
import tomllib
from html import unescape

import pytest
from docs_kit import BUILD, ROOT, built_site

import mooring

snowballstemmer = pytest.importorskip(
    "snowballstemmer", reason="it comes with Sphinx, which is not installed"
)

build_docs = runpy.run_path(str(BUILD))

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]  # the first test waits for the build


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    return built_site(tmp_path_factory)


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


def test_the_documentation_is_no_part_of_the_wheel():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["src/mooring"]
    assert not any(name.startswith("docs") for name in wheel["force-include"])


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


def test_each_public_name_and_each_command_is_in_the_reference(site, pages):
    api = pages["reference/python-api.html"]
    assert {f"mooring.{name}" for name in mooring.__all__} - api.ids == set()
    assert {"mooring.testing.Client", "mooring.testing.Client.stream", "mooring.Client.infer"} <= api.ids
    signatures = unescape(re.sub("<[^>]+>", "", (site / "reference" / "python-api.html").read_text()))
    assert "array() → numpy.ndarray" in signatures
    commands = headings_of(site / "reference" / "commands.html")
    shown = subprocess.run(
        [sys.executable, "-m", "mooring", "--help"], check=True, capture_output=True, text=True
    )
    named = re.findall(r"^  ([\w-]+)  ", shown.stdout.partition("Commands:")[2], re.MULTILINE)
    assert len(named) > 8
    assert {f"mooring {name}" for name in named} - set(commands) == set()


# What a reader asks, and the page and the heading where the answer is.
QUESTIONS = {
    "How do I move my TorchServe service?": ("roles/torchserve-operator.html", "3. Start it"),
    "Why is my model not ready?": ("troubleshooting.html", "A model is not ready"),
    "How do I batch?": ("batching.html", "A function or class"),
    "How do I expose it safely?": ("roles/platform-engineer.html", "Expose it safely"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_is_two_clicks_away_from_the_first_page(site, pages, question):
    page, heading = QUESTIONS[question]
    assert f"<p>{question}</p>" in (site / "index.html").read_text()
    anchors = headings_of(site / page)[heading]
    first = links_of(site, pages, "index.html")
    second = set().union(*(links_of(site, pages, name) for name, _ in first))
    found = {(page, anchor) for anchor in anchors}
    assert found & (first | second), f"{question}: {page}, {heading}"


def links_of(site, pages, name):
    """Where the links of a page lead within the site: pages and anchors, without one the heading at the top."""
    targets = (build_docs["resolve"](site / name, url) for tag, url in pages[name].links if tag == "a")
    return {
        (str(file.relative_to(site)), anchor)
        for file, anchor in filter(None, targets)
        if str(file.relative_to(site)) in pages
    }


def headings_of(file):
    """The headings of a page, and the anchors at which each is: the one at the top needs none."""
    found = re.findall(
        r'<section id="([^"]+)">(?:\s*<span id="[^"]+"></span>)*\s*<h(\d)>(.*?)<a class', file.read_text()
    )
    return {
        unescape(re.sub("<[^>]+>", "", text)): {anchor, ""} if level == "1" else {anchor}
        for anchor, level, text in found
    }


WORDS = {
    "start/install": "install",
    "roles/torchserve-operator": "torchserve",
    "guide-models": "workflows",
    "guide-tokens": "loopback",
    "how-it-works": "works",
    "ARCHITECTURE": "dispatcher",
    "RELIABILITY": "sigstop",
    "decisions/0042-frontends-serve-everything": "frontend",
    "measurements/onednn": "onednn",
    "guide-settings": "job_queue_size",
    "reference/commands": "--job-queue-size",
    "guide-console": "console latency",
    "guide-metrics": "mooring_batch_rows",
    "guide-errors": "sequencelost",
    "guide-protocols": "modelstreaminfer",
    "reference/python-api": "asyncclient",
    "reference/security": "shelltorch",
    "contracts/torchserve": "torchserve",
    "troubleshooting": "troubleshooting",
    "faq": "questions",
    "comparison": "comparison",
}


def test_the_search_knows_the_words_of_every_section(site):
    index = json.loads(
        (site / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")")
    )
    stem = snowballstemmer.stemmer("english").stemWord
    for page, words in WORDS.items():
        number = index["docnames"].index(page)
        for word in filter(None, re.split(r"[\W_]+", words)):
            found = [index[where].get(stem(word), []) for where in ("terms", "titleterms")]
            assert any(number in (each if isinstance(each, list) else [each]) for each in found), (page, word)
