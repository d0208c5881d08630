"""The documentation site in a browser, from the disk: searched, read on a phone and in the dark, with no other machine."""

from urllib.parse import quote_plus

import pytest
from browser_kit import NARROW, WIDE
from docs_kit import built_site
from selenium.webdriver.common.keys import Keys

# Pages of every kind: cards and a drawing, long tables, wide tables, signatures, code of many lines.
PAGES = ("index", "ARCHITECTURE", "guide-models", "reference/commands", "reference/python-api")


pytestmark = pytest.mark.timeout(300)  # the first test waits for the build


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return built_site(tmp_path_factory)


def test_a_word_is_found_from_the_first_page(browser, site):
    browser.open((site / "index.html").as_uri())
    browser.fill("input.sidebar-search", "job_queue_size")
    browser.press(Keys.ENTER)
    browser.click("#search-results a", "Settings")
    assert "requests that may wait for a model" in browser.text("article")
    assert browser.requests() == []


@pytest.mark.parametrize(
    ("question", "page"),
    [
        ("how do I move my TorchServe service", "faq.html#how-do-i-move-my-torchserve-service"),
        ("why is my model not ready", "faq.html#why-is-my-model-not-ready"),
        ("how do I batch", "faq.html#how-do-i-batch"),
        ("how do I expose it safely", "faq.html#how-do-i-expose-it-safely"),
        ("grafana", "guide-metrics.html"),
        ("token", "guide-tokens.html"),
        ("timeout", "roles/backend-engineer.html#timeouts"),
    ],
)
def test_a_page_for_users_is_found_first(browser, site, question, page):
    browser.open(f"{(site / 'search.html').as_uri()}?q={quote_plus(question)}")
    browser.until(lambda: "Search finished" in browser.text("article"), "the search has not finished")
    assert browser.find("#search-results a").get_attribute("href").split("?")[0].endswith(page)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_read_on_a_phone_and_in_the_dark(browser, site, page):
    address = (site / f"{page}.html").as_uri()
    for size, scheme in ((WIDE, "light"), (NARROW, "dark")):
        browser.open(address, size=size, scheme=scheme)
        assert browser.overflow() == 0, (size, scheme)
        assert browser.accessibility_faults() == [], (size, scheme)
    assert browser.requests() == []
