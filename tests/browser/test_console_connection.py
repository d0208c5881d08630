"""The console where something is missing: models, a token, leave, the server itself."""

import pytest
from browser_kit import NARROW
from e2e_kit import Server, serving
from port_kit import free_row
from selenium.webdriver.common.keys import Keys

TOKEN = "a-management-token"


@pytest.fixture
def function(tmp_path):
    file = tmp_path / "app.py"
    file.write_text("def greet(name: str) -> str:\n    return f'Hello {name}'\n")
    return f"{file}:greet"


def test_a_server_without_a_model_says_what_to_do(tmp_path, open_console):
    with serving(tmp_path) as server:
        browser = open_console(server)
        browser.find(".nothing", "mooring serve app.py:Model")
        assert browser.accessibility_faults() == []
        browser.show_as(size=NARROW, scheme="dark")
        assert browser.accessibility_faults() == []
        assert browser.overflow() == 0


def test_a_token_is_asked_for_when_it_is_needed_and_never_stands_in_an_address(
    tmp_path, open_console, function
):
    with serving(tmp_path, function, MOORING_MANAGEMENT_TOKEN=TOKEN) as server:
        browser = open_console(server)
        browser.expect_error("status of 401")
        browser.find("dialog", "A token is needed")
        assert browser.accessibility_faults() == []
        browser.press(Keys.ESCAPE)
        browser.find("#connection", "This server needs a token.")
        assert not browser.find_all(".models")
        browser.click("#connection-action", "Enter the token")
        browser.fill("dialog input", "a-wrong-token")
        browser.press(Keys.ENTER)
        browser.find("dialog", "The token is wrong")
        browser.fill("dialog input", TOKEN)
        browser.press(Keys.ENTER)
        browser.find(".models", "greet")
        assert not browser.find_all("#connection")
        browser.driver.refresh()
        browser.find(".models", "greet")
        assert [each for each in browser.requests() if "token" in each and "static" not in each] == []
        assert TOKEN not in browser.driver.current_url
        assert browser.run("return Object.keys(localStorage).length + document.cookie.length") == 0


def test_the_page_is_live_again_after_the_server_restarts(tmp_path, open_console, contexts, function):
    def start(*more):
        server = Server(tmp_path, function, f"--port={port}", *more, ports=range(port, port + 3))
        contexts.callback(server.kill)
        return server.started()

    port = free_row(5)
    first = start()
    browser = open_console(first)
    browser.expect_error(
        "ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET"
    )
    browser.find(".models", "1 of 1")
    first.stop()
    browser.find("#connection", "Connection lost, trying again.")
    browser.find("#server-state", "Not connected")
    start("--default-workers-per-model=2")
    browser.find(".models", "2 of 2")
    browser.until(lambda: not browser.find_all("#connection"))


def test_a_server_that_others_reach_says_what_to_set(tmp_path, open_console, contexts, function):
    port = free_row(5)
    flags = "--host=0.0.0.0", f"--port={port}"
    server = Server(tmp_path, function, *flags, ports=range(port, port + 3))
    contexts.callback(server.kill)
    browser = open_console(server.started())
    browser.expect_error("status of 403")
    browser.find("#connection", "token")
    assert not browser.find_all(".models")
