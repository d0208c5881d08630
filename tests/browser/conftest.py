"""One browser for all tests of the console, and a tab for each of them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "e2e"))

from browser_kit import Browser, start_driver
from parallel import BROWSER


@pytest.hookimpl(tryfirst=True)  # before xdist reads the markers
def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.xdist_group(BROWSER))
            item.add_marker(pytest.mark.processes)


@pytest.fixture(scope="session")
def driver():
    driver = start_driver()
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def browser(driver):
    """A new tab, whose storage is empty; its test fails if the page did what nobody expected."""
    before = driver.current_window_handle
    driver.switch_to.new_window("tab")
    after = driver.current_window_handle
    driver.switch_to.window(before)
    driver.close()
    driver.switch_to.window(after)
    for log in ("browser", "performance"):
        driver.get_log(log)  # the last test's
    browser = Browser(driver)
    yield browser
    browser.check()


@pytest.fixture
def open_console(browser):
    """Open the console of a server at a view of it: ``open_console(server, "#/errors", size=NARROW)``."""

    def open_console(server, fragment="#/", **shown):
        browser.open(f"{server.url}/console{fragment}", **shown)
        browser.find("main > *")
        return browser

    return open_console
